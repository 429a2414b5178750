"""Interfaces of encoders: item texts to vectors, all at once or batch by batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from genrec_cli.config import Section


class Described(Protocol):
    """Attributes of every encoder. The constructor takes the validated ``[encoder]`` section."""

    label: str
    """Short name for folder names, for example ``minilm``."""
    config: Section
    """The section as it is recorded: without paths, whose contents are hashed by :meth:`external`."""
    frozen: ClassVar[bool]
    """Whether the vector of a text is independent of the other texts; false for fitted encoders."""
    facts: Mapping[str, object]
    """Entries for the manifest, such as the commit of a model."""

    def external(self) -> Mapping[str, str]:
        """Name -> SHA-256 of every input outside the artifact root."""


class WholeEncoder(Described, Protocol):
    """An encoder that needs all texts at once, in one process.

    With the class attribute ``needs = frozenset({"interactions"})`` it gets the training interactions too.
    """

    def encode(self, texts: Sequence[str], raw_ids: Sequence[str], **needed: Any) -> np.ndarray:
        """``vec_ID`` as float32, one row per text, in order; zero for an empty text.

        Args:
            needed: ``interactions_UI`` (``data/interactions.py``) if the class needs ``interactions``.
        """


@runtime_checkable
class Batched(Described, Protocol):
    """An encoder whose vectors depend only on the batch, so processes can share batches and encoding can resume."""

    batch_size: int
    """Texts per batch."""

    def open(self) -> tuple[Callable[[Sequence[str]], np.ndarray], int]:
        """Load the model and set ``facts``: a function from a batch of non-blank texts to ``vec_BD``; and D.

        A second call does not load the model again.
        """


Encoder = WholeEncoder | Batched

"""What an encoder offers: item texts to vectors, all at once or batch by batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from genrec_cli.config import Section


class Described(Protocol):
    """What every encoder says of itself. The constructor takes the validated ``[encoder]`` section."""

    label: str
    """Short name for folder names, for example ``minilm``."""
    config: Section
    """The section as it is recorded: without paths, whose content :meth:`external` vouches for."""
    frozen: ClassVar[bool]
    """Whether a text gets the same vector whatever the others are; false where the encoder is fitted."""
    facts: Mapping[str, object]
    """What encoding found out and the manifest should tell, such as the commit of a model."""

    def external(self) -> Mapping[str, str]:
        """Name -> SHA-256 of every file or folder outside the artifact root that decides the vectors."""
        ...


class WholeEncoder(Described, Protocol):
    """An encoder that has to see all texts, or that one process runs.

    With ``needs = frozenset({"interactions"})`` on its class it gets the training interactions too.
    """

    def encode(self, texts: Sequence[str], raw_ids: Sequence[str], **needed: Any) -> np.ndarray:
        """Vectors ``vec_ID`` as float32, one row per text, in order. An empty text gives a zero row.

        Args:
            needed: ``interactions_UI`` (``data/interactions.py``) if the class needs ``interactions``.
        """
        ...


@runtime_checkable
class Batched(Described, Protocol):
    """An encoder for which a batch is all that a text's vector depends on.

    Several processes can then take batches in turn, and a process that was killed goes on at a later batch.
    """

    batch_size: int
    """Texts encoded together."""

    def open(self) -> tuple[Callable[[Sequence[str]], np.ndarray], int]:
        """Load the model: a function from a batch of texts, none of them blank, to ``vec_BD``; and D.

        The facts are known from then on. A second call does not load the model again.
        """
        ...


Encoder = WholeEncoder | Batched

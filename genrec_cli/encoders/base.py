"""What an encoder offers: item texts to vectors."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np

from genrec_cli.config import Section


class Encoder(Protocol):
    """Turns item texts into vectors. The constructor takes the validated ``[encoder]`` section."""

    label: str
    """Short name for folder names, for example ``minilm``."""
    config: Section
    """The section as it is recorded: without paths, whose content :meth:`external` vouches for."""
    frozen: ClassVar[bool]
    """Whether a text gets the same vector whatever the others are; false where the encoder is fitted."""
    batch_size: int
    """Texts encoded together, where a batch is all that a text's vector depends on: several processes can then
    take batches in turn. 0: one process encodes all."""
    facts: Mapping[str, object]
    """What :meth:`encode` found out and the manifest should tell, such as the commit of a model."""

    def external(self) -> Mapping[str, str]:
        """Name -> SHA-256 of every file or folder outside the artifact root that decides the vectors."""
        ...

    def encode(self, texts: Sequence[str], raw_ids: Sequence[str]) -> np.ndarray:
        """Vectors ``vec_ID`` as float32, one row a text, in order. An empty text gives a zero row."""
        ...

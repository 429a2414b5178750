"""What an encoder offers: item texts to vectors."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class Encoder(Protocol):
    """Turns item texts into vectors. The constructor takes the validated ``[encoder]`` section."""

    label: str
    """Short name for folder names, for example ``minilm``."""

    def external(self) -> Mapping[str, str]:
        """Name -> SHA-256 of every file or folder outside the artifact root that decides the vectors."""
        ...

    def encode(self, texts: Sequence[str], raw_ids: Sequence[str]) -> np.ndarray:
        """Vectors ``vec_ID`` as float32, one row a text, in order. An empty text gives a zero row."""
        ...

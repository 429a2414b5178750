"""What a tokenizer offers: item vectors to codes."""

from pathlib import Path
from typing import Protocol, Self

import numpy as np


class Tokenizer(Protocol):
    """Fits codebooks on training items and assigns K codes to any item's vector."""

    def fit(self, vec_ID: np.ndarray, train_I: np.ndarray) -> None:
        """Fit on the rows where ``train_I`` is true."""
        ...

    def codes(self, vec_ID: np.ndarray) -> np.ndarray:
        """``codes_IK`` as uint16, 0-based in each digit."""
        ...

    def decode(self, codes_IK: np.ndarray) -> np.ndarray | None:
        """The vectors that the codes stand for (after PCA), to measure the error; None if there are none."""
        ...

    def reduced(self, vec_ID: np.ndarray) -> np.ndarray:
        """The vectors after PCA, as they are quantised."""
        ...

    def save(self, folder: Path) -> None:
        """Write ``codebook.safetensors``; reading it needs no pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The tokenizer that :meth:`save` wrote."""
        ...

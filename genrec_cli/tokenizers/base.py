"""What a tokenizer offers: item vectors to codes, or titles straight to codes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

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

    def nearest(self, vec_ND: np.ndarray, codes_NK: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
        """For items that must move: ``codes_NMK``, up to ``many`` different codes, and ``cost_NM``, best first.

        Once ``many`` is V^K, all codes there are. ``codes_NK`` are those that the items have.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write ``codebook.safetensors``; reading it needs no pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The tokenizer that :meth:`save` wrote."""
        ...


class TitleTokenizer(Protocol):
    """Reads titles, no vectors: no encoder is needed."""

    reads_titles: ClassVar[bool] = True

    def fit(self, titles: Sequence[str | None], train_I: np.ndarray) -> None:
        """Fit on the titles where ``train_I`` is true."""
        ...

    def codes(self, titles: Sequence[str | None]) -> np.ndarray:
        """``codes_IK`` as int16, 0-based; -1 behind the last code of an item of fewer than K."""
        ...

    def facts(self, titles: Sequence[str | None]) -> dict[str, Any]:
        """Figures about the titles for ``quality.json``, by what they are called."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was fitted; reading it needs no pickle."""
        ...

"""What a tokenizer offers: codes for all items, made from what it declares to need."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

Need = Literal["vectors", "titles", "interactions"]
ARGUMENTS: Mapping[str, str] = {"vectors": "vec_ID", "titles": "titles", "interactions": "interactions_UI"}
"""The keyword by which ``fit`` and ``codes`` get what a tokenizer needs.

* ``vec_ID``: the vectors of an encoder (float32).
* ``titles``: a sequence of texts, None where an item has no title.
* ``interactions_UI``: the training interactions alone, a sparse matrix (``data/interactions.py``).
"""
MAX_DIGITS = 256
"""Largest K of all tokenizers. A larger K is a typing error, and the codes would not fit into memory."""


class Tokenizer(Protocol):
    """Assigns K codes to every item. The constructor takes the validated ``[tokenizer]``.

    A method ``facts(**needed)`` may add entries to ``quality.json``.
    """

    needs: ClassVar[frozenset[Need]]
    """What ``fit`` and ``codes`` read: keys of :data:`ARGUMENTS`."""

    def fit(self, *, train_I: np.ndarray, **needed: Any) -> None:
        """Fit on the items where ``train_I`` is true."""
        ...

    def codes(self, **needed: Any) -> np.ndarray:
        """``codes_IK``, 0-based in each digit: uint16, or int16 with -1 after the last code of an item."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was fitted, if anything; reading it must need no pickle."""
        ...


class Movable(Protocol):
    """A tokenizer whose items can move to other codes, so that no two items are equal.

    One with a codebook also has a class method ``load(folder)``, which reads what ``save`` wrote.
    """

    def decode(self, codes_IK: np.ndarray) -> np.ndarray | None:
        """The vectors that the codes stand for (after PCA), to measure the error; None if there are none."""
        ...

    def reduced(self, vec_ID: np.ndarray) -> np.ndarray:
        """The vectors after PCA, as they are quantised."""
        ...

    def nearest(self, vec_ND: np.ndarray, codes_NK: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
        """For items that must move: ``codes_NMK``, up to ``many`` different codes, and ``cost_NM``, best first.

        Once ``many`` is V^K, these are all codes. ``codes_NK`` are the present codes of the items.
        """
        ...

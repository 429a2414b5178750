"""Interfaces of tokenizers: codes for all items, and moves of items to other codes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

Need = Literal["vectors", "titles", "interactions"]
ARGUMENTS: Mapping[str, str] = {"vectors": "vec_ID", "titles": "titles", "interactions": "interactions_UI"}
"""The keyword by which ``fit`` and ``codes`` get each input.

* ``vec_ID``: the vectors of an encoder (float32).
* ``titles``: a sequence of texts, None where an item has no title.
* ``interactions_UI``: the training interactions alone, a sparse matrix (``data/interactions.py``).
"""
MAX_DIGITS = 256
"""Largest K of all tokenizers, so that a typing error does not fill the memory."""


class Tokenizer(Protocol):
    """Assigns K codes to every item. The constructor takes the validated ``[tokenizer]``.

    A method ``facts(**needed)`` may add entries to ``quality.json``.
    """

    needs: ClassVar[frozenset[Need]]
    """Inputs of ``fit`` and ``codes``: keys of :data:`ARGUMENTS`."""

    def fit(self, *, train_I: np.ndarray, **needed: Any) -> None:
        """Fit on the items where ``train_I`` is true."""

    def codes(self, **needed: Any) -> np.ndarray:
        """``codes_IK``, 0-based in each digit: uint16, or int16 with -1 after the last code of an item."""

    def save(self, folder: Path) -> None:
        """Write the fitted state, if there is any; reading it must need no pickle."""


class Movable(Protocol):
    """A tokenizer whose items can move to other codes, so that no two items have equal codes.

    A tokenizer with a codebook also has a class method ``load(folder)``, which reads what ``save`` wrote.
    """

    def decode(self, codes_IK: np.ndarray) -> np.ndarray | None:
        """``decoded_IP``, the reconstructed vectors after PCA; None if the codes have no vectors."""

    def reduced(self, vec_ID: np.ndarray) -> np.ndarray:
        """``reduced_IP``, the vectors after PCA."""

    def nearest(self, vec_ND: np.ndarray, codes_NK: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
        """``codes_NMK``, up to ``many`` different codes for each item, and ``cost_NM``, in ascending order of cost.

        ``codes_NK`` are the present codes of the items. If ``many`` is V^K or more, all codes are returned.
        """

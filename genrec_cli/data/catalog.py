"""The catalogue that a model knows: how many items there are, and what is known of each.

Item ids count from 1; row 0 of every table belongs to padding.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NO_CODE = -1
"""Stands in ``codes_IK`` where an item has no code: neither pooled, nor predicted, nor counted."""


@dataclass(frozen=True)
class Catalog:
    """Items as tensors. A model gets what it declares in ``needs``; the rest may be absent."""

    items: int
    """I, the number of items."""
    train_count_I: Tensor
    """How often item i + 1 stands in the training part (int64)."""
    codes_IK: Tensor | None = None
    """Codes of item i + 1, 0-based in each digit (int64); -1 (``NO_CODE``) pads an item of fewer than K codes."""
    codewords: int = 0
    """V, the same for every digit."""
    shared: bool = False
    """Whether a code means the same in every digit: text, whose digits are places in one sequence."""

    @property
    def padded(self) -> bool:
        """Whether some items have fewer than K codes. Looks at the codes, so ask once."""
        return self.codes_IK is not None and bool((self.codes_IK == NO_CODE).any())

    @property
    def digits(self) -> int:
        """K."""
        return 0 if self.codes_IK is None else self.codes_IK.shape[1]

    @cached_property
    def groups(self) -> Tensor:
        """``group_I``: items with equal codes have equal numbers, from 0. Without codes, each item is its own."""
        if self.codes_IK is None:
            return torch.arange(self.items, device=self.train_count_I.device)
        return torch.unique(self.codes_IK, dim=0, return_inverse=True)[1]

"""The catalogue that a model knows: how many items there are, and what is known of each.

Item ids count from 1; row 0 of every table belongs to padding.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genrec_cli.data.codes_table import NO_CODE as NO_CODE


@dataclass(frozen=True)
class Catalog:
    """Items as tensors. A model gets what it declares in ``needs``; the rest may be absent."""

    items: int
    """I, the number of items."""
    train_count_I: Tensor
    """How often item i + 1 stands in the training part (int64)."""
    code_RK: Tensor | None = None
    """Codes of item i in row i (R = I + 1), 0-based in each digit; -1 (``NO_CODE``) pads an item of fewer than K.
    Row 0 is 0. Held once, in two bytes a code where they are enough: models share this tensor."""
    codewords: int = 0
    """V, the same for every digit."""
    shared: bool = False
    """Whether a code means the same in every digit: text, whose digits are places in one sequence."""
    vector_RE: Tensor | None = None
    """Text vector of item i in row i, E wide (float32); row 0 is 0."""
    attribute_RA: Tensor | None = None
    """Attribute ids (from 1) of item i in row i, ascending; 0 pads an item of fewer than A."""
    attributes: int = 0
    """Number of attributes."""
    users: int = 0
    """Number of users in the data."""

    @classmethod
    def of(
        cls, train_count_I: Tensor, codes_IK: Tensor, codewords: int, *, shared: bool = False, **others: Any
    ) -> "Catalog":
        """From codes of any integer type without a row for padding, on the device of the codes."""
        code_RK = blank_codes(*codes_IK.shape, codewords).to(codes_IK.device)
        code_RK[1:] = codes_IK
        return cls(len(codes_IK), train_count_I, code_RK, codewords, shared, **others)

    def to(self, device: torch.device) -> "Catalog":
        """The same catalogue with its tensors on a device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: value for name, value in tensors.items() if name in self.__dataclass_fields__})

    @property
    def codes_IK(self) -> Tensor | None:
        """The codes without padding's row: a view."""
        return None if self.code_RK is None else self.code_RK[1:]

    @property
    def padded(self) -> bool:
        """Whether some items have fewer than K codes. Looks at the codes, so ask once."""
        return self.code_RK is not None and bool((self.code_RK == NO_CODE).any())

    @property
    def digits(self) -> int:
        """K."""
        return 0 if self.code_RK is None else self.code_RK.shape[1]

    @cached_property
    def groups(self) -> Tensor:
        """``group_I``: items with equal codes have equal numbers, from 0. Without codes, each item is its own."""
        if self.codes_IK is None:
            return torch.arange(self.items, device=self.train_count_I.device)
        return torch.unique(self.codes_IK, dim=0, return_inverse=True)[1]


def blank_codes(items: int, digits: int, codewords: int) -> Tensor:
    """``code_RK`` of zeros, in the smallest integer type that holds V codewords and ``NO_CODE``."""
    kind = torch.int16 if codewords <= torch.iinfo(torch.int16).max + 1 else torch.int32
    return torch.zeros(items + 1, digits, dtype=kind)

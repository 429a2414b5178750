"""The catalogue: count and features of the items. Item ids count from 1; row 0 of every table is padding."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genrec_cli.data.codes_table import NO_CODE as NO_CODE


@dataclass(frozen=True)
class Catalog:
    """Features of the items as tensors: those that a model declares in ``needs``."""

    items: int
    """I, the count of items."""
    train_count_I: Tensor
    """Training interactions of item i + 1 (int64)."""
    code_RK: Tensor | None = None
    """Codes of item i in row i (R = I + 1), from 0 in each digit; -1 (``NO_CODE``) pads an item with fewer than K.
    Row 0 is 0. Models share this tensor of :func:`blank_codes`."""
    codewords: int = 0
    """V, the same for every digit."""
    shared: bool = False
    """Whether a code has the same meaning in every digit, as in text codes."""
    vector_RE: Tensor | None = None
    """Text vector of item i in row i, E wide (float32); row 0 is 0."""
    attribute_RA: Tensor | None = None
    """Attribute ids (from 1) of item i in row i, ascending; 0 pads an item with fewer than A."""
    attributes: int = 0
    """Count of attributes."""
    field_RA: Tensor | None = None
    """Field of each attribute in ``attribute_RA``: its place in ``fields``; -1 pads."""
    fields: tuple[str, ...] = ()
    """Names of the fields of attributes, such as brand and category."""
    users: int = 0
    """Count of users in the data."""
    chosen_C: Tensor | None = None
    """Of a part of a catalogue (:meth:`take`): the rows of its items in the whole one, from 0, ascending."""

    @classmethod
    def of(cls, train_count_I: Tensor, codes_IK: Tensor, codewords: int, *, shared: bool = False) -> "Catalog":
        """From codes of any integer type without a row for padding, on the device of the codes."""
        items, digits = codes_IK.shape
        code_RK = blank_codes(items, digits, codewords).to(codes_IK.device)
        code_RK[1:] = codes_IK
        return cls(items, train_count_I, code_RK, codewords, shared)

    def to(self, device: torch.device) -> "Catalog":
        """The same catalogue with its tensors on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in values.items()}
        return Catalog(**moved)

    def take(self, row_C: Tensor) -> "Catalog":
        """The catalogue of the items in some rows (from 0, ascending), for a search among these items only; without
        vectors and attributes, which no search reads."""
        code_RK = None if self.code_RK is None else torch.cat([self.code_RK[:1], self.code_RK[row_C + 1]])
        part = replace(self, items=len(row_C), train_count_I=self.train_count_I[row_C], chosen_C=row_C)
        return replace(part, code_RK=code_RK, vector_RE=None, attribute_RA=None, field_RA=None)

    @property
    def codes_IK(self) -> Tensor | None:
        """The codes without row 0: a view."""
        return None if self.code_RK is None else self.code_RK[1:]

    @property
    def padded(self) -> bool:
        """Whether some items have fewer than K codes; reads all codes."""
        return self.code_RK is not None and bool((self.code_RK == NO_CODE).any())

    @property
    def digits(self) -> int:
        """K."""
        return 0 if self.code_RK is None else self.code_RK.shape[1]

    @cached_property
    def groups(self) -> Tensor:
        """``group_I``: collision groups (from 0) of items with equal codes; without codes, one group per item."""
        if self.codes_IK is None:
            return torch.arange(self.items, device=self.train_count_I.device)
        return torch.unique(self.codes_IK, dim=0, return_inverse=True)[1]


def blank_codes(items: int, digits: int, codewords: int) -> Tensor:
    """``code_RK`` of zeros, in the smallest integer type that holds V codewords and ``NO_CODE``."""
    kind = torch.int16 if codewords <= torch.iinfo(torch.int16).max + 1 else torch.int32
    return torch.zeros(items + 1, digits, dtype=kind)

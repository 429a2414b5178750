"""The catalogue as inverted lists, digit -> code -> items: which items a partly filled semantic ID may still set_group.

A partial assignment is a set of (digit, code) pairs. Two of them are compared by the sum of 64 random bits for
each pair (Zobrist's hashing), which does not depend on the order in which the pairs were found.

Legend: I items, K digits, V codewords, X candidates, m digits filled in a step, P pairs (candidate, item).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_cli.data.catalog import Catalog

CHUNK = 1 << 16
"""Items whose keys are made at once: each digit of each takes 8 bytes on the way."""


class Pairs(NamedTuple):
    """The items that each of X candidates may still set_group, candidate by candidate."""

    candidate_P: Tensor
    item_P: Tensor
    """Items from 0."""
    number_X: Tensor
    """How many items each candidate has."""


class InvertedLists:
    """Index of a catalogue of codes.

    Args:
        catalog: on the device where it is used; every item has K codes.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.codes_IK, self.codewords = catalog.codes_IK, catalog.codewords
        items, digits = self.codes_IK.shape
        device = self.codes_IK.device
        self.offset_K = torch.arange(digits, device=device) * self.codewords
        self.item_X = torch.empty(digits * items, dtype=torch.int32, device=device)
        for code_I, item_I in zip(self.codes_IK.t(), self.item_X.view(digits, items), strict=True):
            item_I.copy_(code_I.argsort(stable=True))  # digit by digit: positions come in eight bytes
        self.number_C = torch.cat([code_I.bincount(minlength=self.codewords) for code_I in self.codes_IK.t()])
        self.start_C = self.number_C.cumsum(0) - self.number_C
        random = torch.Generator().manual_seed(0)
        bits_KV = torch.randint(-(2**63), 2**63 - 1, (digits, self.codewords), generator=random)
        self.bits_C = bits_KV.flatten().to(device)
        group_I = catalog.groups
        self.member_I = group_I.argsort(stable=True)
        self.size_G = group_I.bincount()
        self.first_G = self.size_G.cumsum(0) - self.size_G
        first_G = self.member_I[self.first_G]
        key_G = torch.cat([self.key(self.codes_IK[item_g]) for item_g in first_G.split(CHUNK)])
        self.group_key, self.group = key_G.sort()

    @property
    def known_KV(self) -> Tensor:
        """Which codes any item has."""
        return (self.number_C > 0).view(-1, self.codewords)

    def key(self, codes_XK: Tensor) -> Tensor:
        """64 bits of each complete assignment."""
        return self.bits_C[codes_XK + self.offset_K].sum(-1)

    def add(self, key_X: Tensor, digit_Xm: Tensor, code_Xm: Tensor) -> Tensor:
        """The keys once these digits have these codes too."""
        return key_X + self.bits_C[digit_Xm * self.codewords + code_Xm].sum(-1)

    def narrow(
        self, pairs: Pairs | None, parent_X: Tensor, digit_Xm: Tensor, code_Xm: Tensor, alive_X: Tensor
    ) -> Pairs:
        """The items of new candidates: those of the parent that have these codes at these digits.

        Args:
            pairs: of the parents; None: a parent may be any item.
            alive_X: candidates that are any; the others get no item.
        """
        if pairs is None:
            list_X = digit_Xm[:, 0] * self.codewords + code_Xm[:, 0]
            begin_X, number_X, source = self.start_C[list_X], self.number_C[list_X], self.item_X
        else:
            begin_X, number_X = (pairs.number_X.cumsum(0) - pairs.number_X)[parent_X], pairs.number_X[parent_X]
            source = pairs.item_P
        candidate_P, at_P = ranges(begin_X, number_X * alive_X)
        item_P = source[at_P].long()
        kept_P = (self.codes_IK[item_P].gather(1, digit_Xm[candidate_P]) == code_Xm[candidate_P]).all(1)
        candidate_P = candidate_P[kept_P]
        return Pairs(candidate_P, item_P[kept_P], candidate_P.bincount(minlength=len(parent_X)))

    def everything(self, candidates: int) -> Pairs:
        """Candidates of whom nothing is known yet."""
        items = len(self.codes_IK)
        device = self.codes_IK.device
        number_X = torch.full((candidates,), items, device=device)
        item_P = torch.arange(items, device=device).repeat(candidates)
        return Pairs(torch.arange(candidates, device=device).repeat_interleave(items), item_P, number_X)

    def allowed(self, pairs: Pairs | None, candidates: int) -> Tensor:
        """``allowed_XKV``: the codes that each candidate may still take at each digit."""
        digits = self.codes_IK.shape[1]
        if pairs is None:
            return self.known_KV.expand(candidates, -1, -1)
        allowed_XKV = torch.zeros(candidates, digits, self.codewords, dtype=torch.bool, device=self.codes_IK.device)
        for k in range(digits):  # digit by digit: P indices at a time
            allowed_XKV[pairs.candidate_P, k, self.codes_IK[pairs.item_P, k].long()] = True
        return allowed_XKV

    def find(self, codes_XK: Tensor) -> Tensor:
        """``group_X``: the group of items with exactly these codes, -1 where there is none."""
        key_X = self.key(codes_XK.clamp_min(0))
        place_X = torch.searchsorted(self.group_key, key_X).clamp_max(len(self.group_key) - 1)
        group_X = self.group[place_X]
        same_X = (self.codes_IK[self.member_I[self.first_G[group_X]]] == codes_XK).all(1)
        return torch.where(same_X, group_X, -1)

    def members(self, group_X: Tensor) -> tuple[Tensor, Tensor]:
        """The items (from 0) of each group, as (candidate, item); none of group -1."""
        number_X = torch.where(group_X >= 0, self.size_G[group_X], 0)
        candidate_P, at_P = ranges(self.first_G[group_X], number_X)
        return candidate_P, self.member_I[at_P]


def ranges(begin_X: Tensor, number_X: Tensor) -> tuple[Tensor, Tensor]:
    """``begin .. begin + number - 1`` of every x, one after the other: x of each entry, and the entry."""
    x_P = torch.arange(len(number_X), device=number_X.device).repeat_interleave(number_X)
    skipped_X = number_X.cumsum(0) - number_X
    return x_P, torch.arange(len(x_P), device=x_P.device) + (begin_X - skipped_X)[x_P]

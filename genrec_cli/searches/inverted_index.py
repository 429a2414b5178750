"""Inverted index of the catalogue, digit -> code -> items: the items that match a partly filled semantic ID.

A partial assignment is a set of (digit, code) pairs. Assignments are compared by Zobrist hashing: the sum of 64 random
bits per pair, which does not depend on the order of the pairs.

Legend: I items, K digits, V codewords, X candidates, m digits of a step, P pairs (candidate, item).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_cli.data.catalog import Catalog
from genrec_cli.nn.packing import positions

CHUNK = 1 << 16
"""Items whose keys are computed at once, 8 bytes per digit."""


class Pairs(NamedTuple):
    """The items that match each of X candidates, candidate by candidate."""

    candidate_P: Tensor
    item_P: Tensor
    """Items from 0."""
    count_X: Tensor
    """Items per candidate."""


class InvertedLists:
    """The index of a catalogue in which every item has K codes."""

    def __init__(self, catalog: Catalog) -> None:
        assert catalog.codes_IK is not None
        self.codes_IK, self.codewords = catalog.codes_IK, catalog.codewords
        (items, digits), device = self.codes_IK.shape, self.codes_IK.device
        self.offset_K = torch.arange(digits, device=device) * self.codewords
        self.item_X = torch.empty(digits * items, dtype=torch.int32, device=device)
        for code_I, item_I in zip(self.codes_IK.t(), self.item_X.view(digits, items), strict=True):
            item_I.copy_(code_I.argsort(stable=True))  # digit by digit, since argsort takes 8 bytes per item
        self.count_C = torch.cat([code_I.bincount(minlength=self.codewords) for code_I in self.codes_IK.t()])
        self.start_C = self.count_C.cumsum(0) - self.count_C
        random = torch.Generator().manual_seed(0)
        self.bits_C = torch.randint(-(2**63), 2**63 - 1, (digits * self.codewords,), generator=random).to(device)
        group_I = catalog.groups
        self.member_I, self.size_G = group_I.argsort(stable=True), group_I.bincount()
        self.first_G = self.size_G.cumsum(0) - self.size_G
        first_G = self.member_I[self.first_G]
        key_G = torch.cat([self.key(self.codes_IK[item_g]) for item_g in first_G.split(CHUNK)])
        self.group_key, self.group = key_G.sort()

    def key(self, codes_XK: Tensor) -> Tensor:
        """``key_X``: the hash of the codes, a sum over digits."""
        return self.bits_C[codes_XK + self.offset_K].sum(-1)

    def add(self, key_X: Tensor, digit_Xm: Tensor, code_Xm: Tensor) -> Tensor:
        """The hashes with these codes added at these digits."""
        return key_X + self.bits_C[digit_Xm * self.codewords + code_Xm].sum(-1)

    def narrow(
        self, pairs: Pairs | None, parent_X: Tensor, digit_Xm: Tensor, code_Xm: Tensor, alive_X: Tensor
    ) -> Pairs:
        """The items of new candidates: those of the parent that have these codes at these digits; none where
        ``alive_X`` is false. ``pairs`` are those of the parents; None: all items match a parent."""
        if pairs is None:
            list_X = digit_Xm[:, 0] * self.codewords + code_Xm[:, 0]
            begin_X, count_X, source = self.start_C[list_X], self.count_C[list_X], self.item_X
        else:
            begin_X, count_X = (pairs.count_X.cumsum(0) - pairs.count_X)[parent_X], pairs.count_X[parent_X]
            source = pairs.item_P
        candidate_P, at_P = ranges(begin_X, count_X * alive_X)
        item_P = source[at_P].long()
        kept_P = (self.codes_IK[item_P].gather(1, digit_Xm[candidate_P]) == code_Xm[candidate_P]).all(1)
        candidate_P = candidate_P[kept_P]
        return Pairs(candidate_P, item_P[kept_P], candidate_P.bincount(minlength=len(parent_X)))

    def everything(self, candidates: int) -> Pairs:
        """All items, for candidates without a filled digit."""
        count_X = torch.full((candidates,), len(self.codes_IK), device=self.codes_IK.device)
        item_P, candidate_P = positions(count_X)
        return Pairs(candidate_P, item_P, count_X)

    def allowed(self, pairs: Pairs | None, candidates: int) -> Tensor:
        """``allowed_XKV``: the codes of the items that match each candidate, at each digit."""
        digits = self.codes_IK.shape[1]
        if pairs is None:
            return (self.count_C > 0).view(-1, self.codewords).expand(candidates, -1, -1)
        allowed_XKV = torch.zeros(candidates, digits, self.codewords, dtype=torch.bool, device=self.codes_IK.device)
        for k in range(digits):  # digit by digit, for P indices at a time
            allowed_XKV[pairs.candidate_P, k, self.codes_IK[pairs.item_P, k].long()] = True
        return allowed_XKV

    def find(self, codes_XK: Tensor) -> Tensor:
        """``group_X``: the collision group with these codes; -1: there is none."""
        key_X = self.key(codes_XK.clamp_min(0))
        place_X = torch.searchsorted(self.group_key, key_X).clamp_max(len(self.group_key) - 1)
        group_X = self.group[place_X]
        same_X = (self.codes_IK[self.member_I[self.first_G[group_X]]] == codes_XK).all(1)
        return torch.where(same_X, group_X, -1)

    def members(self, group_X: Tensor) -> tuple[Tensor, Tensor]:
        """The items (from 0) of each group, as (candidate, item); none of group -1."""
        candidate_P, at_P = ranges(self.first_G[group_X], torch.where(group_X >= 0, self.size_G[group_X], 0))
        return candidate_P, self.member_I[at_P]


def ranges(begin_X: Tensor, count_X: Tensor) -> tuple[Tensor, Tensor]:
    """``begin .. begin + count - 1`` of every x, one after the other: x of each entry, and the entry."""
    place_P, x_P = positions(count_X)
    return x_P, begin_X[x_P] + place_P

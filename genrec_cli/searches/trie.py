"""The catalogue as a trie: which codes may follow a prefix, and which items have which codes.

A node of level l is a distinct prefix of l codes. Codes are sorted, so the children of a node stand side by side
in the next level: two integers a node say where, and nothing is as wide as the catalogue times the codewords.

Legend: I items, G distinct codes (leaves), K digits, B users, M beams, W children of the widest node of a level,
k list length.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_cli.data.catalog import Catalog


class Level(NamedTuple):
    """The nodes of one level and their children in the next."""

    first: Tensor
    """First child of each node (int32)."""
    number: Tensor
    """How many children (int32)."""
    code: Tensor
    """The code that leads to each node of the next level, in the catalogue's type."""
    widest: int
    """W."""


class Trie:
    """Built once for a catalogue of codes, on its device."""

    def __init__(self, catalog: Catalog) -> None:
        codes_GK, leaf_I = torch.unique(catalog.codes_IK, dim=0, return_inverse=True)  # sorted by the first digit first
        self.levels = [_level(codes_GK, digit) for digit in range(codes_GK.shape[1])]
        self.items_G = torch.bincount(leaf_I, minlength=len(codes_GK))
        """Items of each leaf."""
        self.start_G = self.items_G.cumsum(0) - self.items_G
        self.item_I = leaf_I.argsort(stable=True) + 1
        """Item ids by leaf, then by id."""

    def children(self, digit: int, node_BM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The children of nodes of level ``digit``: ``child_BMW``, their ``code_BMW``, and ``real_BMW``: which are
        there (the rest repeats a real one)."""
        level = self.levels[digit]
        step_W = torch.arange(level.widest, device=node_BM.device)
        number_BM1 = level.number[node_BM][..., None]
        child_BMW = level.first[node_BM][..., None] + torch.minimum(step_W, number_BM1 - 1)
        return child_BMW, level.code[child_BMW].long(), step_W < number_BM1

    def items(self, leaf_BM: Tensor, alive_BM: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The first k items of the leaves of each row in their order, items of a leaf by id: ``item_Bk`` (0 where
        there is no further one) and ``beam_Bk``, the leaf that each comes from."""
        number_BM = self.items_G[leaf_BM] * alive_BM
        end_BM = number_BM.cumsum(1)
        place_Bk = torch.arange(k, device=leaf_BM.device).expand(len(leaf_BM), -1).contiguous()
        there_Bk = place_Bk < end_BM[:, -1:]
        beam_Bk = torch.searchsorted(end_BM, place_Bk, right=True).clamp_max(leaf_BM.shape[1] - 1)
        within_Bk = torch.where(there_Bk, place_Bk - (end_BM - number_BM).gather(1, beam_Bk), 0)
        item_Bk = self.item_I[self.start_G[leaf_BM.gather(1, beam_Bk)] + within_Bk]
        return torch.where(there_Bk, item_Bk, 0), beam_Bk


def _level(codes_GK: Tensor, digit: int) -> Level:
    """From level ``digit`` to the next, by where sorted codes change."""
    node_G, next_G = _changes(codes_GK[:, :digit]), _changes(codes_GK[:, : digit + 1])
    first_child = torch.ones_like(next_G, dtype=torch.bool)
    first_child[1:] = next_G[1:] != next_G[:-1]
    number = torch.bincount(node_G[first_child])
    first = (number.cumsum(0) - number).int()
    return Level(first, number.int(), codes_GK[first_child, digit], int(number.max()))


def _changes(prefix_Gl: Tensor) -> Tensor:
    """``node_G``: the number of each sorted row's prefix, from 0."""
    new_G = torch.zeros(len(prefix_Gl), dtype=torch.long, device=prefix_Gl.device)
    new_G[1:] = (prefix_Gl[1:] != prefix_Gl[:-1]).any(1)
    return new_G.cumsum(0)

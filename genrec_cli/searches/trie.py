"""The catalogue as a trie: the codes that may follow a prefix, and the items of each code.

A node of level l is a distinct prefix of l codes. Codes are sorted, so the children of a node are neighbours in the
next level: two integers per node, and memory is linear in the catalogue.

Legend: I items, G distinct codes (leaves), B users, M beams, W children of the widest node of a level, k list length.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_cli.data.catalog import Catalog


class Level(NamedTuple):
    """The nodes of one level and their children in the next."""

    first: Tensor
    """First child of each node (int32)."""
    children: Tensor
    """Number of children of each node (int32)."""
    code: Tensor
    """The last code of each node of the next level, in the catalogue's type."""
    widest: int
    """W."""


class Trie:
    """Built once for a catalogue of codes, on its device."""

    def __init__(self, catalog: Catalog) -> None:
        codes_GK, leaf_I = torch.unique(catalog.codes_IK, dim=0, return_inverse=True)  # sorted by the first digit first
        self.levels = [_level(codes_GK, digit) for digit in range(codes_GK.shape[1])]
        self.items_G = torch.bincount(leaf_I, minlength=len(codes_GK))
        """Items per leaf."""
        self.start_G = self.items_G.cumsum(0) - self.items_G
        self.item_I = leaf_I.argsort(stable=True) + 1
        """Item ids by leaf, then by id."""

    def children(self, digit: int, node_BM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The children of nodes of level ``digit``: ``child_BMW``, their ``code_BMW``, and ``real_BMW``, false at
        padding (copies of the last child)."""
        level = self.levels[digit]
        step_W = torch.arange(level.widest, device=node_BM.device)
        count_BM1 = level.children[node_BM][..., None]
        child_BMW = level.first[node_BM][..., None] + torch.minimum(step_W, count_BM1 - 1)
        return child_BMW, level.code[child_BMW].long(), step_W < count_BM1

    def items(self, leaf_BM: Tensor, alive_BM: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The first k items of each row's leaves in their order, items of a leaf by id: ``item_Bk`` (0 after the last
        item) and ``beam_Bk``, the leaf of each item."""
        count_BM = self.items_G[leaf_BM] * alive_BM
        end_BM = count_BM.cumsum(1)
        place_Bk = torch.arange(k, device=leaf_BM.device).expand(len(leaf_BM), -1).contiguous()
        real_Bk = place_Bk < end_BM[:, -1:]
        beam_Bk = torch.searchsorted(end_BM, place_Bk, right=True).clamp_max(leaf_BM.shape[1] - 1)
        within_Bk = torch.where(real_Bk, place_Bk - (end_BM - count_BM).gather(1, beam_Bk), 0)
        item_Bk = self.item_I[self.start_G[leaf_BM.gather(1, beam_Bk)] + within_Bk]
        return torch.where(real_Bk, item_Bk, 0), beam_Bk


def _level(codes_GK: Tensor, digit: int) -> Level:
    """The level of prefixes of ``digit`` codes."""
    node_G, next_G = _changes(codes_GK[:, :digit]), _changes(codes_GK[:, : digit + 1])
    first_child = torch.ones_like(next_G, dtype=torch.bool)
    first_child[1:] = next_G[1:] != next_G[:-1]
    count = torch.bincount(node_G[first_child])
    first = (count.cumsum(0) - count).int()
    return Level(first, count.int(), codes_GK[first_child, digit], int(count.max()))


def _changes(prefix_Gl: Tensor) -> Tensor:
    """``node_G``: the index of each sorted row's prefix, from 0."""
    new_G = torch.zeros(len(prefix_Gl), dtype=torch.long, device=prefix_Gl.device)
    new_G[1:] = (prefix_Gl[1:] != prefix_Gl[:-1]).any(1)
    return new_G.cumsum(0)

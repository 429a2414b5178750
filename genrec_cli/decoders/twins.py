"""Items of equal codes, which no model of codes can tell apart: which of them stand for their codes.

At the level of codes the first item of each code counts and the others, its twins, do not. Where that one item is
left out for a user and a twin is not, the codes are still there and must be counted all the same.

Legend: B users, I items, G distinct codes, J items with an earlier twin, N cells (an item and a user), S different
cells.
"""

import torch
from torch import Tensor

Cells = tuple[Tensor, Tensor]
"""Item ids (from 1) and the rows of the users they belong to, for example all that stands in the histories."""


class Twins:
    """The groups of equal codes.

    Args:
        group_I: of :attr:`Catalog.groups`.
    """

    def __init__(self, group_I: Tensor) -> None:
        self.group_I, self.items = group_I, len(group_I)
        self.size_G = torch.bincount(group_I)
        """Items of each code."""
        item_I = torch.arange(self.items, device=group_I.device)
        self.first_G = torch.full_like(self.size_G, self.items).scatter_reduce_(0, group_I, item_I, "amin")
        """First item (from 0) of each code."""
        self.twin_J = (item_I != self.first_G[group_I]).nonzero()[:, 0]
        """Items (from 0, ascending) whose codes an earlier item has too: what does not count at code level."""

    def left(self, hidden: Cells, target_B: Tensor) -> Tensor:
        """How many items with the codes of each user's target are not hidden, itself included."""
        item_S, user_S = self._different(hidden)
        code_B = self.group_I[target_B - 1]
        same_S = self.group_I[item_S] == code_B[user_S]
        return self.size_G[code_B].index_add(0, user_S, same_S.long(), alpha=-1)

    def missed(self, hidden: Cells) -> Cells:
        """Hidden items (from 0, ascending) that stand for codes of which a twin is not hidden, and their users."""
        item_S, user_S = self._different(hidden)
        code_S = self.group_I[item_S]
        _, pair_S, number_P = torch.unique(user_S * len(self.size_G) + code_S, return_inverse=True, return_counts=True)
        there_S = (self.first_G[code_S] == item_S) & (number_P[pair_S] < self.size_G[code_S])
        return item_S[there_S], user_S[there_S]

    def _different(self, cells: Cells) -> Cells:
        """Each cell once, items from 0 and ascending."""
        item_N, user_N = cells
        width = int(user_N.max()) + 1 if len(user_N) else 1
        cell_S = torch.unique((item_N - 1) * width + user_N)
        return cell_S // width, cell_S % width


def hold(cells: Cells, target_B: Tensor) -> Tensor:
    """Which users' targets stand among their own cells."""
    item_N, user_N = cells
    return torch.zeros_like(target_B).index_add_(0, user_N, (item_N == target_B[user_N]).long()) > 0

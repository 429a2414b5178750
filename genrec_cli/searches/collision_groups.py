"""Collision groups: items with equal codes, whose scores are equal. The first item of each group counts at code level.

Legend: B users, I items, G distinct codes, J items that are not the first of their group, S items of targets' groups.
"""

import torch
from torch import Tensor


class CollisionGroups:
    """The collision groups of a catalogue; ``group_I`` is :attr:`Catalog.groups`."""

    def __init__(self, group_I: Tensor) -> None:
        self.group_I = group_I
        self.size_G = torch.bincount(group_I)
        """Items per group."""
        item_I = torch.arange(len(group_I), device=group_I.device)
        self.first_G = torch.full_like(self.size_G, len(group_I)).scatter_reduce_(0, group_I, item_I, "amin")
        """First item (from 0) of each group."""
        self.later_J = (item_I != self.first_G[group_I]).nonzero()[:, 0]
        """The other items (from 0, ascending), which do not count at code level."""
        self.order_I = group_I.argsort(stable=True)
        """Items (from 0) by group."""
        self.start_G = self.size_G.cumsum(0) - self.size_G

    def members(self, target_B: Tensor) -> tuple[Tensor, Tensor]:
        """``item_S`` (from 0, ascending): all items of the groups of the targets (ids from 1); and ``user_S``, the user
        of each."""
        group_B = self.group_I[target_B - 1]
        size_B = self.size_G[group_B]
        user_S = torch.arange(len(target_B), device=target_B.device).repeat_interleave(size_B)
        place_S = torch.arange(len(user_S), device=target_B.device) - (size_B.cumsum(0) - size_B)[user_S]
        item_S, order_S = self.order_I[self.start_G[group_B][user_S] + place_S].sort(stable=True)
        return item_S, user_S[order_S]

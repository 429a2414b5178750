"""Collision groups: items with equal codes. The first item of each group counts at code level.

Legend: I items, G distinct codes, J items that are not the first of their group.
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

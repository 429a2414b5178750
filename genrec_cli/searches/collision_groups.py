"""Collision groups: items with equal codes, which no model of codes can tell apart.

At the level of codes the first item of each group counts and the others, its groups, do not.

Legend: I items, G distinct codes, J items with an earlier twin.
"""

import torch
from torch import Tensor


class CollisionGroups:
    """The collision groups of a catalogue.

    Args:
        group_I: of :attr:`Catalog.groups`.
    """

    def __init__(self, group_I: Tensor) -> None:
        self.group_I, self.items = group_I, len(group_I)
        self.size_G = torch.bincount(group_I)
        """Items of each group."""
        item_I = torch.arange(self.items, device=group_I.device)
        self.first_G = torch.full_like(self.size_G, self.items).scatter_reduce_(0, group_I, item_I, "amin")
        """First item (from 0) of each group."""
        self.twin_J = (item_I != self.first_G[group_I]).nonzero()[:, 0]
        """Items (from 0, ascending) that are not the first of their group: they do not count at code level."""

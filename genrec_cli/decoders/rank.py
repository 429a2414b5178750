"""The place of a target among all items, counted in runs of items, at the level of items and of distinct codes.

Legend: B users, C items of a run, J items with an earlier twin.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_cli.decoders.scores import bounds


class Rank(NamedTuple):
    """Where the target stands among all items, at the level of items and of distinct codes."""

    above_B: Tensor
    ties_B: Tensor
    code_above_B: Tensor
    code_ties_B: Tensor


class Standing:
    """Counts of items above and beside each user's target.

    Args:
        own_B: the target's scores, equal to the last bit to what it has in its run.
        twin_J: items (from 0, ascending) with the codes of an earlier one: they do not count at code level.
        runs: first items of the runs.
    """

    def __init__(self, own_B: Tensor, twin_J: Tensor, runs: range) -> None:
        self.own_B, self.twin_J, self.runs = own_B, twin_J, runs
        self.bound = bounds(twin_J, runs)
        self.item_2B, self.twin_2B = torch.zeros(2, 2, len(own_B), dtype=torch.long, device=own_B.device)

    def add(self, score_CB: Tensor, begin: int) -> None:
        """Count a run."""
        self.item_2B += self._counts(score_CB)
        twin_j = self.twin_J[self.bound[begin]]
        if len(twin_j):
            self.twin_2B += self._counts(score_CB[twin_j - begin])

    def rank(self) -> Rank:
        """The place, once all runs were added. A target without a score (-inf, NaN) stands behind everything."""
        lost_B = ~(self.own_B > -torch.inf)
        items = torch.full_like(self.item_2B[0], self.runs.stop)
        above_2B = torch.stack([self.item_2B[0], self.item_2B[0] - self.twin_2B[0]])
        above_2B = torch.where(lost_B, torch.stack([items, items - len(self.twin_J)]), above_2B)
        ties_2B = torch.stack([self.item_2B[1], self.item_2B[1] - self.twin_2B[1]])
        ties_2B = ties_2B.masked_fill(lost_B, 0).clamp_min(1)
        return Rank(above_2B[0], ties_2B[0], above_2B[1], ties_2B[1])

    def _counts(self, score_CB: Tensor) -> Tensor:
        """How many are above and equal, each user's. Truth is written as 0 and 1 of the scores' own type: its sum
        is ten times as fast as that of booleans, and exact up to 2**24."""
        truth_CB = torch.empty_like(score_CB)
        above_B = torch.gt(score_CB, self.own_B, out=truth_CB).sum(0)
        return torch.stack([above_B, torch.eq(score_CB, self.own_B, out=truth_CB).sum(0)]).long()

"""The place of a target among all items, counted in runs of items, at the level of items and of distinct codes.

Legend: B users, C items of a run, J items with an earlier twin, S hidden items whose codes are not.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_cli.decoders.scores import bounds
from genrec_cli.decoders.twins import Cells, Twins

UNLISTED = 1 << 30
"""Rank of a target that cannot be found: behind every cutoff."""


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
        runs: first items of the runs.
        hidden: items that are left out.
    """

    def __init__(self, own_B: Tensor, twins: Twins, runs: range, hidden: Cells | None) -> None:
        self.own_B, self.twin_J = own_B, twins.twin_J
        self.bound = bounds(self.twin_J, runs)
        self.item_2B, self.twin_2B = torch.zeros(2, 2, len(own_B), dtype=torch.long, device=own_B.device)
        self.first: Cells | None = None
        if hidden is not None and len(self.twin_J):
            self.first = twins.missed(hidden)
            self.first_bound = bounds(self.first[0], runs)

    def before(self, score_CB: Tensor, begin: int) -> None:
        """Look at a run while hidden items still have their scores, which their twins share."""
        if self.first is None:
            return
        item_s, user_s = (x_S[self.first_bound[begin]] for x_S in self.first)
        score_s, own_s = score_CB[item_s - begin, user_s], self.own_B[user_s]
        self.twin_2B.index_add_(1, user_s, torch.stack([score_s > own_s, score_s == own_s]).long(), alpha=-1)

    def add(self, score_CB: Tensor, begin: int) -> None:
        """Count a run, in which hidden items are at -inf."""
        self.item_2B += self._counts(score_CB)
        twin_j = self.twin_J[self.bound[begin]]
        if len(twin_j):
            self.twin_2B += self._counts(score_CB[twin_j - begin])

    def rank(self) -> Rank:
        """The place, once all runs were added. A target without a score (-inf, NaN) is UNLISTED at both levels."""
        lost_B = ~(self.own_B > -torch.inf)
        above_2B = torch.stack([self.item_2B[0], self.item_2B[0] - self.twin_2B[0]]).masked_fill(lost_B, UNLISTED)
        ties_2B = torch.stack([self.item_2B[1], self.item_2B[1] - self.twin_2B[1]])
        ties_2B = ties_2B.masked_fill(lost_B, 0).clamp_min(1)
        return Rank(above_2B[0], ties_2B[0], above_2B[1], ties_2B[1])

    def _counts(self, score_CB: Tensor) -> Tensor:
        """How many are above and equal, each user's. Truth is written as 0 and 1 of the scores' own type: its sum
        is ten times as fast as that of booleans, and exact up to 2**24."""
        truth_CB = torch.empty_like(score_CB)
        above_B = torch.gt(score_CB, self.own_B, out=truth_CB).sum(0)
        return torch.stack([above_B, torch.eq(score_CB, self.own_B, out=truth_CB).sum(0)]).long()

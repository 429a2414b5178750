"""The rank of each user's target among all items, counted chunk by chunk, at the level of items and of codes.

Legend: B users, C items of a chunk, j items of it that are not the first of their collision group, S excluded cells.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_cli.searches.base import TopK
from genrec_cli.searches.collision_groups import CollisionGroups
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.scores import bounds

UNLISTED = 1 << 30
"""Rank of a target without a score, beyond every cutoff."""


class Rank(NamedTuple):
    """The number of items (distinct codes) that score higher than the target, and with its score, itself included."""

    above_B: Tensor
    ties_B: Tensor
    code_above_B: Tensor
    code_ties_B: Tensor


class Ranking(NamedTuple):
    """The targets' ranks and the lists under one protocol."""

    rank: Rank
    top: TopK


class Ranked(NamedTuple):
    """Losses and ranks of a batch's targets."""

    loss_B: Tensor
    """``-log p`` of each target, the mean over digits for a model of codes; NaN where the model has none."""
    kept: Ranking
    """With all items in the ranking."""
    left_out: Ranking | None
    """Without the excluded items; None: nothing is excluded. An excluded target is UNLISTED at both levels."""
    stats: dict[str, Tensor]
    """Stats of the search per history, such as ``visited``."""


class RankCounter:
    """Counts the items with a higher score than each user's target and those with its score.

    ``score_B``: the scores of the targets, with the same bits as in their chunks; ``chunks``: first items of the
    chunks.
    """

    def __init__(self, score_B: Tensor, target_B: Tensor, groups: CollisionGroups, chunks: range) -> None:
        self.score_B, self.target_B, self.groups = score_B, target_B, groups
        self.bound = bounds(groups.later_J, chunks)
        self.item_2B, self.later_2B = torch.zeros(2, 2, len(score_B), dtype=torch.long, device=score_B.device)

    def add(self, score_CB: Tensor, begin: int) -> None:
        """Count a chunk that starts with item ``begin`` (from 0)."""
        self.item_2B += self._counts(score_CB)
        later_j = self.groups.later_J[self.bound[begin]]
        if len(later_j):
            self.later_2B += self._counts(score_CB[later_j - begin])

    def rank(self, excluded: Excluded | None = None, score_S: Tensor | None = None) -> Rank:
        """The ranks after the last chunk, without the excluded items, whose scores are ``score_S``. A target without a
        score (-inf, NaN) is UNLISTED at both levels."""
        unlisted_B = ~(self.score_B > -torch.inf)
        item_2B, code_2B = self.item_2B, self.item_2B - self.later_2B
        if excluded is not None and score_S is not None:
            target_S = self.score_B[excluded.user_S]
            counted_2S = torch.stack([score_S > target_S, score_S == target_S]).long()
            item_2B = item_2B.index_add(1, excluded.user_S, counted_2S, alpha=-1)
            counted_2S *= excluded.whole_groups(self.groups)
            code_2B = code_2B.index_add(1, excluded.user_S, counted_2S, alpha=-1)
            unlisted_B = unlisted_B | excluded.holds(self.target_B)
        counts_4B = torch.cat([item_2B, code_2B])
        fills = (UNLISTED, 1, UNLISTED, 1)
        return Rank(*(x_B.masked_fill(unlisted_B, fill) for x_B, fill in zip(counts_4B, fills, strict=True)))

    def _counts(self, score_CB: Tensor) -> Tensor:
        """The numbers of scores above and equal to each target's. The comparison is written as 0 and 1 in the type of
        the scores: the sum is ten times as fast as that of booleans, and exact up to 2**24."""
        truth_CB = torch.empty_like(score_CB)
        above_B = torch.gt(score_CB, self.score_B, out=truth_CB).sum(0)
        return torch.stack([above_B, torch.eq(score_CB, self.score_B, out=truth_CB).sum(0)]).long()

"""The rank of each user's target among all items, counted chunk by chunk, at the level of items and of codes.

Legend: B users, C items of a chunk, J items with an earlier twin, S excluded cells.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_cli.searches.base import TopK
from genrec_cli.searches.collision_groups import CollisionGroups
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.scores import bounds

UNLISTED = 1 << 30
"""Rank of a target that cannot be found: behind every cutoff."""


class Rank(NamedTuple):
    """How many items (distinct codes) score higher than the target, and how many have its score, itself included."""

    above_B: Tensor
    ties_B: Tensor
    code_above_B: Tensor
    code_ties_B: Tensor


class Ranking(NamedTuple):
    """The targets' ranks and the lists under one protocol."""

    rank: Rank
    top: TopK


class Ranked(NamedTuple):
    """What is known of a batch's targets."""

    loss_B: Tensor
    """``-log p`` of each target, the mean over digits for a model of codes; NaN where the model does not tell it."""
    kept: Ranking
    """With all items in the ranking."""
    left_out: Ranking | None
    """Without the excluded items, if there are any. An excluded target has the rank UNLISTED at both levels."""
    stats: dict[str, Tensor]
    """What the search reports per history, such as ``visited``."""


class RankCounter:
    """Counts the items above each user's target and the items with its score.

    Args:
        own_B: the target's scores, with the same bits as in its chunk.
        target_B: item ids from 1.
        chunks: first items of the chunks.
    """

    def __init__(self, own_B: Tensor, target_B: Tensor, groups: CollisionGroups, chunks: range) -> None:
        self.own_B, self.target_B, self.groups = own_B, target_B, groups
        self.bound = bounds(groups.twin_J, chunks)
        self.item_2B, self.twin_2B = torch.zeros(2, 2, len(own_B), dtype=torch.long, device=own_B.device)

    def add(self, score_CB: Tensor, begin: int) -> None:
        """Count a chunk that starts with item ``begin`` (from 0)."""
        self.item_2B += self._counts(score_CB)
        twin_j = self.groups.twin_J[self.bound[begin]]
        if len(twin_j):
            self.twin_2B += self._counts(score_CB[twin_j - begin])

    def rank(self, excluded: Excluded | None = None, score_S: Tensor | None = None) -> Rank:
        """The ranks, once all chunks were added. A target without a score (-inf, NaN) is UNLISTED at both levels.

        Args:
            excluded: items that do not count; ``score_S`` are their scores.
        """
        lost_B = ~(self.own_B > -torch.inf)
        item_2B, code_2B = self.item_2B, self.item_2B - self.twin_2B
        if excluded is not None:
            own_S = self.own_B[excluded.user_S]
            counted_2S = torch.stack([score_S > own_S, score_S == own_S]).long()
            item_2B = item_2B.index_add(1, excluded.user_S, counted_2S, alpha=-1)
            counted_2S *= excluded.whole_groups(self.groups)
            code_2B = code_2B.index_add(1, excluded.user_S, counted_2S, alpha=-1)
            lost_B = lost_B | excluded.holds(self.target_B)
        (above_B, ties_B), (code_above_B, code_ties_B) = item_2B, code_2B
        above_B, code_above_B = (x_B.masked_fill(lost_B, UNLISTED) for x_B in (above_B, code_above_B))
        ties_B, code_ties_B = (x_B.masked_fill(lost_B, 1) for x_B in (ties_B, code_ties_B))
        return Rank(above_B, ties_B, code_above_B, code_ties_B)

    def _counts(self, score_CB: Tensor) -> Tensor:
        """How many scores are above and equal to each user's. The comparison is written as 0 and 1 in the type of the
        scores: its sum is ten times as fast as that of booleans, and exact up to 2**24."""
        truth_CB = torch.empty_like(score_CB)
        above_B = torch.gt(score_CB, self.own_B, out=truth_CB).sum(0)
        return torch.stack([above_B, torch.eq(score_CB, self.own_B, out=truth_CB).sum(0)]).long()

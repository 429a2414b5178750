"""Excluded items: items that are left out of a user's ranking, for example all items of the user's history.

The catalogue is scored once for both protocols. The search keeps the scores of the S excluded cells (an item and a
user): ranks without exclusion subtract the excluded items above the target, and lists of all items merge them again.

A collision group counts at code level until all of its items are excluded. An excluded target is UNLISTED at both
levels.

Legend: B users, S excluded cells, k length of a list.
"""

import torch
from torch import Tensor

from genrec_cli.nn.packing import positions
from genrec_cli.searches.base import TopK
from genrec_cli.searches.collision_groups import CollisionGroups
from genrec_cli.searches.running_top_k import first


class Excluded:
    """The distinct excluded cells of a batch: items ``item_N`` (ids from 1) and rows ``user_N`` of the batch."""

    def __init__(self, item_N: Tensor, user_N: Tensor) -> None:
        width = int(user_N.max()) + 1 if len(user_N) else 1
        cell_S = torch.unique((item_N - 1) * width + user_N)
        self.item_S, self.user_S = cell_S // width, cell_S % width
        """Items from 0, ascending, and rows of the batch."""

    def holds(self, target_B: Tensor) -> Tensor:
        """Whether each user's target (id from 1) is excluded."""
        hit_S = self.item_S == target_B[self.user_S] - 1
        return torch.zeros_like(target_B).index_add_(0, self.user_S, hit_S.long()) > 0

    def ties(self, groups: CollisionGroups, target_B: Tensor) -> Tensor:
        """The number of items that are not excluded and have the codes of the user's target, itself included."""
        code_B = groups.group_I[target_B - 1]
        same_S = groups.group_I[self.item_S] == code_B[self.user_S]
        return groups.size_G[code_B].index_add(0, self.user_S, same_S.long(), alpha=-1)

    def whole_groups(self, groups: CollisionGroups) -> Tensor:
        """Which cells hold the first item of a group whose items are all excluded."""
        code_S = groups.group_I[self.item_S]
        pair_S = self.user_S * len(groups.size_G) + code_S
        _, pair_S, count_P = torch.unique(pair_S, return_inverse=True, return_counts=True)
        return (groups.first_G[code_S] == self.item_S) & (count_P[pair_S] == groups.size_G[code_S])

    def removed(self, top: TopK, items: int) -> TopK:
        """The lists without the excluded items; later items move up."""
        row_B1 = torch.arange(len(top.item_Bk), device=top.item_Bk.device)[:, None] * (items + 1)
        excluded_Bk = torch.isin(row_B1 + top.item_Bk, self.user_S * (items + 1) + self.item_S + 1)
        order_Bk = excluded_Bk.to(torch.int8).argsort(dim=1, stable=True)
        item_Bk = top.item_Bk.masked_fill(excluded_Bk, 0).gather(1, order_Bk)
        return TopK(item_Bk, top.score_Bk.masked_fill(excluded_Bk, -torch.inf).gather(1, order_Bk))

    def restored(self, top: TopK, score_S: Tensor) -> TopK:
        """The lists of all items, from the lists without the excluded items and the scores of these."""
        users, k = top.item_Bk.shape
        order_S = score_S.argsort(descending=True, stable=True)  # of equal scores the lowest id first
        order_S = order_S[self.user_S[order_S].argsort(stable=True)]
        place_S, user_S = positions(self.user_S.bincount(minlength=users))
        best_S = place_S < k
        cells, order_S = (user_S[best_S], place_S[best_S]), order_S[best_S]
        item_Bk = torch.zeros_like(top.item_Bk).index_put(cells, self.item_S[order_S] + 1)
        score_Bk = torch.full_like(top.score_Bk, -torch.inf).index_put(cells, score_S[order_S])
        item_Bn, order_Bn = torch.cat([top.item_Bk, item_Bk], 1).sort(dim=1)  # ids ascend where scores are equal
        score_Bn = torch.cat([top.score_Bk, score_Bk], 1).gather(1, order_Bn)
        best_Bk = first(score_Bn, k)
        score_Bk = score_Bn.gather(1, best_Bk)
        return TopK(item_Bn.gather(1, best_Bk).masked_fill(~(score_Bk > -torch.inf), 0), score_Bk)

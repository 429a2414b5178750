"""Exact decoding: every item of the catalogue is scored. The reference for all other decoders.

A model that gives code distributions scores item i by ``mean over k of log P^k(w_i^k)``. That is a gather
and a sum: an embedding-bag over the table of log-probabilities, with one column a user, so that each of an
item's K look-ups reads the numbers of all users of the batch from one cache line.

An item of fewer than K codes (text) is scored by the mean over those it has: the others look up a row of zeros.

Legend: B users, I items, K digits, V codewords, k list length.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import NO_CODE, Catalog
from genrec_cli.decoders.base import TopK
from genrec_cli.models.base import CodeScorer, ItemScorer, Model


class Rank(NamedTuple):
    """Where the target stands among all items, at the level of items and of distinct codes."""

    above_B: Tensor
    ties_B: Tensor
    code_above_B: Tensor
    code_ties_B: Tensor


class ExhaustiveConfig(Section):
    """Exact decoding has no settings."""


class Exhaustive:
    """Scores all items.

    Args:
        catalog: on the device where the model runs.
    """

    Config = ExhaustiveConfig
    exact = True
    face = (ItemScorer, CodeScorer)

    def __init__(self, catalog: Catalog) -> None:
        self.items = catalog.items
        self.bag_IK = self.number_I = None
        if catalog.codes_IK is not None:
            device = catalog.codes_IK.device
            offset_K = torch.arange(catalog.digits, device=device) * catalog.codewords
            self.bag_IK = (catalog.codes_IK + offset_K).to(torch.int32)
            if catalog.padded:
                real_IK = catalog.codes_IK != NO_CODE
                self.bag_IK.masked_fill_(~real_IK, catalog.digits * catalog.codewords)
                self.number_I = real_IK.sum(1)
        group_I = catalog.groups()
        first_G = torch.full((int(group_I.max()) + 1,), self.items, dtype=torch.long, device=group_I.device)
        first_G.scatter_reduce_(0, group_I, torch.arange(self.items, device=group_I.device), "amin")
        twin_I = torch.ones(self.items, dtype=torch.bool, device=group_I.device)
        twin_I[first_G] = False
        self.twin_J = twin_I.nonzero()[:, 0]
        """Items whose codes an earlier item has too: what does not count at code level."""

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """``score_BI`` of the whole catalogue."""
        if isinstance(model, CodeScorer):
            return self.code_scores(model.code_logprobs(batch))
        return model.item_scores(batch)

    def code_scores(self, logp_BKV: Tensor) -> Tensor:
        """``score_BI = mean over k of logp_BKV[b, k, code_i^k]``, k running over the item's own codes."""
        if self.number_I is not None:
            table = F.pad(logp_BKV.flatten(1).t(), (0, 0, 0, 1))
            return (F.embedding_bag(self.bag_IK, table, mode="sum") / self.number_I[:, None]).t().contiguous()
        # Divided before the sum: only the kernel for sums is fast on every device.
        table = (logp_BKV.flatten(1).t() / logp_BKV.shape[1]).contiguous()
        return F.embedding_bag(self.bag_IK, table, mode="sum").t().contiguous()

    def top(self, score_BI: Tensor, k: int) -> TopK:
        """The k best items of each row; fewer items than k give item 0 with score -inf."""
        found = min(k, score_BI.shape[1])
        score_Bk, column_Bk = score_BI.topk(found, dim=1)
        item_Bk = torch.where(score_Bk > -torch.inf, column_Bk + 1, 0)
        return TopK(F.pad(item_Bk, (0, k - found)), F.pad(score_Bk, (0, k - found), value=-torch.inf))

    def target_loss(self, model: Model, score_BI: Tensor, target_B: Tensor) -> Tensor:
        """``-log p`` of each target: a code model's score is a mean log-probability already (equation 1)."""
        score_B = score_BI.gather(1, target_B[:, None] - 1)[:, 0]
        return -score_B if isinstance(model, CodeScorer) else score_BI.logsumexp(1) - score_B

    def rank(self, score_BI: Tensor, target_B: Tensor) -> Rank:
        """The target's exact rank. A target with score -inf (excluded, or NaN) stands behind everything."""
        score_B1 = score_BI.gather(1, target_B[:, None] - 1)
        lost_B1 = ~(score_B1 > -torch.inf)
        above_BI = (score_BI > score_B1) | lost_B1
        equal_BI = (score_BI == score_B1) & ~lost_B1
        above_B, ties_B = above_BI.sum(1), equal_BI.sum(1)
        code_above_B = above_B - above_BI[:, self.twin_J].sum(1)
        code_ties_B = ties_B - equal_BI[:, self.twin_J].sum(1)
        return Rank(above_B, ties_B.clamp_min(1), code_above_B, code_ties_B.clamp_min(1))


def exclude_seen(score_BI: Tensor, batch: Batch) -> Tensor:
    """The scores with every item of the user's history at -inf."""
    score_BI = score_BI.clone()
    score_BI[batch.packing.sequence_N, batch.item_N - 1] = -torch.inf
    return score_BI

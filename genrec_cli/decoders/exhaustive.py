"""Exact decoding: every item of the catalogue is scored. The reference for all other decoders.

One pass over the catalogue, in runs whose scores fit into a cache, answers all that is asked of it: the best k
items, the rank of a target among all items, and its loss. Memory grows with users and with items, never with
their product (but for a model that makes such an array itself).

Legend: B users, I items, C items of a run, K digits, V codewords, k list length.
"""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import NO_CODE, Catalog
from genrec_cli.decoders.base import TopK
from genrec_cli.decoders.leaders import BLOCK, Leaders
from genrec_cli.decoders.rank import Rank, Standing
from genrec_cli.decoders.scores import CodeScores, DenseScores, DotScores, Overwrites, Scores
from genrec_cli.decoders.twins import Cells, Twins, hold
from genrec_cli.models.base import CodeScorer, DotScorer, ItemScorer, Model

CELLS = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Scores that exist at a time, users x items of a run."""
SHORTEST = 1 << 14
"""Items of a run for however many users: below, choosing the best of each run costs more than its scores."""


class Judgement(NamedTuple):
    """What one pass over the catalogue says of each user's target."""

    rank: Rank
    loss_B: Tensor
    """``-log p`` of the target: a code model's score is a mean log-probability already (RPG, equation 1)."""
    top: TopK


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
        self.catalog, self.items = catalog, catalog.items
        self.bag_IK = self.number_I = None
        if catalog.codes_IK is not None:
            device = catalog.codes_IK.device
            offset_K = torch.arange(catalog.digits, device=device, dtype=torch.int32) * catalog.codewords
            self.bag_IK = catalog.codes_IK + offset_K
            if catalog.padded:
                real_IK = catalog.codes_IK != NO_CODE
                self.bag_IK.masked_fill_(~real_IK, catalog.digits * catalog.codewords)
                self.number_I = real_IK.sum(1)

    @cached_property
    def twins(self) -> Twins:
        """Items of equal codes, for ranks at code level."""
        return Twins(self.catalog.groups)

    def scored(self, model: Model, batch: Batch) -> Scores:
        """The model's scores of the whole catalogue, made run by run when they are asked for."""
        if isinstance(model, CodeScorer):
            return self.code_scored(model.code_logprobs(batch))
        if isinstance(model, DotScorer):
            return DotScores(model.item_vectors(), model.queries(batch))
        return DenseScores(model.item_scores(batch))

    def code_scored(self, logp_BKV: Tensor) -> CodeScores:
        """The same from log-probabilities of codes."""
        return CodeScores(self.bag_IK, self.number_I, logp_BKV)

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """``score_BI`` as one array: for a few users."""
        return self.scored(model, batch).run(0, self.items).t().contiguous()

    def code_scores(self, logp_BKV: Tensor) -> Tensor:
        """``score_BI`` as one array, from log-probabilities of codes."""
        return self.code_scored(logp_BKV).run(0, self.items).t().contiguous()

    def top(self, scores: Scores | Tensor, k: int, *, hidden: Cells | None = None) -> TopK:
        """The k best items of each user, of equals the lowest id first; fewer items than k give item 0, score -inf.

        Args:
            scores: by :meth:`scored`, or ``score_BI``.
            hidden: items that are left out.
        """
        scores = DenseScores(scores) if isinstance(scores, Tensor) else scores
        runs, leaders = _runs(scores), Leaders(scores.users, k, scores.device)
        fixed = None if hidden is None else Overwrites(runs, *hidden, _nothing(hidden[0]))
        for begin in runs:
            score_CB = scores.run(begin, begin + runs.step)
            if fixed is not None:
                fixed.write(score_CB, begin)
            leaders.add(score_CB, begin)
        return TopK(leaders.item_Bk, leaders.score_Bk)

    def judge(self, scores: Scores | Tensor, target_B: Tensor, k: int, *, hidden: Cells | None = None) -> Judgement:
        """Rank and loss of each user's target, and the k best items, in one pass.

        Args:
            hidden: items that are left out of the ranking, though not out of the loss. A target among them is not
                found at any level, whatever item has its codes too.
        """
        scores = DenseScores(scores) if isinstance(scores, Tensor) else scores
        runs, leaders = _runs(scores), Leaders(scores.users, k, scores.device)
        own_B = scores.of(target_B)
        loss_B, total_B = -own_B, torch.full_like(own_B, -torch.inf)
        cells = target_B, torch.arange(len(target_B), device=scores.device), own_B
        if hidden is not None:
            item_N, user_N = hidden
            own_B = own_B.masked_fill(hold(hidden, target_B), -torch.inf)
            cells = torch.cat([item_N, target_B]), torch.cat([user_N, cells[1]]), torch.cat([_nothing(item_N), own_B])
        fixed, standing = Overwrites(runs, *cells), Standing(own_B, self.twins, runs, hidden)
        for begin in runs:
            score_CB = scores.run(begin, begin + runs.step)
            if not scores.logprobs:
                total_B = torch.logaddexp(total_B, score_CB.logsumexp(0))
            standing.before(score_CB, begin)
            fixed.write(score_CB, begin)
            leaders.add(score_CB, begin)
            standing.add(score_CB, begin)
        loss_B = loss_B if scores.logprobs else loss_B + total_B
        return Judgement(standing.rank(), loss_B, TopK(leaders.item_Bk, leaders.score_Bk))

    def rank(self, scores: Scores | Tensor, target_B: Tensor) -> Rank:
        """The target's exact rank. A target with score -inf (excluded, or NaN) is UNLISTED."""
        return self.judge(scores, target_B, 0).rank


def _runs(scores: Scores) -> range:
    """First items of the runs, from 0; the range's step is their length."""
    length = CELLS.get(scores.device.type, CELLS["cuda"]) // max(scores.users, 1) // BLOCK * BLOCK
    return range(0, scores.items, max(length, SHORTEST))


def _nothing(item_N: Tensor) -> Tensor:
    return torch.full(item_N.shape, -torch.inf, device=item_N.device)

"""Exhaustive search: every item of the catalogue is scored. It is exact, and the reference for all other searches.

One pass over the catalogue, in chunks whose scores fit into a cache, gives the best k items, the rank of a target and
its loss, with and without excluded items. Memory grows with users and with items, not with their product (unless the
model itself makes such an array).

Legend: B users, I items, C items of a chunk, K digits, V codewords, S excluded cells, k length of a list.
"""

from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import (
    AddedScorer,
    ChunkScorer,
    CodeAndItemScorer,
    CodeScorer,
    DigitScorer,
    DotScorer,
    ItemScorer,
    Model,
    SparseScorer,
    scores_items,
)
from genrec_cli.nn.digit_scores import DigitScores, DigitTable
from genrec_cli.searches.base import Search, TopK
from genrec_cli.searches.collision_groups import CollisionGroups
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.rank import Rank, RankCounter, Ranked, Ranking
from genrec_cli.searches.running_top_k import BLOCK, RunningTopK
from genrec_cli.searches.scores import Cells, ChosenScores, DenseScores, DotScores, Scores, SparseScores, SumScores

CELLS = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Scores that exist at a time: users x items of a chunk."""
SHORTEST = 1 << 14
"""Smallest number of items of a chunk: in shorter chunks the top-k costs more than the scores."""


class ExhaustiveConfig(Section):
    """The exhaustive search has no settings."""


class Exhaustive(Search):
    """Scores all items of a catalogue, or of a part of it (``Catalog.take``); it is on the model's device."""

    Config = ExhaustiveConfig
    interface = (ItemScorer, CodeScorer, DigitScorer)
    suffix = ""
    exact = True
    shared_codes = True

    def __init__(self, catalog: Catalog, *, by_item: bool = False) -> None:
        """``by_item``: items of equal codes have scores of their own, so they do not tie (``tells_apart``)."""
        self.catalog, self.items, self.by_item = catalog, catalog.items, by_item

    @cached_property
    def table(self) -> DigitTable:
        """The codes of all items, laid out for look-ups."""
        assert self.catalog.codes_IK is not None
        return DigitTable(self.catalog.codes_IK, self.catalog.codewords)

    @cached_property
    def groups(self) -> CollisionGroups:
        """Items with equal codes, whose scores are equal; each item alone where items have scores of their own."""
        own = torch.arange(self.items, device=self.catalog.train_count_I.device) if self.by_item else None
        return CollisionGroups(self.catalog.groups if own is None else own)

    def item_vectors(self, model: DotScorer | CodeAndItemScorer) -> Tensor:
        """``E_ID`` of the items of the catalogue."""
        chosen_C, vector_ID = self.catalog.chosen_C, model.item_vectors()
        return vector_ID if chosen_C is None else vector_ID[chosen_C]

    def scored(self, model: Model, batch: Batch, vector_ID: Tensor | None = None) -> Scores:
        """The model's scores of the catalogue, computed chunk by chunk; ``vector_ID``: :meth:`item_vectors`, cached."""
        scores = self._scored(model, batch, vector_ID)
        added = model.added_scores(batch) if isinstance(model, AddedScorer) else None
        return scores if added is None else SumScores(scores, self.sparse(*added, batch.packing.sequences))

    def _scored(self, model: Model, batch: Batch, vector_ID: Tensor | None) -> Scores:
        chosen_C, users = self.catalog.chosen_C, batch.packing.sequences
        if isinstance(model, ChunkScorer):
            scores = model.chunked_scores(batch)
            return scores if chosen_C is None else ChosenScores(scores, chosen_C)
        if scores_items(model):
            logp_BKV, query_BD = model.code_logprobs_and_queries(batch)
            dots = DotScores(self.item_vectors(model) if vector_ID is None else vector_ID, query_BD)
            return SumScores(self.code_scored(logp_BKV), dots)
        if isinstance(model, CodeScorer):
            return self.code_scored(model.code_logprobs(batch))
        if isinstance(model, DigitScorer):
            return DigitScores(self.table, model.digit_scores(batch), mean=False, logprobs=False)
        if isinstance(model, DotScorer):
            return DotScores(self.item_vectors(model) if vector_ID is None else vector_ID, model.queries(batch))
        if isinstance(model, SparseScorer):
            return self.sparse(*model.sparse_scores(batch), users)
        score_BI = cast(ItemScorer, model).item_scores(batch)
        return DenseScores(score_BI if chosen_C is None else score_BI[:, chosen_C])

    def sparse(self, cell_S: Tensor, score_S: Tensor, users: int) -> SparseScores:
        """Scores of cells (:class:`SparseScorer`) for the items of the catalogue."""
        chosen_C = self.catalog.chosen_C
        if chosen_C is not None:
            return SparseScores.among(cell_S, score_S, users, chosen_C)
        return SparseScores(cell_S, score_S, users, self.items)

    def code_scored(self, logp_BKV: Tensor) -> DigitScores:
        """The scores of all items from log-probabilities of codes: their mean over an item's digits."""
        return DigitScores(self.table, logp_BKV, mean=True, logprobs=True)

    def scores(self, model: Model, batch: Batch) -> Tensor:
        """``score_BI`` as one array: for a few users."""
        return self.scored(model, batch).chunk(0, self.items).t().contiguous()

    def code_scores(self, logp_BKV: Tensor) -> Tensor:
        """``score_BI``: the sum of the log-probabilities of each item's codes."""
        return self.code_scored(logp_BKV).chunk(0, self.items).t().contiguous()

    def top(self, scores: Scores | Tensor, k: int, *, excluded: Excluded | None = None) -> TopK:
        """The k best items per user without the excluded ones, of equal scores the lowest id first; 0 and -inf after
        the last item. ``scores``: by :meth:`scored`, or ``score_BI``."""
        scores = DenseScores(scores) if isinstance(scores, Tensor) else scores
        chunks, top = _chunks(scores), RunningTopK(scores.users, k, scores.device)
        cells = None if excluded is None else Cells(excluded.item_S, excluded.user_S, chunks)
        for begin in chunks:
            score_CB = scores.chunk(begin, begin + chunks.step)
            if cells is not None:
                score_CB[cells.of(begin)[1]] = -torch.inf
            top.add(score_CB, begin)
        return TopK(top.item_Bk, top.score_Bk)

    def rank_targets(
        self, scores: Scores | Tensor, target_B: Tensor, k: int, *, excluded: Excluded | None = None
    ) -> Ranked:
        """Rank and loss of each user's target, and the k best items, in one pass. The ranking ``left_out`` is without
        the excluded items; the loss counts all items."""
        scores = DenseScores(scores) if isinstance(scores, Tensor) else scores
        chunks, running = _chunks(scores), RunningTopK(scores.users, k, scores.device)
        target_score_B, tied_2S = scores.of(target_B), self.groups.members(target_B)
        total_B = torch.full_like(target_score_B, -torch.inf)
        counter = RankCounter(target_score_B, target_B, self.groups, chunks)
        targets = Cells(*tied_2S, chunks)
        cells = None if excluded is None else Cells(excluded.item_S, excluded.user_S, chunks)
        score_S = target_score_B.new_empty(len(excluded.item_S) if excluded else 0)
        for begin in chunks:
            score_CB = scores.chunk(begin, begin + chunks.step)
            if not scores.logprobs:
                total_B = torch.logaddexp(total_B, score_CB.logsumexp(0))
            place = targets.of(begin)[1]
            score_CB[place] = target_score_B[place[1]]  # a chunk may round otherwise, which would break ties
            counter.add(score_CB, begin)
            if cells is not None:
                part, place = cells.of(begin)
                score_S[part] = score_CB[place]
                score_CB[place] = -torch.inf
            running.add(score_CB, begin)
        top, left_out = TopK(running.item_Bk, running.score_Bk), None
        if excluded is not None:
            left_out = Ranking(counter.rank(excluded, score_S), top)
            top = excluded.restored(top, score_S)
        return Ranked((0 if scores.logprobs else total_B) - target_score_B, Ranking(counter.rank(), top), left_out, {})

    def rank(self, scores: Scores | Tensor, target_B: Tensor) -> Rank:
        """The target's exact rank among all items; UNLISTED for a target with the score -inf or NaN."""
        return self.rank_targets(scores, target_B, 0).kept.rank


def _chunks(scores: Scores) -> range:
    """First items of the chunks, from 0; the range's step is their length."""
    length = CELLS.get(scores.device.type, CELLS["cuda"]) // max(scores.users, 1) // BLOCK * BLOCK
    return range(0, scores.items, max(length, SHORTEST))

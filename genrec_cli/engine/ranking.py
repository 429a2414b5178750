"""The rank of each history's target: exact, or within the lists of a search.

Two rankers with one interface: :class:`ExactRanker` scores the whole catalogue, :class:`ListRanker` ranks only the
items that a search lists. Validation and all commands use the ranker of the model's search.

Legend: B histories, k length of a list, L items that a search lists.
"""

from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import CodeGenerator, DigitScorer, DotScorer, Model, scores_items, tells_apart
from genrec_cli.searches.base import ListSearch, TopK
from genrec_cli.searches.collision_groups import CollisionGroups
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.searches.rank import UNLISTED, Rank, Ranked, Ranking

NO_ITEM, NOT_RANKED = -1, -2
"""Sentinels in place of a code: of a list's padding, and of a target that is excluded."""


class ListMaker(Protocol):
    """Makes lists with one model."""

    model: Model

    def begin(self) -> None:
        """Cache what depends on the weights alone. Called once per evaluation."""

    def lists(self, batch: Batch, k: int, *, excluded: Excluded | None = None) -> TopK:
        """The k best items that are not excluded."""


class Ranker(ListMaker, Protocol):
    """Ranks targets, too."""

    def rank(self, batch: Batch, target_B: Tensor, k: int, *, excluded: Excluded | None = None) -> Ranked:
        """The targets' ranks and the k best items, under both protocols if items are excluded."""


class ExactRanker:
    """Scores every item of the catalogue."""

    def __init__(self, model: Model, catalog: Catalog) -> None:
        self.model, self.search = model, Exhaustive(catalog, by_item=tells_apart(model))
        self.vector_ID: Tensor | None = None

    def begin(self) -> None:
        if scores_items(self.model) or (isinstance(self.model, DotScorer) and not isinstance(self.model, DigitScorer)):
            self.vector_ID = self.search.item_vectors(self.model)

    def rank(self, batch: Batch, target_B: Tensor, k: int, *, excluded: Excluded | None = None) -> Ranked:
        scores = self.search.scored(self.model, batch, self.vector_ID)
        return self.search.rank_targets(scores, target_B, k, excluded=excluded)

    def lists(self, batch: Batch, k: int, *, excluded: Excluded | None = None) -> TopK:
        return self.search.top(self.search.scored(self.model, batch, self.vector_ID), k, excluded=excluded)


class ListRanker:
    """Runs a search once per batch. A target that is not in its list has the rank UNLISTED."""

    def __init__(self, model: Model, search: ListSearch, longest: int, catalog: Catalog) -> None:
        self.model, self.search, self.longest = model, search, longest
        self.items, self.groups = catalog.items, CollisionGroups(catalog.groups)

    def begin(self) -> None:
        """Does nothing: a search is built for one set of weights."""

    def rank(self, batch: Batch, target_B: Tensor, k: int, *, excluded: Excluded | None = None) -> Ranked:
        top, stats = self._listed(batch, k)
        loss_B = torch.full(target_B.shape, torch.nan, device=target_B.device)
        if isinstance(self.model, CodeGenerator):
            loss_B = self.model.target_loss(batch, target_B).float()
        code_B = self.groups.group_I[target_B - 1]
        kept = self._ranking(top, target_B, code_B, self.groups.size_G[code_B], k)
        left_out = None
        if excluded is not None:
            excluded_B = excluded.holds(target_B)
            ties_B = excluded.ties(self.groups, target_B).masked_fill(excluded_B, 1)
            top, code_B = excluded.removed(top, self.items), code_B.masked_fill(excluded_B, NOT_RANKED)
            left_out = self._ranking(top, target_B, code_B, ties_B, k)
        return Ranked(loss_B, kept, left_out, stats)

    def lists(self, batch: Batch, k: int, *, excluded: Excluded | None = None) -> TopK:
        top, _ = self._listed(batch, k)
        return _cut(top if excluded is None else excluded.removed(top, self.items), k)

    def _listed(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The full lists of the search, padded to at least k; they are longer than k where items may be excluded."""
        top, stats = self.search.decode(batch, self.longest)
        short = max(k - top.item_Bk.shape[1], 0)
        return TopK(F.pad(top.item_Bk, (0, short)), F.pad(top.score_Bk, (0, short), value=-torch.inf)), stats

    def _ranking(self, top: TopK, target_B: Tensor, code_B: Tensor, ties_B: Tensor, k: int) -> Ranking:
        """Ranks within the lists. ``code_B`` is the group of each target, ``ties_B`` counts its rankable items."""
        code_BL = torch.where(top.item_Bk > 0, self.groups.group_I[top.item_Bk - 1], NO_ITEM)
        code_above_B = code_rank(code_BL, code_B, UNLISTED)
        if self.search.whole_codes:
            above_B = list_rank(code_BL, code_B, UNLISTED)
        else:
            above_B, ties_B = score_rank(top, target_B, UNLISTED)
        return Ranking(Rank(above_B, ties_B, code_above_B, torch.ones_like(code_above_B)), _cut(top, k))


def make_ranker(model: Model, catalog: Catalog, kind: Any, config: Any) -> Ranker:
    """The ranker of a search class with its settings."""
    if kind.exact:
        return ExactRanker(model, catalog)
    return ListRanker(model, kind(model, catalog, config), kind.longest(config), catalog)


def _cut(top: TopK, k: int) -> TopK:
    return TopK(top.item_Bk[:, :k], top.score_Bk[:, :k])


def list_rank(item_Bk: Tensor, target_B: Tensor, missing: int) -> Tensor:
    """First position of the target in each list, from 0; ``missing`` where the list does not hold it."""
    hit_Bk = item_Bk == target_B[:, None]
    return torch.where(hit_Bk.any(1), hit_Bk.int().argmax(1), missing)


def score_rank(top: TopK, target_B: Tensor, missing: int) -> tuple[Tensor, Tensor]:
    """By score: the number of items of each list above the target, and the number that tie with it, itself included."""
    hit_Bk = top.item_Bk == target_B[:, None]
    hit_B = hit_Bk.any(1)
    target_score_B1 = top.score_Bk.gather(1, hit_Bk.int().argmax(1, keepdim=True))
    above_B, ties_B = (top.score_Bk > target_score_B1).sum(1), (top.score_Bk == target_score_B1).sum(1)
    return torch.where(hit_B, above_B, missing), torch.where(hit_B, ties_B, 1)


def code_rank(code_Bk: Tensor, target_B: Tensor, missing: int) -> Tensor:
    """The rank at code level: items with equal codes count as one."""
    hit_Bk = code_Bk == target_B[:, None]
    new_Bk = torch.ones_like(hit_Bk)
    new_Bk[:, 1:] = ~(code_Bk[:, 1:, None] == code_Bk[:, None, :]).tril().any(-1)
    rank_Bk = new_Bk.cumsum(1) - 1
    position_B1 = hit_Bk.int().argmax(1, keepdim=True)
    return torch.where(hit_Bk.any(1), rank_Bk.gather(1, position_B1)[:, 0], missing)


def recall_of(item_Uk: np.ndarray, exact_Uk: np.ndarray) -> float:
    """The fraction of items of the exact lists that the lists hold."""
    offset_U1 = np.arange(len(item_Uk))[:, None] * (int(max(item_Uk.max(initial=0), exact_Uk.max(initial=0))) + 1)
    return float(np.isin(offset_U1 + exact_Uk, (offset_U1 + item_Uk)[item_Uk > 0]).mean())

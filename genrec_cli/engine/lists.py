"""Lists of candidate items, and diverse lists.

For candidates, the search runs over a part of the catalogue, so an exact search stays exact. A beam search and the
other list searches are built for the part, too: their beams lead to candidates only.

Legend: B histories, I items, C candidates, S excluded cells.
"""

from typing import Any

import torch
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.engine.ranking import ListMaker, make_ranker
from genrec_cli.models.base import Model
from genrec_cli.searches.base import TopK
from genrec_cli.searches.diversity import diversified
from genrec_cli.searches.excluded import Excluded


class CandidateLists:
    """The ranker of a part of the catalogue.

    Args:
        kind, config: a search class and its settings.
        row_C: rows of the candidates, from 0, ascending, on the catalogue's device.
    """

    def __init__(self, model: Model, catalog: Catalog, kind: Any, config: Any, row_C: Tensor) -> None:
        self.model, self.row_C = model, row_C
        self.part = make_ranker(model, catalog.take(row_C), kind, config)
        self.place_I = torch.full((catalog.items,), -1, device=row_C.device)
        self.place_I[row_C] = torch.arange(len(row_C), device=row_C.device)

    def begin(self) -> None:
        self.part.begin()

    def lists(self, batch: Batch, k: int, *, excluded: Excluded | None = None) -> TopK:
        if excluded is not None:
            place_S = self.place_I[excluded.item_S]
            excluded = Excluded(place_S[place_S >= 0] + 1, excluded.user_S[place_S >= 0])
        top = self.part.lists(batch, k, excluded=excluded)
        item_Bk = self.row_C[(top.item_Bk - 1).clamp_min(0)] + 1
        return TopK(item_Bk.masked_fill(top.item_Bk == 0, 0), top.score_Bk)


class DiverseLists:
    """Another ranker's lists, made diverse: the k items are chosen from its ``pool`` best ones (k or more)."""

    def __init__(self, lists: ListMaker, vector_RE: Tensor, diversity: float, pool: int) -> None:
        self.model, self.part = lists.model, lists
        self.vector_RE, self.diversity, self.pool = vector_RE, diversity, pool

    def begin(self) -> None:
        self.part.begin()

    def lists(self, batch: Batch, k: int, *, excluded: Excluded | None = None) -> TopK:
        return diversified(self.part.lists(batch, self.pool, excluded=excluded), self.vector_RE, k, self.diversity)

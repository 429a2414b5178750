"""Popularity, the baseline without personalisation: every user gets the items with the most training interactions."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Model


class Popular(Model):
    """Interface: ItemScorer."""

    Config: ClassVar[type[Section]] = Section
    trainable: ClassVar[bool] = False
    score_I: Tensor

    def __init__(self, config: Section, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.register_buffer("score_I", torch.zeros(catalog.items))

    def fit(self, catalog: Catalog, histories: Any) -> None:
        self.score_I.copy_(catalog.train_count_I.float())

    def item_scores(self, batch: Batch) -> Tensor:
        return self.score_I.expand(batch.packing.sequences, -1)

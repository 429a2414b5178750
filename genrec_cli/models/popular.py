"""Popularity: every user gets the items with the most training interactions.

Not a model to beat but a floor to stand on: what a table's other rows are worth without any personalisation.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Model


class PopularConfig(Section):
    """Popularity has no settings."""


class Popular(Model):
    """Interface: ItemScorer."""

    Config: ClassVar[type[Section]] = PopularConfig
    trainable: ClassVar[bool] = False

    def __init__(self, config: PopularConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.register_buffer("score_I", torch.zeros(catalog.items))

    def fit(self, catalog: Catalog, histories: Any) -> None:
        self.score_I.copy_(catalog.train_count_I.float())

    def item_scores(self, batch: Batch) -> Tensor:
        return self.score_I.expand(batch.packing.sequences, -1)

"""Item models: a state per position, scored against item vectors by dot product.

Subclasses such as SASRec, GRU4Rec and BERT4Rec implement :meth:`ItemModel.states`; losses, queries and scores are here.

Legend: M positions with a target, I items, S sampled items, D width.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.config import Count, Fraction, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Model, targets
from genrec_cli.nn import losses
from genrec_cli.nn.losses import Loss


class ItemConfig(Section):
    """The size and the loss of an item model."""

    width: Count = 128
    """D, the width of embeddings and states."""
    loss: Literal["ce", "bce", "bpr", "sampled", "gbce"] = "ce"
    """ce: softmax over the catalogue; bce: SASRec's; bpr: Rendle et al. 2009; sampled: softmax over the target and
    sampled items; gbce: gSASRec's."""
    negatives: Count = 1
    """Sampled items per position, uniform over the catalogue (every loss but ce)."""
    gbce_t: Fraction = 0.75
    """Calibration t of gbce: 0 is bce, 1 is fully calibrated (Petrov and Macdonald, RecSys 2023)."""


class ItemModel(Model, ABC):
    """Interface: DotScorer. The item table has ``extra`` more rows, for special tokens such as [MASK]."""

    Config: ClassVar[type[Section]] = ItemConfig

    def __init__(self, config: Any, catalog: Catalog, *, max_length: int, extra: int = 0) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.config, self.items = config, catalog.items
        self.negatives = 0 if config.loss == "ce" else config.negatives
        self.graph_capturable = config.loss == "ce" and self.masking == "none"
        self.item = nn.Embedding(catalog.items + extra, config.width)

    @abstractmethod
    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        """``h_MD`` at packed positions ``at_M``; each state depends on the items up to its own position."""

    def item_vectors(self) -> Tensor:
        return self.item.weight if len(self.item.weight) == self.items else self.item.weight[: self.items]

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        at_M, target_M = targets(batch)
        return {"next": self.item_loss(self.states(batch, at_M), target_M, batch.negative_MS)}

    def item_loss(self, h_MD: Tensor, target_M: Tensor, negative_MS: Tensor | None = None) -> Loss:
        """The loss of the target items (ids from 1; 0: padding), by the setting ``loss``."""
        vectors_ID, column_M = self.item_vectors(), target_M - 1
        if self.config.loss == "ce":
            return losses.item_cross_entropy(h_MD, vectors_ID, column_M)
        if negative_MS is None:
            raise ValueError(f"the loss {self.config.loss} needs sampled items: see Batch.with_negatives")
        column_MS = negative_MS - 1
        # A look-up, not an index: only its gradient sums repeated rows in a fixed order.
        positive_M = (h_MD * F.embedding(column_M, vectors_ID)).sum(-1)
        score_MS = torch.einsum("md,msd->ms", h_MD, F.embedding(column_MS, vectors_ID))
        score_MS = score_MS.masked_fill(column_MS == column_M[:, None], -torch.inf)
        if self.config.loss == "gbce":
            return losses.generalised_bce(positive_M, score_MS, items=self.items, t=self.config.gbce_t)
        kinds = {"bce": losses.binary_cross_entropy, "bpr": losses.bpr, "sampled": losses.sampled_cross_entropy}
        return kinds[self.config.loss](positive_M, score_MS)

    def queries(self, batch: Batch) -> Tensor:
        return self.states(batch, batch.packing.last_B)

    def item_scores(self, batch: Batch) -> Tensor:
        return self.queries(batch) @ self.item_vectors().t()

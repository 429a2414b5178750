"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

A causal Transformer over item embeddings; items are scored by the dot product of the last state with
their embedding (equation 6).

Legend: N packed items, M positions with a target, I items, S sampled items, D width.

Deviations from the authors' code: the loss is by default the softmax cross-entropy over the whole
catalogue, which later work found to be what the model was missing (Klenitskiy and Vasilev, RecSys 2023);
``loss = "bce"`` is the paper's; pre-norm blocks, so the residual stream itself is not normalised; GELU
inside the MLP, which is wider than D. Sampled items may be of the user's own history, where theirs are drawn outside of
it; a draw of the position's own target counts for nothing. Recipe: beauty-sasrec.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from genrec_cli.config import Count, Dropout, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Choose, Model
from genrec_cli.nn.losses import Loss, binary_cross_entropy, item_cross_entropy, sampled_cross_entropy
from genrec_cli.nn.transformer import Activation, Transformer, initialise


class SasRecConfig(Section):
    """SASRec's Transformer and its loss."""

    width: Count = 128
    """D, the width of embeddings and states."""
    layers: Count = 2
    """Transformer blocks."""
    heads: Count = 2
    """Attention heads; must divide the width."""
    inner: Count = 256
    """Width inside the MLP of a block."""
    activation: Activation = "gelu"
    """gelu, gelu_tanh or relu (the paper's)."""
    dropout: Dropout = 0.5
    """Of the embeddings and of each block's outputs."""
    attention_dropout: Dropout = 0.2
    """Of the attention weights."""
    loss: Literal["ce", "bce", "sampled"] = "ce"
    """ce: softmax over the catalogue; bce: the paper's; sampled: softmax over sampled items."""
    negatives: Count = 1
    """Sampled items for each position (bce, sampled), uniform over the catalogue."""


class SasRec(Model):
    """Face: DotScorer."""

    Config: ClassVar[type[Section]] = SasRecConfig
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"train": {"lr": 1e-3, "warmup_steps": 200, "weight_decay": 0.01}}

    def __init__(self, config: SasRecConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.config = config
        self.static = config.loss == "ce"
        self.item = nn.Embedding(catalog.items, config.width)
        self.backbone = Transformer(
            width=config.width, layers=config.layers, heads=config.heads, inner=config.inner, positions=max_length,
            dropout=config.dropout, attention_dropout=config.attention_dropout, residual_dropout=config.dropout,
            act=config.activation,
        )  # fmt: skip
        initialise(self)

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        """Context states ``h_MD`` at some positions."""
        return self.backbone(self.item(batch.item_N - 1), batch.packing, at_M)

    def losses(self, batch: Batch, choose: Choose | None = None) -> dict[str, Loss]:
        h_MD = self.states(batch, batch.learn_M)
        column_M = batch.target_N[batch.learn_M] - 1
        if self.config.loss == "ce":
            return {"next": item_cross_entropy(h_MD @ self.item.weight.t(), column_M)}
        sampled_MS = torch.randint(
            self.item.num_embeddings, (len(column_M), self.config.negatives), device=column_M.device
        )
        positive_M = (h_MD * self.item(column_M)).sum(-1)
        negative_MS = torch.einsum("md,msd->ms", h_MD, self.item(sampled_MS))
        negative_MS = negative_MS.masked_fill(sampled_MS == column_M[:, None], float("-inf"))  # no loss, no gradient
        loss = binary_cross_entropy if self.config.loss == "bce" else sampled_cross_entropy
        return {"next": loss(positive_M, negative_MS)}

    def queries(self, batch: Batch) -> Tensor:
        return self.states(batch, batch.packing.last_B)

    def item_vectors(self) -> Tensor:
        return self.item.weight

    def item_scores(self, batch: Batch) -> Tensor:
        return self.queries(batch) @ self.item_vectors().t()

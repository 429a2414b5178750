"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018, arXiv 1808.09781).

A causal Transformer over item embeddings; an item's score is the dot product of the last state with its embedding
(equation 6). Item embeddings are multiplied by sqrt(D) at the input, as in the authors' code: without it they are no
larger than the position embeddings, and the first epochs learn popularity.

Deviations from the authors' code: softmax cross-entropy over the whole catalogue by default, which is better
(Klenitskiy and Vasilev, RecSys 2023); ``loss = "bce"`` is the paper's. Pre-norm blocks by default. GELU in an MLP wider
than D. Negatives are drawn from all items, also those of the user's history; a draw of the target itself has no loss.
Recipe: beauty-sasrec.
"""

import math
from typing import Any, ClassVar

from torch import Tensor

from genrec_cli.config import Count, Dropout, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.item_model import ItemConfig, ItemModel
from genrec_cli.nn.transformer import Activation, Norm, Transformer, initialise


class SasRecConfig(ItemConfig):
    """SASRec's Transformer."""

    layers: Count = 2
    """Transformer blocks."""
    heads: Count = 2
    """Attention heads; must divide the width."""
    inner: Count = 256
    """Width inside the MLP of a block."""
    activation: Activation = "gelu"
    """gelu, gelu_tanh or relu (the paper's)."""
    norm: Norm = "pre"
    """LayerNorm before attention and MLP (pre), or after each residual sum (post; the SASRec of S3-Rec and BSARec)."""
    dropout: Dropout = 0.5
    """Of the embeddings and of each block's outputs."""
    attention_dropout: Dropout = 0.2
    """Of the attention weights."""


class SasRec(ItemModel):
    """Interface: DotScorer."""

    Config: ClassVar[type[Section]] = SasRecConfig
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"train": {"lr": 1e-3, "warmup_steps": 200, "weight_decay": 0.01}}

    def __init__(self, config: SasRecConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        options: dict[str, Any] = {"residual_dropout": config.dropout, "norm": config.norm}
        self.backbone = Transformer(config, max_length, scale=math.sqrt(config.width), **options)
        initialise(self)

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        return self.backbone(self.item(batch.item_N - 1), batch.packing, at_M)

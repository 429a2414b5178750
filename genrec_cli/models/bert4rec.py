"""BERT4Rec: bidirectional encoder of items (Sun et al., CIKM 2019, arXiv 1904.06690).

A Transformer that sees both sides predicts masked items of the history (cloze). At inference [MASK] follows the history
and predicts the next item. The head of section 3.6::

    score(i) = e_i . LN(GELU(W h + b)) + b_i        (equation 7)

Legend: B histories, N packed items, X tokens with [MASK] after each history, M positions, I items, D width.

Masks are those of the curriculum: ``--curriculum r`` with the ratio .2 by default. Each row is a history with [MASK]
after it, whose target is the last training item; the items before it are masked at random. So each row has the cloze
loss "mask" and the loss "next" of the place that inference reads, and their means have the same weight; the authors add
one row with the last item masked to ten cloze rows. ``--curriculum r-inf`` ends with rows in which only this last item
is masked, as at inference: on Beauty 7 % more NDCG@10 than masks to the end for twice as many epochs (docs/results.md).
``train.windows = each`` makes a row for each prefix in place of one per user.

Deviations from the authors' code: softmax over the whole catalogue of every masked place, as there, but new masks in
each epoch in place of ten fixed copies; positions count from the first item of a row, and [MASK] after a full history
has a position of its own, so no item is cut off for it.
Item embeddings are multiplied by sqrt(D) at the input, as SASRec's are.

The traps: cloze alone trains no place whose right side is empty, which is the one that inference needs; and a
bidirectional model without masks sees what it predicts (the contract suite tests both).
"""

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.config import Count, Dropout, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Masking
from genrec_cli.models.item_model import ItemModel
from genrec_cli.models.sasrec import SasRecConfig
from genrec_cli.nn.losses import Loss
from genrec_cli.nn.transformer import Norm, Transformer, initialise


class Bert4RecConfig(SasRecConfig):
    """BERT4Rec's Transformer."""

    width: Count = 64
    """D, the width of embeddings and states."""
    loss: Literal["ce"] = "ce"
    """Softmax over the catalogue."""
    norm: Norm = "post"
    """LayerNorm before attention and MLP (pre), or after each residual sum (post, the paper's)."""
    dropout: Dropout = 0.2
    """Of the embeddings and of each block's outputs."""


class Bert4Rec(ItemModel):
    """Interface: DotScorer."""

    Config: ClassVar[type[Section]] = Bert4RecConfig
    masking: ClassVar[Masking] = "random"
    causal = False
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "train": {"lr": 1e-3, "warmup_steps": 200, "batch_size": 128, "windows": "recent", "weight_decay": 0.01},
        "curriculum": {"preset": "r", "ratio": 0.2, "granularity": "item"},
    }

    def __init__(self, config: Bert4RecConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length, extra=1, bias=True)  # the last row is [MASK]
        options: dict[str, Any] = {"residual_dropout": config.dropout, "causal": False, "norm": config.norm}
        self.backbone = Transformer(config, max_length + 1, scale=math.sqrt(config.width), **options)
        self.dense, self.norm = nn.Linear(config.width, config.width), nn.LayerNorm(config.width)
        initialise(self)

    def encode(self, batch: Batch, mask_N: Tensor, at_M: Tensor) -> Tensor:
        """Output states of the items ``at_M``, then of [MASK] after each history."""
        packing = batch.packing.expand(suffix=1)
        token_N = torch.arange(len(batch.item_N), device=batch.item_N.device) + batch.packing.sequence_N
        item_X = torch.full_like(packing.sequence_N, self.items)
        item_X[token_N] = torch.where(mask_N, self.items, batch.item_N - 1)
        h_MD = self.backbone(self.item(item_X), packing, torch.cat([token_N[at_M], packing.last_B]))
        return self.beside_one(self.norm(F.gelu(self.dense(h_MD))))

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        """At ``last_B`` alone: the state of [MASK] after each history."""
        return self.encode(batch, torch.zeros_like(batch.item_N, dtype=torch.bool), batch.item_N[:0])

    def reconstruct(self, batch: Batch, mask_NK: Tensor, at_M: Tensor) -> Tensor:
        """``logp_M1I`` of the items at packed positions, where the items of ``mask_NK`` are masked."""
        h_MD = self.encode(batch, mask_NK[:, 0], at_M)[: len(at_M)]
        return (h_MD @ self.item_vectors().T).log_softmax(-1)[:, None]

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        assert batch.target_N is not None, "only a training batch has targets"
        mask_N = torch.zeros_like(batch.item_N, dtype=torch.bool) if mask is None else mask[:, 0]
        at_M = mask_N.nonzero()[:, 0]
        masked_MD, next_BD = self.encode(batch, mask_N, at_M).tensor_split([len(at_M)])
        losses = {"next": self.catalogue_loss(next_BD, batch.target_N[batch.packing.last_B] - 1)}
        if mask is None:
            return losses
        return losses | {"mask": self.catalogue_loss(masked_MD, batch.item_N[at_M] - 1)}

    def counts(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Tensor]:
        assert batch.target_N is not None, "only a training batch has targets"
        counts = {"next": (batch.target_N[batch.packing.last_B] > 0).sum()}
        return counts if mask is None else counts | {"mask": mask.sum()}

"""VQ-Rec: vector-quantised item representation for transferable recommenders (Hou et al., WWW 2023, arXiv 2210.12316).

An item's vector is the mean of its K code embeddings, so it depends on the item's text alone and works for items of
other data. A causal Transformer reads these vectors:

    v_i = mean over k of E^k[code_k(i)]        score(i) = cos(h, v_i) / tau        loss = -log softmax(score)[target]

It has RPG's input with SASRec's output: one distribution over items in place of K over codewords.

Transfer: pre-train on other data whose codes come from one codebook, then start from that run.

    genrec tokenize --dataset b --codebook-from PATH_OF_CODES_OF_A
    genrec train --dataset b --model vqrec --init-from PATH_OF_RUN_OF_A

Legend: N packed items, M positions with a target, I items, K digits, V codewords, D width.

Deviations from the authors' code: all positions of a history are learned in one pass, where they have one row per
prefix; pre-norm blocks without a norm of the input; the padding row is no item; no permutation of codes by optimal
transport, whose index gets no gradient in their code; pre-training is the next-item loss itself, without semi-synthetic
negatives; D is 256, not 300. The pooled codes are multiplied by sqrt(K D) at the input, as in RPG (models/rpg.py); a
cosine has no scale, so scores do not depend on it.

The trap: the authors' fine-tuning without a checkpoint freezes positions and encoder for good, so that "from scratch"
there is a random encoder. Here everything is trained; ``--freeze 'backbone.*'`` freezes the encoder after a transfer.
Items of equal codes have equal scores.
"""

from typing import Any, ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.config import Count, Dropout, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Need
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.nn.code_bags import CodeBags
from genrec_cli.nn.codes import CodeEmbedding


class VqRecConfig(SasRecConfig):
    """VQ-Rec's encoder."""

    width: Count = 256
    """D, the width of code embeddings and states."""
    attention_dropout: Dropout = 0.5
    """Of the attention weights."""
    input_scale: Positive | None = None
    """Factor of an item's pooled codes at the input; none: sqrt(K D)."""
    temperature: Positive = 0.07
    """tau of the cosine scores."""


class VqRec(SasRec):
    """Interface: DotScorer. Queries and item vectors are normalised, and queries divided by tau."""

    Config: ClassVar[type[Section]] = VqRecConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"codes"})
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"train": {"lr": 1e-3, "warmup_steps": 200, "batch_size": 256}}

    def __init__(self, config: VqRecConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.backbone.scale = 1.0  # the pooled codes are scaled

    def item_table(self, catalog: Catalog, extra: int) -> nn.Module:
        return PooledCodes(catalog, self.config.width, self.config.input_scale)

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        return F.normalize(super().states(batch, at_M), dim=-1) / self.config.temperature

    def item_vectors(self) -> Tensor:
        return F.normalize(cast(PooledCodes, self.item).sums(), dim=-1)


class PooledCodes(nn.Module):
    """Vectors of items, counted from 0: the mean of their code embeddings, times a scale (None: ``sqrt(K D)``)."""

    token_IK: Tensor

    def __init__(self, catalog: Catalog, width: int, scale: float | None) -> None:
        super().__init__()
        assert catalog.codes_IK is not None
        self.codes = CodeEmbedding(
            catalog.digits, catalog.codewords, width, shared=catalog.shared, padded=catalog.padded, scale=scale
        )
        offset_K, code_IK = self.codes.offset_K.to(catalog.codes_IK.device), catalog.codes_IK.int()
        token_IK = (code_IK + offset_K.int()).masked_fill(code_IK < 0, -1)
        self.bags = CodeBags(token_IK, len(self.codes.table.weight))
        padding = self.codes.padding
        self.register_buffer(
            "token_IK", token_IK if padding is None else token_IK.masked_fill(code_IK < 0, padding), persistent=False
        )

    def forward(self, column_X: Tensor) -> Tensor:
        return self.codes(self.token_IK[column_X])

    def sums(self) -> Tensor:
        """``sum_ID``: the sums of all items' code embeddings, which have the directions of the means."""
        return self.bags(self.codes.table.weight)

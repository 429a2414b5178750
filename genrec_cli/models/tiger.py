"""TIGER: recommender systems with generative retrieval (Rajput et al., NeurIPS 2023, arXiv 2305.05065).

T5's encoder reads the codes of the history, the K digits of each item one after the other; its decoder generates the
codes of the next item, digit by digit. Each digit has its own rows of the one vocabulary.

Legend: B histories, N packed items, X packed tokens of the encoder, M beams, K digits, V codewords, D width.

Readings and deviations:

* User tokens, as in the paper: each history starts with one of 2,000 tokens to which users are hashed. A user id has no
  meaning, so the remainder is a sufficient hash. A user who is not in the data gets the mean of all user tokens.
* The softmax of digit k is over the V codewords of that digit; the paper's is over the whole vocabulary. Output and
  input vocabulary are one table, as in T5.
* The paper names no optimiser, but T5's learning rates: .01, and 1/sqrt(step) after 10,000 steps. That is T5's
  Adafactor, here under half a cosine. Its updates are relative to the size of a tensor. T5 starts with a table of size
  1 beside queries of .01; AdamW's updates, of one size for all, are too small for the table.
* Label smoothing is an option; the paper does not mention it.
* The encoder is bidirectional, so every training item is the one target of a row (``train.windows = "each"``). ``causal
  = true`` is ours: codes of an item see those of the same and earlier items, so ``train.windows = "sliding"`` learns
  all targets of a history in one pass; with ``train.stride = 1`` the objective is the same sum (tested).

Recipes: beauty-tiger, toys-tiger, sports-tiger.
"""

from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from genrec_cli.config import Count, Dropout, Natural, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Model, Need, targets
from genrec_cli.nn.cache import Cache
from genrec_cli.nn.causal_cross_attention import CausalCrossAttention, item_of
from genrec_cli.nn.codes import CodeEmbedding
from genrec_cli.nn.losses import Loss, code_cross_entropy
from genrec_cli.nn.packing import Packing
from genrec_cli.nn.t5 import CachedMemory, CausalMemory, Decoder, Encoder, Memory


class TigerConfig(Section):
    """TIGER's encoder and decoder; the defaults are the paper's."""

    width: Count = 128
    """D, the width of embeddings and states."""
    layers: Count = 4
    """Blocks of the encoder, and as many of the decoder."""
    heads: Count = 6
    """Attention heads."""
    head_width: Count = 64
    """Width of a head; it is independent of the width."""
    inner: Count = 1024
    """Width inside the feed-forward of a block."""
    dropout: Dropout = 0.1
    """Of embeddings, of the outputs of attention and feed-forward, and inside the feed-forward."""
    attention_dropout: Dropout = 0.1
    """Of the attention weights."""
    user_tokens: Natural = 2000
    """Tokens to which users are hashed; a history starts with one; 0: none."""
    causal: bool = False
    """Whether the codes of an item see no later item (ours); false, the paper's, needs train.windows = "each"."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing over the codewords of a digit, a fraction."""


class Tiger(Model):
    """Interface: PrefixScorer."""

    Config: ClassVar[type[Section]] = TigerConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"codes"})
    search: ClassVar[str] = "beam"
    graph_capturable: bool = True
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "train": {"windows": "each", "max_length": 20, "batch_size": 256, "optimizer": "adafactor", "lr": 1e-2}
    }

    def __init__(self, config: TigerConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.config, self.causal, self.digits = config, config.causal, catalog.digits
        sizes = catalog.digits, catalog.codewords, config.width
        self.codes = CodeEmbedding(*sizes, extra=config.user_tokens + 1, shared=catalog.shared)
        """Special tokens: the first token of a target, then the user tokens."""
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        torch.nn.init.normal_(self.codes.table.weight)
        self.encoder.reset()
        self.decoder.reset()

    @classmethod
    def check(cls, config: TigerConfig, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if catalog is not None and catalog.padded:
            problem = "tiger generates all K digits of an item; some items of these codes have fewer."
            raise ConfigError(problem, hint="--codes NAME    takes other codes")

    def encode(self, batch: Batch) -> tuple[Tensor, Packing]:
        """States ``h_XD`` of the user tokens and the codes of the histories, and their packing."""
        users, prefix = self.config.user_tokens, int(self.config.user_tokens > 0)
        packing = batch.packing.expand(self.digits, prefix=prefix)
        token_X = self.codes.tokens(self.codes_of(batch.item_N)).flatten()
        if users:
            code_X = torch.arange(len(packing.position_N), device=token_X.device) - packing.sequence_N - 1
            user_X = (self.codes.free + 1 + batch.user_B % users)[packing.sequence_N]
            token_X = torch.where(packing.position_N == 0, user_X, token_X[code_X.clamp_min(0)])
        x_XD = self.codes.table(token_X)
        if users and not self.training:
            unknown_X1 = ((packing.position_N == 0) & (batch.user_B < 0)[packing.sequence_N])[:, None]
            x_XD = torch.where(unknown_X1, self.codes.table.weight[self.codes.free + 1 :].mean(0), x_XD)
        visible_TT = None
        if self.causal:
            item_T = item_of(max(part.longest for part in packing.parts), self.digits, prefix, token_X.device)
            visible_TT = item_T <= item_T[:, None]
        return self.encoder(x_XD, packing, visible_TT), packing

    def remember(self, batch: Batch) -> CachedMemory:
        return self.decoder.remember(*self.encode(batch))

    def target_memory(self, batch: Batch) -> Memory:
        """The encoder states that each target of the batch may see, a row per target."""
        if not self.causal:
            return self.remember(batch)
        h_XD, packing = self.encode(batch)
        at_M, digits, prefix = targets(batch)[0], self.digits, int(self.config.user_tokens > 0)
        causal = CausalCrossAttention(batch.packing, at_M, digits, packing, digits, prefix)
        return CausalMemory(h_XD, causal)

    def begin(self, rows: int) -> Tensor:
        """The first token of each target, ``token_B1``."""
        return torch.full((rows, 1), self.codes.free, device=self.code_RK.device)

    def states(self, memory: Memory, codes_BK: Tensor) -> Tensor:
        """``h_BKD``: position k sees the digits before k of the target, and predicts digit k."""
        token_BK = torch.cat([self.begin(len(codes_BK)), self.codes.tokens(codes_BK)[:, :-1]], dim=1)
        return self.decoder(self.codes.table(token_BK), memory)

    def logits(self, h_BKD: Tensor) -> Tensor:
        """``logit_KBV``: digit k against the codewords of digit k, scaled as in T5."""
        vectors = self.codes.vectors().to(h_BKD.dtype)
        product = torch.matmul if vectors.dim() == 2 else torch.bmm
        return product(h_BKD.transpose(0, 1) * self.config.width**-0.5, vectors.transpose(-1, -2)).float()

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        target_MK = self.target_codes(batch)
        logit_KMV = self.logits(self.states(self.target_memory(batch), target_MK.clamp_min(0)))
        return {"next": code_cross_entropy(logit_KMV, target_MK, smoothing=self.config.label_smoothing)}

    def target_loss(self, batch: Batch, target_B: Tensor) -> Tensor:
        codes_BK = self.codes_of(target_B)
        logit_KBV = self.logits(self.states(self.remember(batch), codes_BK))
        return F.cross_entropy(logit_KBV.permute(1, 2, 0), codes_BK, reduction="none").mean(1)

    def prefixes(self, batch: Batch) -> "TigerPrefixes":
        return TigerPrefixes(self, self.remember(batch), batch.packing.sequences)


class TigerPrefixes:
    """Beams with a KV cache: a step computes one token per beam."""

    def __init__(self, model: Tiger, memory: CachedMemory, rows: int) -> None:
        self.model, self.memory, self.rows = model, memory, rows
        self.cache, self.digit = Cache(), 0

    def first(self) -> Tensor:
        token_B1 = self.model.begin(self.rows)
        return self._step(torch.zeros_like(token_B1), token_B1)

    def extend(self, parent_BM: Tensor, code_BM: Tensor) -> Tensor:
        return self._step(parent_BM, code_BM + self.model.codes.offset_K[self.digit - 1])

    def _step(self, parent_BM: Tensor, token_BM: Tensor) -> Tensor:
        model, vectors = self.model, self.model.codes.vectors()
        h_BMD = model.decoder.step(model.codes.table(token_BM), parent_BM, self.memory, self.cache)
        vectors_VD = (vectors if vectors.dim() == 2 else vectors[self.digit]).to(h_BMD.dtype)
        self.digit += 1
        return (h_BMD * model.config.width**-0.5 @ vectors_VD.t()).float().log_softmax(-1)

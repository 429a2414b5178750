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

Options of ours, all off by default (results: docs/results.md):

* ``pooled``: the encoder reads one token per item, the scaled mean of its codes as in RPG, in place of K;
* ``last_state``: the encoder state of the last item is added to every digit of the decoder, besides cross-attention;
* the dense side of items (``nn/dense_items.py``) at the input, with ``pooled``;
* ``count_weight``: digits are a mixture of the model and of counts (``models/digit_mixture.py``);
* ``classifier = "cosine"``: RPG's residual heads and cosine similarity, one head per digit, in place of T5's product.

Recipes: beauty-tiger, toys-tiger, sports-tiger.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from genrec_cli.config import Count, Dropout, Natural, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Need, targets
from genrec_cli.models.digit_mixture import Counted, Generator, GeneratorConfig
from genrec_cli.nn.cache import Cache
from genrec_cli.nn.causal_cross_attention import CausalCrossAttention, item_of
from genrec_cli.nn.codes import CodeEmbedding, CodeHeads, cosine_logits, residual_heads
from genrec_cli.nn.losses import Loss, code_cross_entropy
from genrec_cli.nn.packing import Packing, take
from genrec_cli.nn.t5 import CachedMemory, CausalMemory, Decoder, Encoder, Memory


class TigerConfig(GeneratorConfig):
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
    pooled: bool = False
    """Whether the encoder reads one token per item (ours) in place of K."""
    last_state: bool = False
    """Whether the encoder state of the last item is added to every digit of the decoder (ours)."""
    classifier: Literal["product", "cosine"] = "product"
    """product: T5's; cosine: RPG's heads and cosine similarity (ours)."""
    temperature: Positive = 0.05
    """tau of the cosine classifier."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing over the codewords of a digit, a fraction."""


class Tiger(Generator):
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
        self.graph_capturable = not config.count_weight  # it reads how many counts there are
        self.per_item = 1 if config.pooled else catalog.digits
        sizes, cosine = (catalog.digits, catalog.codewords, config.width), config.classifier == "cosine"
        # T5's table has the standard deviation 1 for its product; a cosine classifier has no use for the size.
        self.std, self.scale = (0.02, math.sqrt(config.width)) if cosine else (1.0, 1.0)
        scale = self.scale * math.sqrt(catalog.digits)
        self.codes = CodeEmbedding(*sizes, extra=config.user_tokens + 1, shared=catalog.shared, scale=scale)
        """Special tokens: the first token of a target, then the user tokens."""
        self.dense = config.dense_items(catalog, config.width)
        self.mixture = self.mixture_of(config, catalog)
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.classifier = CodeHeads(catalog.digits, config.width) if cosine else None
        torch.nn.init.normal_(self.codes.table.weight, std=self.std)
        self.encoder.reset()
        self.decoder.reset()
        for part in (self.classifier, self.dense):
            if part is not None:
                part.reset()
        if self.dense is not None and self.dense.projection is not None:  # of the size of the pooled codes
            torch.nn.init.normal_(self.dense.projection.weight, std=self.std * self.scale / math.sqrt(config.width))

    @classmethod
    def check(cls, config: TigerConfig, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if not config.pooled and (config.dense_input or config.free_vectors):
            problem = "The dense side is that of whole items, and the encoder reads each digit alone."
            raise ConfigError(problem, hint="--set model.pooled=true")
        if config.classifier == "product" and config.temperature != cls.Config.model_fields["temperature"].default:
            problem = "model.temperature is that of the cosine classifier."
            raise ConfigError(problem, hint="--set model.classifier=cosine")
        if catalog is not None and (catalog.padded or catalog.shared):
            found = "some items of these codes have fewer" if catalog.padded else "these codes are the words of texts"
            problem = f"tiger generates all K digits of an item, each by its own codewords; {found}."
            raise ConfigError(problem, hint="--codes NAME    takes other codes")

    @property
    def prefix(self) -> int:
        """Tokens before the codes of a history."""
        return int(self.config.user_tokens > 0)

    def encode(self, batch: Batch) -> tuple[Tensor, Packing]:
        """States ``h_XD`` of the user tokens and the codes (``pooled``: the items) of the histories, and their
        packing."""
        users, packing = self.config.user_tokens, batch.packing.expand(self.per_item, prefix=self.prefix)
        token_NK = self.codes.tokens(self.codes_of(batch.item_N))
        token_XP = token_NK if self.config.pooled else token_NK.flatten()[:, None]
        if users:
            code_X = torch.arange(len(packing.position_N), device=token_NK.device) - packing.sequence_N - 1
            user_X = (self.codes.free + 1 + batch.user_B % users)[packing.sequence_N]
            token_XP = torch.where((packing.position_N == 0)[:, None], user_X[:, None], token_XP[code_X.clamp_min(0)])
        x_XD = self.codes(token_XP) if self.config.pooled else self.codes.table(token_XP[:, 0]) * self.scale
        if self.dense is not None:
            dense_ND = self.dense(batch.item_N)
            x_XD = x_XD + (dense_ND[code_X.clamp_min(0)] * (packing.position_N > 0)[:, None] if users else dense_ND)
        if users and not self.training:
            unknown_X1 = ((packing.position_N == 0) & (batch.user_B < 0)[packing.sequence_N])[:, None]
            mean_D = self.codes.table.weight[self.codes.free + 1 :].mean(0)
            x_XD = torch.where(unknown_X1, mean_D * (self.codes.scale if self.config.pooled else self.scale), x_XD)
        visible_TT = None
        if self.causal:
            longest = max(part.longest for part in packing.parts)
            item_T = item_of(longest, self.per_item, self.prefix, x_XD.device)
            visible_TT = item_T <= item_T[:, None]
        return self.encoder(x_XD, packing, visible_TT), packing

    def start(self, h_XD: Tensor, batch: Batch, at_M: Tensor) -> Tensor:
        """``start_M1D``, added to all digits of the targets after items ``at_M``; see ``last_state``."""
        if not self.config.last_state:
            return h_XD.new_zeros(1, 1, h_XD.shape[-1])
        sequences_M = batch.packing.sequence_N[at_M] + 1
        return take(h_XD, (at_M + 1) * self.per_item - 1 + self.prefix * sequences_M)[:, None]

    def read(self, batch: Batch) -> tuple[CachedMemory, Tensor]:
        """The cached memory of whole histories, and the start of the target after each."""
        h_XD, packing = self.encode(batch)
        return self.decoder.remember(h_XD, packing), self.start(h_XD, batch, batch.packing.last_B)

    def read_targets(self, batch: Batch) -> tuple[Memory, Tensor]:
        """The memory that each target of the batch may see, a row per target, and its start."""
        if not self.causal:
            return self.read(batch)
        (h_XD, packing), at_M = self.encode(batch), targets(batch)[0]
        causal = CausalCrossAttention(batch.packing, at_M, self.digits, packing, self.per_item, self.prefix)
        return CausalMemory(h_XD, causal), self.start(h_XD, batch, at_M)

    def begin(self, rows: int) -> Tensor:
        """The first token of each target, ``token_B1``."""
        return torch.full((rows, 1), self.codes.free, device=self.code_RK.device)

    def states(self, memory: Memory, start_B1D: Tensor, codes_BK: Tensor) -> Tensor:
        """``h_BKD``: position k sees the digits before k of the target, and predicts digit k."""
        token_BK = torch.cat([self.begin(len(codes_BK)), self.codes.tokens(codes_BK)[:, :-1]], dim=1)
        return self.decoder(self.codes.table(token_BK) * self.scale + start_B1D, memory)

    def logits(self, h_KBD: Tensor, first: int = 0) -> Tensor:
        """``logit_KBV``: states of the digits from ``first`` on against the codewords of their digits. The product is
        scaled as in T5."""
        digits, vectors = slice(first, first + len(h_KBD)), self.codes.vectors()
        vectors = vectors if vectors.dim() == 2 else vectors[digits]
        if self.classifier is not None:
            weight_KDD, bias_K1D = self.classifier.weights()
            state_KBD = residual_heads(weight_KDD[digits], bias_K1D[digits], h_KBD)
            return cosine_logits(state_KBD, vectors, self.config.temperature)
        vectors = vectors.to(h_KBD.dtype)
        product = torch.matmul if vectors.dim() == 2 else torch.bmm
        return product(h_KBD * self.config.width**-0.5, vectors.transpose(-1, -2)).float()

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        target_MK = self.target_codes(batch)
        h_MKD = self.states(*self.read_targets(batch), target_MK.clamp_min(0))
        logit_KMV = self.logits(h_MKD.transpose(0, 1))
        if self.mixture is not None:
            counted = self.mixture.of_targets(batch, targets(batch)[0])
            logit_KMV = self.mixture.after_prefixes(counted, target_MK, logit_KMV)
        return {"next": code_cross_entropy(logit_KMV, target_MK, smoothing=self.config.label_smoothing)}

    def target_loss(self, batch: Batch, target_B: Tensor) -> Tensor:
        codes_BK = self.codes_of(target_B)
        logit_KBV = self.logits(self.states(*self.read(batch), codes_BK).transpose(0, 1))
        if self.mixture is not None:
            logit_KBV = self.mixture.after_prefixes(self.mixture.of_histories(batch), codes_BK, logit_KBV)
        return F.cross_entropy(logit_KBV.permute(1, 2, 0), codes_BK, reduction="none").mean(1)

    def prefixes(self, batch: Batch) -> "TigerPrefixes":
        counted = None if self.mixture is None else self.mixture.of_histories(batch)
        return TigerPrefixes(self, *self.read(batch), batch.packing.sequences, counted)


class TigerPrefixes:
    """Beams with a KV cache: a step computes one token per beam."""

    def __init__(
        self, model: Tiger, memory: CachedMemory, start_B1D: Tensor, rows: int, counted: Counted | None
    ) -> None:
        self.model, self.memory, self.start_B1D, self.rows, self.counted = model, memory, start_B1D, rows, counted
        self.cache, self.digit = Cache(), 0
        self.codes_BMk = torch.zeros(rows, 1, 0, dtype=torch.long, device=start_B1D.device)

    def first(self) -> Tensor:
        token_B1 = self.model.begin(self.rows)
        return self._step(torch.zeros_like(token_B1), token_B1)

    def extend(self, parent_BM: Tensor, code_BM: Tensor) -> Tensor:
        before_BMk = self.codes_BMk.gather(1, parent_BM[..., None].expand(-1, -1, self.codes_BMk.shape[2]))
        self.codes_BMk = torch.cat([before_BMk, code_BM[..., None]], dim=2)
        return self._step(parent_BM, code_BM + self.model.codes.offset_K[self.digit - 1])

    def _step(self, parent_BM: Tensor, token_BM: Tensor) -> Tensor:
        model = self.model
        x_BMD = model.codes.table(token_BM) * model.scale + self.start_B1D
        h_BMD = model.decoder.step(x_BMD, parent_BM, self.memory, self.cache)
        logit_BMV = model.logits(h_BMD.flatten(0, 1)[None], self.digit)[0].unflatten(0, token_BM.shape)
        if model.mixture is not None and self.counted is not None:
            logit_BMV = model.mixture.next_digit(self.counted, self.codes_BMk, logit_BMV)
        self.digit += 1
        return logit_BMV.log_softmax(-1)

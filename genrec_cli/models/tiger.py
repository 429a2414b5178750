"""TIGER: recommender systems with generative retrieval (Rajput et al., NeurIPS 2023, arXiv 2305.05065).

T5's encoder reads the codes of the history, the K digits of each item one after the other; its decoder writes
the codes of the next item, digit after digit. Digits are told apart by their rows of the one vocabulary.

Legend: B histories, N packed items, X packed tokens of the encoder, M beams, K digits, V codewords, D width.

Readings and deviations:

* User tokens are on: in the paper each history opens with one of 2,000 tokens to which users are hashed, and its
  tables are of the model with them. A user is a row of the user table, and its number has no meaning, so the
  remainder is a sufficient hash. A user who is not in the data gets the mean of all user tokens. ``user_tokens = 0``
  leaves them out.
* Logits of digit k are over the V codewords of that digit: the paper's softmax is over the whole vocabulary, of
  which all else can never be right. Output and input vocabulary are one table, as in T5.
* The paper names no optimiser, but T5's rates: .01, and after 10,000 steps 1/sqrt(step). That is T5's Adafactor, whose
  rate is no higher than 1/sqrt(step) anyway, here under half a cosine. It moves a tensor by the tensor's own size: T5
  starts with a table of size 1 beside queries of .01, and AdamW, which moves all alike, leaves the table behind.
* The paper says nothing of label smoothing: 0, but an option.

Every training item is the one target of a row of its own (``train.windows = "each"``): an encoder that sees
both directions would show a later target to an earlier place. ``causal = true`` is ours: codes of an item see those
of the same item and of earlier ones, so ``train.windows = "sliding"`` may learn all targets of a history in one pass,
for a fraction of the work; with ``train.stride = 1`` the objective is the same sum (a test holds them equal).
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
from genrec_cli.models.base import Model, Need
from genrec_cli.nn.cache import Cache
from genrec_cli.nn.causal_cross_attention import CausalCrossAttention, item_of
from genrec_cli.nn.codes import CodeEmbedding
from genrec_cli.nn.losses import Loss, code_cross_entropy
from genrec_cli.nn.packing import Packing
from genrec_cli.nn.t5 import CachedMemory, CausalMemory, Decoder, Encoder, Memory, initialise


class TigerConfig(Section):
    """TIGER's two stacks; the defaults are the paper's."""

    width: Count = 128
    """D, the width of embeddings and states."""
    layers: Count = 4
    """Blocks of the encoder, and as many of the decoder."""
    heads: Count = 6
    """Attention heads."""
    head_width: Count = 64
    """Width of a head; heads times this need not be the width."""
    inner: Count = 1024
    """Width inside the feed-forward of a block."""
    dropout: Dropout = 0.1
    """Of embeddings, of what each half of a block adds, and inside the feed-forward."""
    attention_dropout: Dropout = 0.1
    """Of the attention weights."""
    user_tokens: Natural = 2000
    """Tokens to which users are hashed, one in front of each history; 0: none."""
    causal: bool = False
    """Whether the codes of an item see no later item (ours); false, the paper's, needs train.windows = "each"."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of each target spread evenly over the codewords of its digit."""


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
        self.config, self.causal = config, config.causal
        self.digits = catalog.digits
        self.codes = CodeEmbedding(
            catalog.digits, catalog.codewords, config.width, extra=config.user_tokens + 1, shared=catalog.shared
        )
        """Rows beyond the codes: the token that begins a target, then the users'."""
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        torch.nn.init.normal_(self.codes.table.weight)
        initialise(self.encoder)
        initialise(self.decoder)

    @classmethod
    def check(cls, config: TigerConfig, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if catalog is not None and catalog.padded:
            raise ConfigError(
                "tiger generates all K digits of an item, and some items of these codes have fewer.",
                hint="--codes NAME    takes other codes",
            )

    # ---- both stacks ---------------------------------------------------------------------------

    def encode(self, batch: Batch) -> tuple[Tensor, Packing]:
        """States ``h_XD`` of the codes of the histories and of the user tokens, and how they are packed."""
        users = self.config.user_tokens
        prefix = int(users > 0)
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
        seen_TT = None
        if self.causal:
            item_T = item_of(max(part.longest for part in packing.parts), self.digits, prefix, token_X.device)
            seen_TT = item_T <= item_T[:, None]
        return self.encoder(x_XD, packing, seen_TT), packing

    def remember(self, batch: Batch) -> CachedMemory:
        """The histories as keys and values for the decoder."""
        return self.decoder.remember(*self.encode(batch))

    def target_memory(self, batch: Batch) -> Memory:
        """What the decoder may know at the batch's targets, a row each."""
        if not self.causal:
            return self.remember(batch)
        h_ND, packing = self.encode(batch)
        prefix = int(self.config.user_tokens > 0)
        return CausalMemory(
            h_ND,
            CausalCrossAttention(
                batch.packing, batch.learn_M, self.digits, packing, tokens_per_item=self.digits, prefix=prefix
            ),
        )

    def begin(self, rows: int) -> Tensor:
        """Vocabulary rows of the token before the first digit, ``token_B1``."""
        return torch.full((rows, 1), self.codes.free, device=self.code_RK.device)

    def states(self, memory: Memory, codes_BK: Tensor) -> Tensor:
        """``h_BKD``: place k sees the digits before k of the target, and predicts digit k."""
        begin_B1 = self.begin(len(codes_BK))
        token_BK = torch.cat([begin_B1, self.codes.tokens(codes_BK)[:, :-1]], dim=1)
        return self.decoder(self.codes.table(token_BK), memory)

    def logits(self, h_BKD: Tensor) -> Tensor:
        """``logit_KBV``: digit k against the codewords of digit k, scaled as in T5."""
        vectors = self.codes.vectors().to(h_BKD.dtype)
        product = torch.matmul if vectors.dim() == 2 else torch.bmm
        return product(h_BKD.transpose(0, 1) * self.config.width**-0.5, vectors.transpose(-1, -2)).float()

    # ---- learning ------------------------------------------------------------------------------

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        target_MK = self.target_codes(batch)
        logit_KMV = self.logits(self.states(self.target_memory(batch), target_MK.clamp_min(0)))
        return {"next": code_cross_entropy(logit_KMV, target_MK, smoothing=self.config.label_smoothing)}

    def target_loss(self, batch: Batch, target_B: Tensor) -> Tensor:
        codes_BK = self.codes_of(target_B)
        logit_KBV = self.logits(self.states(self.remember(batch), codes_BK))
        return F.cross_entropy(logit_KBV.permute(1, 2, 0), codes_BK, reduction="none").mean(1)

    # ---- generating ----------------------------------------------------------------------------

    def prefixes(self, batch: Batch) -> "TigerPrefixes":
        return TigerPrefixes(self, self.remember(batch), batch.packing.sequences)


class TigerPrefixes:
    """Beams with cached keys and values: a step works on one token a beam."""

    def __init__(self, model: Tiger, memory: CachedMemory, rows: int) -> None:
        self.model, self.memory, self.rows = model, memory, rows
        self.cache = Cache()
        self.digit = 0

    def first(self) -> Tensor:
        token_B1 = self.model.begin(self.rows)
        return self._step(torch.zeros_like(token_B1), token_B1)

    def extend(self, parent_BM: Tensor, code_BM: Tensor) -> Tensor:
        return self._step(parent_BM, code_BM + self.model.codes.offset_K[self.digit - 1])

    def _step(self, parent_BM: Tensor, token_BM: Tensor) -> Tensor:
        model = self.model
        h_BMD = model.decoder.step(model.codes.table(token_BM), parent_BM, self.memory, self.cache)
        vectors = model.codes.vectors()
        vectors_VD = (vectors if vectors.dim() == 2 else vectors[self.digit]).to(h_BMD.dtype)
        self.digit += 1
        return (h_BMD * model.config.width**-0.5 @ vectors_VD.t()).float().log_softmax(-1)

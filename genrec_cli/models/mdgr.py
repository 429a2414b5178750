"""MDGR: masked diffusion generative recommendation (arXiv 2601.19501).

An item is K codes of independent subspaces. An encoder reads the history; a bidirectional decoder fills in the
masked digits of the next item, in any order, told by a difficulty embedding how many are missing. Training hides
digits of each target (``curriculum/noise.py``); the decoder ``diffusion`` starts from nothing but masks.

Legend: B histories, N packed items, M targets or candidates, K digits, V codewords, D width.

Known of the paper (a summary is all that is at hand): K 8, V 300, OPQ codes, D 256, a 6-layer encoder, a
bidirectional decoder with cross-attention and difficulty embedding, the ideas of the noise, the two stages of
decoding. **Our readings** of the rest:

* an item of the history is the mean of its code embeddings, as in RPG and MHL; encoder, decoder and classifier
  share one table, and each digit has a mask embedding of its own;
* ``decoder_layers`` 2: a layer of the decoder works on K digits for each item that a layer of the encoder reads,
  so two of them cost already more than the whole encoder;
* ``last_state``: the digits of a target start from the state of the history's last item, on top of which
  cross-attention works. All-masked digits look alike at every position, so cross-attention alone finds out slowly
  which item is the last: on the ordered synthetic shop twelve epochs end at a loss of 1.90 with it, 2.50 without;
* codes that are known enter the decoder as they are, at the start a fiftieth of the state they are added to; the
  decoder does without them for long. ``scaled`` multiplies them by sqrt(D), as the first Transformer does: they are
  made use of early, and what all-masked digits learn is no better for it (docs/results.md), so it is off;
* the difficulty embedding is a table over the number of masked digits, added to every digit of the decoder; at
  inference that is the number still masked;
* digits are classified by cosine similarity at a temperature, as in RPG, so that the two differ in how they
  generate and not in how they classify;
* the loss is the mean cross-entropy over masked digits;
* the encoder is causal, so that one pass learns every position of a row, as RPG and MHL do. ``causal = false``
  lets items of the history see each other; then every target needs a row of its own (``train.windows = "each"``).

Recipes: beauty-mdgr, sports-mdgr, toys-mdgr.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.config import Count, Dropout, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Hide, Model
from genrec_cli.nn.codes import CodeEmbedding, cosine_logits
from genrec_cli.nn.filler import Filler, Memory
from genrec_cli.nn.losses import Loss, code_cross_entropy
from genrec_cli.nn.packing import take
from genrec_cli.nn.transformer import Activation, Transformer, initialise


class MdgrConfig(Section):
    """MDGR's encoder, decoder and classifier."""

    width: Count = 256
    """D, the width of embeddings and states."""
    layers: Count = 6
    """Blocks of the encoder."""
    decoder_layers: Count = 2
    """Blocks of the decoder; each works on K digits a target."""
    heads: Count = 4
    """Attention heads; must divide the width."""
    inner: Count = 1024
    """Width inside the MLP of a block."""
    activation: Activation = "gelu"
    """gelu, gelu_tanh or relu."""
    dropout: Dropout = 0.2
    """Of the embeddings and of each block's outputs."""
    attention_dropout: Dropout = 0.2
    """Of the attention weights."""
    temperature: Positive = 0.07
    """tau of the cosine classifier."""
    last_state: bool = True
    """Whether digits start from the state of the last item (ours), or know the history by cross-attention alone."""
    scaled: bool = False
    """Whether codes that are known enter the decoder times sqrt(D): else the state beside them drowns them at first."""
    causal: bool = True
    """Whether an item of the history sees only what stands before it; false needs train.windows = "each"."""


class Mdgr(Model):
    """Face: MaskFiller."""

    Config: ClassVar[type[Section]] = MdgrConfig
    needs: ClassVar[frozenset[str]] = frozenset({"codes"})
    noised: ClassVar[bool] = True
    static: bool = True
    decoder: ClassVar[str] = "diffusion"

    def __init__(self, config: MdgrConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        if catalog.shared or catalog.padded:
            raise ValueError("it fills in K digits of codebooks of their own; text has no such digits")
        self.config, self.causal, self.digits = config, config.causal, catalog.digits
        # The free rows are the mask embeddings, one a digit.
        self.codes = CodeEmbedding(catalog.digits, catalog.codewords, config.width, extra=catalog.digits)
        self.difficulty = nn.Embedding(catalog.digits, config.width)
        self.encoder = Transformer(
            width=config.width, layers=config.layers, heads=config.heads, inner=config.inner, positions=max_length,
            dropout=config.dropout, attention_dropout=config.attention_dropout, residual_dropout=config.dropout,
            act=config.activation, causal=config.causal,
        )  # fmt: skip
        self.filler = Filler(
            width=config.width, layers=config.decoder_layers, heads=config.heads, inner=config.inner,
            dropout=config.dropout, attention_dropout=config.attention_dropout, act=config.activation,
        )  # fmt: skip
        initialise(self)

    # ---- training ------------------------------------------------------------------------------------

    def losses(self, batch: Batch, choose: Hide | None = None) -> dict[str, Loss]:
        """Without ``choose`` every digit of every target is hidden."""
        target_M = batch.target_N[batch.learn_M]
        target_MK = self.codes_of(target_M)
        history_NK = self.codes_of(batch.item_N)
        all_MK = torch.ones_like(target_MK, dtype=torch.bool)
        mask_MK = all_MK if choose is None else choose(target_MK, history_NK, batch)
        h_ND = self.encode(history_NK, batch)
        x_MKD = self.embed(target_MK, mask_MK) + self.start(h_ND, batch.learn_M)[:, None]
        if self.causal:
            state_MKD = self.filler.past(x_MKD, h_ND, batch.packing, batch.learn_M)
        else:
            self.refuse_several(batch)
            state_MKD = self.filler.whole(x_MKD, self.filler.remember(h_ND, batch.packing))
        if batch.rounded:
            mask_MK = mask_MK & (target_M > 0)[:, None]
        hidden_MK = target_MK.masked_fill(~mask_MK, -1)
        told = {} if choose is None else self._counts(mask_MK)
        return {"next": code_cross_entropy(self.logits(state_MKD), hidden_MK, padded=True), **told}

    def _counts(self, mask_MK: Tensor) -> dict[str, Loss]:
        """For the log: the mean number of masked digits, and the share of targets with each number."""
        number_M = mask_MK.sum(1)  # 0 of a dummy row
        each_K = (number_M[:, None] == torch.arange(1, self.digits + 1, device=mask_MK.device)).sum(0)
        targets = each_K.sum()
        shares = {f"masked_{k}": Loss(each_K[k - 1], targets, weight=0.0) for k in range(1, self.digits + 1)}
        return {"masked_digits": Loss(number_M.sum(), targets, weight=0.0), **shares}

    def encode(self, codes_NK: Tensor, batch: Batch) -> Tensor:
        """States ``h_ND`` of the histories."""
        return self.encoder(self.codes(self.codes.tokens(codes_NK)), batch.packing)

    def embed(self, codes_MK: Tensor, mask_MK: Tensor) -> Tensor:
        """``x_MKD``: each known code or its digit's mask embedding, plus the difficulty. Masked codes are not read."""
        digit_K = torch.arange(self.digits, device=codes_MK.device)
        token_MK = torch.where(mask_MK, self.codes.free + digit_K, codes_MK + self.codes.offset_K)
        difficulty_MD = self.difficulty(mask_MK.sum(1) - 1)
        x_MKD = F.embedding(token_MK, self.codes.table.weight)
        if self.config.scaled:
            x_MKD = torch.where(mask_MK[..., None], x_MKD, x_MKD * self.config.width**0.5)
        return x_MKD + difficulty_MD[:, None]

    def start(self, h_ND: Tensor, at_M: Tensor) -> Tensor:
        """``start_MD``: what all digits of a target have in common from the beginning; see ``last_state``."""
        return take(h_ND, at_M) if self.config.last_state else h_ND.new_zeros(1, h_ND.shape[-1])

    def logits(self, state_MKD: Tensor) -> Tensor:
        """``logit_KMV``"""
        return cosine_logits(state_MKD.transpose(0, 1), self.codes.vectors(), self.config.temperature)

    # ---- the face ------------------------------------------------------------------------------------

    def read(self, batch: Batch) -> tuple[Memory, Tensor]:
        h_ND = self.encode(self.codes_of(batch.item_N), batch)
        return self.filler.remember(h_ND, batch.packing), self.start(h_ND, batch.packing.last_B)

    def fill(self, memory: tuple[Memory, Tensor], codes_BMK: Tensor) -> Tensor:
        history, start_BD = memory
        codes_XK = codes_BMK.flatten(0, 1)
        x_BMKD = self.embed(codes_XK, codes_XK < 0).unflatten(0, codes_BMK.shape[:2]) + start_BD[:, None, None]
        state_XKD = self.filler.whole(x_BMKD.flatten(0, 1), history)
        logp_KXV = self.logits(state_XKD).log_softmax(-1)
        return logp_KXV.transpose(0, 1).unflatten(0, codes_BMK.shape[:2])

    def target_loss(self, batch: Batch, target_B: Tensor) -> Tensor:
        code_BK = self.codes_of(target_B)
        logp_BKV = self.fill(self.read(batch), torch.full_like(code_BK[:, None], -1))[:, 0]
        return -logp_BKV.gather(2, code_BK[..., None])[..., 0].mean(1)

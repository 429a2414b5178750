"""MDGR: masked diffusion generative recommendation (arXiv 2601.19501).

An item is K codes of independent subspaces. An encoder reads the history. A bidirectional decoder predicts the masked
digits of the next item in any order; a difficulty embedding gives it the number of masked digits. Training masks digits
of each target (``curriculum/target_masks.py``); the search ``diffusion`` starts from fully masked codes.

Legend: B histories, N packed items, M targets or candidates, K digits, V codewords, D width.

Only a summary of the paper is available. It gives K 8, V 300, OPQ codes, D 256, a 6-layer encoder, a bidirectional
decoder with cross-attention and difficulty embedding, the noise schedule, the two stages of the search. Our readings:

* an item of the history is the mean of its code embeddings, as in RPG and MHL; encoder, decoder and classifier share
  one table, and each digit has its own mask embedding;
* ``decoder_layers`` 2: a decoder layer reads K digits per item of an encoder layer, so two cost more than the encoder;
* ``last_state``: the encoder state of the last item is added to every digit. All-masked digits are equal at every
  position, so cross-attention alone learns slowly which item is the last: on the ordered synthetic shop, twelve epochs
  end at a loss of 1.90 with it and 2.50 without;
* embeddings of known codes are multiplied by sqrt(D), and mask embeddings start with the standard deviation 1, the size
  of the encoder state that is added to them. Otherwise the all-masked digits of a target start nearly equal (cosine
  .9996), and the decoder learns their differences late; ``input_scale = 1`` is that form;
* ``digit_heads``: RPG's residual head per digit before the classifier, so that all-masked digits start as RPG's;
* the difficulty embedding is a table over the number of masked digits, added to every digit, in training and inference;
* digits are classified by cosine similarity at a temperature, as in RPG; the loss is the mean cross-entropy over masked
  digits;
* the dense side of items at the input (``nn/dense_items.py``) and the mixture of digits with counts
  (``models/digit_mixture.py``) are ours, and off by default;
* the encoder is causal, so that one pass learns every position of a row. ``causal = false`` is bidirectional; then
  every target needs its own row (``train.windows = "each"``).

Recipes: beauty-mdgr, sports-mdgr, toys-mdgr.
"""

import math
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from genrec_cli.config import Count, Dropout, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Masking, Need, targets
from genrec_cli.models.digit_mixture import Counted, Generator, GeneratorConfig
from genrec_cli.nn.codes import CodeEmbedding, CodeHeads, cosine_logits, residual_heads
from genrec_cli.nn.digit_decoder import DigitDecoder, Memory
from genrec_cli.nn.losses import Loss, code_cross_entropy
from genrec_cli.nn.packing import take
from genrec_cli.nn.transformer import Activation, Transformer, initialise


class MdgrConfig(GeneratorConfig):
    """MDGR's encoder, decoder and classifier."""

    width: Count = 256
    """D, the width of embeddings and states."""
    layers: Count = 6
    """Blocks of the encoder."""
    decoder_layers: Count = 2
    """Blocks of the decoder; each reads K digits per target."""
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
    input_scale: Positive | None = None
    """Factor of an item's pooled codes at the input; none: sqrt(K D), with which learning starts sooner; 1: no
    scaling."""
    temperature: Positive = 0.07
    """tau of the cosine classifier."""
    learn_temperature: bool = False
    """Whether the temperature is trained."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing over the codewords of a digit, a fraction."""
    digit_heads: bool = True
    """Whether each digit has a residual head, as in RPG (ours)."""
    last_state: bool = True
    """Whether the state of the last item is added to every digit (ours), besides cross-attention."""
    causal: bool = True
    """Whether an item of the history sees only earlier items; false needs train.windows = "each"."""


class Mdgr(Generator):
    """Interface: MaskPredictor."""

    Config: ClassVar[type[Section]] = MdgrConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"codes"})
    masking: ClassVar[Masking] = "target"
    search: ClassVar[str] = "diffusion"

    def __init__(self, config: MdgrConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.config, self.causal, self.digits = config, config.causal, catalog.digits
        # The special tokens are the mask embeddings, one per digit.
        sizes = catalog.digits, catalog.codewords, config.width
        self.codes = CodeEmbedding(*sizes, extra=catalog.digits, scale=config.input_scale)
        self.difficulty = nn.Embedding(catalog.digits, config.width)
        self.backbone = Transformer(config, max_length, residual_dropout=config.dropout, causal=config.causal)
        self.decoder = DigitDecoder(config, config.decoder_layers)
        self.heads = CodeHeads(catalog.digits, config.width) if config.digit_heads else None
        self.log_scale = nn.Parameter(torch.zeros(())) if config.learn_temperature else None
        """Logarithm of the temperature of the settings over the trained one."""
        self.dense = config.dense_items(catalog, config.width)
        self.mixture = self.mixture_of(config, catalog)
        initialise(self)
        self.digit_scale = math.sqrt(config.width) if config.input_scale is None else 1.0
        if config.input_scale is None:
            nn.init.normal_(self.codes.table.weight[self.codes.free :], std=1 / self.digit_scale)
        for part in (self.heads, self.dense):
            if part is not None:
                part.reset()

    @classmethod
    def check(cls, config: MdgrConfig, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if catalog is not None and (catalog.shared or catalog.padded):
            problem = (
                "mdgr needs K digits with a codebook each; codes of text have one vocabulary and fewer than K tokens."
            )
            hint = "--codes NAME    takes other codes; genrec tokenize --tokenizer opq    makes some"
            raise ConfigError(problem, hint=hint)

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        """Without a mask every digit of every target is masked. A mask has a row per view of a target; the views of a
        target are neighbours."""
        at_M, target_M = targets(batch)
        views = 1 if mask is None else len(mask) // len(at_M)
        target_MK = self.codes_of(target_M).repeat_interleave(views, 0)
        mask_MK = torch.ones_like(target_MK, dtype=torch.bool) if mask is None else mask
        h_ND = self.encode(batch)
        start_MD = self.start(h_ND, at_M).expand(len(at_M), -1).repeat_interleave(views, 0)
        x_MKD = self.embed(target_MK, mask_MK) + start_MD[:, None]
        if self.causal:
            state_MKD = self.decoder.causal(x_MKD, h_ND, batch.packing, at_M)
        else:
            state_MKD = self.decoder.cached(x_MKD, self.decoder.remember(h_ND, batch.packing))
        masked_MK, logit_KMV = target_MK.masked_fill(~mask_MK, -1), self.logits(state_MKD)
        if self.mixture is not None:
            known_RMK = target_MK.masked_fill(mask_MK, -1).unflatten(0, (len(at_M), views))
            logit_KRMV = logit_KMV.unflatten(1, known_RMK.shape[:2])
            logit_KRMV = self.mixture.at_unknown(self.mixture.of_targets(batch, at_M), known_RMK, logit_KRMV)
            logit_KMV = logit_KRMV.flatten(1, 2)
        loss = code_cross_entropy(logit_KMV, masked_MK, smoothing=self.config.label_smoothing)
        return {"next": loss} if mask is None else {"next": loss, **self._statistics(mask_MK)}

    def counts(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Tensor]:
        return super().counts(batch) if mask is None else {"next": mask.sum()}

    def _statistics(self, mask_MK: Tensor) -> dict[str, Loss]:
        """For the log: the mean number of masked digits, and the fraction of targets with each number."""
        count_M = mask_MK.sum(1)
        targets_K = (count_M[:, None] == torch.arange(1, self.digits + 1, device=mask_MK.device)).sum(0)
        total = targets_K.sum()
        fractions = {f"masked_{k}": Loss(count, total, weight=0.0) for k, count in enumerate(targets_K, start=1)}
        return {"masked_digits": Loss(count_M.sum(), total, weight=0.0), **fractions}

    def encode(self, batch: Batch) -> Tensor:
        """``h_ND`` of the packed items, whose codes are pooled."""
        x_ND = self.codes(self.codes.tokens(self.codes_of(batch.item_N)))
        return self.backbone(x_ND if self.dense is None else x_ND + self.dense(batch.item_N), batch.packing)

    def embed(self, codes_MK: Tensor, mask_MK: Tensor) -> Tensor:
        """``x_MKD``: the embedding of each known code or the mask embedding of its digit, plus the difficulty."""
        mask_token_K = self.codes.free + torch.arange(self.digits, device=codes_MK.device)
        token_MK = torch.where(mask_MK, mask_token_K, codes_MK + self.codes.offset_K)
        x_MKD = F.embedding(token_MK, self.codes.table.weight) * self.digit_scale
        return x_MKD + self.difficulty(mask_MK.sum(1) - 1)[:, None]

    def start(self, h_ND: Tensor, at_M: Tensor) -> Tensor:
        """``start_MD``, added to all digits of a target; see ``last_state``."""
        return take(h_ND, at_M) if self.config.last_state else h_ND.new_zeros(1, h_ND.shape[-1])

    def logits(self, state_MKD: Tensor) -> Tensor:
        """``logit_KMV`` of the digits of M targets."""
        state_KMD = state_MKD.transpose(0, 1)
        if self.heads is not None:
            state_KMD = residual_heads(*self.heads.weights(), state_KMD)
        logit_KMV = cosine_logits(state_KMD, self.codes.vectors(), self.config.temperature)
        return logit_KMV if self.log_scale is None else logit_KMV * self.log_scale.exp()

    def read(self, batch: Batch) -> tuple[Memory, Tensor, Counted | None]:
        h_ND = self.encode(batch)
        counted = None if self.mixture is None else self.mixture.of_histories(batch)
        return self.decoder.remember(h_ND, batch.packing), self.start(h_ND, batch.packing.last_B), counted

    def fill(self, memory: tuple[Memory, Tensor, Counted | None], codes_BMK: Tensor) -> Tensor:
        history, start_BD, counted = memory
        codes_XK = codes_BMK.flatten(0, 1)
        x_BMKD = self.embed(codes_XK, codes_XK < 0).unflatten(0, codes_BMK.shape[:2]) + start_BD[:, None, None]
        state_XKD = self.decoder.cached(x_BMKD.flatten(0, 1), history)
        logit_KBMV = self.logits(state_XKD).unflatten(1, codes_BMK.shape[:2])
        if self.mixture is not None and counted is not None:
            logp_KBMV = self.mixture.at_unknown(counted, codes_BMK, logit_KBMV)
        else:
            logp_KBMV = logit_KBMV.log_softmax(-1)
        return logp_KBMV.permute(1, 2, 0, 3)

    def target_loss(self, batch: Batch, target_B: Tensor) -> Tensor:
        code_BK = self.codes_of(target_B)
        logp_BKV = self.fill(self.read(batch), torch.full_like(code_BK[:, None], -1))[:, 0]
        return -logp_BKV.gather(2, code_BK[..., None])[..., 0].mean(1)

"""RPG: generating long semantic IDs in parallel (Hou et al., KDD 2025, arXiv 2506.05781).

An item is the mean of its K code embeddings; a causal Transformer reads the history; K residual heads give K digit
states; digit k is classified by cosine similarity with E^k at a temperature. All K digits of the next item are
predicted at once, at every position. It is MHL's row "direct inference".

Legend: N packed items, M positions with a target, K digits, V codewords, D width.

Deviations from the authors' code: packed batches (the same sums without padding), so no padding and end-of-sequence
rows in the vocabulary, and no unused end token of GPT-2; dropout .3 (MHL's appendix I) in place of .5; projections into
the residual stream start with the standard deviation .02, not .02 / sqrt(2 layers), and biases of heads with zero, not
with nn.Linear's uniform draw. Recipes: beauty-rpg, toys-rpg, sports-rpg.

The pooled codes are multiplied by sqrt(K D) (``input_scale``). Without it the input starts smaller than the position
embeddings and the blocks' outputs, and a training begins with epochs that learn popularity (docs/results.md).

Text in place of codes (MHL, Table 3): items may have fewer than K tokens, and all digits share one table. The padding
of an item is not pooled, predicted or counted. Recipe: beauty-text-rpg.
"""

import math
from typing import ClassVar

from torch import Tensor

from genrec_cli.config import Count, Dropout, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Model, Need, targets
from genrec_cli.nn.classifier import CodeClassifier
from genrec_cli.nn.codes import CodeEmbedding, CodeHeads
from genrec_cli.nn.losses import Loss
from genrec_cli.nn.transformer import Activation, Transformer, initialise


class RpgConfig(Section):
    """RPG's backbone and heads."""

    width: Count = 448
    """D, the width of embeddings and states."""
    layers: Count = 2
    """Transformer blocks."""
    heads: Count = 4
    """Attention heads; must divide the width."""
    inner: Count = 1024
    """Width inside the MLP of a block."""
    activation: Activation = "gelu_tanh"
    """gelu, gelu_tanh (GPT-2's) or relu."""
    dropout: Dropout = 0.3
    """Of the embeddings."""
    attention_dropout: Dropout = 0.3
    """Of the attention weights."""
    input_scale: Positive | None = None
    """Factor of an item's pooled codes at the input; none: sqrt(K D), with which learning starts sooner; 1: the
    authors'."""
    temperature: Positive = 0.07
    """tau of the cosine classifier (RPG's recipes: .03)."""


class Rpg(Model):
    """Interface: CodeScorer."""

    Config: ClassVar[type[Section]] = RpgConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"codes"})

    def __init__(self, config: RpgConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.config, self.digits, self.padded = config, catalog.digits, catalog.padded
        # The loss of text synchronises: it reads the number of real codes.
        self.graph_capturable = not self.padded
        sizes, extra = (catalog.digits, catalog.codewords, config.width), self.extra_tokens(max_length)
        scale = config.input_scale
        if scale is None and self.padded:  # the mean count of real codes in place of K
            scale = math.sqrt((self.code_RK[1:] >= 0).sum(1).float().mean().item() * config.width)
        self.codes = CodeEmbedding(*sizes, extra=extra, shared=catalog.shared, padded=self.padded, scale=scale)
        self.backbone, self.heads = Transformer(config, max_length), CodeHeads(catalog.digits, config.width)
        initialise(self)
        self.heads.reset()

    def extra_tokens(self, max_length: int) -> int:
        """Number of special tokens in the vocabulary."""
        return 0

    def tokens(self, batch: Batch) -> Tensor:
        return self.codes.tokens(self.codes_of(batch.item_N))

    def states(self, token_NK: Tensor, batch: Batch, at_M: Tensor | None = None) -> Tensor:
        """Context states ``h_ND`` of histories given by their tokens, or ``h_MD`` at positions ``at_M``."""
        return self.backbone(self.codes(token_NK), batch.packing, at_M)

    @property
    def classifier(self) -> CodeClassifier:
        return CodeClassifier(self.heads, self.codes.vectors(), self.config.temperature)

    def logits(self, h_MD: Tensor) -> Tensor:
        return self.classifier.logits(h_MD)

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        at_M = targets(batch)[0]
        h_MD = self.states(self.tokens(batch), batch, at_M)
        return {"next": self.next_loss(h_MD, self.target_codes(batch, at_M))}

    def next_loss(self, h_MD: Tensor, target_MK: Tensor) -> Loss:
        """``-log P^k`` of the next items' codes (MHL, equation 1), summed over positions and codes; -1 is ignored."""
        classifier, real_MK = self.classifier, target_MK >= 0
        total = classifier.loss_at(h_MD, target_MK, real_MK) if self.padded else classifier.loss(h_MD, target_MK)
        return Loss(total, real_MK.sum().to(total.dtype))

    def code_logprobs(self, batch: Batch) -> Tensor:
        h_BD = self.states(self.tokens(batch), batch, batch.packing.last_B)
        return self.logits(h_BD).log_softmax(-1).transpose(0, 1)

    def code_vectors(self) -> Tensor:
        return self.codes.vectors()

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

Options of ours, off by default: text vectors and free vectors of items at the input (``nn/dense_items.py``), a score
per item beside that of its codes (``nn/item_head.py``), which may start from counts (``models/count_prior.py``),
alignment of states with text vectors, and losses on later items (``nn/horizons.py``). An item with a mask token has no
dense side, which would name its codes; with masks of whole items (``curriculum.granularity = "item"``) most items keep
theirs.

Text in place of codes (MHL, Table 3): items may have fewer than K tokens, and all digits share one table. The padding
of an item is not pooled, predicted or counted. Recipe: beauty-text-rpg.
"""

import math
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from genrec_cli.config import Count, Dropout, NonNegative, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Model, Need, targets
from genrec_cli.models.count_prior import CountPrior, check_rows
from genrec_cli.models.dense_side import DenseConfig, fit_graph
from genrec_cli.nn.classifier import CodeClassifier
from genrec_cli.nn.codes import CodeEmbedding, CodeHeads
from genrec_cli.nn.dense_items import TextAlignment
from genrec_cli.nn.horizons import Horizons, later_targets
from genrec_cli.nn.item_head import ItemHead
from genrec_cli.nn.losses import Loss
from genrec_cli.nn.transformer import Activation, Transformer, initialise


class RpgConfig(DenseConfig):
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
    """tau of the cosine classifier (RPG's recipes: .03), of the item head and of the alignment."""
    item_weight: NonNegative = 0.0
    """Weight of the loss of the item head, a softmax over the catalogue; 0: no item head."""
    item_mix: Positive = 0.5
    """Factor of the scores of the item head, beside the mean log-probability of an item's codes."""
    count_factor: NonNegative = 0.0
    """Factor of the logarithms of counts, of transitions and text neighbours, that are added to the scores of the item
    head; needs vectors; 0: no counts. Such a run cannot read other items."""
    align_weight: NonNegative = 0.0
    """Weight of the alignment of states with the text vector of the next item; needs vectors."""
    horizons: Count = 1
    """H: the state after item t predicts the items t + 1 to t + H."""
    horizon_decay: Annotated[float, Field(gt=0, le=1)] = 0.6
    """The weight of the loss of item t + h is this to the power h - 1."""


class Rpg(Model):
    """Interface: CodeScorer; with an item head CodeAndItemScorer and AddedScorer."""

    Config: ClassVar[type[Section]] = RpgConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"codes"})

    def __init__(self, config: RpgConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.config, self.digits, self.padded = config, catalog.digits, catalog.padded
        # The loss of text and the counts synchronise: they read the number of real codes, or of pairs.
        self.graph_capturable = not (self.padded or config.count_factor)
        sizes, extra = (catalog.digits, catalog.codewords, config.width), self.extra_tokens(max_length)
        scale = config.input_scale
        if scale is None and self.padded:  # the mean count of real codes in place of K
            scale = math.sqrt((self.code_RK[1:] >= 0).sum(1).float().mean().item() * config.width)
        self.codes = CodeEmbedding(*sizes, extra=extra, shared=catalog.shared, padded=self.padded, scale=scale)
        self.backbone, self.heads = Transformer(config, max_length), CodeHeads(catalog.digits, config.width)
        self._add_options(config, catalog)
        initialise(self)
        for part in (self.heads, self.dense, self.item_head, self.horizons):
            if part is not None:
                part.reset()

    def _add_options(self, config: RpgConfig, catalog: Catalog) -> None:
        """The parts of the options; None for an option that is off."""
        self.dense, self.by_item = config.dense_items(catalog, config.width), config.item_weight > 0
        self.item_head = ItemHead(self.code_RK[1:], self.codes, config.temperature) if self.by_item else None
        self.prior = CountPrior(catalog, config.count_factor) if config.count_factor else None
        self.horizons = Horizons(config.horizons, config.width, config.horizon_decay) if config.horizons > 1 else None
        self.alignment: TextAlignment | None = None
        if config.align_weight:
            assert catalog.vector_RE is not None
            self.alignment = TextAlignment(config.width, catalog.vector_RE, config.temperature)

    @classmethod
    def needs_of(cls, config: RpgConfig) -> frozenset[Need]:
        text = config.align_weight or config.count_factor
        return cls.needs | config.dense_needs() | ({"vectors"} if text else set())

    @classmethod
    def reads_content(cls, config: RpgConfig) -> bool:
        return not (config.free_vectors or config.count_factor)

    def fit(self, catalog: Catalog, histories: Any) -> None:
        fit_graph(self.dense, catalog, histories)
        if self.prior is not None:
            self.prior.fit(catalog, histories)

    @classmethod
    def check(cls, config: Any, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if config.horizons > 1 and train.windows == "each":
            problem = f"model.horizons = {config.horizons} needs rows of several targets, not train.windows = each."
            raise ConfigError(problem, hint="--set train.windows=sliding")
        config.check_dense()
        for name in ("count_factor", "item_mix"):
            value = getattr(config, name)
            if value != type(config).model_fields[name].default and not config.item_weight:
                problem = f"model.{name} = {value} is of the item head, which is off (model.item_weight = 0)."
                raise ConfigError(problem, hint="--set model.item_weight=1")
        if config.count_factor:
            check_rows("count_factor", train)

    def extra_tokens(self, max_length: int) -> int:
        """Number of special tokens in the vocabulary."""
        return 0

    def tokens(self, batch: Batch) -> Tensor:
        """``token_NK`` of the codes of the packed items."""
        return self.codes.tokens(self.codes_of(batch.item_N))

    def states(self, token_NK: Tensor, batch: Batch, at_M: Tensor | None = None) -> Tensor:
        """Context states ``h_ND`` of histories given by their tokens, or ``h_MD`` at positions ``at_M``."""
        x_ND = self.codes(token_NK)
        if self.dense is not None:
            masked_N = self.codes.special(token_NK).any(1)
            x_ND = x_ND + self.dense(batch.item_N).masked_fill(masked_N[:, None], 0.0)
        return self.backbone(x_ND, batch.packing, at_M)

    @property
    def classifier(self) -> CodeClassifier:
        """The cosine classifier of each digit."""
        return CodeClassifier(self.heads, self.codes.vectors(), self.config.temperature)

    def logits(self, h_MD: Tensor) -> Tensor:
        """``logit_KMV`` of the digits at M positions."""
        return self.classifier.logits(h_MD)

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        at_M = targets(batch)[0]
        h_MD = self.states(self.tokens(batch), batch, at_M)
        return {"next": self.next_loss(h_MD, self.target_codes(batch, at_M))} | self.option_losses(h_MD, batch, at_M)

    def counts(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Tensor]:
        return super().counts(batch, mask) | self.option_counts(batch, targets(batch)[0])

    def next_loss(self, h_MD: Tensor, target_MK: Tensor) -> Loss:
        """``-log P^k`` of the next items' codes (MHL, equation 1), summed over positions and codes; -1 is ignored."""
        classifier, real_MK = self.classifier, target_MK >= 0
        total = classifier.loss_at(h_MD, target_MK, real_MK) if self.padded else classifier.loss(h_MD, target_MK)
        return Loss(total, real_MK.sum().to(total.dtype))

    def option_losses(self, h_MD: Tensor, batch: Batch, at_M: Tensor) -> dict[str, Loss]:
        """The losses of the item head ("item"), of the alignment ("align") and of later horizons ("next_2", ...)."""
        losses: dict[str, Loss] = {}
        column_M = targets(batch, at_M)[1] - 1
        if self.item_head is not None:
            added = None if self.prior is None else (self.prior.logs(batch, at_M), self.prior.factor)
            losses["item"] = self.item_head.loss(h_MD, self.item_vectors(), column_M, added)
            losses["item"] = losses["item"]._replace(weight=self.config.item_weight)
        if self.alignment is not None:
            losses["align"] = self.alignment.loss(h_MD, column_M)._replace(weight=self.config.align_weight)
        if self.horizons is not None:
            rows = zip(self.horizons(h_MD), self._later_codes(batch, at_M), self.horizons.weights, strict=True)
            for place, (state_MD, code_MK, weight) in enumerate(rows, start=2):
                losses[f"next_{place}"] = self.next_loss(state_MD, code_MK)._replace(weight=weight)
        return losses

    def option_counts(self, batch: Batch, at_M: Tensor) -> dict[str, Tensor]:
        """The counts of :meth:`option_losses`."""
        count = (targets(batch, at_M)[1] > 0).sum()
        counts = {name: count for name, on in (("item", self.item_head), ("align", self.alignment)) if on is not None}
        later = enumerate(self._later_codes(batch, at_M), start=2)
        return counts | {f"next_{place}": (code_MK >= 0).sum() for place, code_MK in later}

    def _later_codes(self, batch: Batch, at_M: Tensor) -> list[Tensor]:
        """``code_MK`` of the target of each later horizon; -1 where there is none."""
        assert batch.target_N is not None, "only a training batch has targets"
        later = range(1, self.config.horizons)
        target = [later_targets(batch.target_N, batch.packing, at_M, places) for places in later]
        return [self.codes_of(target_M).masked_fill(target_M[:, None] == 0, -1) for target_M in target]

    def code_logprobs(self, batch: Batch) -> Tensor:
        return self._code_logprobs(self.states(self.tokens(batch), batch, batch.packing.last_B))

    def _code_logprobs(self, h_BD: Tensor) -> Tensor:
        return self.logits(h_BD).log_softmax(-1).transpose(0, 1)

    def code_logprobs_and_queries(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert self.item_head is not None, "without an item head there are only codes"
        h_BD = self.states(self.tokens(batch), batch, batch.packing.last_B)
        return self._code_logprobs(h_BD), self.config.item_mix * self.item_head.queries(h_BD)

    def added_scores(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        if self.prior is None:
            return None
        cell_S, score_S = self.prior.cells(batch)
        return cell_S, self.config.item_mix * score_S

    def item_vectors(self) -> Tensor:
        assert self.item_head is not None, "without an item head there are only codes"
        return self.item_head.vectors(self.codes, self.dense)

    def code_vectors(self) -> Tensor:
        return self.codes.vectors()

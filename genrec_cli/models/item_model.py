"""Item models: a state per position, scored against item vectors by dot product.

Subclasses such as SASRec, GRU4Rec and BERT4Rec implement :meth:`ItemModel.states`; losses, queries and scores are here.

An item is scored by its vector at the input (tied), by a vector of a second table (separate), or by the sum of both.
With tied vectors, an item that the user has just seen gets a high score, because the state contains its vector. A
separate vector has no such effect, but it is trained only where the item is a target, so rare items learn little.

Legend: M positions with a target, I items, S sampled items, D width.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.config import Count, Fraction, Natural, NonNegative, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Model, Need, targets
from genrec_cli.models.count_prior import CountPrior, check_rows
from genrec_cli.models.neighbours import pair_weights
from genrec_cli.nn import losses
from genrec_cli.nn.item_cross_entropy import item_cross_entropy
from genrec_cli.nn.item_graph import GraphEmbedding, all_vectors
from genrec_cli.nn.losses import Loss

Output = Literal["tied", "separate", "sum"]


class ItemConfig(Section):
    """The size and the loss of an item model."""

    width: Count = 128
    """D, the width of embeddings and states."""
    output: Output = "tied"
    """Item vectors of the scores: those of the input (tied), a table of their own (separate), or the sum of both."""
    loss: Literal["ce", "bce", "bpr", "bpr_max", "sampled", "gbce"] = "ce"
    """ce: softmax over the catalogue; bce: SASRec's; bpr: Rendle et al. 2009; bpr_max: GRU4Rec's; sampled: softmax over
    the target and sampled items; gbce: gSASRec's."""
    negatives: Count = 1
    """Sampled items per position, uniform over the catalogue (every loss but ce)."""
    shared_negatives: bool = False
    """Whether all positions of a batch have the same sampled items, so that many cost little: one matrix product."""
    bpr_max_regularisation: NonNegative = 1.0
    """Weight of the squared scores of sampled items in bpr_max."""
    gbce_t: Fraction = 0.75
    """Calibration t of gbce: 0 is bce, 1 is fully calibrated (Petrov and Macdonald, RecSys 2023)."""
    graph_edges: Natural = 0
    """Edges per item of the item graph, whose neighbours are added to an item's vector; needs vectors; 0: no graph."""
    count_factor: NonNegative = 0.0
    """Factor of the logarithms of counts, of transitions and text neighbours, that are added to the scores; needs
    vectors; 0: no counts."""


class ItemModel(Model, ABC):
    """Interface: DotScorer, AddedScorer. The item table has ``extra`` more rows, for special tokens such as [MASK].
    With ``bias``, each item has one: one more column of the item vectors, beside a state of 1."""

    Config: ClassVar[type[Section]] = ItemConfig

    def __init__(self, config: Any, catalog: Catalog, *, max_length: int, extra: int = 0, bias: bool = False) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.config, self.items = config, catalog.items
        self.negatives = 0 if config.loss == "ce" else config.negatives
        self.shared_negatives = config.shared_negatives
        self.prior = CountPrior(catalog, config.count_factor) if config.count_factor else None
        self.graph_capturable = config.loss == "ce" and self.masking == "none" and self.prior is None
        self.item = self.item_table(catalog, extra)
        self.output = None if config.output == "tied" else self.embedding(catalog.items, self.output_width)
        if self.output is not None:
            nn.init.normal_(self.output.weight, std=0.02)
        self.bias = self.item_bias(catalog.items) if bias else None

    def item_table(self, catalog: Catalog, extra: int) -> nn.Module:
        """``self.item``: from items, counted from 0, to vectors D wide. After the last item come the ``extra`` special
        tokens. A model that computes its items from codes overrides this and :meth:`item_vectors`."""
        return self.embedding(catalog.items, self.config.width, extra)

    def embedding(self, items: int, width: int, extra: int = 0) -> nn.Embedding:
        """A table of item vectors, with the item graph if there is one."""
        if edges := self.config.graph_edges:
            return GraphEmbedding(items, width, edges, extra=extra)
        return nn.Embedding(items + extra, width)

    @property
    def output_width(self) -> int:
        """The width of states and of the table ``output``."""
        return int(self.config.width)

    def item_bias(self, items: int) -> nn.Parameter | None:
        """``bias_I``; None for a model whose scores cannot have one."""
        return nn.Parameter(torch.zeros(items))

    @classmethod
    def needs_of(cls, config: Any) -> frozenset[Need]:
        return super().needs_of(config) | ({"vectors"} if config.graph_edges or config.count_factor else set())

    @classmethod
    def reads_content(cls, config: Any) -> bool:
        return super().reads_content(config) and not (config.graph_edges or config.count_factor)

    def fit(self, catalog: Catalog, histories: Any) -> None:
        graphs = [table for table in (self.item, self.output) if isinstance(table, GraphEmbedding)]
        edges = list(pair_weights(catalog, histories)) if graphs else []
        for table in graphs:
            table.fill(edges)
        if self.prior is not None:
            self.prior.fit(catalog, histories)

    @classmethod
    def check(cls, config: Any, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if cls.item_table is not ItemModel.item_table:
            if config.graph_edges:
                problem = "This model makes its items from codes: it has no item graph."
                raise ConfigError(problem, hint="--set model.graph_edges=0")
            if config.output != "tied":
                problem = "This model makes its items from codes: it has no table of item vectors for the scores."
                raise ConfigError(problem, hint="--set model.output=tied")
        default = type(config).model_fields["negatives"].default
        if config.loss == "ce" and (config.negatives != default or config.shared_negatives):
            problem = (
                "model.loss = ce takes all items: it has no sampled ones (model.negatives, model.shared_negatives)."
            )
            raise ConfigError(problem, hint="--set model.loss=sampled, or another loss with sampled items")
        for name, loss in (("gbce_t", "gbce"), ("bpr_max_regularisation", "bpr_max")):
            value = getattr(config, name)
            if config.loss != loss and value != type(config).model_fields[name].default:
                problem = f"model.{name} = {value} is of model.loss = {loss}, and the loss is {config.loss}."
                raise ConfigError(problem, hint=f"--set model.loss={loss}, or leave model.{name} out")
        if config.count_factor:
            check_rows("count_factor", train)
            if config.loss != "ce" or (cls.losses, cls.catalogue_loss) != (ItemModel.losses, ItemModel.catalogue_loss):
                problem = "model.count_factor needs a causal model and the softmax over its own scores of all items."
                raise ConfigError(problem, hint="--set model.count_factor=0, or --set model.loss=ce")

    @abstractmethod
    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        """``h_MD`` at packed positions ``at_M``; each state depends on the items up to its own position."""

    def item_vectors(self) -> Tensor:
        if self.output is None:
            return self.beside_bias(all_vectors(cast(nn.Embedding, self.item), self.items))
        vector_ID = all_vectors(self.output, self.items)
        if self.config.output == "sum":
            vector_ID = vector_ID + all_vectors(cast(nn.Embedding, self.item), self.items)
        return self.beside_bias(vector_ID)

    def beside_bias(self, vector_ID: Tensor) -> Tensor:
        """The item vectors, with a column of biases if there are any."""
        return vector_ID if self.bias is None else torch.cat([vector_ID, self.bias[:, None]], dim=1)

    def beside_one(self, h_MD: Tensor) -> Tensor:
        """The states, with a column of 1 if there are biases."""
        return h_MD if self.bias is None else torch.cat([h_MD, torch.ones_like(h_MD[:, :1])], dim=1)

    def vectors_of(self, column_X: Tensor) -> Tensor:
        """The vectors of some items, counted from 0, as they are scored."""
        # A look-up, not an index: only its gradient sums repeated rows in a fixed order.
        return F.embedding(column_X, self.item_vectors())

    def catalogue_loss(self, h_MD: Tensor, column_M: Tensor) -> Loss:
        """Softmax cross-entropy over all items; ``column_M`` counts from 0, -1 is ignored."""
        return item_cross_entropy(h_MD, self.item_vectors(), column_M)

    def counts(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"next": (targets(batch)[1] > 0).sum()}

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        at_M, target_M = targets(batch)
        h_MD = self.states(batch, at_M)
        if self.prior is not None:
            added = self.prior.logs(batch, at_M), self.prior.factor
            return {"next": item_cross_entropy(h_MD, self.item_vectors(), target_M - 1, added=added)}
        return {"next": self.item_loss(h_MD, target_M, batch.negative_MS)}

    def item_loss(self, h_MD: Tensor, target_M: Tensor, negative_MS: Tensor | None = None) -> Loss:
        """The loss of the target items (ids from 1; 0: padding), by the setting ``loss``."""
        column_M = target_M - 1
        if self.config.loss == "ce":
            return self.catalogue_loss(h_MD, column_M)
        if negative_MS is None:
            raise ValueError(f"the loss {self.config.loss} needs sampled items: see Batch.with_negatives")
        column_MS = negative_MS - 1
        positive_M = (h_MD * self.vectors_of(column_M)).sum(-1)
        if self.shared_negatives:
            score_MS = h_MD @ self.vectors_of(column_MS[0]).t()
        else:
            score_MS = torch.einsum("md,msd->ms", h_MD, self.vectors_of(column_MS))
        score_MS = score_MS.masked_fill(column_MS == column_M[:, None], -torch.inf)
        if self.config.loss == "gbce":
            return losses.generalised_bce(positive_M, score_MS, items=self.items, t=self.config.gbce_t)
        if self.config.loss == "bpr_max":
            return losses.bpr_max(positive_M, score_MS, regularisation=self.config.bpr_max_regularisation)
        if self.config.loss == "sampled":
            return losses.sampled_cross_entropy(positive_M, score_MS, items=self.items)
        kinds = {"bce": losses.binary_cross_entropy, "bpr": losses.bpr}
        return kinds[self.config.loss](positive_M, score_MS)

    def queries(self, batch: Batch) -> Tensor:
        return self.states(batch, batch.packing.last_B)

    def added_scores(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        return None if self.prior is None else self.prior.cells(batch)

    def item_scores(self, batch: Batch) -> Tensor:
        score_BI = self.queries(batch) @ self.item_vectors().t()
        if (added := self.added_scores(batch)) is not None:
            cell_S, users = added[0], batch.packing.sequences
            score_BI[cell_S % users, cell_S // users] += added[1]
        return score_BI

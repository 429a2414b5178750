"""FDSA: one Transformer over items and one over their features (Zhang et al., IJCAI 2019).

::

    f_i = sum over the attributes a of item i of softmax(w . E_a) E_a     (vanilla attention)
    h = LN(W [items(e_1 .. e_t); features(f_1 .. f_t)] + b)               (the last states of both, concatenated)
    score(j) = h . e_j

Both Transformers are causal and have weights of their own, so all targets of a row are learned in one pass.

The traps: an item without attributes has the zero vector as its feature, not the attention's answer to padding; and
attention over a single field is constant, so it must be over the attributes. The top category, which nearly all items
share, is not among the attributes (``sources/records.py``).

Deviations from the paper and RecBole's code (the authors' was not found): the loss is cross-entropy over the catalogue
by default. Attention is over attributes, where RecBole pools the categories of an item before it. Input and output have
LayerNorms of their own. Both Transformers add the same position table, as there; ``shared_positions = false`` gives
each its own. Pre-norm blocks by default. Items and features are multiplied by sqrt(D) at the input, as SASRec's items
are.

Legend: N packed items, M positions with a target, A attributes of an item, D width.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Need
from genrec_cli.models.item_model import ItemModel
from genrec_cli.models.sasrec import SasRecConfig
from genrec_cli.nn.dropout import Dropout
from genrec_cli.nn.transformer import Transformer, initialise


class FdsaConfig(SasRecConfig):
    """Both Transformers have these sizes."""

    fields: tuple[str, ...] | None = None
    """Fields whose attributes are read, such as brand and category; none: all."""
    shared_positions: bool = True
    """Whether both Transformers add the same position table."""


class Fdsa(ItemModel):
    """Interface: DotScorer."""

    Config: ClassVar[type[Section]] = FdsaConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"attributes"})
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"train": {"lr": 1e-3, "warmup_steps": 200, "weight_decay": 0.01}}
    attribute_RA: Tensor

    def __init__(self, config: FdsaConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.register_buffer("attribute_RA", _chosen(catalog, config.fields), persistent=False)
        self.attribute = nn.Embedding(catalog.attributes, config.width)
        self.attention = nn.Linear(config.width, 1, bias=False)  # softmax ignores a bias
        options: dict[str, Any] = {"residual_dropout": config.dropout, "norm": config.norm}
        self.sequence = Transformer(config, max_length, scale=math.sqrt(config.width), **options)
        self.features = Transformer(config, 0 if config.shared_positions else max_length, **options)
        self.fusion = nn.Linear(2 * config.width, config.width)
        self.norm, self.dropout = nn.LayerNorm(config.width), Dropout(config.dropout)
        initialise(self)

    @classmethod
    def check(cls, config: FdsaConfig, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if catalog is not None and (unknown := set(config.fields or ()) - set(catalog.fields)):
            problem = f"model.fields: no attribute is of the field '{min(unknown)}'."
            raise ConfigError(problem, hint=f"Fields of these data: {', '.join(catalog.fields)}")

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        packing, feature_ND = batch.packing, self.feature_vectors(batch.item_N) * self.sequence.scale
        if self.config.shared_positions and self.sequence.position is not None:
            feature_ND = feature_ND + self.sequence.position(packing.position_N)
        item_MD = self.sequence(self.item(batch.item_N - 1), packing, at_M)
        both_ME = torch.cat([item_MD, self.features(feature_ND, packing, at_M)], dim=-1)
        return self.dropout(self.norm(self.fusion(both_ME)))

    def feature_vectors(self, item_N: Tensor) -> Tensor:
        """``f_ND``: attention over the attributes of each item; zero without attributes."""
        attribute_NA = self.attribute_RA[item_N]
        absent_NA, row_NA = attribute_NA == 0, (attribute_NA - 1).clamp_min(0)
        # The score of an attribute is the same for all items: one product with the table.
        score_NA = F.embedding(row_NA, self.attention(self.attribute.weight)).squeeze(-1).float()
        weight_NA = score_NA.masked_fill(absent_NA, torch.finfo(torch.float32).min).softmax(-1)
        weight_NA = weight_NA.masked_fill(absent_NA, 0.0)
        return F.embedding_bag(row_NA, self.attribute.weight, per_sample_weights=weight_NA, mode="sum")


def _chosen(catalog: Catalog, fields: tuple[str, ...] | None) -> Tensor:
    """``attribute_RA`` without the attributes of other fields."""
    assert catalog.attribute_RA is not None and catalog.field_RA is not None
    if fields is None:
        return catalog.attribute_RA
    places = [place for place, name in enumerate(catalog.fields) if name in fields]
    chosen = torch.isin(catalog.field_RA, torch.tensor(places, dtype=torch.int64, device=catalog.field_RA.device))
    return catalog.attribute_RA.masked_fill(~chosen, 0)

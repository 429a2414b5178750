"""HGN: hierarchical gating network (Ma et al., KDD 2019, arXiv 1906.09217).

Two gates choose among the features and the places of the last L items S, for a user u; the items' raw product with the
candidate is added::

    S^F_j = s_j * sigmoid(W_1 s_j + W_2 u + b)                 feature gate (equation 2)
    g_j = sigmoid(w_3 . S^F_j + w_4j . u)                      instance gate (equation 4)
    p = (sum over j of g_j S^F_j) / (sum over j of g_j)        (equation 5)
    score(i) = w_i . (u + p + sum over j of s_j) + b_i         (equation 7)

So the score is a dot product; the last sum is a factorised Markov chain of order L.

Legend: M positions, L places of a window, D width, U users.

Deviations from the authors' code: every position of a history is learned, with its next item alone. Places before the
first item are left out of all sums; the authors learn a padding row. Softmax cross-entropy over the catalogue by
default; ``loss = "bpr"`` is the paper's. AdamW; theirs is Adam with an L2 penalty. The vector of a user without
training rows is zero; without ``users``, so are all. The separate output table and a bias per item are the paper's.

The trap: in the authors' code the tensors of the instance gate are no parameters, so they keep their random values.
Here they are trained.
"""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from genrec_cli.config import Count, Dropout, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Need
from genrec_cli.models.item_model import ItemConfig, ItemModel, Output
from genrec_cli.nn.dropout import Dropout as DropoutLayer
from genrec_cli.nn.recent import recent, user_vectors


class HgnConfig(ItemConfig):
    """HGN's gates."""

    width: Count = 64
    """D, the width of item and user vectors."""
    output: Output = "separate"
    """Item vectors of the scores: a table of their own (separate, the paper's), those of the input, or their sum."""
    window: Count = 5
    """L, the count of last items that are read."""
    dropout: Dropout = 0.2
    """Of the item vectors (ours; 0 is the paper's)."""
    users: bool = False
    """Whether each user has a vector."""


class Hgn(ItemModel):
    """Interface: DotScorer."""

    Config: ClassVar[type[Section]] = HgnConfig
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "train": {"lr": 1e-3, "warmup_steps": 200, "batch_size": 128, "weight_decay": 1e-2}
    }

    def __init__(self, config: HgnConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length, bias=True)
        width = config.width
        self.feature_gate = nn.Linear(width, width)
        self.instance_gate = nn.Linear(width, 1, bias=False)
        self.dropout = DropoutLayer(config.dropout)
        self.user = self.user_gate = self.user_instance = None
        if config.users:
            self.user = nn.Embedding(max(catalog.users, 1), width)
            self.user_gate = nn.Linear(width, width, bias=False)
            self.user_instance = nn.Linear(width, config.window, bias=False)
            nn.init.normal_(self.user.weight, std=1 / width)
        for table in filter(None, (self.item, self.output)):
            nn.init.normal_(cast(nn.Embedding, table).weight, std=width**-0.5)

    @classmethod
    def needs_of(cls, config: Any) -> frozenset[Need]:
        return super().needs_of(config) | ({"users"} if config.users else set())

    @torch.no_grad()
    def fit(self, catalog: Catalog, histories: Any) -> None:
        super().fit(catalog, histories)
        if self.user is not None:  # zero for all at the start would leave the gates of users without a gradient
            untrained = (torch.tensor(histories.train_end.astype("int64")) < 2).nonzero()[:, 0]
            self.user.weight[untrained.to(self.user.weight.device)] = 0

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        item_ML = recent(batch.item_N, batch.packing, at_M, self.config.window)
        real_ML1 = (item_ML > 0)[..., None]
        s_MLD = self.dropout(self.item((item_ML - 1).clamp_min(0))).masked_fill(~real_ML1, 0.0)
        u_MD = None
        if self.user is not None:
            u_MD = user_vectors(self.user.weight, batch.user_B, batch.packing, at_M)
        pooled_MD = self.pool(s_MLD, real_ML1, u_MD)
        h_MD = pooled_MD + s_MLD.sum(1)
        h_MD = h_MD if u_MD is None else h_MD + u_MD
        return self.beside_one(h_MD)

    def pool(self, s_MLD: Tensor, real_ML1: Tensor, u_MD: Tensor | None) -> Tensor:
        """``p_MD``: the weighted mean of the gated items of each window."""
        feature_MLD, instance_ML1 = self.feature_gate(s_MLD), None
        if u_MD is not None and self.user_gate is not None and self.user_instance is not None:
            feature_MLD = feature_MLD + self.user_gate(u_MD)[:, None]
            instance_ML1 = self.user_instance(u_MD)[..., None]
        gated_MLD = s_MLD * feature_MLD.sigmoid()
        logit_ML1 = self.instance_gate(gated_MLD)
        gate_ML1 = (logit_ML1 if instance_ML1 is None else logit_ML1 + instance_ML1).sigmoid() * real_ML1
        return (gate_ML1 * gated_MLD).sum(1) / gate_ML1.sum(1).clamp_min(1e-9)

"""Caser: convolutions over the last items (Tang and Wang, WSDM 2018, arXiv 1809.07426).

The last L items are an image E of L rows and D columns. Horizontal filters of the heights 1 to L cover all columns and
give their maximum over the rows; vertical filters give weighted sums of the rows::

    o = [max over l of ReLU(F_h . E[l : l + h])  for each filter F_h;  sum over l of w_l E[l]  for each filter w]
    z = ReLU(W o + b)        score(i) = W'_i . [z; P_u] + b'_i        (equations 3 to 10)

Legend: M positions, L places of a window, D width, H horizontal filters per height, V vertical filters, U users.

Deviations from the authors' code: every position of a history is learned, with its next item alone (T = 1 in their
notation, 3 there); with T = 3 a user with three training items has a window of padding only. Places before the first
item are zero and stay so; a window of a horizontal filter that holds no item is left out of the maximum. Softmax
cross-entropy over the catalogue by default; ``loss = "bce"`` is the paper's. AdamW; theirs is Adam with an L2 penalty.
The vector of a user without training rows is zero, as all are at the start. Users are off by default: many users have
two training positions, so their vectors only learn these by heart.

The trap: scores against the input table behind a ReLU (as in other copies) cannot be negative in any column.
"""

from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.config import Count, Dropout, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Need
from genrec_cli.models.item_model import ItemConfig, ItemModel, Output
from genrec_cli.nn.dropout import Dropout as DropoutLayer
from genrec_cli.nn.recent import recent, user_vectors


class CaserConfig(ItemConfig):
    """Caser's filters."""

    width: Count = 64
    """D, the width of item and user vectors."""
    window: Count = 5
    """L, the count of last items that are read."""
    horizontal: Count = 16
    """Horizontal filters of each height."""
    vertical: Count = 4
    """Vertical filters."""
    dropout: Dropout = 0.5
    """Of the outputs of the filters."""
    users: bool = False
    """Whether each user has a vector; it needs output = separate."""
    output: Output = "separate"
    """Item vectors of the scores: a table of their own (separate, the paper's), those of the input, or their sum."""


class Caser(ItemModel):
    """Interface: DotScorer."""

    Config: ClassVar[type[Section]] = CaserConfig
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "train": {"lr": 1e-3, "warmup_steps": 200, "batch_size": 128, "weight_decay": 1e-2}
    }

    def __init__(self, config: CaserConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length, bias=True)
        width, window = config.width, config.window
        heights = range(1, window + 1)
        self.horizontal = nn.ModuleList(nn.Linear(height * width, config.horizontal) for height in heights)
        self.vertical = nn.Linear(window, config.vertical, bias=False)
        self.dense = nn.Linear(window * config.horizontal + config.vertical * width, width)
        self.dropout = DropoutLayer(config.dropout)
        self.user = nn.Embedding(max(catalog.users, 1), width) if config.users else None
        for table in filter(None, (self.item, self.output)):
            nn.init.normal_(cast(nn.Embedding, table).weight, std=width**-0.5)
        if self.user is not None:
            nn.init.zeros_(self.user.weight)

    @property
    def output_width(self) -> int:
        return int(self.config.width * (1 + self.config.users))

    @classmethod
    def needs_of(cls, config: Any) -> frozenset[Need]:
        return super().needs_of(config) | ({"users"} if config.users else set())

    @classmethod
    def check(cls, config: CaserConfig, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if config.users and config.output != "separate":
            problem = "model.users needs item vectors twice as wide as the input's, so model.output = separate."
            raise ConfigError(problem, hint="--set model.output=separate, or --set model.users=false")

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        item_ML = recent(batch.item_N, batch.packing, at_M, self.config.window)
        real_ML = item_ML > 0
        x_MLD = self.item((item_ML - 1).clamp_min(0)).masked_fill(~real_ML[..., None], 0.0)
        z_MD = F.relu(self.dense(self.dropout(torch.cat([*self.maxima(x_MLD, real_ML), self.sums(x_MLD)], dim=1))))
        if self.user is not None:
            z_MD = torch.cat([z_MD, user_vectors(self.user.weight, batch.user_B, batch.packing, at_M)], dim=1)
        return self.beside_one(z_MD)

    def maxima(self, x_MLD: Tensor, real_ML: Tensor) -> list[Tensor]:
        """``o_MH`` of the horizontal filters per height: the maximum over the places that hold an item."""
        found = []
        for height, filters in enumerate(self.horizontal, 1):
            slices_MlX = x_MLD.unfold(1, height, 1).transpose(2, 3).flatten(2)  # l = L - h + 1 places of h rows
            real_Ml = real_ML[:, height - 1 :]  # padding is on the left: a place is real if its last row is
            o_MlH = F.relu(filters(slices_MlX)).masked_fill(~real_Ml[..., None], 0.0)  # ReLU is at least 0
            found.append(o_MlH.amax(1))
        return found

    def sums(self, x_MLD: Tensor) -> Tensor:
        """``o_MX`` of the vertical filters, X = V x D."""
        return self.vertical(x_MLD.transpose(1, 2)).transpose(1, 2).flatten(1)

"""Item graph: an item's vector is its own row of the table plus those of its neighbours.

    x_i = e_i + sum over b of A[i, b] e_b

The edges of an item are the items that most often follow or precede it in the training histories, or have similar
text (the weights of ``models/neighbours.py`` in both directions). The weights of a row have the Euclidean norm 1, so
that the sum starts as large as the item's own row. A rare item is learned from the rows of its neighbours, and the
scores of a model begin near those of the count: graph-based embedding smoothing (Zhu et al., IEEE TKDE 2021), with one
step and without a non-linearity.

The pairs that a training predicts are edges, too, as in all graph models of this kind.

Legend: I items, D width, E edges per item, X items, P edges of all items.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.nn.sparse_scores import ItemWeights


class GraphEmbedding(nn.Embedding):
    """A table whose first ``items`` rows are smoothed by a graph; further rows, of special tokens, are not.

    Until :meth:`fill` the graph has no edges, and this is a plain table.
    """

    neighbour_IE: Tensor
    """Rows of the table, int32; 0 with weight 0 where an item has fewer edges."""
    weight_IE: Tensor
    item_P: Tensor
    factor_P: Tensor
    begin_I: Tensor

    def __init__(self, items: int, width: int, edges: int, *, extra: int = 0) -> None:
        super().__init__(items + extra, width)
        self.items, edges = items, min(edges, max(items - 1, 1))
        self.register_buffer("neighbour_IE", torch.zeros(items, edges, dtype=torch.int32))
        self.register_buffer("weight_IE", torch.zeros(items, edges))
        for name in ("item_P", "factor_P", "begin_I"):  # the inverted edges, for the gradient
            self.register_buffer(name, torch.zeros(0), persistent=False)
        self.register_load_state_dict_post_hook(lambda *_: self._invert())
        self._invert()

    def fill(self, tables: Iterable[ItemWeights]) -> None:
        """The edges are the largest weights of the tables in both directions."""
        neighbour_IE, weight_IE = strongest(tables, self.items, self.weight_IE.shape[1])
        self.neighbour_IE.copy_(neighbour_IE)
        self.weight_IE.copy_(F.normalize(weight_IE, dim=1))
        self._invert()

    def forward(self, row_X: Tensor) -> Tensor:
        """``x_XD`` of rows of any shape."""
        inside_X = row_X < self.items
        at_X = row_X.clamp_max(self.items - 1)
        near_XED = super().forward(self.neighbour_IE[at_X].long())
        weight_XE = self.weight_IE[at_X] * inside_X[..., None]
        return super().forward(row_X) + (weight_XE[..., None, :] @ near_XED)[..., 0, :]

    def vectors(self) -> Tensor:
        """``x_ID`` of all items."""
        table_ID = self.weight[: self.items]
        edges = (self.neighbour_IE, self.weight_IE, self.item_P, self.factor_P, self.begin_I)
        return table_ID + _Smoothed.apply(table_ID, *edges)

    def _invert(self) -> None:
        """Index the edges by their neighbour."""
        real_IE = self.weight_IE != 0
        neighbour_P, item_P = self.neighbour_IE[real_IE], real_IE.nonzero()[:, 0]
        order_P = neighbour_P.argsort(stable=True)
        count_I = torch.bincount(neighbour_P, minlength=self.items)
        self.item_P, self.factor_P = item_P[order_P], self.weight_IE[real_IE][order_P]
        self.begin_I = count_I.cumsum(0) - count_I


def all_vectors(table: nn.Embedding, items: int) -> Tensor:
    """``x_ID``: the vectors of all items, by the graph if the table has one, without rows of special tokens."""
    if isinstance(table, GraphEmbedding):
        return table.vectors()
    return table.weight if len(table.weight) == items else table.weight[:items]


def strongest(tables: Iterable[ItemWeights], items: int, edges: int) -> tuple[Tensor, Tensor]:
    """``neighbour_IE`` (from 0) and ``weight_IE``: the largest sums of the weights of two items in both directions."""
    keys: list[Tensor] = []
    weights: list[Tensor] = []
    for table in tables:
        row_P, item_P, weight_P = table.entries(torch.arange(1, items + 1, device=table.begin_I.device))
        keys += [row_P * items + item_P - 1, (item_P - 1) * items + row_P]
        weights += [weight_P, weight_P]
    key_P, place_P = torch.cat(keys).unique(return_inverse=True)
    weight_P = torch.zeros(len(key_P), device=key_P.device).index_add_(0, place_P, torch.cat(weights))
    order_P = weight_P.argsort(descending=True, stable=True)
    order_P = order_P[(key_P[order_P] // items).argsort(stable=True)]
    row_P, column_P = key_P[order_P] // items, key_P[order_P] % items
    begin_I = torch.searchsorted(row_P, torch.arange(items, device=row_P.device))
    rank_P = torch.arange(len(row_P), device=row_P.device) - begin_I[row_P]
    kept_P = (rank_P < edges) & (weight_P[order_P] > 0)
    place = row_P[kept_P], rank_P[kept_P]
    neighbour_IE = torch.zeros(items, edges, dtype=torch.int32, device=row_P.device)
    weight_IE = torch.zeros(items, edges, device=row_P.device)
    neighbour_IE[place], weight_IE[place] = column_P[kept_P].int(), weight_P[order_P][kept_P]
    return neighbour_IE, weight_IE


class _Smoothed(torch.autograd.Function):
    """``A table``; the gradient is a sum over the inverted edges, in a fixed order."""

    @staticmethod
    def forward(ctx: Any, table_ID: Tensor, neighbour_IE: Tensor, weight_IE: Tensor, *inverted: Tensor) -> Tensor:
        ctx.save_for_backward(*inverted)
        return F.embedding_bag(neighbour_IE, table_ID, mode="sum", per_sample_weights=weight_IE.to(table_ID.dtype))

    @staticmethod
    def backward(ctx: Any, g_ID: Tensor) -> tuple[Tensor | None, ...]:
        item_P, factor_P, begin_I = ctx.saved_tensors
        factors = {"per_sample_weights": factor_P.to(g_ID.dtype)}
        return F.embedding_bag(item_P, g_ID.contiguous(), begin_I, mode="sum", **factors), *[None] * 5

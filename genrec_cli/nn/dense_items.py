"""The dense side of items: what an item's vector has beside its pooled codes.

    x_i = scale * mean over k of E^k[code_k(i)]  +  P t_i  +  sqrt(D) f_i

``t_i`` is the item's text vector, centred over the catalogue and of length sqrt(D), so that ``P t_i`` starts with the
size of the pooled codes. ``f_i`` is a free vector, like an item embedding of SASRec. It starts at zero: an item is its
codes and its text until training interactions say more. With an item graph (``nn/item_graph.py``) it starts at random
and includes the free vectors of its neighbours. Dense vectors beside the codes: LIGER (Yang et al. 2024, arXiv
2411.18814).

:class:`TextAlignment` is a loss of states on the same text vectors.

Legend: M positions, X items, I items of the catalogue, R = I + 1 rows, K digits, D width, E width of the text vectors.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.nn.item_cross_entropy import item_cross_entropy
from genrec_cli.nn.item_graph import GraphEmbedding, all_vectors
from genrec_cli.nn.losses import Loss


def centred(vector_RE: Tensor) -> Tensor:
    """``unit_RE``: text vectors without their mean over the catalogue, of length 1; row 0 stays zero."""
    vector_IE = vector_RE[1:].float()
    return F.pad(F.normalize(vector_IE - vector_IE.mean(0), dim=-1), (0, 0, 1, 0))


class DenseItems(nn.Module):
    """Projected text vectors (``vector_RE``; None: without), and ``free`` vectors of ``items`` items, with ``edges`` of
    each item in the graph (0: no graph)."""

    text_RE: Tensor
    free: GraphEmbedding | nn.Embedding | None

    def __init__(self, items: int, width: int, vector_RE: Tensor | None, *, free: bool, edges: int = 0) -> None:
        super().__init__()
        self.scale, self.projection = math.sqrt(width), None
        if vector_RE is not None:
            self.register_buffer("text_RE", centred(vector_RE) * self.scale, persistent=False)
            self.projection = nn.Linear(vector_RE.shape[1], width, bias=False)
        self.items, self.free = items, None
        if free:
            self.free = GraphEmbedding(items, width, edges) if edges else nn.Embedding(items, width)

    def reset(self) -> None:
        if isinstance(self.free, GraphEmbedding):
            nn.init.normal_(self.free.weight, std=0.02)
        elif self.free is not None:
            nn.init.zeros_(self.free.weight)

    def forward(self, item_X: Tensor | None = None) -> Tensor:
        """``x_XD`` of items (ids from 1); None: of the whole catalogue."""
        parts = []
        if self.projection is not None:
            parts.append(self.projection(self.text_RE[1:] if item_X is None else self.text_RE[item_X]))
        if self.free is not None:
            parts.append(self.scale * (all_vectors(self.free, self.items) if item_X is None else self.free(item_X - 1)))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


class TextAlignment(nn.Module):
    """A projected state finds the text of the next item among the texts of all items.

    The loss is ``-log softmax over i of cos(W h, t_i) / tau``: InfoNCE with the whole catalogue as negatives. The text
    vectors are fixed, so states learn what the next item is about, also where its codes are rare.
    """

    text_RE: Tensor

    def __init__(self, width: int, vector_RE: Tensor, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("text_RE", centred(vector_RE), persistent=False)
        self.projection = nn.Linear(width, vector_RE.shape[1], bias=False)

    def loss(self, h_MD: Tensor, column_M: Tensor) -> Loss:
        """``column_M``: the next items, from 0; -1 is ignored."""
        query_ME = F.normalize(self.projection(h_MD), dim=-1) / self.temperature
        return item_cross_entropy(query_ME, self.text_RE[1:], column_M)

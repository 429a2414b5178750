"""Neighbours: transitions, and similarities to the items with the nearest vectors. No gradient is used.

``weight[a, b] = transitions[a, b] + weight * max(cosine(a, b), 0) ** power`` for the ``neighbours`` items b with the
largest cosines (content-based nearest neighbours: Lops, de Gemmis and Semeraro, Content-based recommender systems:
state of the art and trends, 2011). A history scores as in :mod:`genrec_cli.models.transitions`.

Up to ``exact_items`` the search is exhaustive. Larger catalogues use an inverted file (k-means clusters, as in FAISS's
IVF): the items of a cluster are compared with those of the ``probes`` nearest clusters, and some neighbours are missed.

Legend: I items, R = I + 1, D width, L clusters, M items of one cluster, C candidates, k neighbours.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.config import Count, NonNegative, Positive, Section
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.transitions import Transitions, TransitionsConfig
from genrec_cli.nn.sparse_scores import ItemWeights

CELLS = 1 << 24
"""Cosines that exist at a time."""
ROUNDS = 5
"""Rounds of k-means."""
SAMPLE = 64
"""Items per cluster that k-means learns from."""


class NeighboursConfig(TransitionsConfig):
    """The settings of transitions, and of the comparison of vectors."""

    neighbours: Count = 100
    """Nearest items by cosine, per item."""
    power: Positive = 2.0
    """Power of the cosine."""
    weight: NonNegative = 0.6
    """Factor of the powers of cosines when they are added to the transitions."""
    exact_items: Count = 100_000
    """Largest catalogue that is searched exhaustively; the time is quadratic in the number of items."""
    probes: Count = 32
    """Clusters that are searched per item in larger catalogues, of 2 sqrt(I)."""


class Neighbours(Transitions):
    """Interface: SparseScorer."""

    Config: ClassVar[type[Section]] = NeighboursConfig
    needs = frozenset({"vectors"})
    config: NeighboursConfig

    @classmethod
    def reads_content(cls, config: Any) -> bool:
        return False  # counts are of item ids

    def __init__(self, config: NeighboursConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.similar = ItemWeights(catalog.items)

    def fit(self, catalog: Catalog, histories: Any) -> None:
        super().fit(catalog, histories)
        assert catalog.vector_RE is not None
        count = min(self.config.neighbours, self.items - 1)
        probes = self.config.probes if self.items > self.config.exact_items else None
        item_Ik, cosine_Ik = nearest(catalog.vector_RE[1:], count, probes=probes)
        weight_Ik = self.config.weight * cosine_Ik.clamp_min(0) ** self.config.power
        count_I = torch.full((self.items,), count, device=item_Ik.device)
        self.similar.fill(count_I, item_Ik.flatten(), weight_Ik.flatten())

    def tables(self) -> list[ItemWeights]:
        return [self.transitions, self.similar]


def pair_weights(catalog: Catalog, histories: Any) -> list[ItemWeights]:
    """The weights of transitions and of text neighbours, with the default settings."""
    counts = Neighbours(NeighboursConfig(), catalog, max_length=1)
    counts.fit(catalog, histories)
    return counts.tables()


def nearest(vec_ID: Tensor, count: int, *, probes: int | None) -> tuple[Tensor, Tensor]:
    """``item_Ik`` (ids from 1, int32) and ``cosine_Ik`` of the ``count`` items nearest to each item, without itself.

    ``probes`` clusters are searched; None: all items. If these have too few items, the last places have the cosine
    -inf.
    """
    vec_ID = F.normalize(vec_ID.float(), dim=1)
    items, device = len(vec_ID), vec_ID.device
    item_Ik = torch.ones(items, count, dtype=torch.int32, device=device)
    cosine_Ik = torch.full((items, count), -torch.inf, device=device)
    all_I = torch.arange(items, device=device)
    for row_M, candidate_C in [(all_I, all_I)] if probes is None else _clusters(vec_ID, probes):
        vec_CD = vec_ID if probes is None else vec_ID[candidate_C]
        k = min(count, len(candidate_C))
        for row_m in row_M.split(max(CELLS // len(candidate_C), 1)):
            cosine_mC = vec_ID[row_m] @ vec_CD.t()
            cosine_mC[torch.arange(len(row_m), device=device), torch.searchsorted(candidate_C, row_m)] = -torch.inf
            cosine_mk, place_mk = cosine_mC.topk(k, dim=1)
            item_Ik[row_m, :k], cosine_Ik[row_m, :k] = candidate_C[place_mk].int() + 1, cosine_mk
    return item_Ik, cosine_Ik


def _clusters(vec_ID: Tensor, probes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``row_M`` of each cluster (items from 0) and ``candidate_C``, the items of the nearest clusters, ascending. The
    spherical k-means starts from items at equal distances in the catalogue, without random draws."""
    items = len(vec_ID)
    clusters = min(round(2 * math.sqrt(items)), items)
    sample = min(SAMPLE * clusters, items)
    vec_SD = vec_ID[torch.arange(sample, device=vec_ID.device) * items // sample]
    centroid_LD = vec_SD[torch.arange(clusters, device=vec_ID.device) * len(vec_SD) // clusters]
    for _ in range(ROUNDS):
        total_LD = torch.zeros_like(centroid_LD).index_add_(0, _closest(vec_SD, centroid_LD), vec_SD)
        empty_L1 = total_LD.square().sum(1, keepdim=True) == 0
        centroid_LD = torch.where(empty_L1, centroid_LD, F.normalize(total_LD, dim=1))
    cluster_I = _closest(vec_ID, centroid_LD)
    size_L = torch.bincount(cluster_I, minlength=clusters).tolist()
    row_L = cluster_I.argsort(stable=True).split(size_L)
    near_LP = (centroid_LD @ centroid_LD.t()).topk(min(probes, clusters), dim=1).indices.tolist()
    for row_M, near_P in zip(row_L, near_LP, strict=True):
        if len(row_M):
            candidates = [row_M, *(row_L[near] for near in near_P if row_L[near] is not row_M)]
            yield row_M, torch.cat(candidates).sort().values


def _closest(vec_ID: Tensor, centroid_LD: Tensor) -> Tensor:
    """``cluster_I``: the centroid with the largest cosine."""
    parts = vec_ID.split(max(CELLS // len(centroid_LD), 1))
    return torch.cat([(vec_CD @ centroid_LD.t()).argmax(1) for vec_CD in parts])

"""Transitions: counts of item pairs that are near each other in the training histories. No gradient is used.

Sequential rules (Ludewig and Jannach, Evaluation of session-based recommendation algorithms, 2018, arXiv 1803.09587,
section 2.1.1 SR), with five changes:

1. a pair (a, b), b following d = 1..window items after a, has the weight ``decay ** (d - 1)`` in place of 1/d;
2. the pairs of a user with n training items are multiplied by ``1 / log2(n + 2) ** length_power``;
3. the backward pair (b, a) is counted with a fraction of the weight;
4. ``weight[a, b]`` is the sum divided by ``rowsum[a] ** row_power * columnsum[b] ** column_power``;
5. all items of a history score: ``score[i] = sum over items a of age_decay ** age * weight[a, i]``, age 0 is the last
   item.

The constants were chosen on the validation split of Amazon 2014 Beauty (recipes/sweeps/counts.toml). Items without a
pair have score 0 and tie.

Legend: T training items of all users, F the same with padding, I items, G items of a group, E pairs before summation, X
offsets of the other items of a pair, P stored pairs.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from genrec_cli.config import Count, Fraction, NonNegative, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Model
from genrec_cli.nn.packing import positions
from genrec_cli.nn.sparse_scores import ItemWeights, sparse_scores, stable_sort, sum_equal

CHUNK = 1 << 17
"""Training items whose pairs are counted at a time."""


class TransitionsConfig(Section):
    """The counting and weighting of pairs."""

    window: int = Field(10, ge=1, le=1000)
    """Largest distance between the two items of a pair; 1: adjacent items only."""
    decay: Fraction = 0.8
    """Factor of a pair's weight per item between the two."""
    backward: NonNegative = 0.15
    """Weight of the backward pair, as a fraction of the forward pair's."""
    length_power: NonNegative = 0.5
    """Power of log2(n + 2) by which a user's pairs are divided, n being the number of training items."""
    row_power: NonNegative = 0.1
    """Power of a row sum (all pairs from an item) by which its weights are divided."""
    column_power: NonNegative = 0.15
    """Power of a column sum (all pairs to an item) by which its weights are divided."""
    age_decay: Fraction = 0.45
    """Factor of an item's weight in a history per later item."""
    pairs: Count = 100
    """Pairs stored per item, those with the largest weights; the memory is proportional to it."""


class Transitions(Model):
    """Interface: SparseScorer."""

    Config: ClassVar[type[Section]] = TransitionsConfig
    trainable: ClassVar[bool] = False
    config: TransitionsConfig

    def __init__(self, config: TransitionsConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.config, self.items = config, catalog.items
        self.transitions = ItemWeights(catalog.items)

    def fit(self, catalog: Catalog, histories: Any) -> None:
        self.transitions.fill(*count_transitions(histories, self.items, self.config))

    def tables(self) -> list[ItemWeights]:
        return [self.transitions]

    def sparse_scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        packing = batch.packing
        age_N = packing.length_B[packing.sequence_N] - 1 - packing.position_N
        weight_N = torch.as_tensor(self.config.age_decay, device=age_N.device) ** age_N
        return sparse_scores(self.tables(), batch.item_N, packing, weight_N)

    def item_scores(self, batch: Batch) -> Tensor:
        users, (cell_S, score_S) = batch.packing.sequences, self.sparse_scores(batch)
        score_X = torch.zeros(self.items * users, device=score_S.device).index_copy_(0, cell_S, score_S)
        return score_X.view(self.items, users).t()


def count_transitions(histories: Any, items: int, config: TransitionsConfig) -> tuple[Tensor, Tensor, Tensor]:
    """``count_I``, ``item_P`` and ``weight_P`` for :meth:`ItemWeights.fill`, from the training parts.

    Per group of items, an inverted index gives their positions; the pairs around these are sorted, summed, divided and
    reduced to the largest. Memory is linear: about 40 bytes per training item, 8 per zero of padding, 16 per stored
    pair.
    """
    padded, counts, others, weights = Padded.of(histories, config), [], [], []
    rowsum_R, columnsum_R = padded.sums(items, config)
    row_factor_R, column_factor_R = rowsum_R**-config.row_power, columnsum_R**-config.column_power
    for first, last, position_G in padded.groups(items):
        key_E, sum_E = padded.pairs(position_G, first, items, config)
        row_E, other_E = key_E // (items + 1), key_E % (items + 1)
        weight_E = (sum_E * row_factor_R[first + row_E] * column_factor_R[other_E]).float()
        kept_E = _largest(row_E, weight_E, config.pairs)
        counts.append(torch.bincount(row_E[kept_E], minlength=last - first))
        others.append(other_E[kept_E].int())
        weights.append(weight_E[kept_E])
    return torch.cat(counts), torch.cat(others), torch.cat(weights)


class Padded(NamedTuple):
    """Training items of all users in one array with ``window`` zeros before, between and after users, so that all items
    within ``window`` places are of the same user or 0."""

    item_F: Tensor
    """int32"""
    weight_F: Tensor
    """Weight of the user, float32."""

    @classmethod
    def of(cls, histories: Any, config: TransitionsConfig) -> "Padded":
        window = config.window
        users = len(histories.offset)
        size = int(histories.train_end.sum(dtype=np.int64)) + (users + 1) * window
        item_F, weight_F = np.zeros(size, np.int32), np.zeros(size, np.float32)
        place = window
        for at in range(0, users, CHUNK):
            n_U = histories.train_end[at : at + CHUNK].astype(np.int64)
            end_U = n_U.cumsum()
            within_T = np.arange(end_U[-1]) - np.repeat(end_U - n_U, n_U)
            place_T = np.repeat(place + end_U - n_U + window * np.arange(len(n_U)), n_U) + within_T
            offset_U = histories.offset[at : at + CHUNK].astype(np.int64)
            item_F[place_T] = histories.item[np.repeat(offset_U, n_U) + within_T]
            weight_F[place_T] = np.repeat(np.log2(n_U + 2) ** -config.length_power, n_U)
            place += int(end_U[-1]) + window * len(n_U)
        return cls(torch.from_numpy(item_F), torch.from_numpy(weight_F))

    def sums(self, items: int, config: TransitionsConfig) -> tuple[Tensor, Tensor]:
        """``rowsum_R`` and ``columnsum_R`` of all pairs (float64, row 0 is padding), without an array of pairs."""
        rowsum_R, columnsum_R = (torch.zeros(items + 1, dtype=torch.float64) for _ in range(2))
        window = config.window
        for begin in range(window, len(self.item_F) - window, CHUNK):
            end = min(begin + CHUNK, len(self.item_F) - window)
            item_C, weight_C = self.item_F[begin:end].long(), self.weight_F[begin:end].double()
            ahead_C, behind_C = torch.zeros_like(weight_C), torch.zeros_like(weight_C)
            for d in range(1, window + 1):
                ahead_C += config.decay ** (d - 1) * (self.item_F[begin + d : end + d] > 0)
                behind_C += config.decay ** (d - 1) * (self.item_F[begin - d : end - d] > 0)
            rowsum_R.index_add_(0, item_C, weight_C * (ahead_C + config.backward * behind_C))
            columnsum_R.index_add_(0, item_C, weight_C * (behind_C + config.backward * ahead_C))
        return rowsum_R, columnsum_R

    def groups(self, items: int) -> Iterator[tuple[int, int, Tensor]]:
        """Consecutive items with about ``CHUNK`` positions: the first, one after the last, ``position_G``."""
        count_R = torch.bincount(self.item_F, minlength=items + 1)
        count_R[0] = 0
        begin_R = F.pad(count_R.cumsum(0), (1, 0))
        position_T = self.item_F.nonzero()[:, 0]
        position_T = position_T[stable_sort(self.item_F[position_T].long())[1]]
        first = 1
        for size in torch.unique_consecutive(begin_R[1:-1] // CHUNK, return_counts=True)[1].tolist():
            yield first, first + size, position_T[begin_R[first] : begin_R[first + size]]
            first += size

    def pairs(self, position_G: Tensor, first: int, items: int, config: TransitionsConfig) -> tuple[Tensor, Tensor]:
        """The distinct pairs from the given positions: ``key_E = (item - first) * (I + 1) + other item``, sorted, and
        their total weights."""
        distance_W = torch.arange(1, config.window + 1)
        step_X = torch.cat([distance_W, -distance_W])
        ahead_W = torch.tensor(config.decay, dtype=torch.float64) ** (distance_W - 1)
        factor_X = torch.cat([ahead_W, ahead_W * config.backward])
        step_X, factor_X = step_X[factor_X > 0], factor_X[factor_X > 0]
        sums = []
        for position_C in position_G.split(CHUNK):
            other_CX = self.item_F[position_C[:, None] + step_X]
            key_CX = (self.item_F[position_C].long() - first)[:, None] * (items + 1) + other_CX
            weight_CX = self.weight_F[position_C][:, None] * factor_X
            real_CX = other_CX > 0
            sums.append(sum_equal(key_CX[real_CX], weight_CX[real_CX]))
        return sums[0] if len(sums) == 1 else sum_equal(*map(torch.cat, zip(*sums, strict=True)))


def _largest(row_E: Tensor, weight_E: Tensor, limit: int) -> Tensor:
    """The indices of the ``limit`` largest weights of each row (rows ascending), ascending."""
    count_G = torch.bincount(row_E)
    if not len(count_G) or int(count_G.max()) <= limit:
        return torch.arange(len(row_E))
    order_E = stable_sort(torch.iinfo(torch.int32).max - weight_E.view(torch.int32).long())[1]  # bits order floats >= 0
    order_E = order_E[stable_sort(row_E[order_E])[1]]
    return order_E[positions(count_G)[0] < limit].sort().values

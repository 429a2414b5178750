"""The scores of a catalogue, some items at a time: no array of users x items has to exist.

Each kind answers two questions: the scores of a run of items, laid out with a column a user, and each user's
score of one item.

* :class:`CodeScores`: the mean over an item's own digits of a table's entries, as an embedding-bag. Each look-up
  of an item reads the numbers of many users from one cache line. The same to the last bit however it is asked.
* :class:`DotScores`: an item's vector times the user's. A matrix product rounds by its shape.
* :class:`DenseScores`: an array that a model made anyway.

Legend: B users, I items, C items of a run, K digits, V codewords, D width.
"""

from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

TABLE = 1 << 20
"""Bytes of one embedding-bag's table on a processor: what stays in a core's second-level cache. Twice the users
in one table take four times as long (1M items); on an accelerator one table is best."""


class Scores(Protocol):
    """All scores of some users."""

    users: int
    items: int
    device: torch.device
    logprobs: bool
    """Whether they are log-probabilities already, so that a loss needs no sum over the catalogue."""

    def run(self, begin: int, end: int) -> Tensor:
        """``score_CB`` of items begin (from 0) to end in float32: a tensor that the caller may write to."""
        ...

    def of(self, item_B: Tensor) -> Tensor:
        """``score_B``: each user's score of one item, ids from 1."""
        ...


class CodeScores:
    """``score = mean over k of logp_BKV[b, k, code_i^k]``, k running over the item's own digits.

    Args:
        bag_IK: look-ups of each item in the flattened table (int32); K x V stands for no code.
        number_I: codes of each item, if some have fewer than K.
    """

    logprobs = True

    def __init__(self, bag_IK: Tensor, number_I: Tensor | None, logp_BKV: Tensor) -> None:
        self.bag_IK, self.number_I = bag_IK, number_I
        self.users, self.items, self.device = len(logp_BKV), len(bag_IK), logp_BKV.device
        table_BX = logp_BKV.float().flatten(1)
        # Divided before the sum if all items have K codes. Only the kernel for sums is fast on every device.
        table_BX = table_BX / logp_BKV.shape[1] if number_I is None else F.pad(table_BX, (0, 1))
        size = self.users
        if self.device.type == "cpu":
            size = max(TABLE // (table_BX.element_size() * table_BX.shape[1]) // 16 * 16, 16)
        # A clone, for the strides: those of one user's transposed row would be taken for a slow case.
        self.tables = [part_bX.t().clone(memory_format=torch.contiguous_format) for part_bX in table_BX.split(size)]

    def run(self, begin: int, end: int) -> Tensor:
        return self._bags(self.bag_IK[begin:end], None if self.number_I is None else self.number_I[begin:end])

    def of(self, item_B: Tensor) -> Tensor:
        row_B = item_B - 1
        number_B = None if self.number_I is None else self.number_I[row_B]
        return self._bags(self.bag_IK[row_B], number_B).diagonal().clone()

    def _bags(self, bag_CK: Tensor, number_C: Tensor | None) -> Tensor:
        found = [F.embedding_bag(bag_CK, table, mode="sum") for table in self.tables]
        score_CB = found[0] if len(found) == 1 else torch.cat(found, 1)
        return score_CB if number_C is None else score_CB / number_C[:, None]


class DotScores:
    """``score = <vector of item, vector of user>``."""

    logprobs = False

    def __init__(self, item_ID: Tensor, query_BD: Tensor) -> None:
        self.item_ID, self.query_DB = item_ID, query_BD.t()
        self.users, self.items, self.device = len(query_BD), len(item_ID), query_BD.device

    def run(self, begin: int, end: int) -> Tensor:
        return (self.item_ID[begin:end] @ self.query_DB).float()

    def of(self, item_B: Tensor) -> Tensor:
        return (self.item_ID[item_B - 1] * self.query_DB.t()).sum(1).float()


class DenseScores:
    """Scores that exist already, ``score_BI``."""

    logprobs = False

    def __init__(self, score_BI: Tensor) -> None:
        self.score_BI = score_BI
        (self.users, self.items), self.device = score_BI.shape, score_BI.device

    def run(self, begin: int, end: int) -> Tensor:
        part_CB = self.score_BI[:, begin:end].t().float()
        return part_CB.clone(memory_format=torch.contiguous_format)

    def of(self, item_B: Tensor) -> Tensor:
        return self.score_BI.gather(1, item_B[:, None] - 1)[:, 0].float()


class Overwrites:
    """Scores known beforehand: written over those of a run.

    Args:
        runs: first items of the runs, from 0.
        item_S: item ids, from 1.
        user_S: columns.
        value_S: the scores; one cell given twice has one score.
    """

    def __init__(self, runs: range, item_S: Tensor, user_S: Tensor, value_S: Tensor) -> None:
        order_S = item_S.argsort()
        self.row_S, self.user_S, self.value_S = item_S[order_S] - 1, user_S[order_S], value_S[order_S]
        self.bound = bounds(self.row_S, runs)

    def write(self, score_CB: Tensor, begin: int) -> None:
        """Into the run that starts with item ``begin`` (from 0)."""
        here = self.bound[begin]
        score_CB[self.row_S[here] - begin, self.user_S[here]] = self.value_S[here]


def bounds(item_S: Tensor, runs: range) -> dict[int, slice]:
    """Which of some items (from 0, ascending) stand in each run, by the run's first item."""
    ends = torch.searchsorted(item_S, torch.tensor([*runs, runs.stop], device=item_S.device)).tolist()
    return {begin: slice(*pair) for begin, pair in zip(runs, pairwise(ends), strict=True)}

"""The scores of a catalogue, one chunk of items at a time, so that no array of users x items has to exist.

Kinds of scores: ``DigitScores`` (``nn/digit_scores.py``), :class:`DotScores`, :class:`SparseScores`,
:class:`DenseScores`, :class:`SumScores`, :class:`ChosenScores`.

Legend: B users, I items, C items of a chunk, D width, S cells (an item and a user).
"""

from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

PART = 1 << 18
"""Scores of one matrix product on a CPU: with more, a product of few columns (D) is bound by writing them."""


class Scores(Protocol):
    """All scores of some users."""

    users: int
    items: int
    device: torch.device
    logprobs: bool
    """Whether they are log-probabilities, so that a loss needs no sum over the catalogue."""

    def chunk(self, begin: int, end: int) -> Tensor:
        """``score_CB`` of the items begin (from 0) to end, float32; the caller may write to it."""

    def of(self, item_B: Tensor) -> Tensor:
        """``score_B``: the score of one item (ids from 1) per user."""


class DotScores:
    """Dot products of item and user vectors. The rounding of a matrix product depends on its shape."""

    logprobs = False

    def __init__(self, item_ID: Tensor, query_BD: Tensor) -> None:
        self.item_ID, self.query_DB = item_ID, query_BD.t().to(item_ID.dtype)  # mm(out=...) knows no autocast
        self.users, self.items, self.device = len(query_BD), len(item_ID), query_BD.device

    def chunk(self, begin: int, end: int) -> Tensor:
        item_CD = self.item_ID[begin:end]
        if self.device.type != "cpu" or self.users * len(item_CD) <= PART or item_CD.dtype != torch.float32:
            return (item_CD @ self.query_DB).float()
        score_CB, rows = torch.empty(len(item_CD), self.users), -(-PART // self.users)
        for item_cD, score_cB in zip(item_CD.split(rows), score_CB.split(rows), strict=True):
            torch.mm(item_cD, self.query_DB, out=score_cB)
        return score_CB

    def of(self, item_B: Tensor) -> Tensor:
        return (self.item_ID[item_B - 1] * self.query_DB.t()).sum(1).float()


class SparseScores:
    """Scores that are 0 except for S cells (:class:`genrec_cli.models.base.SparseScorer`)."""

    logprobs = False

    @classmethod
    def among(cls, cell_S: Tensor, score_S: Tensor, users: int, item_C: Tensor) -> "SparseScores":
        """The scores of some items (from 0, ascending) only."""
        item_S = cell_S // users
        place_S = torch.searchsorted(item_C, item_S).clamp_max(len(item_C) - 1)
        found_S = item_C[place_S] == item_S
        return cls((place_S * users + cell_S % users)[found_S], score_S[found_S], users, len(item_C))

    def __init__(self, cell_S: Tensor, score_S: Tensor, users: int, items: int) -> None:
        self.cell_S, self.score_S = cell_S, score_S
        self.users, self.items, self.device = users, items, score_S.device

    def chunk(self, begin: int, end: int) -> Tensor:
        first, last = begin * self.users, min(end, self.items) * self.users
        low, high = torch.searchsorted(self.cell_S, torch.tensor([first, last], device=self.device)).tolist()
        score_X = torch.zeros(last - first, device=self.device)
        score_X[self.cell_S[low:high] - first] = self.score_S[low:high]
        return score_X.view(-1, self.users)

    def of(self, item_B: Tensor) -> Tensor:
        cell_B = (item_B - 1) * self.users + torch.arange(self.users, device=self.device)
        place_B = torch.searchsorted(self.cell_S, cell_B)
        cell_S, score_S = F.pad(self.cell_S, (0, 1), value=-1), F.pad(self.score_S, (0, 1))
        return score_S[place_B].where(cell_S[place_B] == cell_B, 0.0)


class DenseScores:
    """Scores as one array, ``score_BI``."""

    logprobs = False

    def __init__(self, score_BI: Tensor) -> None:
        self.score_BI = score_BI
        (self.users, self.items), self.device = score_BI.shape, score_BI.device

    def chunk(self, begin: int, end: int) -> Tensor:
        return self.score_BI[:, begin:end].t().float().clone(memory_format=torch.contiguous_format)

    def of(self, item_B: Tensor) -> Tensor:
        return self.score_BI.gather(1, item_B[:, None] - 1)[:, 0].float()


class SumScores:
    """The sums of two kinds of scores of the same users and items."""

    logprobs = False

    def __init__(self, first: Scores, second: Scores) -> None:
        self.first, self.second = first, second
        self.users, self.items, self.device = first.users, first.items, first.device

    def chunk(self, begin: int, end: int) -> Tensor:
        return self.first.chunk(begin, end) + self.second.chunk(begin, end)

    def of(self, item_B: Tensor) -> Tensor:
        return self.first.of(item_B) + self.second.of(item_B)


class ChosenScores:
    """The scores of some items ``chosen_C`` (from 0, ascending) among those of the catalogue."""

    BLOCK = 1 << 14
    """Items of the catalogue that are scored at a time."""

    def __init__(self, scores: Scores, chosen_C: Tensor) -> None:
        self.scores, self.chosen_C, self.items = scores, chosen_C, len(chosen_C)
        self.users, self.device, self.logprobs = scores.users, scores.device, scores.logprobs

    def chunk(self, begin: int, end: int) -> Tensor:
        item_C = self.chosen_C[begin:end]
        found = []
        for start in range(0, self.scores.items, self.BLOCK):
            here_C = item_C[(item_C >= start) & (item_C < start + self.BLOCK)]
            if len(here_C):
                found.append(self.scores.chunk(start, min(start + self.BLOCK, self.scores.items))[here_C - start])
        return torch.cat(found) if found else torch.zeros(0, self.users, device=self.device)

    def of(self, item_B: Tensor) -> Tensor:
        return self.scores.of(self.chosen_C[item_B - 1] + 1)


class Cells:
    """S entries of the scores, by chunk: ``item_S`` are items from 0, ascending; ``chunks`` are first items."""

    def __init__(self, item_S: Tensor, user_S: Tensor, chunks: range) -> None:
        self.item_S, self.user_S, self.bound = item_S, user_S, bounds(item_S, chunks)

    def of(self, begin: int) -> tuple[slice, tuple[Tensor, Tensor]]:
        """The entries in the chunk that starts with item ``begin``, and their place in it."""
        part = self.bound[begin]
        return part, (self.item_S[part] - begin, self.user_S[part])


def bounds(item_S: Tensor, chunks: range) -> dict[int, slice]:
    """The first item of each chunk -> the items (from 0, ascending) that belong to it."""
    ends = torch.searchsorted(item_S, torch.tensor([*chunks, chunks.stop], device=item_S.device)).tolist()
    return {begin: slice(*pair) for begin, pair in zip(chunks, pairwise(ends), strict=True)}

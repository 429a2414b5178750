"""Interaction histories: flat items with offsets, training rows, and packed batches of them.

Nothing here loops over users: a batch is a few gathers on flat arrays, whatever its size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from genrec_cli.data.batch import Batch
from genrec_cli.data.bucketing import padding_rows
from genrec_cli.data.histories import CHUNK, read_histories
from genrec_cli.data.shuffle import Order
from genrec_cli.nn.packing import Packing

Windows = Literal["sliding", "recent", "each"]
Split = Literal["valid", "test"]

BLOCK = 64
"""Users between two entries of the index of rows: small enough to search, large enough to need no memory."""


@dataclass(frozen=True)
class Histories:
    """All users' items, one after the other, where they lie on disk. Row u of each array is user u + 1."""

    item: np.ndarray
    """Item ids from 1, by user and then time."""
    offset: np.ndarray
    """Where each user's items begin."""
    length: np.ndarray
    train_end: np.ndarray
    """The first so many items of a user are for training."""
    valid_at: np.ndarray
    """Position of the validation target among the user's items, -1: none."""
    test_at: np.ndarray
    time: np.ndarray | None = None
    """When each item was taken, in seconds since 1970; None where nobody knows."""
    strangers: bool = False
    """Whether these are not the users of the data, so that no model knows them."""

    @classmethod
    def read(cls, folder: Path, *, times: bool = False) -> "Histories":
        """From a data artifact; its files are mapped into memory, not loaded. ``times``: with those, if it has any."""
        item, user, time = read_histories(folder)
        places = (user[name] for name in ("offset", "length", "train_end", "valid_at", "test_at"))
        return cls(item, *places, time=time if times else None)

    def users_of(self, row: np.ndarray) -> torch.Tensor:
        """``user_B`` of some histories: their rows of the user table, or -1."""
        return torch.from_numpy(np.full_like(row, -1) if self.strangers else row)

    def times_of(self, flat: np.ndarray) -> torch.Tensor | None:
        """``time_N`` of items by their places."""
        return None if self.time is None else torch.from_numpy(self.time[flat].astype(np.int64))

    @property
    def users(self) -> int:
        return len(self.offset)

    def targets(self, split: Split, *, sample: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Users (rows) that have a target in a split, and its position among their items.

        Args:
            sample: at most so many users, drawn by the seed, in the order in which they are drawn.
        """
        at = self.valid_at if split == "valid" else self.test_at
        user = np.flatnonzero(at > 0) if sample is None else drawn(at, 1, sample, seed)
        return user, at[user].astype(np.int64)


def drawn(value_U: np.ndarray, least: int, sample: int, seed: int) -> np.ndarray:
    """Rows of users with a value of at least ``least``: all of them, or ``sample`` in a random order.

    Goes through the users chunk by chunk and keeps the sample alone.
    """
    chunks = range(0, len(value_U), CHUNK)
    ends = np.cumsum([0, *(np.count_nonzero(value_U[at : at + CHUNK] >= least) for at in chunks)])
    if sample >= ends[-1]:
        return np.flatnonzero(value_U >= least)
    rank = Order(int(ends[-1]), seed)[:sample]
    user = np.empty(sample, np.int64)
    for number in np.unique(chunk_S := np.searchsorted(ends, rank, side="right") - 1).tolist():
        here = chunk_S == number
        at = chunks[number]
        user[here] = at + np.flatnonzero(value_U[at : at + CHUNK] >= least)[rank[here] - ends[number]]
    return user


@dataclass(frozen=True)
class Rows:
    """Training rows: a stretch of items, each but the last predicting its successor.

    No list of the rows exists, only how many there are before each block of users; what a row reads is found
    when it is asked for. First come the first rows of all users, then the later rows, each by user.
    """

    max_length: int
    windows: Windows
    stride: int
    first_before: np.ndarray
    """First rows of the users before each block, and their number in all."""
    later_before: np.ndarray
    """The same for later rows."""

    @classmethod
    def of(cls, histories: Histories, *, max_length: int, windows: Windows, stride: int = 1) -> "Rows":
        """Rows of the training part.

        ``sliding``: the first window of at most ``max_length + 1`` items gives all its targets, each later one
        its last ``stride`` targets (RPG's: 1); ``recent`` (SASRec's): the last ``max_length + 1`` items of each
        user, and nothing before them; ``each`` (TIGER's): a row of its own for every item but the first, its
        history the last ``max_length`` items before it.
        """
        stride = min(stride, max_length)
        blocks = -(-histories.users // BLOCK)
        first, later = np.zeros(blocks + 1, np.int64), np.zeros(blocks + 1, np.int64)
        for at in range(0, histories.users, CHUNK):
            end_U = histories.train_end[at : at + CHUNK].astype(np.int64)
            edges, place = np.arange(0, len(end_U), BLOCK), at // BLOCK + 1
            first[place : place + len(edges)] = np.add.reduceat(_first(end_U, windows), edges)
            later[place : place + len(edges)] = np.add.reduceat(_later(end_U, max_length, stride), edges)
        return cls(max_length, windows, stride, first.cumsum(), later.cumsum() * (windows == "sliding"))

    def __len__(self) -> int:
        return int(self.first_before[-1] + self.later_before[-1])

    def order(self, seed: int, epoch: int) -> Order:
        """The order of an epoch; it depends on nothing but these two numbers, so resuming needs no state."""
        return Order(len(self), [seed, epoch])

    def spans(self, histories: Histories, rows: np.ndarray) -> "Spans":
        """Where rows lie in the histories."""
        firsts = self.first_before[-1]
        first_R = rows < firsts
        rank_R = np.where(first_R, rows, rows - firsts)
        block_R = np.empty_like(rank_R)
        for chosen_R, before in ((first_R, self.first_before), (~first_R, self.later_before)):
            block_R[chosen_R] = np.searchsorted(before, rank_R[chosen_R], side="right") - 1
            rank_R[chosen_R] -= before[block_R[chosen_R]]
        user_RB = block_R[:, None] * BLOCK + np.arange(BLOCK)
        end_RB = np.where(user_RB < histories.users, histories.train_end[user_RB.clip(max=histories.users - 1)], 0)
        count_RB = np.where(
            first_R[:, None], _first(end_RB, self.windows), _later(end_RB, self.max_length, self.stride)
        )
        upto_RB = count_RB.cumsum(1)
        own_R = (np.arange(len(rows)), (upto_RB <= rank_R[:, None]).sum(1))
        user_R, pairs_R = user_RB[own_R], end_RB[own_R].astype(np.int64) - 1
        number_R = rank_R - (upto_RB - count_RB)[own_R] + 1  # among the user's first, or later, rows, from 1
        offset_R = histories.offset[user_R].astype(np.int64)
        if self.windows == "each":
            kept_R = np.minimum(number_R, self.max_length)
            return Spans(user_R, offset_R + number_R - kept_R, kept_R, kept_R - 1)
        skipped_R = np.maximum(pairs_R - self.max_length, 0)
        if self.windows == "recent":
            return Spans(user_R, offset_R + skipped_R, np.minimum(pairs_R, self.max_length), np.zeros_like(pairs_R))
        shift_R = np.where(first_R, 0, np.minimum(number_R * self.stride, skipped_R))
        learned_R = shift_R - (number_R - 1) * self.stride  # targets that no earlier row has
        learn_from_R = np.where(first_R, 0, self.max_length - learned_R)
        return Spans(user_R, offset_R + shift_R, np.minimum(pairs_R, self.max_length), learn_from_R)

    def batch(self, histories: Histories, rows: np.ndarray, *, bucketed: bool = False) -> Batch:
        """The packed training batch of some rows; see :meth:`batch_of`."""
        return self.batch_of(histories, self.spans(histories, rows), bucketed=bucketed)

    def batch_of(self, histories: Histories, spans: "Spans", *, bucketed: bool = False) -> Batch:
        """A packed training batch on the host, in the order of length (it pads least).

        ``bucketed`` adds padding rows to it (``data/bucketing.py``).
        """
        spans = spans.take(np.argsort(spans.length, kind="stable"))
        user, start, length = spans.user, spans.start, spans.length
        flat = np.repeat(start - (length.cumsum() - length), length) + np.arange(length.sum())
        learned = flat >= np.repeat(start + spans.learn_from, length)
        item = histories.item[flat].astype(np.int64)
        target = np.where(learned, histories.item[flat + 1], 0).astype(np.int64)
        longest = None
        if bucketed:
            extra = padding_rows(length, int(learned.sum()), self.max_length)
            length, longest = np.concatenate([length, extra.length_F]), extra.longest
            learned = np.concatenate([learned, extra.learned])
            item = np.concatenate([item, np.ones(len(extra.learned), np.int64)])
            target = np.concatenate([target, np.zeros(len(extra.learned), np.int64)])
            user = np.concatenate([user, np.full_like(extra.length_F, -1)])
            flat = np.concatenate([flat, np.zeros(len(extra.learned), np.int64)])
        return Batch(
            item_N=torch.from_numpy(item),
            packing=Packing.of(length, longest),
            user_B=torch.from_numpy(user),
            target_N=torch.from_numpy(target),
            learn_M=torch.from_numpy(np.flatnonzero(learned)),
            time_N=histories.times_of(flat),
        )


@dataclass(frozen=True)
class Spans:
    """Rows as stretches of the flat array of items, an entry per row."""

    user: np.ndarray
    """Row of the user table."""
    start: np.ndarray
    """Place of the first item that is read."""
    length: np.ndarray
    """How many items are read."""
    learn_from: np.ndarray
    """From which position on the next item is a target."""

    def take(self, chosen: np.ndarray) -> "Spans":
        """Some of the rows."""
        return Spans(self.user[chosen], self.start[chosen], self.length[chosen], self.learn_from[chosen])


def _first(end_U: np.ndarray, windows: Windows) -> np.ndarray:
    """1 for users that have a pair to learn from; with ``each``, all their pairs."""
    pairs_U = np.maximum(end_U - 1, 0)
    return (pairs_U if windows == "each" else np.minimum(pairs_U, 1)).astype(np.int64)


def _later(end_U: np.ndarray, max_length: int, stride: int) -> np.ndarray:
    """Windows of each user beyond the first."""
    return -(-np.maximum(end_U - 1 - max_length, 0) // stride)


@dataclass(frozen=True)
class EvalBatch:
    """Histories to continue, and the item that really came next (0: unknown)."""

    batch: Batch
    target_B: torch.Tensor
    row_B: torch.Tensor
    """Row of each history among those that were given."""
    seen: tuple[torch.Tensor, torch.Tensor] | None = None
    """What is to be left out of the ranking: all items that the users had before, also those that the model does not
    read, and the row of each one's user. None: nothing is left out."""

    def to(self, device: torch.device) -> "EvalBatch":
        """The same on a device."""
        seen = self.seen and (self.seen[0].to(device), self.seen[1].to(device))
        batch, target_B = self.batch.to(device), self.target_B.to(device, non_blocking=True)
        return EvalBatch(batch, target_B, self.row_B.to(device), seen)


def eval_batches(
    histories: Histories, user: np.ndarray, at: np.ndarray, *, max_length: int, batch_size: int, first: int = 0,
    every: int = 1, exclude_seen: bool = False,
) -> Iterator[EvalBatch]:  # fmt: skip
    """Packed histories of users before a position, in batches of similar length.

    Args:
        user: rows of the user table.
        at: position of the target; the history is the last ``max_length`` items before it. ``at`` equal to
            the user's length asks for what comes next after everything known (target 0).
        first, every: batch number ``first`` and every so many-th from there, for processes that take turns.
        exclude_seen: whether what users had before is to be left out of the ranking.
    """
    length = np.minimum(at, max_length)
    order = np.argsort(length, kind="stable")
    for begin in range(first * batch_size, len(order), every * batch_size):
        chosen = order[begin : begin + batch_size]
        users, ends = user[chosen], histories.offset[user[chosen]] + at[chosen]
        packing = Packing.of(length[chosen])
        flat = np.repeat(ends - length[chosen], length[chosen]) + packing.position_N.numpy()
        seen = _before(histories, users, at[chosen]) if exclude_seen else None
        known = at[chosen] < histories.length[users]
        target = np.where(known, histories.item[np.minimum(ends, len(histories.item) - 1)], 0)
        item_N = torch.from_numpy(histories.item[flat].astype(np.int64))
        batch = Batch(item_N, packing, histories.users_of(users), time_N=histories.times_of(flat))
        yield EvalBatch(batch, torch.from_numpy(target.astype(np.int64)), torch.from_numpy(users), seen)


def _before(histories: Histories, user_B: np.ndarray, at_B: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """All items of users before a position, and the row of the batch that each belongs to."""
    row = np.repeat(np.arange(len(at_B)), at_B)
    start_B = histories.offset[user_B].astype(np.int64) - (at_B.cumsum() - at_B)
    item = histories.item[start_B[row] + np.arange(len(row))]
    return torch.from_numpy(item.astype(np.int64)), torch.from_numpy(row)

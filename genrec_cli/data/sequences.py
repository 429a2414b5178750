"""Interaction histories as flat arrays with offsets, training rows, and packed batches, without loops over users."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from genrec_cli.data.batch import Batch
from genrec_cli.data.bucketing import padding_rows
from genrec_cli.data.histories import CHUNK, ITEM, USER, read_histories
from genrec_cli.data.shuffle import Order
from genrec_cli.nn.packing import Packing

Windows = Literal["sliding", "recent", "each"]
Split = Literal["valid", "test"]

BLOCK = 64
"""Users per entry of the index of rows: a compromise between search time and memory."""


@dataclass(frozen=True)
class Histories:
    """The items of all users in flat (memory-mapped) arrays. Row u of the other arrays is user u + 1."""

    item: np.ndarray
    """Item ids from 1, by user and then time."""
    offset: np.ndarray
    """First item of each user."""
    length: np.ndarray
    train_end: np.ndarray
    """Count of the first items of each user that are for training."""
    valid_at: np.ndarray
    """Position of the validation target among the items of the user; -1: none."""
    test_at: np.ndarray
    time: np.ndarray | None = None
    """Time of each interaction, in seconds since 1970; None without times."""
    unknown_users: bool = False
    """Whether these are not users of the data: their row in ``user_B`` is -1."""

    @classmethod
    def read(cls, folder: Path, *, times: bool = False) -> "Histories":
        """The memory-mapped histories of a data artifact; with ``times``, those that it has."""
        item, user, time = read_histories(folder)
        columns: dict[str, Any] = {name: user[name] for name in USER.names or ()}
        return cls(item=item, time=time if times else None, **columns)

    @classmethod
    def of_unknown_users(cls, items: Sequence[np.ndarray]) -> "Histories":
        """Histories of unknown users, each an array of item ids, without targets."""
        length = np.array([len(history) for history in items], dtype=np.int64)
        item = np.concatenate([np.zeros(0, ITEM), *items]).astype(ITEM)
        no_target = np.full_like(length, -1)
        return cls(item, np.cumsum(length) - length, length, length, no_target, no_target, unknown_users=True)

    def users_of(self, row: np.ndarray) -> torch.Tensor:
        """``user_B`` of histories: rows of the user table, or -1."""
        return torch.from_numpy(np.full_like(row, -1) if self.unknown_users else row)

    def times_of(self, flat: np.ndarray) -> torch.Tensor | None:
        """``time_N`` of items by their places in the flat arrays."""
        return None if self.time is None else torch.from_numpy(self.time[flat].astype(np.int64))

    @property
    def users(self) -> int:
        return len(self.offset)

    def targets(self, split: Split, *, sample: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Users (rows) with a target in a split, and its position among their items.

        ``sample``: at most this count of users, in a random order that the seed determines.
        """
        at = self.valid_at if split == "valid" else self.test_at
        user = np.flatnonzero(at > 0) if sample is None else drawn(at, 1, sample, seed)
        return user, at[user].astype(np.int64)


def drawn(value_U: np.ndarray, min_value: int, sample: int, seed: int) -> np.ndarray:
    """Rows of users with a value of at least ``min_value``: all of them, or ``sample`` in a random order.

    Processes the users chunk by chunk, so the memory depends on the sample only.
    """
    starts = range(0, len(value_U), CHUNK)
    ends = np.cumsum([0, *(np.count_nonzero(value_U[start : start + CHUNK] >= min_value) for start in starts)])
    if sample >= ends[-1]:
        return np.flatnonzero(value_U >= min_value)
    rank = Order(int(ends[-1]), seed)[:sample]
    user = np.empty(sample, np.int64)
    for chunk in np.unique(chunk_S := np.searchsorted(ends, rank, side="right") - 1).tolist():
        inside, start = chunk_S == chunk, starts[chunk]
        user[inside] = start + np.flatnonzero(value_U[start : start + CHUNK] >= min_value)[rank[inside] - ends[chunk]]
    return user


@dataclass(frozen=True)
class Rows:
    """Training rows: consecutive items, with the next item as the target of each position.

    An index holds only the counts of rows before each block of users; :meth:`spans` computes the place of a row. The
    first rows of all users come first, then the later rows, each by user.
    """

    max_length: int
    windows: Windows
    stride: int
    first_before: np.ndarray
    """First rows of the users before each block, and their total count."""
    later_before: np.ndarray
    """The same for later rows."""

    @classmethod
    def of(cls, histories: Histories, *, max_length: int, windows: Windows, stride: int = 1) -> "Rows":
        """Rows of the training part.

        ``sliding``: all targets of the first window of at most ``max_length + 1`` items, and the last ``stride``
        targets of each later one (RPG: 1). ``recent`` (SASRec): only the last ``max_length + 1`` items of each user.
        ``each`` (TIGER): one row per item except the first, with the ``max_length`` items before it as history.
        """
        stride = min(stride, max_length)
        blocks = -(-histories.users // BLOCK)
        first, later = np.zeros(blocks + 1, np.int64), np.zeros(blocks + 1, np.int64)
        for start in range(0, histories.users, CHUNK):
            end_U = histories.train_end[start : start + CHUNK].astype(np.int64)
            edges, place = np.arange(0, len(end_U), BLOCK), start // BLOCK + 1
            first[place : place + len(edges)] = np.add.reduceat(_first(end_U, windows), edges)
            later[place : place + len(edges)] = np.add.reduceat(_later(end_U, max_length, stride), edges)
        return cls(max_length, windows, stride, first.cumsum(), later.cumsum() * (windows == "sliding"))

    def __len__(self) -> int:
        return int(self.first_before[-1] + self.later_before[-1])

    def order(self, seed: int, epoch: int) -> Order:
        """The order of an epoch; it depends on the two arguments only, so resuming needs no state."""
        return Order(len(self), [seed, epoch])

    def spans(self, histories: Histories, rows: np.ndarray) -> "Spans":
        """The places of rows in the histories."""
        firsts = self.first_before[-1]
        first_R = rows < firsts
        rank_R = np.where(first_R, rows, rows - firsts)
        block_R = np.empty_like(rank_R)
        for chosen_R, before in ((first_R, self.first_before), (~first_R, self.later_before)):
            block_R[chosen_R] = np.searchsorted(before, rank_R[chosen_R], side="right") - 1
            rank_R[chosen_R] -= before[block_R[chosen_R]]
        user_RB = block_R[:, None] * BLOCK + np.arange(BLOCK)
        end_RB = np.where(user_RB < histories.users, histories.train_end[user_RB.clip(max=histories.users - 1)], 0)
        later_RB = _later(end_RB, self.max_length, self.stride)
        count_RB = np.where(first_R[:, None], _first(end_RB, self.windows), later_RB)
        total_RB = count_RB.cumsum(1)
        place_R = (np.arange(len(rows)), (total_RB <= rank_R[:, None]).sum(1))
        user_R, pairs_R = user_RB[place_R], end_RB[place_R].astype(np.int64) - 1
        index_R = rank_R - (total_RB - count_RB)[place_R] + 1  # among the first, or later, rows of the user, from 1
        offset_R = histories.offset[user_R].astype(np.int64)
        if self.windows == "each":
            length_R = np.minimum(index_R, self.max_length)
            return Spans(user_R, offset_R + index_R - length_R, length_R, length_R - 1)
        length_R, skipped_R = np.minimum(pairs_R, self.max_length), np.maximum(pairs_R - self.max_length, 0)
        if self.windows == "recent":
            return Spans(user_R, offset_R + skipped_R, length_R, np.zeros_like(pairs_R))
        shift_R = np.where(first_R, 0, np.minimum(index_R * self.stride, skipped_R))
        learned_R = shift_R - (index_R - 1) * self.stride  # targets that no earlier row has
        return Spans(user_R, offset_R + shift_R, length_R, np.where(first_R, 0, self.max_length - learned_R))

    def batch(self, histories: Histories, rows: np.ndarray, *, bucketed: bool = False) -> Batch:
        """The packed training batch of rows; see :meth:`batch_of`."""
        return self.batch_of(histories, self.spans(histories, rows), bucketed=bucketed)

    def batch_of(self, histories: Histories, spans: "Spans", *, bucketed: bool = False) -> Batch:
        """A packed training batch on the host, sorted by length; ``bucketed`` adds padding rows."""
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
            learned, count = np.concatenate([learned, extra.learned]), (0, len(extra.learned))
            item, target, flat = np.pad(item, count, constant_values=1), np.pad(target, count), np.pad(flat, count)
            user = np.pad(user, (0, len(extra.length_F)), constant_values=-1)
        return Batch(
            item_N=torch.from_numpy(item),
            packing=Packing.of(length, longest),
            user_B=torch.from_numpy(user),
            target_N=torch.from_numpy(target),
            learn_M=torch.from_numpy(np.flatnonzero(learned)),
            time_N=histories.times_of(flat),
            next_time_N=histories.times_of(flat + 1),  # each row ends before the last item of its user
        )


@dataclass(frozen=True)
class Spans:
    """The places of rows in the flat array of items, one entry per row."""

    user: np.ndarray
    """Row of the user table."""
    start: np.ndarray
    """Place of the first item."""
    length: np.ndarray
    """Count of items that the model reads."""
    learn_from: np.ndarray
    """First position with a target."""

    def take(self, chosen: np.ndarray) -> "Spans":
        """Some of the rows."""
        return Spans(self.user[chosen], self.start[chosen], self.length[chosen], self.learn_from[chosen])


def _first(end_U: np.ndarray, windows: Windows) -> np.ndarray:
    """1 for users with at least one training target; with ``each``, the count of their targets."""
    pairs_U = np.maximum(end_U - 1, 0)
    return (pairs_U if windows == "each" else np.minimum(pairs_U, 1)).astype(np.int64)


def _later(end_U: np.ndarray, max_length: int, stride: int) -> np.ndarray:
    """Count of the later windows of each user."""
    return -(-np.maximum(end_U - 1 - max_length, 0) // stride)


@dataclass(frozen=True)
class EvalBatch:
    """Histories and their targets (0: unknown)."""

    batch: Batch
    target_B: torch.Tensor
    row_B: torch.Tensor
    """Row of the user table of each history."""
    seen: tuple[torch.Tensor, torch.Tensor] | None = None
    """Items to exclude from the ranking: all earlier items of the users, also beyond the maximum length of the model,
    and the row of the batch of each. None: no item is excluded."""

    def to(self, device: torch.device) -> "EvalBatch":
        """The same on a device."""
        seen = self.seen and (self.seen[0].to(device), self.seen[1].to(device))
        target_B = self.target_B.to(device, non_blocking=True)
        return EvalBatch(self.batch.to(device), target_B, self.row_B.to(device), seen)


def eval_batches(
    histories: Histories,
    user: np.ndarray,
    at: np.ndarray,
    *,
    max_length: int,
    batch_size: int,
    first: int = 0,
    every: int = 1,
    exclude_seen: bool = False,
) -> Iterator[EvalBatch]:
    """Packed histories of users before a position, in batches of similar length.

    Args:
        user: rows of the user table.
        at: position of the target; the history is the last ``max_length`` items before it. With the length of all
            items of the user, the target is unknown (0).
        first, every: the first batch and the step to the next one, to distribute batches over processes.
        exclude_seen: exclude the earlier items of the users from the ranking.
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
        after = np.where(np.repeat(known, length[chosen]), flat + 1, flat)
        times = {"time_N": histories.times_of(flat), "next_time_N": histories.times_of(after)}
        batch = Batch(item_N, packing, histories.users_of(users), **times)
        yield EvalBatch(batch, torch.from_numpy(target.astype(np.int64)), torch.from_numpy(users), seen)


def _before(histories: Histories, user_B: np.ndarray, at_B: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """All items of users before a position, and the row of the batch of each."""
    row = np.repeat(np.arange(len(at_B)), at_B)
    start_B = histories.offset[user_B].astype(np.int64) - (at_B.cumsum() - at_B)
    item = histories.item[start_B[row] + np.arange(len(row))]
    return torch.from_numpy(item.astype(np.int64)), torch.from_numpy(row)

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
from genrec_cli.data.schema import INTERACTIONS, USERS, read_table
from genrec_cli.nn.packing import Packing

Windows = Literal["sliding", "recent", "each"]
Split = Literal["valid", "test"]


@dataclass(frozen=True)
class Histories:
    """All users' items, one after the other. Row u of each array is user u + 1."""

    item: np.ndarray
    """Item ids from 1, by user and then time (uint32)."""
    offset: np.ndarray
    """Where each user's items begin (int64)."""
    length: np.ndarray
    train_end: np.ndarray
    """The first so many items of a user are for training."""
    valid_at: np.ndarray
    """Position of the validation target among the user's items, -1: none."""
    test_at: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> "Histories":
        """From a data artifact."""
        users = read_table(folder / "users.parquet", USERS, [n for n in USERS.names if n not in ("user", "raw_id")])
        item = read_table(folder / "interactions.parquet", INTERACTIONS, ["item"]).column("item").to_numpy()
        columns = {name: users.column(name).to_numpy().astype(np.int64) for name in users.column_names}
        return cls(item=item, **columns)

    @property
    def users(self) -> int:
        return len(self.offset)

    def targets(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Users (rows) that have a target in a split, and its position among their items."""
        at = self.valid_at if split == "valid" else self.test_at
        user = np.flatnonzero(at > 0)
        return user, at[user]


@dataclass(frozen=True)
class Rows:
    """Training rows: a stretch of items, each but the last predicting its successor.

    Row r reads ``length[r]`` items from ``start[r]``; positions from ``learn_from[r]`` on have a target.
    """

    start: np.ndarray
    length: np.ndarray
    learn_from: np.ndarray

    @classmethod
    def of(cls, histories: Histories, *, max_length: int, windows: Windows) -> "Rows":
        """Rows of the training part.

        ``sliding`` (RPG's): the first window of at most ``max_length + 1`` items gives all its targets, each
        later item is one row of its own whose last target alone counts; ``recent`` (SASRec's): the last
        ``max_length + 1`` items of each user, and nothing before them; ``each`` (TIGER's): a row of its own for
        every item but the first, its history the last ``max_length`` items before it.
        """
        user = np.flatnonzero(histories.train_end >= 2)
        start, pairs = histories.offset[user], histories.train_end[user] - 1
        if windows == "each":
            begin = np.repeat(start, pairs)
            length = np.arange(len(begin)) - np.repeat(np.cumsum(pairs) - pairs, pairs) + 1
            kept = np.minimum(length, max_length)
            return cls(begin + length - kept, kept, kept - 1)
        skipped = np.maximum(pairs - max_length, 0)
        if windows == "recent":
            return cls(start + skipped, pairs - skipped, np.zeros_like(start))
        first = cls(start, pairs - skipped, np.zeros_like(start))
        shift = np.arange(int(skipped.sum())) - np.repeat(np.cumsum(skipped) - skipped, skipped) + 1
        later = np.full_like(shift, max_length)
        return cls(
            np.concatenate([first.start, np.repeat(start, skipped) + shift]),
            np.concatenate([first.length, later]),
            np.concatenate([first.learn_from, later - 1]),
        )

    def __len__(self) -> int:
        return len(self.start)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The order of an epoch; it depends on nothing but these two numbers, so resuming needs no state."""
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def batch(self, histories: Histories, rows: np.ndarray) -> Batch:
        """The packed training batch of some rows, on the host, in the order of their length (it pads least)."""
        rows = rows[np.argsort(self.length[rows], kind="stable")]
        start, length = self.start[rows], self.length[rows]
        packing = Packing.of(length)
        position = packing.position_N.numpy()
        flat = np.repeat(start, length) + position
        learned = position >= np.repeat(self.learn_from[rows], length)
        target = np.where(learned, histories.item[flat + 1], 0)
        return Batch(
            item_N=torch.from_numpy(histories.item[flat].astype(np.int64)),
            packing=packing,
            user_B=torch.from_numpy(np.searchsorted(histories.offset, start, side="right") - 1),
            target_N=torch.from_numpy(target.astype(np.int64)),
            learn_M=torch.from_numpy(np.flatnonzero(learned)),
        )


@dataclass(frozen=True)
class EvalBatch:
    """Histories to continue, and the item that really came next (0: unknown)."""

    batch: Batch
    target_B: torch.Tensor


def eval_batches(
    histories: Histories, user: np.ndarray, at: np.ndarray, *, max_length: int, batch_size: int, first: int = 0,
    every: int = 1,
) -> Iterator[EvalBatch]:  # fmt: skip
    """Packed histories of users before a position, in batches of similar length.

    Args:
        user: rows of the user table.
        at: position of the target; the history is the last ``max_length`` items before it. ``at`` equal to
            the user's length asks for what comes next after everything known (target 0).
        first, every: batch number ``first`` and every so many-th from there, for processes that take turns.
    """
    length = np.minimum(at, max_length)
    order = np.argsort(length, kind="stable")
    for begin in range(first * batch_size, len(order), every * batch_size):
        chosen = order[begin : begin + batch_size]
        users, ends = user[chosen], histories.offset[user[chosen]] + at[chosen]
        packing = Packing.of(length[chosen])
        flat = np.repeat(ends - length[chosen], length[chosen]) + packing.position_N.numpy()
        known = at[chosen] < histories.length[users]
        target = np.where(known, histories.item[np.minimum(ends, len(histories.item) - 1)], 0)
        yield EvalBatch(
            Batch(torch.from_numpy(histories.item[flat].astype(np.int64)), packing, torch.from_numpy(users)),
            torch.from_numpy(target.astype(np.int64)),
        )

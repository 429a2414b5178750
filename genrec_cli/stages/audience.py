"""Who gets recommendations: known users, or given histories; and who has no usable history.

Users without a usable history (unknown users, histories without a known item) are counted. They get one fallback list,
or none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from genrec_cli import console
from genrec_cli.config import did_you_mean
from genrec_cli.data.names import Names
from genrec_cli.data.sequences import Histories
from genrec_cli.errors import DataError, UsageError

Fallback = Literal["skip", "popular", "transitions"]
FALLBACKS: tuple[Fallback, ...] = ("skip", "popular", "transitions")


@dataclass(frozen=True)
class Audience:
    """The users of one call of ``recommend``."""

    labels: list[str]
    """Raw user id of each row of ``histories``."""
    histories: Histories
    rows: np.ndarray
    """Rows of the histories that get lists of the model."""
    without: list[str]
    """Users without a usable history."""


def known_users(names: Names, histories: Histories, users: Sequence[str] | None, *, fallback: Fallback) -> Audience:
    """Users of the data by raw id; None: all. Raises DataError if all are unknown and there is no fallback."""
    if not histories.users:
        raise UsageError("An exported run holds no users.", hint="Give histories: --history FILE")
    if users is None:
        return Audience(names.user, histories, np.arange(histories.users), [])
    row_of = {raw: row for row, raw in enumerate(names.user)}
    wanted = dict.fromkeys(users)
    unknown = [raw for raw in wanted if raw not in row_of]
    if unknown:
        near = did_you_mean(unknown[0], names.user[:10_000])
        if len(unknown) == len(wanted) and fallback == "skip":
            hint = "For new histories: --history FILE; or --fallback popular"
            raise DataError(f"There is no user '{unknown[0]}' in the data.{near}", hint=hint)
        _report(unknown, "unknown", fallback, near)
    rows = np.array(sorted(row_of[raw] for raw in wanted if raw in row_of), dtype=np.int64)
    return Audience(names.user, histories, rows, unknown)


def given_histories(names: Names, histories: Mapping[str, list[str]], *, fallback: Fallback) -> Audience:
    """Given histories as item ids. Unknown items are left out, with a warning that counts them.

    Raises:
        DataError: no history holds a known item, and there is no fallback.
    """
    item_of = {raw: number for number, raw in enumerate(names.item, 1)}
    known = {user: [item_of[raw] for raw in items if raw in item_of] for user, items in histories.items()}
    unknown = [(raw, user) for user, items in histories.items() for raw in items if raw not in item_of]
    if unknown:
        first = "'{}' of '{}'".format(*unknown[0])
        console.warn(f"{len(unknown)} item(s) of the histories are not in the catalogue and are left out: {first}, ...")
    labels = [user for user, items in known.items() if items]
    empty = [user for user, items in known.items() if not items]
    if not labels and fallback == "skip":
        hint = f"Items are named like '{names.item[0]}'; --fallback popular    gives a list without histories"
        raise DataError("None of the histories holds an item of the catalogue.", hint=hint)
    if empty:
        _report(empty, "without a known item", fallback)
    given = Histories.of_unknown_users([np.array(known[user]) for user in labels])
    return Audience(labels, given, np.arange(len(labels)), empty)


def fallback_scores(kind: Fallback, train_count_I: np.ndarray, histories: Histories) -> np.ndarray:
    """``score_I`` of the list for users without a usable history.

    ``popular``: training interactions of each item. ``transitions``: training histories that begin with the item, since
    the next item of an empty history is its first.
    """
    if kind == "popular":
        return train_count_I
    if not histories.users:
        raise UsageError("An exported run holds no histories to count transitions in.", hint="--fallback popular")
    first = histories.item[np.asarray(histories.offset)[np.asarray(histories.train_end) > 0]]
    return np.bincount(first.astype(np.int64) - 1, minlength=len(train_count_I))


def best(score_I: np.ndarray, k: int, candidates: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The k best items (ids from 1) with their scores; of equal scores the lowest id first."""
    rows = np.arange(len(score_I)) if candidates is None else candidates
    chosen = rows[np.argsort(-score_I[rows].astype(np.float64), kind="stable")[:k]]
    return chosen + 1, score_I[chosen].astype(np.float32)


def _report(users: Sequence[str], why: str, fallback: Fallback, more: str = "") -> None:
    what = "get no recommendations" if fallback == "skip" else f"get the list '{fallback}'"
    console.warn(f"{len(users):,} user(s) {why} {what}; the first: '{users[0]}'.{more}")

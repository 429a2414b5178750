"""Which of a user's interactions train, validate and test.

Leave-one-out: the last is the test target, the one before it the validation target; a user with fewer than
three is for training only. By time: everything before ``valid_from`` trains; the target of a period is a
user's first interaction in it, if there is at least one earlier interaction of theirs. The history of a
target is always everything before it, so a test history holds the validation period.
"""

from datetime import UTC, datetime

import narwhals as nw
import polars as pl

from genrec_cli.data.engines import Engine
from genrec_cli.data.histories import POSITIONS
from genrec_cli.errors import ConfigError, DataError

DAY = 86_400
Moment = float | str
"""A share of the interactions in order of time, between 0 and 1, or an ISO 8601 date (UTC)."""


def leave_one_out(engine: Engine, interactions: nw.LazyFrame) -> pl.DataFrame:
    """One row a user: ``user, offset, length, train_end, valid_at, test_at``; see the users' schema.

    Args:
        interactions: ``user`` (from 1, every id there), ``time``.
    """
    long = pl.col("length") >= 3
    return _users(engine, interactions).with_columns(
        train_end=pl.when(long).then(pl.col("length") - 2).otherwise("length"),
        valid_at=pl.when(long).then(pl.col("length") - 2).otherwise(-1),
        test_at=pl.when(long).then(pl.col("length") - 1).otherwise(-1),
    )


def by_time(engine: Engine, interactions: nw.LazyFrame, valid_from: int, test_from: int) -> pl.DataFrame:
    """The same for a split at two times in seconds.

    Raises:
        DataError: nothing is left to train on, or a period has no target.
    """
    before = {
        name: (nw.col("time") < moment).cast(nw.Int64)
        for name, moment in (("train_end", valid_from), ("test_at", test_from))
    }
    users = _users(engine, interactions.with_columns(**before), *before)
    first_valid, first_test = pl.col("train_end"), pl.col("test_at")
    has_valid = (first_valid >= 1) & (first_valid < first_test)
    has_test = (first_test >= 1) & (first_test < pl.col("length"))
    users = users.with_columns(
        valid_at=pl.when(has_valid).then(first_valid).otherwise(-1),
        test_at=pl.when(has_test).then(first_test).otherwise(-1),
    ).select("user", "offset", "length", "train_end", "valid_at", "test_at")
    counts = {
        "training interaction": users["train_end"].sum(),
        "validation target": (users["valid_at"] >= 0).sum(),
        "test target": (users["test_at"] >= 0).sum(),
    }
    for what, count in counts.items():
        if not count:
            times = nw.col("time")
            ends = engine.collect(interactions.select(first=times.min(), last=times.max()))
            raise DataError(
                f"The split at {date_of(valid_from)} and {date_of(test_from)} leaves no {what}; the times run "
                f"from {date_of(ends['first'].item())} to {date_of(ends['last'].item())}.",
                hint="Choose others with --valid-from and --test-from (a share or a date)",
            )
    return users


def seconds_of(engine: Engine, moment: Moment, interactions: nw.LazyFrame, option: str) -> int:
    """The time in seconds of a share of the interactions or of a date.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(moment, str):
        try:
            date = datetime.fromisoformat(moment)
            return int((date if date.tzinfo is None else date.astimezone(UTC)).replace(tzinfo=UTC).timestamp())
        except (ValueError, OverflowError):  # no date, or none between the years 1 and 9999 in UTC
            raise ConfigError(f"{option}: '{moment}' is neither a share nor a date like 2014-01-31.") from None
    if not 0 < moment < 1:
        raise ConfigError(f"{option}: a share lies between 0 and 1, and {moment} does not.")
    times = interactions.select("time", day=nw.col("time") // DAY)
    days = _counts(engine, times, "day")
    place = int(moment * days["n"].sum())
    day, skipped = _at(days, place)
    return _at(_counts(engine, times.filter(nw.col("day") == day), "time"), place - skipped)[0]


def times_are_positions(engine: Engine, log: nw.LazyFrame) -> bool:
    """Whether times are mere positions: they count each user's interactions from 0 or 1.

    Args:
        log: ``user, time`` as read, before any filter.
    """
    starts = engine.collect(log.group_by("user").agg(nw.col("time").min()))["time"]
    return bool(starts.is_in([0, 1]).mean() >= POSITIONS)


def _users(engine: Engine, interactions: nw.LazyFrame, *sums: str) -> pl.DataFrame:
    """``user, offset, length`` of rows that stand by user, and sums of columns."""
    counts = interactions.group_by("user").agg(nw.len().alias("length"), *(nw.col(name).sum() for name in sums))
    users = engine.collect(counts).cast(pl.Int64).sort("user")
    return users.with_columns(offset=pl.col("length").cum_sum() - pl.col("length")).select(
        "user", "offset", "length", *sums
    )


def _counts(engine: Engine, rows: nw.LazyFrame, name: str) -> pl.DataFrame:
    return engine.collect(rows.group_by(name).agg(nw.len().alias("n"))).cast(pl.Int64).sort(name)


def _at(counts: pl.DataFrame, place: int) -> tuple[int, int]:
    """The value that stands at a place when every value is repeated ``n`` times, and the rows before the value."""
    ends = counts["n"].cum_sum()
    found = int(ends.search_sorted(place, side="right"))
    return counts.item(found, 0), ends[found] - counts.item(found, "n")


def date_of(seconds: int) -> str:
    """The day of a time, in UTC."""
    return str(datetime.fromtimestamp(seconds, UTC).date())

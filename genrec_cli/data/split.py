"""The split of the interactions of each user into training part, validation target and test target.

Leave-one-out: the last interaction is the test target, the previous one the validation target; users with fewer than
three interactions are for training only. By time: interactions before ``valid_from`` are for training; the target of a
period is the first interaction of the user in it, if the user has an earlier one. None: all interactions are for
training, and there are no targets. The history of a target is always everything before it.
"""

from datetime import UTC, datetime

import narwhals as nw
import numpy as np
import polars as pl

from genrec_cli.data.engines import Engine
from genrec_cli.data.histories import POSITIONS
from genrec_cli.errors import ConfigError, DataError

DAY = 86_400
WRITTEN_DATES = (1900_01_01, 2100_12_31)
"""Numbers that may be dates written without dashes."""
Moment = float | str
"""A fraction of the interactions in order of time, between 0 and 1, or an ISO 8601 date (UTC)."""


def leave_one_out(engine: Engine, interactions: nw.LazyFrame) -> pl.DataFrame:
    """``user, offset, length, train_end, valid_at, test_at``, one row per user; see :data:`schema.USERS`.

    Args:
        interactions: ``user`` (all ids from 1), ``time``.
    """
    long = pl.col("length") >= 3
    return _users(engine, interactions).with_columns(
        train_end=pl.when(long).then(pl.col("length") - 2).otherwise("length"),
        valid_at=pl.when(long).then(pl.col("length") - 2).otherwise(-1),
        test_at=pl.when(long).then(pl.col("length") - 1).otherwise(-1),
    )


def for_training(engine: Engine, interactions: nw.LazyFrame) -> pl.DataFrame:
    """The same without targets: all interactions are for training."""
    users = _users(engine, interactions)
    none = pl.lit(-1, pl.Int64)
    return users.with_columns(train_end=pl.col("length"), valid_at=none, test_at=none)


def by_time(engine: Engine, interactions: nw.LazyFrame, valid_from: int, test_from: int) -> pl.DataFrame:
    """The same for a split at two times in seconds.

    Raises:
        DataError: nothing is left to train on, or a period has no target.
    """
    starts = {"train_end": valid_from, "test_at": test_from}
    before = {name: (nw.col("time") < start).cast(nw.Int64) for name, start in starts.items()}
    users = _users(engine, interactions.with_columns(**before), *before)
    first_valid, first_test = pl.col("train_end"), pl.col("test_at")
    has_valid = (first_valid >= 1) & (first_valid < first_test)
    has_test = (first_test >= 1) & (first_test < pl.col("length"))
    users = users.with_columns(
        valid_at=pl.when(has_valid).then(first_valid).otherwise(-1),
        test_at=pl.when(has_test).then(first_test).otherwise(-1),
    ).select("user", "offset", "length", "train_end", "valid_at", "test_at")
    names = {"train_end": "training interaction", "valid_at": "validation target", "test_at": "test target"}
    for column, what in names.items():
        if not (users[column] > 0).any():
            first, last = first_and_last(engine, interactions)
            raise DataError(
                f"The split at {date_of(valid_from)} and {date_of(test_from)} has no {what}; the times go "
                f"from {date_of(first)} to {date_of(last)}.",
                hint="Choose others with --valid-from and --test-from (a fraction or a date)",
            )
    return users


def seconds_of(engine: Engine, moment: Moment, interactions: nw.LazyFrame, option: str) -> int:
    """The time in seconds of a fraction of the interactions or of a date. Raises :class:`ConfigError` otherwise."""
    if isinstance(moment, str):
        try:
            date = datetime.fromisoformat(moment)
            return int((date if date.tzinfo is None else date.astimezone(UTC)).replace(tzinfo=UTC).timestamp())
        except (ValueError, OverflowError):  # no date, or none between the years 1 and 9999 in UTC
            raise ConfigError(f"{option}: '{moment}' is neither a fraction nor a date like 2014-01-31.") from None
    if not 0 < moment < 1:
        raise ConfigError(f"{option}: a fraction lies between 0 and 1, and {moment} does not.")
    times = interactions.select("time", day=nw.col("time") // DAY)
    days = _counts(engine, times, "day")
    place = int(moment * int(days["n"].sum()))
    day, skipped = _at(days, place)
    return _at(_counts(engine, times.filter(nw.col("day") == day), "time"), place - skipped)[0]


def times_are_positions(engine: Engine, log: nw.LazyFrame) -> bool:
    """Whether times are positions: they count the interactions of each user from 0 or 1.

    Args:
        log: ``user, time`` as read, before any filter.
    """
    starts = engine.collect(log.group_by("user").agg(nw.col("time").min()))["time"]
    return len(starts) > 0 and bool(np.isin(starts.to_numpy(), (0, 1)).mean() >= POSITIONS)


def first_and_last(engine: Engine, log: nw.LazyFrame) -> tuple[int, int]:
    """The earliest and the latest time of a log that is not empty, in seconds."""
    ends = engine.collect(log.select(first=nw.col("time").min(), last=nw.col("time").max()))
    return int(ends["first"].item()), int(ends["last"].item())


def refuse_written_dates(engine: Engine, log: nw.LazyFrame) -> None:
    """Raise a :class:`DataError` if all times are dates that are written as one number, such as 20260128.

    As seconds these numbers are days in August 1970.
    """
    first, last = first_and_last(engine, log)
    if first < WRITTEN_DATES[0] or last > WRITTEN_DATES[1]:
        return
    times = engine.collect(log.select("time").unique())["time"]
    if times.cast(pl.String).str.to_date("%Y%m%d", strict=False).null_count() == 0:
        text = str(last)
        raise DataError(
            f"All times from {first} to {last} are dates written as numbers; as seconds they are days of 1970, such as "
            f"{date_of(last)}.",
            hint=f"Write them with dashes in the file: {text[:4]}-{text[4:6]}-{text[6:]} in place of {text}",
        )


def _users(engine: Engine, interactions: nw.LazyFrame, *sums: str) -> pl.DataFrame:
    """``user, offset, length`` of rows sorted by user, and sums of columns."""
    counts = interactions.group_by("user").agg(nw.len().alias("length"), *(nw.col(name).sum() for name in sums))
    users = engine.collect(counts).cast(pl.Int64).sort("user")
    return users.with_columns(offset=pl.col("length").cum_sum() - pl.col("length")).select(
        "user", "offset", "length", *sums
    )


def _counts(engine: Engine, rows: nw.LazyFrame, name: str) -> pl.DataFrame:
    return engine.collect(rows.group_by(name).agg(nw.len().alias("n"))).cast(pl.Int64).sort(name)


def _at(counts: pl.DataFrame, place: int) -> tuple[int, int]:
    """The value at a place of the list in which each value is repeated ``n`` times, and the count of rows before it."""
    ends = counts["n"].cum_sum()
    found = int(ends.search_sorted(place, side="right"))
    return counts.item(found, 0), ends[found] - counts.item(found, "n")


def date_of(seconds: int) -> str:
    """The day of a time, in UTC."""
    return str(datetime.fromtimestamp(seconds, UTC).date())

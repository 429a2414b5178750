"""Which of a user's interactions train, validate and test.

Leave-one-out: the last is the test target, the one before it the validation target; a user with fewer than
three is for training only. By time: everything before ``valid_from`` trains; the target of a period is a
user's first interaction in it, if there is at least one earlier interaction of theirs. The history of a
target is always everything before it, so a test history holds the validation period.
"""

from datetime import UTC, datetime

import polars as pl

from genrec_cli.errors import ConfigError, DataError

Moment = float | str
"""A share of the interactions in order of time, between 0 and 1, or an ISO 8601 date (UTC)."""


def leave_one_out(interactions: pl.DataFrame) -> pl.DataFrame:
    """One row a user: ``user, offset, length, train_end, valid_at, test_at``; see the users' schema.

    Args:
        interactions: ``user`` (from 1, every id there), ``time``; ordered by user.
    """
    long = pl.col("length") >= 3
    return _users(interactions).with_columns(
        train_end=pl.when(long).then(pl.col("length") - 2).otherwise("length"),
        valid_at=pl.when(long).then(pl.col("length") - 2).otherwise(-1),
        test_at=pl.when(long).then(pl.col("length") - 1).otherwise(-1),
    )


def by_time(interactions: pl.DataFrame, valid_from: int, test_from: int) -> pl.DataFrame:
    """The same for a split at two times in seconds.

    Args:
        interactions: ``user``, ``time``; ordered by user, then time.

    Raises:
        DataError: nothing is left to train on, or a period has no target.
    """
    before = (
        interactions.lazy()
        .group_by("user")
        .agg(
            train_end=(pl.col("time") < valid_from).sum().cast(pl.Int64),
            test_at=(pl.col("time") < test_from).sum().cast(pl.Int64),
        )
    )
    first_valid, first_test = pl.col("train_end"), pl.col("test_at")
    has_valid = (first_valid >= 1) & (first_valid < first_test)
    has_test = (first_test >= 1) & (first_test < pl.col("length"))
    users = _users(interactions).lazy().join(before, on="user", how="left").sort("user").collect()
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
            raise DataError(
                f"The split at {date_of(valid_from)} and {date_of(test_from)} leaves no {what}; the times run "
                f"from {date_of(interactions['time'].min())} to {date_of(interactions['time'].max())}.",
                hint="Choose others with --valid-from and --test-from (a share or a date)",
            )
    return users


def seconds_of(moment: Moment, times: pl.Series, option: str) -> int:
    """The time in seconds of a share of the interactions or of a date.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(moment, str):
        try:
            date = datetime.fromisoformat(moment)
        except ValueError:
            raise ConfigError(f"{option}: '{moment}' is neither a share nor a date like 2014-01-31.") from None
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
    if not 0 < moment < 1:
        raise ConfigError(f"{option}: a share lies between 0 and 1, and {moment} does not.")
    return int(times.sort()[int(moment * len(times))])


def times_are_positions(interactions: pl.DataFrame) -> bool:
    """Whether times only number the rows, or count each user's interactions from 0 or 1.

    Args:
        interactions: ``user, time, row`` as read, before any filter.
    """
    if (interactions["time"] == interactions["row"]).all():
        return True
    starts = interactions.lazy().group_by("user").agg(pl.col("time").min()).collect()["time"]
    return bool(starts.is_in([0, 1]).mean() >= 0.9)


def _users(interactions: pl.DataFrame) -> pl.DataFrame:
    """``user, offset, length`` of rows that are ordered by user."""
    users = interactions.lazy().group_by("user").agg(pl.len().cast(pl.Int64).alias("length")).sort("user")
    return users.with_columns(offset=pl.col("length").cum_sum() - pl.col("length")).collect()


def date_of(seconds: int) -> str:
    """The day of a time, in UTC."""
    return str(datetime.fromtimestamp(seconds, UTC).date())

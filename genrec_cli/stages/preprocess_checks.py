"""What preprocess is refused for: settings that nothing reads, and splits and ties that need real times."""

from typing import TYPE_CHECKING

from genrec_cli.data.ingest import IngestedLog
from genrec_cli.errors import ConfigError, DataError

if TYPE_CHECKING:
    from genrec_cli.stages.preprocess import PreprocessConfig


def refuse_unread(config: "PreprocessConfig") -> None:
    """Raise ConfigError for a given setting that nothing reads, since another one is absent."""
    periods = f"only a split by time has periods, and this split is {config.split}"
    rules = [
        (("valid_from", "test_from"), config.split == "time", periods, "--split time", "--valid-from and --test-from"),
        (("event_col",), bool(config.events), "the column is read with --events", "--events NAME", "--event-col"),
        (
            ("max_bad_rows",),
            config.skip_bad_rows,
            "without --skip-bad-rows the first bad line is an error",
            "--skip-bad-rows",
            "--max-bad-rows",
        ),
    ]
    for names, read, problem, needed, options in rules:
        given = [f"preprocess.{name} = {getattr(config, name)}" for name in names if name in config.model_fields_set]
        if given and not read:
            raise ConfigError(f"{', '.join(given)}: {problem}.", hint=f"{needed}, or leave {options} out")


def check_times(config: "PreprocessConfig", log: IngestedLog, *, times: bool) -> None:
    """Refuse a split by time and shuffled ties for a log whose times are positions or row numbers.

    Args:
        times: the log has real times.
    """
    if config.split == "time" and log.rows and not times:
        raise DataError(
            "The times of this data set are positions (per user from 0 or 1, or row numbers), so it cannot be split "
            "by time.",
            hint="Use --split leave-one-out, or name a column of real times with --time-col",
        )
    if config.shuffle_ties is not None and log.times_are_rows:
        raise DataError(
            "The times of this data set are row numbers, so no two are equal and there are no ties to shuffle.",
            hint="Name a column of real times with --time-col, or leave --shuffle-ties out",
        )

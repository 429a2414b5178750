"""Histories and user ids from small files of the caller, for ``recommend``.

CSV, TSV, JSON lines (also as gzip) or Parquet with a row per user and item, in order of time or with a column of times;
or with a row per user and the list of its items, such as ``{"user": "u1", "items": ["B00A", "B00B"]}``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from genrec_cli import console
from genrec_cli.errors import DataError, UsageError, refuse_special
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.columnar import parquet_records
from genrec_cli.sources.interactions import NO_TIME, UNITS, microseconds, without_point
from genrec_cli.sources.lines import read_blocks
from genrec_cli.sources.logs import TIME, opened

LIST = "items"
USER, ITEM = ("user", "user_id"), ("item", "item_id", LIST)
TIMES = (TIME, "time")
"""Names of the columns: those of ``preprocess``, and those of the lists that ``recommend`` writes."""


def read_histories(path: Path) -> dict[str, list[str]]:
    """User -> raw item ids, oldest first; rows of equal times keep their order. Errors name file and line."""
    require_file(path)
    reader, names = opened(path)
    user, item = _named(path, names, USER), _named(path, names, ITEM)
    time = _named(path, names, TIMES) if set(TIMES) & set(names) else None
    listed = item == LIST
    if time is None and not listed and set(names) - {user, item}:
        columns = ", ".join(names)
        console.warn(f"{path} has no column '{TIME}': its rows are taken in order of time. Its columns: {columns}")
    bad, rows = BadRows(), list[tuple[int, list[str], Any]]()
    records = parquet_records(path) if reader is None else reader.records(read_blocks(path, bad))
    for line, values, reason in records:
        items = values.get(item) if listed else [values.get(item)]
        ids = _ids([values.get(user), *items]) if isinstance(items, list) else None
        if reason or ids is None:
            problem = reason or ("not a history" if listed else "user and item must both be given")
            hint = "Close every quote, and give each row all columns" if reason else _example(listed)
            raise DataError(f"{path}, line {line}: {problem}.", hint=hint)
        rows.append((line, ids, None if time is None else values.get(time)))
    bad.check()
    if not rows:
        raise DataError(f"{path} holds no history.", hint=_example(listed))
    histories = dict[str, list[str]]()
    for ids in [ids for _, ids, _ in rows] if time is None else _ordered(path, rows):
        histories.setdefault(ids[0], []).extend(ids[1:])
    return histories


def _named(path: Path, names: Sequence[str], known: Sequence[str]) -> str:
    """The column with one of the known names. Raises :class:`DataError` unless there is exactly one."""
    found = [name for name in names if name in known]
    if len(found) != 1:
        columns = ", ".join(name[:100] for name in names[:30]) or "none"
        raise DataError(
            f"{path} must have one column {' or '.join(known)}; its columns: {columns}.",
            hint="Name the columns user,item or user_id,item_id, and the column of times, if there is one, timestamp",
        )
    return found[0]


def _ordered(path: Path, rows: list[tuple[int, list[str], Any]]) -> list[list[str]]:
    """The ids of rows (line, ids, time) by time. Only the order counts, so a number may be of any unit that fits."""
    given = [time if time is None else str(without_point(time)).strip() for _, _, time in rows]
    for unit in UNITS:
        micros = microseconds(pl.Series(given, dtype=pl.String), unit)
        if not micros.null_count():
            break
    else:
        place = int(micros.is_null().arg_max() or 0)
        problem = f"the time '{given[place]}' is {NO_TIME}" if given[place] else "no time"
        raise DataError(f"{path}, line {rows[place][0]}: {problem}.", hint="Correct it, or leave the column out")
    moment = micros.to_list()
    return [rows[place][1] for place in sorted(range(len(rows)), key=moment.__getitem__)]


def _example(listed: bool) -> str:
    return 'Each line is {"user": "u1", "items": ["B00A", "B00B"]}' if listed else "Each row has a user and an item"


def _ids(values: list[Any]) -> list[str] | None:
    """Values as ids, or None if one of them is not an id."""
    values = [without_point(value) for value in values]
    ids = [str(value).strip() if isinstance(value, str | int) else "" for value in values]
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return ids if all(ids) else None


def read_users(path: Path) -> list[str]:
    """Raw user ids, one per line."""
    return read_lines(path, "user id")


def read_lines(path: Path, noun: str) -> list[str]:
    """Raw ids, one per line; ``noun`` names them in errors."""
    require_file(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not readable text: {error}.", hint="Save it as UTF-8") from None
    if not (ids := [line.strip() for line in lines if line.strip()]):
        raise DataError(f"{path} holds no {noun}.", hint=f"Write one raw {noun} per line")
    return ids


def require_file(path: Path) -> None:
    """Raise an error for a missing file, a folder or a pipe."""
    refuse_special(path)
    if not path.exists():
        raise UsageError(f"{path} cannot be read: there is no such file.")

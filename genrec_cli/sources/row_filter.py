"""Which rows of a log are kept: a boolean SQL expression over the columns of each row, and a list of events.

``data/expression.py`` parses the expression; its result does not depend on the blocks in which a log is read. A row for
which it is unknown (a missing value) is left out, as in SQL.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from genrec_cli.config import did_you_mean
from genrec_cli.data.expression import BROKEN, first_line, parsed
from genrec_cli.errors import DataError

CONDITION = "rating >= 4 AND type IN ('buy', 'cart')"
EXAMPLE = f'For example: --where "{CONDITION}"'
SHOWN = 20
"""Values of the column of events that are remembered for messages."""
NUMBER, FLAG = "number", "flag"
"""Kinds of a column of texts whose values are all numbers, or all true or false."""


class RowFilter:
    """The rows to keep. Raises :class:`ConfigError` for an expression that is not allowed.

    Args:
        where: SQL expression over the columns of a row; None keeps all rows.
        events: values of the column ``event_col`` to keep; empty keeps all.
    """

    def __init__(self, where: str | None = None, events: Sequence[str] = (), event_col: str = "event") -> None:
        self.where, self.event_col, self.events = where, event_col, tuple(events)
        self.expression = None if where is None else parsed(where, example=CONDITION)
        named = [] if self.expression is None else self.expression.meta.root_names()
        self.columns = tuple(dict.fromkeys([*named, *([event_col] if events else [])]))
        self.left_out = 0
        """Count of the rows left out so far."""
        self.seen: set[str] = set()
        """Values of ``event_col`` so far, at most about :data:`SHOWN` beside those of ``events``."""
        self._kinds: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.columns)

    def check(self, path: Path, present: Sequence[str], sample: Iterable[Mapping[str, Any]] | pl.Schema) -> None:
        """Check the columns and the type of the expression before any row is read.

        Args:
            present: names of the columns of the file.
            sample: types of the columns, or some rows of a text format, which say which columns are numbers.

        Raises:
            DataError: a column is missing, or the expression is not true or false for each row.
        """
        for name in self.columns:
            if name not in present:
                option = "--event-col NAME sets it" if name == self.event_col and self.events else EXAMPLE
                raise DataError(
                    f"{path} has no column '{name}'.{did_you_mean(name, present)} Its columns: {', '.join(present)}.",
                    hint=option,
                )
            if list(present).count(name) > 1:
                raise DataError(f"{path} has {list(present).count(name)} columns '{name}'.", hint="Name each one once")
        if isinstance(sample, pl.Schema):
            schema = {name: sample[name] for name in self.columns}
        else:
            rows = list(sample)
            self._kinds = {name: _kind([row.get(name) for row in rows]) for name in self.columns}
            types = {NUMBER: pl.Float64(), FLAG: pl.Boolean()}
            schema = {name: types.get(kind, pl.String()) for name, kind in self._kinds.items()}
        if self.expression is None:
            return
        shown = ", ".join(f"{name} ({_words(kind)})" for name, kind in schema.items())
        try:
            result = pl.DataFrame(schema=schema).lazy().select(self.expression.alias("keep")).collect()
        except BROKEN as error:
            problem = f"--where '{self.where}' does not fit {path}: {first_line(error)}. It uses: {shown or 'nothing'}."
            raise DataError(problem, hint="Put text into single quotes, and leave numbers bare") from None
        if result["keep"].dtype != pl.Boolean:
            problem = f"--where '{self.where}' is {_words(result['keep'].dtype)}, not true or false for each row."
            raise DataError(problem, hint=EXAMPLE)

    def keep(self, values: pl.DataFrame) -> pl.Series:
        """Whether each row is kept, from its columns."""
        mask = pl.Series([True]).new_from_index(0, values.height)
        if self.events:
            event = values[self.event_col].cast(pl.String)
            wanted = event.is_in(self.events).fill_null(False)
            self.seen.update(event.filter(wanted).unique())
            if len(self.seen) < SHOWN:
                self.seen.update(event.filter(~wanted).drop_nulls().unique().sort().head(SHOWN))
            mask &= wanted
        if self.expression is not None:
            plain = values.with_columns(pl.col(pl.Categorical).cast(pl.String))
            try:
                found = plain.with_columns(self.expression.alias("keep"))["keep"]
            except BROKEN as error:
                raise DataError(f"--where '{self.where}' fails: {first_line(error)}.", hint=EXAMPLE) from None
            mask &= found.fill_null(False)
        self.left_out += values.height - int(mask.sum())
        return mask

    def unseen_events(self) -> str | None:
        """What to say about values of ``events`` that no row has; None if all occur."""
        if not (absent := [event for event in self.events if event not in self.seen]):
            return None
        found = ", ".join(sorted(value[:40] for value in self.seen)[:SHOWN]) or "none"
        return f"--events: no row has {', '.join(absent)} in the column '{self.event_col}'. Its values: {found}"

    def typed(self, texts: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
        """Columns of texts as numbers or flags where the sample has said so, and why a row cannot be read (or null)."""
        reason = pl.Series("reason", [None], dtype=pl.String).new_from_index(0, texts.height)
        columns = []
        for name in self.columns:
            text = texts[name].str.strip_chars()
            text = text.set(text == "", None)
            kind = self._kinds.get(name)
            value = _numbers(text) if kind == NUMBER else _flags(text) if kind == FLAG else text
            wrong = value.is_null() & text.is_not_null()
            reason = reason.zip_with(~wrong, pl.Series([f"{name} is no {kind}"]).new_from_index(0, texts.height))
            columns.append(value.alias(name))
        return pl.DataFrame(columns), reason


def _kind(values: list[Any]) -> str:
    """The kind of a column of texts by some of its values. Values such as 007 are ids or codes, so they stay texts."""
    given = pl.Series(
        [str(value).strip() for value in values if value is not None and str(value).strip()], dtype=pl.String
    )
    if len(given) and not _flags(given).null_count():
        return FLAG
    numbers = len(given) and not _numbers(given).null_count() and not given.str.contains(r"^[+-]?0\d").any()
    return NUMBER if numbers else "text"


def _numbers(texts: pl.Series) -> pl.Series:
    """Integers if all of them are, else floats; null where a text is no number."""
    whole = texts.cast(pl.Int64, strict=False)
    return whole if whole.null_count() == texts.null_count() else texts.cast(pl.Float64, strict=False)


def _flags(texts: pl.Series) -> pl.Series:
    flag = texts.str.to_lowercase()
    return (flag == "true").set((flag != "true") & (flag != "false"), None)


def _words(kind: Any) -> str:
    dtype = kind if isinstance(kind, pl.DataType) else None
    if dtype is None:
        return str(kind)
    if dtype.is_numeric():
        return "a number"
    return "text" if dtype in (pl.String, pl.Categorical) else "true or false" if dtype == pl.Boolean else str(dtype)

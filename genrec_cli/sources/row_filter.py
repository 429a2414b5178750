"""Which rows of a log are kept: a boolean SQL expression over the columns of each row, and a list of events.

The expression is parsed by polars and checked before any row is read: only columns, constants, operators and functions
of single rows are allowed, so it cannot read files, and its result does not depend on the blocks in which a log is
read. A row for which it is unknown (a missing value) is left out, as in SQL.
"""

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from genrec_cli.config import did_you_mean
from genrec_cli.errors import ConfigError, DataError

LONGEST = 2_000
"""Characters of the longest expression."""
QUERY = re.compile(r"(?i)\b(select|read_\w+|scan_\w+)\b")
"""Words of subqueries and of functions that read files."""
NODES = {"BinaryExpr", "Cast", "Ternary", "Function"}
"""Parts of an expression, beside columns and constants, whose value depends on one row only."""
FUNCTIONS = {"Abs", "Ceil", "Coalesce", "FillNull", "Floor", "MaxHorizontal", "MinHorizontal", "Negate", "Pow", "Round"}
SQL = {"Binary", "IsIn", "Round", "ToFloat", "Unary"}
BOOLEAN = {"AllHorizontal", "AnyHorizontal", "IsBetween", "IsFinite", "IsIn", "IsInfinite", "IsNan", "IsNotNan"}
BOOLEAN |= {"IsNotNull", "IsNull", "Not"}
EXAMPLE = "For example: --where \"rating >= 4 AND type IN ('buy', 'cart')\""
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
        self.expression = None if where is None else _parsed(where)
        named = [] if self.expression is None else self.expression.meta.root_names()
        self.columns = tuple(dict.fromkeys([*named, *([event_col] if events else [])]))
        self.left_out = 0
        """Count of the rows left out so far."""
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
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            problem = (
                f"--where '{self.where}' does not fit {path}: {_first_line(error)}. It uses: {shown or 'nothing'}."
            )
            raise DataError(problem, hint="Put text into single quotes, and leave numbers bare") from None
        if result["keep"].dtype != pl.Boolean:
            problem = f"--where '{self.where}' is {_words(result['keep'].dtype)}, not true or false for each row."
            raise DataError(problem, hint=EXAMPLE)

    def keep(self, values: pl.DataFrame) -> pl.Series:
        """Whether each row is kept, from its columns."""
        mask = pl.Series([True]).new_from_index(0, values.height)
        if self.events:
            mask &= values[self.event_col].cast(pl.String).is_in(self.events).fill_null(False)
        if self.expression is not None:
            plain = values.with_columns(pl.col(pl.Categorical).cast(pl.String))
            try:
                found = plain.with_columns(self.expression.alias("keep"))["keep"]
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                raise DataError(f"--where '{self.where}' fails: {_first_line(error)}.", hint=EXAMPLE) from None
            mask &= found.fill_null(False)
        self.left_out += values.height - int(mask.sum())
        return mask

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


def _parsed(where: str) -> pl.Expr:
    if len(where) > LONGEST or not where.strip():
        raise ConfigError(f"--where has {len(where):,} characters: it takes 1 to {LONGEST:,}.", hint=EXAMPLE)
    if word := QUERY.search(where):  # polars would read a file of a subquery while it parses it
        problem = f"--where '{where}' has the word '{word[0]}', and only expressions over the columns of one row are"
        raise ConfigError(f"{problem} allowed.", hint=EXAMPLE)
    try:
        expression = pl.sql_expr(where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the format may change between versions of polars
            tree = json.loads(expression.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, RecursionError) as error:
        raise ConfigError(f"--where '{where}' is not an SQL expression: {_first_line(error)}.", hint=EXAMPLE) from None
    for refused in _refused(tree):
        raise ConfigError(
            f"--where '{where}' uses {refused}, and only expressions over the columns of one row are allowed.",
            hint=EXAMPLE,
        )
    if not expression.meta.root_names():
        raise ConfigError(f"--where '{where}' names no column of the log.", hint=EXAMPLE)
    return expression


def _refused(tree: Any) -> Iterator[str]:
    """The parts of an expression that are not allowed."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if not isinstance(node, dict):
            if node is not None:
                yield f"'{node}'"
            continue
        for kind, body in node.items():
            if kind in ("Column", "Literal"):
                continue
            if kind not in NODES:
                yield "an aggregate" if kind in ("Agg", "Over") else f"'{kind}'"
            elif kind == "Function":
                if not _of_one_row(body["function"]):
                    yield f"the function {json.dumps(body['function'])[:60]}"
                stack += body["input"]
            else:
                stack += [part for name, part in body.items() if name not in ("op", "dtype", "options")]


def _of_one_row(function: Any) -> bool:
    if isinstance(function, str):
        return function in FUNCTIONS
    ((kind, detail),) = function.items()
    name = detail if isinstance(detail, str) else next(iter(detail))
    if kind == "Boolean":
        return name in BOOLEAN
    if kind == "Sql":
        return name in SQL
    return kind in FUNCTIONS or (kind in ("StringExpr", "TemporalExpr") and not name.endswith("Vertical"))


def _kind(values: list[Any]) -> str:
    """The kind of a column of texts by some of its values."""
    given = pl.Series(
        [str(value).strip() for value in values if value is not None and str(value).strip()], dtype=pl.String
    )
    if len(given) and not _flags(given).null_count():
        return FLAG
    return NUMBER if len(given) and not _numbers(given).null_count() else "text"


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


def _first_line(error: BaseException) -> str:
    return re.split(r"[\n]", str(error), maxsplit=1)[0][:200].rstrip(".")

"""Conditions over the columns of a row, typed as SQL: ``category = 'lens' and price < 20``.

polars parses the text into an expression. It is checked against a list of what is allowed before any row is read: only
columns, constants, operators and functions of single rows. So no Python code runs, no file is read, and the result for
a row does not depend on other rows; like in SQL, a condition holds no aggregate.
"""

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import polars as pl

from genrec_cli.config import did_you_mean
from genrec_cli.errors import ConfigError, GenrecError, UsageError

LONGEST = 2_000
"""Characters of the longest condition."""
BROKEN = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
QUERY = re.compile(r"\b(select|read_\w+|scan_\w+)\b", re.IGNORECASE)
"""Words of queries, refused also within quotes: polars would read the file that a query names while it parses it."""
NODES = {"BinaryExpr", "Cast", "Ternary", "Function"}
"""Parts of an expression, beside columns and constants, whose value depends on one row only."""
FUNCTIONS = {"Abs", "Ceil", "Coalesce", "FillNull", "Floor", "MaxHorizontal", "MinHorizontal", "Negate", "Pow", "Round"}
SQL = {"Binary", "IsIn", "Round", "ToFloat", "Unary"}
BOOLEAN = {"AllHorizontal", "AnyHorizontal", "IsBetween", "IsFinite", "IsIn", "IsInfinite", "IsNan", "IsNotNan"}
BOOLEAN |= {"IsNotNull", "IsNull", "Not"}
OF_ONE_ROW = ("StringExpr", "TemporalExpr", "ListExpr")
"""Families of functions of one row, except those that are named Vertical."""
ONLY = "only expressions over the columns of one row"
EXAMPLE = "price < 20 and category = 'lens'"


def parsed(
    text: str, option: str = "--where", *, example: str = EXAMPLE, error: type[GenrecError] = ConfigError
) -> pl.Expr:
    """The expression of a text in SQL. Raises ``error`` for a text that is too long, wrong, or not allowed."""
    where, hint = f"{option} {text!r}", f'For example: {option} "{example}"'
    if len(text) > LONGEST or not text.strip():
        raise error(f"{option} has {len(text):,} characters: it takes 1 to {LONGEST:,}.", hint=hint)
    if word := QUERY.search(text):
        raise error(f"{where} has the word '{word[0]}', and {ONLY} are allowed.", hint=hint)
    try:
        expression = pl.sql_expr(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the format may change between versions of polars
            tree = json.loads(expression.meta.serialize(format="json"))
    except (*BROKEN, ValueError, RecursionError) as problem:
        raise error(f"{where} is not an SQL expression: {first_line(problem)}.", hint=hint) from None
    for refused in _refused(tree):
        raise error(f"{where} uses {refused}, and {ONLY} are allowed.", hint=hint)
    if not expression.meta.root_names():
        raise error(f"{where} names no column.", hint=hint)
    return expression


def matches(frame: pl.DataFrame, text: str, option: str = "--where") -> pl.Series:
    """Whether each row fulfils the condition; a result of null counts as false.

    Raises:
        UsageError: as :func:`parsed` does, or for an unknown column, types that cannot be compared, or a result other
            than true and false.
    """
    expression, where = parsed(text, option, error=UsageError), f"{option} {text!r}"
    for name in expression.meta.root_names():
        if name not in frame.columns:
            unknown = f"{where}: there is no column '{name}'.{did_you_mean(name, frame.columns)}"
            raise UsageError(unknown, hint=f"Columns: {', '.join(frame.columns)}")
    try:
        result = frame.select(expression.alias("keep"))["keep"]
    except BROKEN as problem:
        lists = [name for name in expression.meta.root_names() if isinstance(frame.schema[name], pl.List)]
        hint = f"{lists[0]} holds lists: array_contains({lists[0]}, 'x')" if lists else None
        raise UsageError(f"{where} cannot be computed: {first_line(problem)}.", hint=hint) from None
    if result.dtype != pl.Boolean:
        hint = f'Compare it with a value, as in {option} "{EXAMPLE}"'
        raise UsageError(f"{where} gives {result.dtype}, not true or false.", hint=hint)
    return result.fill_null(value=False)


def first_line(error: BaseException) -> str:
    """The first line of an error of polars, without its final full stop."""
    return str(error).strip().partition("\n")[0].rstrip(". ")[:200]


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
    return kind in FUNCTIONS or (kind in OF_ONE_ROW and not name.endswith("Vertical"))

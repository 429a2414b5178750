"""Conditions over the columns of a table, typed as SQL: ``category = 'lens' and price < 20``.

polars parses the text into an expression over columns. No Python code runs, and no file is read. The condition is
checked on an empty table before any real row is read.
"""

import re

import polars as pl

from genrec_cli.config import did_you_mean
from genrec_cli.errors import UsageError

BROKEN = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
QUERY = re.compile(r"\b(select|read_\w+|scan_\w+)\b", re.IGNORECASE)
"""Words of queries, refused also within quotes: polars would read the file that a query names while it parses it."""
LONGEST = 2_000
"""Characters of a condition."""
EXAMPLE = "price < 20 and category = 'lens'"


def condition(text: str, schema: pl.Schema, option: str = "--where") -> pl.Expr:
    """The boolean expression of a text in SQL, for frames with the columns of ``schema``.

    Raises:
        UsageError: no SQL expression, an unknown column, types that cannot be compared, or a result other than true and
            false per row. The message begins with ``option`` and the text.
    """
    where = f"{option} {text!r}"
    hint = f'For example: {option} "{EXAMPLE}"'
    if len(text) > LONGEST:
        raise UsageError(f"{option} has {len(text):,} characters; it takes at most {LONGEST:,}.", hint=hint)
    if word := QUERY.search(text):
        raise UsageError(
            f"{where} has the word '{word[0]}': only columns, values and functions are allowed.", hint=hint
        )
    try:
        expression = pl.sql_expr(text)
        names = expression.meta.root_names()
    except BROKEN as error:
        raise UsageError(f"{where} is not an SQL expression: {_brief(error)}.", hint=hint) from None
    for name in names:
        if name not in schema:
            hint = f"Columns: {', '.join(schema)}"
            raise UsageError(f"{where}: there is no column '{name}'.{did_you_mean(name, schema)}", hint=hint)
    if not names:
        raise UsageError(f"{where} names no column.", hint=f"Columns: {', '.join(schema)}")
    try:
        result = pl.DataFrame(schema=schema).select(expression).to_series()
    except BROKEN as error:
        raise _not_computed(where, error, expression, schema) from None
    if result.dtype != pl.Boolean:
        hint = f'Compare it with a value, as in {option} "{EXAMPLE}"'
        raise UsageError(f"{where} gives {result.dtype}, not true or false.", hint=hint)
    return expression


def matches(frame: pl.DataFrame, text: str, option: str = "--where") -> pl.Series:
    """Whether each row fulfils the condition; a result of null counts as false. Raises as :func:`condition` does."""
    expression = condition(text, frame.schema, option)
    try:
        result = frame.select(expression).to_series()
    except BROKEN as error:
        raise _not_computed(f"{option} {text!r}", error, expression, frame.schema) from None
    if len(result) != frame.height:  # an aggregate has one value, which holds for all rows
        if len(result) != 1:
            raise UsageError(f"{option} {text!r} gives {len(result):,} values for {frame.height:,} rows.")
        result = result.new_from_index(0, frame.height)
    return result.fill_null(value=False)


def _not_computed(where: str, error: BaseException, expression: pl.Expr, schema: pl.Schema) -> UsageError:
    """The error of polars, with the function for a column of lists."""
    lists = [name for name in expression.meta.root_names() if isinstance(schema[name], pl.List)]
    hint = f"{lists[0]} holds lists: array_contains({lists[0]}, 'x')" if lists else None
    return UsageError(f"{where} cannot be computed: {_brief(error)}.", hint=hint)


def _brief(error: BaseException) -> str:
    """The first line of an error of polars, without its final full stop."""
    return str(error).strip().partition("\n")[0].rstrip(". ")[:200]

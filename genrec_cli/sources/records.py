"""Item records (one dictionary per item) to the items table of a source: texts and attributes.

Values of any type become text: numbers as they print, (nested) lists as their parts joined by ", ". The float NaN is a
missing value.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from genrec_cli import console
from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.interactions import Record, without_point

RESERVED = {"raw_id", "attributes"}
"""Columns of the items table; a text field cannot have these names."""
CHUNK = 50_000
"""Records that are held as Python objects at a time."""
MAX_FIELDS = 500
"""Distinct fields of an items file; each becomes a column."""
BRAND = "brand"
CATEGORIES = ("categories", "category")
"""Fields whose values become attributes, one per category level. Of a list of paths, as in Amazon's metadata, the first
level of each path is left out: it is the department, which nearly all items share."""


def item_table(
    records: Iterable[Record], id_field: str, path: Path, bad: BadRows, *, fields: Sequence[str] | None = None
) -> pl.DataFrame:
    """``raw_id, title``, the other text fields, ``attributes list[str]``, one row per item (its first record).

    Args:
        fields: the text fields to keep; None keeps all.

    Raises:
        DataError: a field has a name of :data:`RESERVED`, or there are more than :data:`MAX_FIELDS` fields.
            A record without an id only is a bad line.
    """
    frames, names = [], set[str]()
    rows: list[dict[str, str | None]] = []
    lists: list[list[str]] = []
    for line, record, reason in records:
        bad.saw(path, 1)
        raw_id = None if reason else as_text(without_point(record.get(id_field)))
        if raw_id is None:
            bad.add(path, line, reason or f"no '{id_field}'")
            continue
        if fields is None:
            record = {name: value for name, value in record.items() if name != id_field}
            if reserved := RESERVED & record.keys():
                raise DataError(f"{path}, line {line}: the name '{min(reserved)}' is taken.", hint="Rename the column")
            names |= record.keys()
            if len(names) > MAX_FIELDS:
                raise DataError(
                    f"{path}, line {line}: the items have more than {MAX_FIELDS:,} different fields.",
                    hint="Keep the fields that describe an item, each under one name",
                )
        texts = {name: as_text(record.get(name)) for name in (record if fields is None else fields)}
        rows.append({"title": None} | texts | {"raw_id": raw_id})
        lists.append(attributes(record))
        if len(rows) == CHUNK:
            frames.append(_frame(rows, lists))
            rows, lists = [], []
    frames.append(_frame(rows, lists))
    table = pl.concat(frames, how="diagonal")
    first_I = table["raw_id"].is_first_distinct()
    if repeated := table["raw_id"].filter(~first_I).to_list():
        what = f"{len(repeated):,} row(s) repeat an item, such as '{repeated[0]}'; the first row of each is read"
        console.warn(f"{path}: {what}.")
    return table.filter(first_I)


def _frame(rows: list[dict[str, str | None]], lists: list[list[str]]) -> pl.DataFrame:
    """Texts by field, and the attributes of each row, as columns."""
    names = dict.fromkeys(name for row in rows for name in row) or ("title", "raw_id")
    columns = {name: pl.Series(_encodable([row.get(name) for row in rows]), dtype=pl.String) for name in names}
    attributes = pl.Series([_encodable(names) for names in lists], dtype=pl.List(pl.String))
    return pl.DataFrame(columns | {"attributes": attributes})


def attributes(record: Mapping[str, Any]) -> list[str]:
    """The distinct ``brand: X`` and ``category: Y`` of a record, in order; see :data:`CATEGORIES`."""
    found = [f"brand: {brand}" for brand in leaves(record.get(BRAND))]
    for name in CATEGORIES:
        value = record.get(name)
        if isinstance(value, list):
            value = [path[1:] if isinstance(path, list) else path for path in value]
        found += [f"category: {level}" for level in leaves(value.split(",") if isinstance(value, str) else value)]
    return list(dict.fromkeys(found))


def as_text(value: Any) -> str | None:
    """A value as text, or None if it is empty."""
    if isinstance(value, str):
        return value.strip() or None
    return None if value is None else ", ".join(dict.fromkeys(leaves(value))) or None


def leaves(value: Any) -> list[str]:
    """The non-empty parts of nested lists (and of the values of dictionaries) as texts."""
    found, stack = [], [value]
    while stack:  # no recursion: the file decides on the depth
        part = stack.pop()
        if isinstance(part, str):
            if text := part.strip():
                found.append(text)
        elif isinstance(part, (list, tuple)):
            stack += part[::-1]
        elif isinstance(part, dict):
            stack += [*part.values()][::-1]
        elif part is not None and part == part:  # NaN differs from itself
            found.append(str(part))
    return found


def _encodable(texts: list[Any]) -> list[Any]:
    """Texts with lone surrogates, which have no UTF-8, replaced."""
    try:
        "".join(text for text in texts if text).encode()
    except UnicodeEncodeError:
        return [text and text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    return texts

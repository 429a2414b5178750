"""Item records (one dictionary an item) to the items table of a source: texts and attributes.

Values of any shape become text: numbers as they print, lists (of lists) as their parts joined by ", ".
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from genrec_cli.sources.base import BadRows
from genrec_cli.sources.lines import decoded, read_blocks

Record = Mapping[str, Any]

SLAB = 50_000
"""Records that are held as Python objects at a time."""

BRAND = "brand"
CATEGORIES = ("categories", "category")
"""Fields whose values become attributes, each category level one."""


def read_records(path: Path, parse: Callable[[str], Any], bad: BadRows) -> Iterator[tuple[int, Record]]:
    """Line number and record of each line that ``parse`` can read; the others are added to ``bad``."""
    for block in read_blocks(path, bad):
        for number, line in block.lines():
            try:
                value = parse(decoded(line))
                if not isinstance(value, dict):
                    raise ValueError(f"a {type(value).__name__}, not a dictionary")
            except ValueError as error:
                bad.add(path, number, str(error))
            else:
                yield number, value


def item_table(
    records: Iterable[tuple[int, Record]],
    id_field: str,
    path: Path,
    bad: BadRows,
    *,
    fields: Sequence[str] | None = None,
) -> pl.DataFrame:
    """``raw_id, title``, the other text fields, ``attributes list[str]``, one row an item (its first record).

    ``fields``: the text fields to keep; by default all that occur. A record without an id is a bad line.
    """
    slabs, rows = [], []
    for number, record in records:
        raw_id = as_text(record.get(id_field))
        if not raw_id:
            bad.add(path, number, f"no '{id_field}'")
            continue
        names = [name for name in record if name != id_field] if fields is None else fields
        row: dict[str, Any] = {str(name): as_text(record.get(name)) for name in names}
        row.update(raw_id=raw_id, attributes=attributes(record))
        rows.append(row)
        if len(rows) == SLAB:
            slabs.append(_slab(rows, fields))
            rows = []
    slabs.append(_slab(rows, fields))
    return pl.concat(slabs, how="diagonal").unique("raw_id", keep="first", maintain_order=True)


def attributes(record: Record) -> list[str]:
    """``brand: X`` and ``category: Y`` for each level of each category path, each once, in order."""
    found = [f"brand: {brand}" for brand in leaves(record.get(BRAND))]
    for name in CATEGORIES:
        value = record.get(name)
        levels = value.split(",") if isinstance(value, str) else leaves(value)
        found += [f"category: {level.strip()}" for level in levels if level.strip()]
    return [_sound(name) for name in dict.fromkeys(found)]


def as_text(value: Any) -> str | None:
    """A value as text, or None if nothing is in it."""
    return _sound(", ".join(dict.fromkeys(leaves(value)))) or None


def leaves(value: Any) -> list[str]:
    """The parts of nested lists (and of the values of dictionaries) that are not empty, as texts."""
    found, open_ = [], [value]
    while open_:  # no recursion: a file decides how deep a value is
        part = open_.pop()
        if isinstance(part, dict):
            part = list(part.values())
        if isinstance(part, (list, tuple, set)):
            open_.extend(reversed(list(part)))
        elif part is not None and (text := str(part).strip()):
            found.append(text)
    return found


def _slab(rows: list[dict[str, Any]], fields: Sequence[str] | None) -> pl.DataFrame:
    names = dict.fromkeys(["raw_id", "title", *(fields or ())])
    for row in rows:
        names.update(dict.fromkeys(row))
    names.pop("attributes", None)
    schema = {name: pl.String for name in names} | {"attributes": pl.List(pl.String)}
    return pl.DataFrame(rows, schema=schema)


def _sound(text: str) -> str:
    """Text without the lone surrogates that an escape can smuggle in."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")

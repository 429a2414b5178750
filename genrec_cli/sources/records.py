"""Item records (one dictionary per item) to the items table of a source: texts and attributes.

Values of any shape set_group text: numbers as they print, lists (of lists) as their parts joined by ", ".
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.interactions import Record, without_point

TAKEN = {"raw_id", "attributes"}
"""Columns of the items table that no text field can be."""

SLAB = 50_000
"""Records that are held as Python objects at a time."""
MOST_FIELDS = 500
"""Different fields of an items file; each becomes a column."""

BRAND = "brand"
CATEGORIES = ("categories", "category")
"""Fields whose values set_group attributes, each category level one."""


def item_table(
    records: Iterable[Record],
    id_field: str,
    path: Path,
    bad: BadRows,
    *,
    fields: Sequence[str] | None = None,
) -> pl.DataFrame:
    """``raw_id, title``, the other text fields, ``attributes list[str]``, one row per item (its first record).

    ``fields``: the text fields to keep; by default all that occur. A record without an id is a bad line. A field of
    the table's own name (:data:`TAKEN`) and more than :data:`MOST_FIELDS` fields are a :class:`DataError`.
    """
    slabs, slab, names = [], Slab(fields), set()
    for number, record, reason in records:
        raw_id = None if reason else as_text(without_point(record.get(id_field)))
        if raw_id is None:
            bad.add(path, number, reason or f"no '{id_field}'")
            continue
        if fields is None:
            record = {name: value for name, value in record.items() if name != id_field}
            if taken := TAKEN & record.keys():
                raise DataError(f"{path}, line {number}: the name '{min(taken)}' is taken.", hint="Rename the column")
            names |= record.keys()
            if len(names) > MOST_FIELDS:
                raise DataError(
                    f"{path}, line {number}: the items have more than {MOST_FIELDS:,} different fields.",
                    hint="Keep the fields that say something about an item, each under one name",
                )
        slab.add(raw_id, record)
        if len(slab.raw_ids) == SLAB:
            slabs.append(slab.frame())
            slab = Slab(fields)
    slabs.append(slab.frame())
    return pl.concat(slabs, how="diagonal").unique("raw_id", keep="first", maintain_order=True)


class Slab:
    """Some records, column by column."""

    def __init__(self, fields: Sequence[str] | None) -> None:
        self.fields = fields
        self.raw_ids: list[str] = []
        self.texts: dict[str, list[str | None]] = {name: [] for name in fields or ()}
        self.attributes: list[str] = []
        self.ends = [0]

    def add(self, raw_id: str, record: Mapping[str, Any]) -> None:
        """Append one record; fields that it lacks are null."""
        for name in record if self.fields is None else self.fields:
            if name not in self.texts:
                self.texts[str(name)] = [None] * len(self.raw_ids)
            self.texts[name].append(as_text(record.get(name)))
        self.raw_ids.append(raw_id)
        if self.fields is None:
            for column in self.texts.values():
                if len(column) < len(self.raw_ids):
                    column.append(None)
        self.attributes += attributes(record)
        self.ends.append(len(self.attributes))

    def frame(self) -> pl.DataFrame:
        """The columns as a frame."""
        names = pa.array(_sound(self.attributes), pa.string())
        lists = pa.ListArray.from_arrays(pa.array(self.ends, pa.int32()), names)
        texts = {"title": [None] * len(self.raw_ids)} | self.texts | {"raw_id": self.raw_ids}
        columns = {name: pl.Series(_sound(column), dtype=pl.String) for name, column in texts.items()}
        return pl.DataFrame(columns | {"attributes": pl.Series(pl.from_arrow(lists), dtype=pl.List(pl.String))})


def attributes(record: Mapping[str, Any]) -> list[str]:
    """``brand: X`` and ``category: Y`` for each level of each category path, each once, in order."""
    found = [f"brand: {brand}" for brand in leaves(record.get(BRAND))]
    for name in CATEGORIES:
        value = record.get(name)
        levels = leaves(value.split(",")) if isinstance(value, str) else leaves(value)
        found += [f"category: {level}" for level in levels]
    return list(dict.fromkeys(found))


def as_text(value: Any) -> str | None:
    """A value as text, or None if nothing is in it."""
    if isinstance(value, str):
        return value.strip() or None
    return None if value is None else ", ".join(dict.fromkeys(leaves(value))) or None


def leaves(value: Any) -> list[str]:
    """The parts of nested lists (and of the values of dictionaries) that are not empty, as texts."""
    found, waiting = [], [value]
    while waiting:  # no recursion: a file decides how deep a value is
        part = waiting.pop()
        if isinstance(part, str):
            if text := part.strip():
                found.append(text)
        elif isinstance(part, (list, tuple)):
            waiting += part[::-1]
        elif isinstance(part, dict):
            waiting += [*part.values()][::-1]
        elif part is not None:
            found.append(str(part))
    return found


def _sound(texts: list[Any]) -> list[Any]:
    """Texts without the lone surrogates that an escape can smuggle in; they have no UTF-8."""
    try:
        "".join(text for text in texts if text).encode()
    except UnicodeEncodeError:
        return [text and text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    return texts

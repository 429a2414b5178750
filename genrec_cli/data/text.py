"""Item texts: markup cleaned, fields chosen, ordered and joined."""

import html
from collections.abc import Sequence

import polars as pl

_TAG = r"(?s)<!--.*?-->|</?[a-zA-Z][^<>]*>"
"""A comment or a tag, but not "5 < 6" or "<3"."""
_SCRIPT = r"(?is)<script\b.*?</script\s*>|<style\b.*?</style\s*>"


def clean(texts: pl.Series) -> pl.Series:
    """Texts without HTML entities, tags, control characters and repeated blanks; null stays null.

    Entities are resolved first, since texts may hold escaped tags (``&lt;br&gt;``).
    """
    marked = texts.str.contains("&", literal=True).fill_null(False).arg_true()
    if len(marked):
        resolved = [html.unescape(text) for text in texts.gather(marked)]
        texts = texts.clone().scatter(marked, pl.Series(resolved, dtype=pl.String))
    plain = texts.str.replace_all(_SCRIPT, " ").str.replace_all(_TAG, " ")
    return plain.str.replace_all(r"[\s\p{Cc}]+", " ").str.strip_chars()


def joined(items: pl.DataFrame, fields: Sequence[str]) -> pl.Series:
    """The text of each item: its fields (columns of ``items``) in order, with full stops, joined by blanks."""
    parts = [pl.repeat(None, pl.len(), dtype=pl.String)]
    for name in fields:
        field = pl.col(name)
        closed = pl.when(field.str.contains(r"[.!?]$")).then(field).otherwise(field + ".")
        parts.append(pl.when(field != "").then(closed))
    text = pl.concat_str(parts, separator=" ", ignore_nulls=True).fill_null("")
    return items.select(text.alias("text")).to_series()

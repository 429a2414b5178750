"""A file of candidate items from the caller, for ``recommend``: raw ids, and more columns for conditions.

Parquet, CSV or TSV with a column item, item_id or raw_id; any other file is text with one raw id per line.
"""

from pathlib import Path

import polars as pl

from genrec_cli.errors import DataError
from genrec_cli.sources.histories import read_lines, require_file

ID_COLUMNS = ("raw_id", "item", "item_id")
"""Possible names of the column of raw ids; the first that exists is read."""
BROKEN = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, UnicodeError)


def read_candidates(path: Path) -> pl.DataFrame:
    """``raw_id`` and the other columns of a file, one row per id (the first).

    Raises:
        DataError: the file cannot be read, has no column of ids, or holds no id.
        UsageError: there is no such file.
    """
    require_file(path)
    ending = Path(path.name.removesuffix(".gz")).suffix
    if ending not in (".parquet", ".csv", ".tsv"):
        return pl.DataFrame({"raw_id": read_lines(path, "item id")}).unique("raw_id", keep="first", maintain_order=True)
    separator = "\t" if ending == ".tsv" else ","
    try:
        if ending == ".parquet":
            frame = pl.read_parquet(path, glob=False)
        else:
            ids = dict.fromkeys(ID_COLUMNS, pl.String)  # the id 007 stays as it is
            frame = pl.read_csv(path, separator=separator, schema_overrides=ids, glob=False, infer_schema_length=None)
    except BROKEN as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")[:200]
        raise DataError(
            f"{path} cannot be read: {reason}.", hint="Give Parquet, CSV, TSV or one raw id per line"
        ) from None
    column = next((name for name in ID_COLUMNS if name in frame.columns), None)
    if column is None:
        shown = ", ".join(frame.columns) or "no column"
        raise DataError(f"{path} must have a column of raw item ids; it has: {shown}.", hint="Name it: item")
    if frame.schema[column].is_nested():
        raise DataError(f"{path}: the column '{column}' holds {frame.schema[column]}, not one id per row.")
    others = [name for name in frame.columns if name not in (column, "raw_id")]
    frame = frame.select(pl.col(column).cast(pl.String).str.strip_chars().alias("raw_id"), *others)
    frame = frame.filter(pl.col("raw_id").fill_null("") != "").unique("raw_id", keep="first", maintain_order=True)
    if frame.is_empty():
        raise DataError(f"{path} holds no item id.", hint="Give one raw item id per row")
    return frame

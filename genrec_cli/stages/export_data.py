"""export-data: a data artifact as files that other programs read."""

from pathlib import Path

import polars as pl

from genrec_cli import console
from genrec_cli.artifacts import Artifact
from genrec_cli.errors import InputError, UsageError
from genrec_cli.sources.recbole import typed
from genrec_cli.stages.candidates import kind_and_value

FORMATS = ("recbole",)


def export_data(data: Artifact, folder: Path, name: str, kind: str, *, force: bool = False) -> list[Path]:
    """Write the interactions and items of a data artifact; returns the files.

    ``recbole``: ``NAME.inter`` (user, item, timestamp in seconds, or the position without times) in the order of the
    histories, and ``NAME.item`` (title, text, and one ``token_seq`` per kind of attribute, whose blanks become ``_``).
    The split is not part of the format.

    Raises:
        UsageError: the format is not known.
        InputError: a file exists already, or the folder cannot be written.
    """
    if kind not in FORMATS:
        raise UsageError(f"There is no format '{kind}'.", hint=f"--format takes: {', '.join(FORMATS)}")
    paths = {part: folder / f"{name}.{part}" for part in ("inter", "item")}
    for path in paths.values():
        if path.exists() and not force:
            raise InputError(f"{path} exists already.", hint="Choose another folder, or add --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _interactions(data.path, paths["inter"])
        _items(data.path, paths["item"])
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}.") from None
    for path in paths.values():
        console.say(f"{path}: {path.stat().st_size:,} bytes")
    return list(paths.values())


def _interactions(data: Path, path: Path) -> None:
    users, items = (
        pl.read_parquet(data / f"{name}.parquet", columns=["raw_id"])["raw_id"] for name in ("users", "items")
    )
    rows = pl.read_parquet(data / "interactions.parquet")
    columns = {
        "user_id": users.gather(rows["user"] - 1),
        "item_id": items.gather(rows["item"] - 1),
        "timestamp": rows["time"],
    }
    typed(pl.DataFrame(columns), {"user_id": "token", "item_id": "token", "timestamp": "float"}, path)


def _items(data: Path, path: Path) -> None:
    items = pl.read_parquet(data / "items.parquet")
    names = pl.read_parquet(data / "attributes.parquet")
    pairs = items.select("item", attribute="attributes").explode("attribute").drop_nulls()
    pairs = pairs.join(names, on="attribute", maintain_order="left")
    lists = pairs.select("item", **kind_and_value())
    types = {"item_id": "token", "title": "token_seq", "text": "token_seq"}
    frame = items.select("item", "title", "text", item_id="raw_id")
    for kind in sorted(lists["kind"].unique().to_list()):
        if kind in frame.columns:
            continue  # the item's own column
        values = (
            lists.filter(pl.col("kind") == kind).group_by("item", maintain_order=True).agg(pl.col("value").alias(kind))
        )
        frame = frame.join(values, on="item", how="left", maintain_order="left")
        types[kind] = "token_seq"
    typed(frame, types, path)

"""recommend: a run and histories -> raw item ids, titles and scores."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.config import READS, did_you_mean
from genrec_cli.data.names import Names
from genrec_cli.data.sequences import Histories
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.evaluation import recommend as lists_of
from genrec_cli.errors import DataError, UsageError
from genrec_cli.files import write_atomically
from genrec_cli.stages.trained import Run

COLUMNS = ("user", "rank", "item", "title", "score")
FORMATS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Recommendations:
    """Lists of raw ids as columns; row r of every column belongs together."""

    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.columns["user"])

    def rows(self) -> list[tuple[Any, ...]]:
        return list(zip(*(self.columns[name] for name in COLUMNS), strict=True))

    def write(self, path: Path) -> None:
        """Write .csv, .tsv, .parquet or .jsonl, in one rename."""
        check_output(path)
        frame, sink = pl.DataFrame(self.columns), io.BytesIO()
        if path.suffix == ".parquet":
            frame.write_parquet(sink)
        elif path.suffix in (".jsonl", ".ndjson"):
            # json and not polars, which writes null in place of Infinity
            rows = (dict(zip(COLUMNS, row, strict=True)) for row in self.rows())
            sink.writelines(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in rows)
        else:
            frame.write_csv(sink, separator="\t" if path.suffix == ".tsv" else ",", line_terminator="\r\n")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, sink.getvalue())
        except OSError as error:
            raise UsageError(f"--output {path} cannot be written: {error.strerror}.") from None


def check_output(path: Path) -> None:
    """Raise UsageError for a format that cannot be written. Called before the work."""
    if path.suffix not in FORMATS:
        raise UsageError(f"--output {path.name}: the ending decides the format.", hint=f"One of {', '.join(FORMATS)}")


def sections_of(ws: Workspace, run: Artifact) -> list[str]:
    """The sections that recommending with a run reads. A configuration file may hold others."""
    return list(READS["recommend"]) if Run(ws, run).settings.model_dump() else []


def run(
    ws: Workspace,
    artifact: Artifact,
    *,
    users: list[str] | None = None,
    histories: dict[str, list[str]] | None = None,
    k: int,
    exclude_seen: bool,
    device: str,
    bar: Callable[[int], Any],
    search: dict[str, Any] | None = None,
) -> Recommendations:
    """Recommend for known users (all, or those named) from their full histories, or for given histories.

    Args:
        search: settings of the run's search, in place of those that validated the run.

    Raises:
        DataError: for a user that is not in the data, or if no history holds a known item.
    """
    if k < 1:
        raise UsageError(f"--k takes 1 or more, not {k}.")
    trained = Run(ws, artifact, resolve_device(device), layer=search)
    names, k = trained.names, min(k, trained.catalog.items)
    trained.refuse_longer(f"--k {k}", k)
    if histories is not None:
        if "times" in trained.needs:
            raise UsageError(f"The model '{trained.model_name}' reads times, and --history has none.")
        labels, known = _given_histories(histories, names)
        user = np.arange(len(labels))
    else:
        labels, known = names.user, trained.histories
        user = np.arange(known.users) if users is None else _rows_of(users, names)
    batches = trained.batches(user, known.length[user], histories=known, exclude_seen=exclude_seen)
    with bar(len(user)) as progress:
        row, item, score = lists_of(trained.ranker(), batches, trained.device, k=k, tick=progress.update)
    listed = item > 0
    rank = np.broadcast_to(np.arange(1, item.shape[1] + 1), item.shape)
    items = item[listed].tolist()
    columns: dict[str, list[Any]] = {
        "user": [labels[r] for r in np.repeat(row, listed.sum(1)).tolist()],
        "rank": rank[listed].tolist(),
        "item": [names.item[i - 1] for i in items],
        "title": [names.title[i - 1] for i in items],
        "score": score[listed].tolist(),
    }
    return Recommendations(columns)


def _rows_of(users: list[str], names: Names) -> np.ndarray:
    row_of = {raw: row for row, raw in enumerate(names.user)}
    for raw in users:
        if raw not in row_of:
            near = did_you_mean(raw, names.user[:10_000])
            raise DataError(f"There is no user '{raw}' in the data.{near}", hint="For new histories: --history FILE")
    return np.array(sorted({row_of[raw] for raw in users}))


def _given_histories(histories: dict[str, list[str]], names: Names) -> tuple[list[str], Histories]:
    """Given histories as item ids. Unknown items are left out, with a warning that counts them."""
    item_of = {raw: number for number, raw in enumerate(names.item, 1)}
    known = {user: [item_of[raw] for raw in items if raw in item_of] for user, items in histories.items()}
    unknown = [(raw, user) for user, items in histories.items() for raw in items if raw not in item_of]
    if unknown:
        first = "'{}' of '{}'".format(*unknown[0])
        console.warn(f"{len(unknown)} item(s) of the histories are not in the catalogue and are left out: {first}, ...")
    labels = [user for user, items in known.items() if items]
    if empty := [user for user, items in known.items() if not items]:
        console.warn(f"{len(empty)} user(s) have no known item and get no recommendations; the first: '{empty[0]}'")
    if not labels:
        hint = f"Items are named like '{names.item[0]}'"
        raise DataError("None of the histories holds an item of the catalogue.", hint=hint)
    length = np.array([len(known[user]) for user in labels])
    item = np.concatenate([np.array(known[user], dtype="uint32") for user in labels])
    no_target = np.full_like(length, -1)
    return labels, Histories(item, np.cumsum(length) - length, length, length, no_target, no_target, strangers=True)

"""recommend: a run and histories -> raw item ids, titles and scores."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.config import READS, did_you_mean
from genrec_cli.data.names import Names
from genrec_cli.data.sequences import Histories, eval_batches
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.evaluation import recommend as decode
from genrec_cli.errors import DataError, UsageError
from genrec_cli.files import write_atomically
from genrec_cli.stages.load import load_run, own_ranker, own_search, refuse_longer

COLUMNS = ("user", "rank", "item", "title", "score")
FORMATS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Recommendations:
    """Lists of raw ids: entry r of every column belongs together."""

    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.columns["user"])

    def rows(self) -> list[tuple[Any, ...]]:
        return list(zip(*(self.columns[name] for name in COLUMNS), strict=True))

    def write(self, path: Path) -> None:
        """To .csv, .tsv, .parquet or .jsonl, in one rename."""
        check_output(path)
        if path.suffix == ".parquet":
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table(self.columns), sink)
            content = sink.getvalue().to_pybytes()
        elif path.suffix in (".jsonl", ".ndjson"):
            lines = (json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) for row in self.rows())
            content = "".join(f"{line}\n" for line in lines).encode()
        else:
            text = io.StringIO(newline="")
            # The lines end as RFC 4180 has it: only then the writer quotes every kind of line break within a text.
            writer = csv.writer(text, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([COLUMNS, *self.rows()])
            content = text.getvalue().encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            raise UsageError(f"--output {path} cannot be written: {error.strerror}.") from None


def check_output(path: Path) -> None:
    """A usage error for a format that cannot be written; ask before the work, not after."""
    if path.suffix not in FORMATS:
        raise UsageError(f"--output {path.name}: the ending decides the format.", hint=f"One of {', '.join(FORMATS)}")


def sections_of(chosen: Artifact) -> list[str]:
    """The sections that recommending with a run reads; a file may hold others."""
    return [] if own_search(chosen)[0].exact else list(READS["recommend"])


def run(
    ws: Workspace, chosen: Artifact, *, users: list[str] | None, histories: dict[str, list[str]] | None, k: int,
    exclude_seen: bool, device: str, bar: Callable[[int], Any], batch_size: int = 256,
    decoder: dict[str, Any] | None = None,
) -> Recommendations:  # fmt: skip
    """Recommend for known users (all, or those named) from their full histories, or for given histories.

    Args:
        decoder: settings of the run's own decoder, in place of those it was validated with.

    Raises:
        DataError: for a user that the data does not know, or if no history holds a known item.
    """
    if k < 1:
        raise UsageError(f"--k takes 1 or more, not {k}.")
    search, settings = own_search(chosen, decoder)
    where = resolve_device(device)
    model, catalog, known = load_run(ws, chosen, where)
    k = min(k, catalog.items)
    refuse_longer(f"--k {k}", k, search, settings)
    names = Names.read(ws.input(chosen, "data").path)
    if histories is not None:
        labels, known = _own_histories(histories, names)
        user = np.arange(len(labels))
    else:
        labels = names.user
        user = np.arange(known.users) if users is None else _rows_of(users, names)
    batches = eval_batches(
        known,
        user,
        known.length[user],
        max_length=chosen.config["train"]["max_length"],
        batch_size=batch_size,
        exclude_seen=exclude_seen,
    )
    with bar(len(user)) as progress:
        row, item, score = decode(
            own_ranker(chosen, model, catalog, decoder),
            batches,
            where,
            k=k,
            tick=progress.update,
        )
    found = item > 0
    number = np.broadcast_to(np.arange(1, item.shape[1] + 1), item.shape)
    items = item[found].tolist()
    return Recommendations(
        {
            "user": [labels[r] for r in np.repeat(row, found.sum(1)).tolist()],
            "rank": number[found].tolist(),
            "item": [names.item[i - 1] for i in items],
            "title": [names.title[i - 1] for i in items],
            "score": score[found].tolist(),
        }
    )


def _rows_of(users: list[str], names: Names) -> np.ndarray:
    row_of = {raw: row for row, raw in enumerate(names.user)}
    for raw in users:
        if raw not in row_of:
            raise DataError(
                f"The data knows no user '{raw}'.{did_you_mean(raw, names.user[:10_000])}",
                hint="For histories that the data has never seen: --history FILE",
            )
    return np.array(sorted({row_of[raw] for raw in users}))


def _own_histories(histories: dict[str, list[str]], names: Names) -> tuple[list[str], Histories]:
    """Given histories as item ids. Unknown items are left out and counted."""
    item_of = {raw: number for number, raw in enumerate(names.item, 1)}
    known = {user: [item_of[raw] for raw in items if raw in item_of] for user, items in histories.items()}
    unknown = [(user, raw) for user, items in histories.items() for raw in items if raw not in item_of]
    if unknown:
        console.warn(f"{len(unknown)} item(s) of the histories are not in the catalogue and were left out; the first: "
                     f"'{unknown[0][1]}' of '{unknown[0][0]}'")  # fmt: skip
    empty = [user for user, items in known.items() if not items]
    if empty:
        console.warn(f"{len(empty)} user(s) have no known item and get no recommendations; the first: '{empty[0]}'")
    labels = [user for user, items in known.items() if items]
    if not labels:
        raise DataError("None of the histories holds an item of the catalogue.",
                        hint=f"Items are named like '{names.item[0]}'")  # fmt: skip
    length = np.array([len(known[user]) for user in labels])
    item = np.concatenate([np.array(known[user], dtype="uint32") for user in labels])
    nowhere = np.full_like(length, -1)
    return labels, Histories(item, np.cumsum(length) - length, length, length, nowhere, nowhere)

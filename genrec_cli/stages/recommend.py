"""recommend: a run and histories -> raw item ids, titles and scores."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from genrec_cli import console
from genrec_cli.data.names import Names
from genrec_cli.engine.evaluation import recommend as lists_of
from genrec_cli.engine.lists import CandidateLists, DiverseLists
from genrec_cli.engine.ranking import ListMaker
from genrec_cli.errors import DISK_FAULTS, InputError, UsageError
from genrec_cli.files import write_atomically
from genrec_cli.searches.diversity import unit_vectors
from genrec_cli.stages.audience import (
    FALLBACKS,
    Audience,
    Fallback,
    best,
    fallback_scores,
    given_histories,
    known_users,
)
from genrec_cli.stages.candidates import candidate_rows
from genrec_cli.stages.trained import Run

COLUMNS = ("user", "rank", "item", "title", "score")
POOL = 5
"""Items per place of a diverse list, from which it is chosen."""
FORMATS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Recommendations:
    """Lists of raw ids as columns (sequences or series); row r of every column belongs together."""

    columns: Mapping[str, Any]

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
            kind = InputError if error.errno in DISK_FAULTS else UsageError
            hint = "Free disk space, correct the permissions, or choose another --output FILE"
            raise kind(f"--output {path} cannot be written: {error.strerror}.", hint=hint) from None


def check_output(path: Path) -> None:
    """Raise UsageError for a format that cannot be written. Called before the work."""
    if path.suffix not in FORMATS:
        raise UsageError(f"--output {path.name}: the ending decides the format.", hint=f"One of {', '.join(FORMATS)}")


@dataclass(frozen=True)
class Request:
    """What to recommend, and to whom."""

    k: int = 10
    """Items per user."""
    users: Sequence[str] | None = None
    """Raw ids of known users; None: all."""
    histories: Mapping[str, list[str]] | None = None
    """New histories in place of known users: raw item ids, oldest first."""
    exclude_seen: bool = True
    """Leave out the items of the history."""
    candidates: Path | None = None
    """File of the raw ids of the items that may be recommended; None: all."""
    where: str | None = None
    """Condition in SQL that recommended items fulfil."""
    fallback: Fallback = "skip"
    """The list of users without a usable history."""
    diversity: float = 0.0
    """Weight of the similarity within a list, from 0 to 1 (``searches/diversity.py``)."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"--k takes 1 or more, not {self.k}.")
        if not 0 <= self.diversity <= 1:
            raise UsageError(f"--diversity takes 0 to 1, not {self.diversity}.", hint="For example: --diversity 0.3")
        if self.fallback not in FALLBACKS:
            message = f"There is no fallback '{self.fallback}'."
            raise UsageError(message, hint=f"--fallback takes {', '.join(FALLBACKS)}")


def recommend(trained: Run, request: Request, *, bar: Callable[[int], Any]) -> Recommendations:
    """Recommend for known users from their full histories, or for given histories.

    Raises:
        DataError: no user has a usable history and there is no fallback, or there is no candidate.
        UsageError: a setting is wrong, or the search cannot make lists of this length.
    """
    names, given = trained.names, request.histories
    if given is not None and "times" in trained.needs:
        raise UsageError(f"The model '{trained.model_name}' reads times, and histories are given to it without them.")
    candidates = candidate_rows(trained.data, request.candidates, request.where)
    k = min(request.k, trained.catalog.items if candidates is None else len(candidates))
    trained.refuse_longer(f"--k {k}", k)
    if given is not None:
        audience = given_histories(names, given, fallback=request.fallback)
    else:
        audience = known_users(names, trained.histories, request.users, fallback=request.fallback)
    columns = _lists(trained, audience, request, candidates, k, bar)
    if audience.without and request.fallback != "skip":
        train_count_I = trained.catalog.train_count_I.cpu().numpy()
        item_k, score_k = best(fallback_scores(request.fallback, train_count_I, trained.histories), k, candidates)
        more = _columns(audience.without, names, np.tile(item_k, (len(audience.without), 1)), score_k[None])
        columns = {name: pl.concat([columns[name], more[name]]) for name in COLUMNS}
    return Recommendations(columns)


def _lists(
    trained: Run, audience: Audience, request: Request, candidates: np.ndarray | None, k: int, bar: Callable[[int], Any]
) -> dict[str, pl.Series]:
    """The lists of the model as columns."""
    histories, user = audience.histories, audience.rows
    if not len(user):
        return _columns([], trained.names, np.zeros((0, k), dtype=np.int64), np.zeros((0, k), dtype=np.float32))
    at, maker = histories.length[user], list_maker(trained, request, candidates, k)
    batches = trained.batches(user, at, histories=histories, exclude_seen=request.exclude_seen)
    with bar(len(user)) as progress:
        row, item, score = lists_of(maker, batches, trained.device, k=k, tick=progress.update)
    if empty := int((item == 0).all(1).sum()):
        what = "user(s) get no recommendations: they have seen every item that may be recommended"
        console.warn(f"{empty:,} {what}; --keep-seen lists these too")
    if not trained.model.trainable and (zero := int(((score == 0) & (item > 0)).sum())):
        what = f"'{trained.model_name}' has counted nothing for them, so their order means nothing"
        console.warn(f"{zero:,} of {int((item > 0).sum()):,} items have the score 0: {what}")
    return _columns(pl.Series(audience.labels, dtype=pl.String).gather(row), trained.names, item, score)


def list_maker(trained: Run, request: Request, candidates: np.ndarray | None, k: int) -> ListMaker:
    """The ranker of a request: of all items or of candidates, diverse or not."""
    maker: ListMaker = trained.ranker() if candidates is None else _of_candidates(trained, candidates)
    if not request.diversity:
        return maker
    vector_RE = unit_vectors(torch.from_numpy(trained.vectors)).to(trained.device)
    longest = trained.search.longest(trained.settings) or POOL * k
    pool = min(POOL * k, longest, trained.catalog.items if candidates is None else len(candidates))
    return DiverseLists(maker, vector_RE, request.diversity, pool)


def _of_candidates(trained: Run, candidates: np.ndarray) -> ListMaker:
    row_C = torch.from_numpy(candidates).to(trained.device)
    return CandidateLists(trained.model, trained.catalog, trained.search, trained.settings, row_C)


def _columns(
    users: Sequence[str] | pl.Series, names: Names, item_Uk: np.ndarray, score_Uk: np.ndarray
) -> dict[str, pl.Series]:
    """Lists as columns with raw ids; places without an item are left out."""
    listed = item_Uk > 0
    row = np.repeat(np.arange(len(item_Uk)), listed.sum(1))
    rank = np.broadcast_to(np.arange(1, item_Uk.shape[1] + 1), item_Uk.shape)[listed]
    item = item_Uk[listed].astype(np.int64) - 1
    score = np.broadcast_to(score_Uk, item_Uk.shape)[listed]
    return {
        "user": pl.Series(users, dtype=pl.String).gather(row),
        "rank": pl.Series(rank, dtype=pl.Int64),
        "item": pl.Series(names.item, dtype=pl.String).gather(item),
        "title": pl.Series(names.title, dtype=pl.String).gather(item),
        "score": pl.Series(score, dtype=pl.Float64),
    }

"""The ranks of a comparison, of all users and of each slice: read from evaluations, or computed by new scoring."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.data.schema import ITEMS, read_table
from genrec_cli.data.sequences import Histories
from genrec_cli.engine import slices
from genrec_cli.engine.evaluation import Outcome, evaluate
from genrec_cli.engine.protocols import PROTOCOLS
from genrec_cli.errors import DataError, UsageError
from genrec_cli.stages.compare_table import Ranks, Side, Slice
from genrec_cli.stages.trained import Run

if TYPE_CHECKING:
    from genrec_cli.stages.compare import CompareConfig

Sides = Sequence[Sequence[Artifact]]
COLUMNS = ["user", "target", *(f"{protocol}_{name}" for protocol in PROTOCOLS for name in ("rank", "ties"))]


def evaluated(ws: Workspace, sides: Sides, config: "CompareConfig") -> list[Slice]:
    """Ranks from the files of evaluations, of all users and of each slice.

    Raises:
        DataError: a file cannot be read, or two files have other users or targets.
    """
    read = [[ranks_of(evaluation) for evaluation in side] for side in sides]
    first = read[0][0]
    for evaluation, table in zip(chain(*sides), chain(*read), strict=True):
        for column in ("user", "target"):
            if not np.array_equal(table[column], first[column]):
                raise DataError(f"{evaluation.path.name} has other {column}s than {sides[0][0].path.name}.")
    ranks: list[Side] = [
        {p: Ranks(*(np.stack([t[f"{p}_{name}"] for t in tables]) for name in ("rank", "ties"))) for p in PROTOCOLS}
        for tables in read
    ]
    parts: list[tuple[str, np.ndarray]] = []
    if config.by != "all":
        parts = _parts(Run(ws, ws.input(sides[0][0], "runs")), first["user"] - 1, first["target"], config)
    return [("all", ranks)] + [(name, [{p: s[p].of(rows) for p in PROTOCOLS} for s in ranks]) for name, rows in parts]


def _parts(run: Run, user_U: np.ndarray, target_U: np.ndarray, config: "CompareConfig") -> list[tuple[str, np.ndarray]]:
    """The name and the rows of each slice."""
    if config.by == "cold-start":
        table = read_table(run.data.path / "items.parquet", ITEMS, ["train_count"])
        return slices.bins(table["train_count"].to_numpy()[target_U - 1], slices.COLD_START)
    length_U = slices.history_length(run.histories, user_U, config.split)
    if config.by == "length":
        return slices.bins(length_U, config.lengths)
    time_N = Histories.read(run.data.path, times=True).time
    if time_N is None:
        hint = "--by length, or preprocess a log with a column of times (--time-col)"
        raise UsageError(f"{run.data.path.name} has no times, so that no target has a day.", hint=hint)
    at_U = run.histories.offset[user_U] + length_U
    return slices.by_day(time_N[at_U], time_N[at_U - 1])


def ranks_of(evaluation: Artifact) -> dict[str, np.ndarray]:
    """The columns ``COLUMNS`` of the users of an evaluation. Raises DataError for a damaged file."""
    path = evaluation.path / "per_user.parquet"
    try:
        table = pq.read_table(path, columns=COLUMNS)
        return {name: table[name].to_numpy().astype(np.int64) for name in COLUMNS}
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}.", hint="Evaluate again with --force") from None


def truncated(
    ws: Workspace, sides: Sides, config: "CompareConfig", device: torch.device, bar: Callable[[int], Any]
) -> list[Slice]:
    """Score every run on whole and on truncated histories."""
    over = f"over {config.longer_than}"
    names = ["all", over, f"{over}, last {config.drop} dropped", f"{over}, cut as printed (memory)"]
    outcomes = [[_conditions(Run(ws, artifact, device), config, bar) for artifact in side] for side in sides]
    return [(name, [_stacked([seed[n] for seed in side]) for side in outcomes]) for n, name in enumerate(names)]


def _conditions(run: Run, config: "CompareConfig", bar: Callable[[int], Any]) -> list[Outcome]:
    """Outcomes on whole histories of all users and of those with long ones, then on truncated ones, both ways."""
    user, at = run.histories.targets(config.split)
    long, long_at = slices.long_histories(run.histories, config.split, config.longer_than)
    if not len(long):
        message = f"No history of the {config.split} split has more than {config.longer_than} items."
        raise DataError(message, hint="--set compare.longer_than=N takes shorter ones")
    size = {"max_length": run.max_length, "batch_size": 256}
    sound = slices.truncated_batches(run.histories, long, long_at, config.drop, "sound", **size)
    learnt = long_at - config.drop < run.histories.train_end[long]  # a split by time may have later targets there
    if not learnt.any():
        message = "No item after the cut belongs to the training part, so that no row measures memory."
        raise DataError(message, hint="--drop N with more items, or --by length")
    printed_U, printed_at = long[learnt], long_at[learnt]
    printed = slices.truncated_batches(run.histories, printed_U, printed_at, config.drop, "printed", **size)
    ranker = run.ranker()
    with bar(len(user) + 2 * len(long) + len(printed_U)) as progress:
        batches = [run.batches(user, at), run.batches(long, long_at), sound, printed]
        return [evaluate(ranker, part, run.device, tick=progress.update).by_user() for part in batches]


def _stacked(outcomes: list[Outcome]) -> Side:
    """The ranks of several seeds."""
    ranks = {p: [outcome.ranks[p] for outcome in outcomes] for p in PROTOCOLS}
    return {p: Ranks(np.stack([r.above for r in seed]), np.stack([r.ties for r in seed])) for p, seed in ranks.items()}

"""sweep: tokenizes, trains and evaluates every cell of a sweep, then makes one table.

A cell is the same run and evaluation that ``genrec train`` and ``genrec evaluate`` make from its settings. Finished
runs are used, whatever their label; unfinished runs are resumed. If a sweep sets ``[preprocess]``, each cell also has
the data that ``genrec preprocess`` makes from the raw files.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import merge
from genrec_cli.engine.diagnosis import parallel_below_residual
from genrec_cli.errors import DivergedError, GenrecError
from genrec_cli.stages import evaluate, train
from genrec_cli.stages.sweep_cell import (
    CodesAndVectors,
    Inputs,
    check_cell,
    codes_and_vectors,
    evaluation_of,
    inputs_of,
    needs_of,
    shared_inputs,
    train_plan,
)
from genrec_cli.stages.sweep_recipe import Cell, Sweep
from genrec_cli.stages.sweep_table import Done, check_columns, cutoffs, per_row, per_run, shown
from genrec_cli.stages.taint import mark
from genrec_cli.stages.train_plan import TrainPlan

VERSION = 2
Progress = Callable[[], AbstractContextManager[Any]]
"""Makes a context whose ``attach`` returns the callbacks of a training loop."""


def inputs(ws: Workspace, sweep: Sweep, dataset: str, *, data: str | None, codes: str | None, encoder: str) -> Inputs:
    """Find the inputs of all cells. Raises the errors of their settings before any work: encoding can take hours."""
    columns = check_columns(sweep.config.columns)
    for cell in sweep.cells:
        try:
            check_cell(cell, columns)
        except GenrecError as error:
            row = f"'{cell.row}': " if cell.row and cell.row not in error.message else ""
            raise type(error)(f"{row}{error.message}", hint=error.hint) from None
    return shared_inputs(ws, sweep.cells, dataset, data, codes, encoder)


def survey(ws: Workspace, sweep: Sweep, given: Inputs) -> list[tuple[Cell, str, Path | None]]:
    """The state of every cell and the folder of its run, without any work."""

    def state(cell: Cell) -> tuple[Cell, str, Path | None]:
        own = inputs_of(ws, cell, given, make=False)
        if own is None:
            return cell, "data would be made first", None
        made = codes_and_vectors(ws, cell, own, make=False)
        if made is None:
            return cell, f"{'codes' if 'codes' in needs_of(cell) else 'vectors'} would be made first", None
        plan = _train_plan(ws, sweep, cell, own, made).plan
        path, unfinished = ws.path(plan), "would go on" if ws.path(plan).is_dir() else "would be made"
        return cell, "up to date" if ws.done(plan) else unfinished, path

    return [state(cell) for cell in sweep.cells]


def run(
    ws: Workspace, sweep: Sweep, given: Inputs, split: str, *, device: str, force: bool, progress: Progress
) -> tuple[list[Done], list[str]]:
    """Train and evaluate all cells. Returns the finished cells, and the names of those that diverged."""
    plans = []
    for cell in sweep.cells:
        own = inputs_of(ws, cell, given, make=True)
        assert own is not None
        made_inputs = codes_and_vectors(ws, cell, own, make=True)
        assert made_inputs is not None
        plans.append((cell, _train_plan(ws, sweep, cell, own, made_inputs)))
    columns = check_columns(sweep.config.columns)
    done: list[Done] = []
    diverged: list[str] = []
    made: dict[str, Artifact] = {}
    for number, (cell, plan) in enumerate(plans, 1):
        name = f"{cell.row}, seed {cell.seed}"
        head = f"[{number}/{len(plans)}] {name}: runs/{plan.plan.name}"
        finished = made.get(plan.plan.key) or (None if force else ws.done(plan.plan))
        console.say(f"{head}: up to date" if finished else head)
        try:
            if finished is None:
                with progress() as bar:
                    finished = train.train(ws, plan, device=device, force=force, callbacks_for=bar.attach)
            assert finished is not None  # a sweep runs as one process
            made[plan.plan.key] = finished
        except DivergedError as error:
            console.warn(f"{name} diverged: {error.message}")
            diverged.append(name)
            continue
        at = cutoffs(columns, evaluation_of(cell).at)
        settings = merge(cell.layers, {"evaluate": {"at": at, "split": split}})
        measure, config = evaluate.plan(ws, finished.dataset, settings, run=str(finished.path))
        evaluation = None if force else ws.done(measure)
        evaluation = evaluation or evaluate.run(ws, measure, config, device=device, bar=console.user_bar("scoring"))
        assert evaluation is not None
        codes = ws.input(finished, "codes") if "codes" in finished.manifest["inputs"] else None
        done.append(Done(cell.row, cell.seed, finished, evaluation, codes))
    if not done:
        raise DivergedError("Every run of the sweep diverged.", hint="Lower the learning rate: --set train.lr=...")
    return done, diverged


def table_stage(
    ws: Workspace, sweep: Sweep, dataset: str, split: str, done: list[Done], diverged: list[str]
) -> tuple[Plan, Callable[[], Artifact]]:
    """The table of finished cells, as an artifact."""
    columns = check_columns(sweep.config.columns)
    expected = {row: list(numbers) for row, numbers in sweep.expected.items()}
    settings = sweep.config.model_dump(mode="json", exclude={"on"})
    settings |= {"split": split, "expected": expected, "diverged": diverged}
    settings["cells"] = [[cell.row, cell.seed] for cell in done]
    evaluations = {f"eval{number}": cell.evaluation for number, cell in enumerate(done)}
    plan = Plan(dataset, "sweeps", f"{sweep.name}-{split}", VERSION, {"sweep": settings}, evaluations)

    def work() -> Artifact:
        table = per_row(sweep.rows, done, columns, sweep.expected)
        with ws.build(plan) as draft:
            pq.write_table(pa.Table.from_pylist(table), draft.path / "table.parquet")
            pq.write_table(pa.Table.from_pylist(per_run(done, columns)), draft.path / "runs.parquet")
            text = f"# {title(sweep, dataset, split)}\n\n{mark(ws, plan)}{console.markdown(*shown(table, columns))}\n"
            text += "".join(f"- {line}\n" for line in [*notes(sweep, split, diverged), *unreached(done)])
            runs = console.markdown(["row", "runs"], [[line["row"], line["runs"]] for line in table])
            (draft.path / "table.md").write_text(f"{text}\n{runs}", "utf-8")
            draft.result |= {"split": split, "columns": columns, "diverged": diverged, "rows": table}
            draft.result["not_begun"] = unreached(done)
            metric = next((column for column in columns if "@" in column), "")
            if finding := parallel_below_residual(metric, _by_tokenizer(sweep, done, metric)):
                draft.result["diagnosis"] = [asdict(finding)]
        return ws.made(plan)

    return plan, work


def title(sweep: Sweep, dataset: str, split: str) -> str:
    """The heading of the table."""
    return f"{sweep.config.title}: {dataset}, {split} split, seeds {', '.join(map(str, sweep.config.seeds))}"


def notes(sweep: Sweep, split: str, diverged: list[str]) -> list[str]:
    """How to read the numbers of the table."""
    lines = ["Mean ± standard deviation over n seeds."]
    if sweep.expected:
        lines.append("'paper' is printed for the test split.")
        if split == "valid":
            lines.append("These are validation numbers: compare rows with rows, not with the paper.")
    if split == "test":
        lines.append("Test numbers: to report what was chosen before, not to choose by.")
    lines += [f"diverged and left out: {name}" for name in diverged]
    return [*lines, *sweep.config.cite]


def unreached(done: Sequence[Done]) -> list[str]:
    """The cells whose last phases did not begin: they may equal another row for this reason alone."""
    found = [(cell, sign) for cell in done for sign in cell.run.result.get("diagnosis", [])]
    return [f"{c.row}, seed {c.seed}: {s['seen']}" for c, s in found if s["sign"] == "phases never begin"]


def _by_tokenizer(sweep: Sweep, done: list[Done], metric: str) -> dict[str, float]:
    """The best value of each tokenizer in a sweep over tokenizers."""
    if not metric or ("tokenizer", "name") not in sweep.varied:
        return {}
    names = {cell.row: cell.layers.get("tokenizer", {}).get("name") for cell in sweep.cells}
    values = sorted((float(cell.value(metric) or 0.0), str(names[cell.row])) for cell in done if names[cell.row])
    return {name: value for value, name in values}  # the last value of a name is its largest


def _train_plan(ws: Workspace, sweep: Sweep, cell: Cell, given: Inputs, made: CodesAndVectors) -> TrainPlan:
    """The plan of a cell. Rows that differ only in [search] share one run, which is validated with the settings that
    they share."""
    search = {key: v for key, v in cell.layers.get("search", {}).items() if ("search", key) not in sweep.varied}
    return train_plan(ws, replace(cell, layers=cell.layers | {"search": search}), given, made)

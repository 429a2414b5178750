"""sweep: tokenizes, trains and evaluates every cell of a sweep, then makes one table.

A cell is the same run and evaluation that ``genrec train`` and ``genrec evaluate`` make from its settings. Finished
runs are used, whatever their label; unfinished runs are resumed. If a sweep sets ``[preprocess]``, each cell also has
the data that ``genrec preprocess`` makes from the raw files.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrec_cli import console, registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import merge, validate
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.curriculum.target_masks import NoiseConfig
from genrec_cli.engine.diagnosis import parallel_below_residual
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import DivergedError, UsageError
from genrec_cli.stages import codes as codes_of
from genrec_cli.stages import evaluate, train, vectors
from genrec_cli.stages.load import matching_search, refuse_longer
from genrec_cli.stages.preprocess import PreprocessConfig, from_raw, preprocess
from genrec_cli.stages.sweep_recipe import Cell, Sweep
from genrec_cli.stages.sweep_table import Done, check_columns, cutoffs, per_row, per_run, shown
from genrec_cli.stages.taint import mark
from genrec_cli.stages.train_checks import check_masking
from genrec_cli.stages.train_plan import Inputs as TrainInputs
from genrec_cli.stages.train_plan import TrainPlan
from genrec_cli.stages.train_plan import plan as plan_training

VERSION = 2
Progress = Callable[[], AbstractContextManager[Any]]
"""Makes a context whose ``attach`` returns the callbacks of a training loop."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of all cells."""

    data: Artifact
    """The data of all cells; if the sweep sets ``[preprocess]``, the raw files (:func:`inputs_of`)."""
    codes: Artifact | None
    """The codes that ``--codes`` names. None: each cell has those of its settings, or the only ones."""
    encoder: str
    """The default encoder."""


def inputs(ws: Workspace, sweep: Sweep, dataset: str, *, data: str | None, codes: str | None, encoder: str) -> Inputs:
    """Find the inputs of all cells. Raises the errors of their settings before any work: encoding can take hours."""
    columns = check_columns(sweep.config.columns)
    for cell in sweep.cells:
        check_cell(cell, columns)
    return shared_inputs(ws, sweep.cells, dataset, data, codes, encoder)


def shared_inputs(
    ws: Workspace, cells: Sequence[Cell], dataset: str, data: str | None, codes: str | None, encoder: str
) -> Inputs:
    """The inputs of cells. Raises UsageError if ``codes`` were made with other settings than those of a cell."""
    if any("preprocess" in cell.layers for cell in cells):
        if data or codes:
            named = "--data" if data else "--codes"
            raise UsageError(f"The sweep sets [preprocess], so it makes its own data: {named} cannot be given.")
        for cell in cells:
            validate(PreprocessConfig, "preprocess", cell.layers.get("preprocess", {}))
        if not ws.all(dataset, "raw"):
            what = f"The sweep sets [preprocess], which reads downloaded files, and '{dataset}' has none."
            raise UsageError(what, hint="Leave [preprocess] out: the sweep then uses the data of genrec preprocess")
        return Inputs(ws.find(dataset, "raw"), None, encoder)
    if codes is None:
        return Inputs(ws.find(dataset, "data", data), None, encoder)
    found = ws.find(dataset, "codes", codes)
    for cell, section in itertools.product(cells, ("encoder", "tokenizer")):
        for key, value in cell.layers.get(section, {}).items():
            recorded = found.config.get(section, {}).get(key)
            if recorded != value:
                message = f"{section}.{key} is {value!r} in '{cell.row}', but {found.path.name} has {recorded!r}."
                raise UsageError(message, hint="Leave --codes out: the sweep makes the codes it needs")
    return Inputs(ws.input(found, "data"), found, encoder)


def survey(ws: Workspace, sweep: Sweep, given: Inputs) -> list[tuple[Cell, str, Path | None]]:
    """The state of every cell and the folder of its run, without any work."""

    def state(cell: Cell) -> tuple[Cell, str, Path | None]:
        own = inputs_of(ws, cell, given, make=False)
        if own is None:
            return cell, "data would be made first", None
        codes = codes_for(ws, cell, own, make=False)
        if codes is None and needs_codes(cell):
            return cell, "codes would be made first", None
        plan = _train_plan(ws, sweep, cell, own, codes).plan
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
        plans.append((cell, _train_plan(ws, sweep, cell, own, codes_for(ws, cell, own, make=True))))
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
        at = cutoffs(columns, _evaluation(cell).at)
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


# ---- one cell --------------------------------------------------------------------------------------


def inputs_of(ws: Workspace, cell: Cell, given: Inputs, *, make: bool) -> Inputs | None:
    """The inputs of a cell. Its own data are made if ``make`` is set; None if they are missing."""
    if given.data.kind != "raw":
        return given
    config = validate(PreprocessConfig, "preprocess", cell.layers.get("preprocess", {}))
    plan, work = preprocess(ws, given.data.dataset, config, from_raw(ws, given.data.dataset, str(given.data.path)))
    data = ws.done(plan) or (work() if make else None)
    return None if data is None else replace(given, data=data)


def needs_codes(cell: Cell) -> bool:
    return "codes" in registry.load("model", cell.model).needs


def _evaluation(cell: Cell) -> evaluate.EvaluateConfig:
    return validate(evaluate.EvaluateConfig, "evaluate", cell.layers.get("evaluate", {}))


def check_cell(cell: Cell, columns: Sequence[str]) -> None:
    """Raise UsageError or ConfigError if the settings of a cell are wrong."""
    kind = registry.load("model", cell.model)
    layers = merge(kind.defaults, cell.layers)
    model = validate(kind.Config, "model", {key: v for key, v in layers.get("model", {}).items() if key != "name"})
    kind.check(model, validate(TrainConfig, "train", layers["train"]))
    check_masking(kind, cell.model, validate(CurriculumConfig, "curriculum", layers.get("curriculum", {})))
    validate(NoiseConfig, "noise", layers.get("noise", {}))
    config = _evaluation(cell)
    name = kind.search if config.search == "auto" else config.search
    hint = f"'{cell.row}' sets it: leave evaluate.search out, then each model uses its default search"
    search = matching_search(name, cell.model, hint)
    settings = validate(search.Config, "search", layers.get("search", {}))
    at = cutoffs(columns, config.at)
    if not at or at[0] < 1:
        raise UsageError(f"evaluate.at is {list(config.at)} in '{cell.row}': cutoffs are 1 or more.")
    hint = f"search.beams of {at[-1]} or more, or columns of fewer items"
    refuse_longer(f"The cutoff {at[-1]} in '{cell.row}'", at[-1], search, settings, hint=hint)


def _by_tokenizer(sweep: Sweep, done: list[Done], metric: str) -> dict[str, float]:
    """The best value of each tokenizer in a sweep over tokenizers."""
    if not metric or ("tokenizer", "name") not in sweep.varied:
        return {}
    names = {cell.row: cell.layers.get("tokenizer", {}).get("name") for cell in sweep.cells}
    values = sorted((float(cell.value(metric) or 0.0), str(names[cell.row])) for cell in done if names[cell.row])
    return {name: value for value, name in values}  # the last value of a name is its largest


def _train_plan(ws: Workspace, sweep: Sweep, cell: Cell, given: Inputs, codes: Artifact | None) -> TrainPlan:
    """The plan of a cell. Rows that differ only in [search] share one run, which is validated with the settings that
    they share."""
    search = {key: v for key, v in cell.layers.get("search", {}).items() if ("search", key) not in sweep.varied}
    return train_plan(ws, replace(cell, layers=cell.layers | {"search": search}), given, codes)


def train_plan(
    ws: Workspace,
    cell: Cell,
    given: Inputs,
    codes: Artifact | None,
    *,
    label: str | None = None,
    init_from: str | None = None,
) -> TrainPlan:
    """The plan of a cell, with the label of an existing run of the same key."""
    paths = TrainInputs(str(given.data.path), str(codes.path) if codes else None, init_from=init_from)
    made = plan_training(ws, given.data.dataset, cell.model, cell.layers, inputs=paths, label=label)
    folder = ws.path(made.plan)
    existing = sorted(folder.parent.glob(f"[!.]*-{made.plan.key[:8]}"))
    if existing and not folder.is_dir():
        return replace(made, plan=replace(made.plan, label=existing[0].name[:-9]))
    return made


def codes_for(ws: Workspace, cell: Cell, given: Inputs, *, make: bool) -> Artifact | None:
    """The codes of a cell, made if ``make`` is set; without [encoder] and [tokenizer] the only codes of the data."""
    if given.codes or not needs_codes(cell):
        return given.codes

    def artifact(plan: Plan, work: Callable[[], Artifact | None]) -> Artifact | None:
        return ws.done(plan) or (work() if make else None)

    data, encoding, tokenizer = given.data, cell.layers.get("encoder", {}), cell.layers.get("tokenizer", {})
    if not encoding and not tokenizer:
        return ws.find(data.dataset, "codes", made_from=data)
    config = codes_of.tokenizer_config(tokenizer, data)
    if "vectors" not in codes_of.needs(tokenizer):
        return artifact(*codes_of.codes_stage(ws, data, config))
    encoder = vectors.make_encoder(vectors.encoder_values(encoding, None, given.encoder))
    item_vectors = artifact(*vectors.vectors_stage(ws, data, encoder))
    return item_vectors and artifact(*codes_of.codes_stage(ws, data, config, item_vectors))

"""compare: runs side by side on the same users, all together or in slices, with paired tests.

The first run, or set of seeds, is the baseline. ``table.parquet`` and ``table.md`` hold one row per slice, metric,
protocol (seen items kept or left out) and run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from genrec_cli import console, registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Count, Section, Seed, canonical_json, validate
from genrec_cli.distributed import resolve_device
from genrec_cli.engine import metrics, slices
from genrec_cli.errors import InputError, UsageError
from genrec_cli.stages.compare_slices import evaluated, truncated
from genrec_cli.stages.compare_table import SCHEMA, shown, table
from genrec_cli.stages.run_names import run_name, without_seed
from genrec_cli.stages.seeds import setting_of
from genrec_cli.stages.taint import mark
from genrec_cli.stages.trained import Run, refuse_other_data, refuse_repeated

VERSION = 2
By = Literal["all", "cold-start", "length", "day", "truncation"]


class CompareConfig(Section):
    """What is compared, and on which users."""

    split: Literal["valid", "test"] = "test"
    """valid or test."""
    metrics: tuple[str, ...] = Field(("Recall@10", "NDCG@10"), min_length=1)
    """Metrics with their cutoffs."""
    by: By = "all"
    """all: all users together; cold-start: by the training count of the target; length: by the history's length;
    day: targets of the same day as the item before, and later ones; truncation: truncated histories."""
    lengths: tuple[Count, ...] = Field(slices.LENGTHS, min_length=1)
    """Upper ends of the groups of lengths, ascending; one more is above the last. [4,6,10] separates cold users."""
    drop: int = Field(15, ge=2)
    """Items that truncation removes from the end of a history."""
    longer_than: Count = 20
    """Truncation reads histories with more items than this."""
    draws: int = Field(10_000, ge=100, le=1_000_000)
    """Draws of the bootstrap and of the randomisation test."""
    seed: Seed = 0
    """Seed of these draws."""


@dataclass(frozen=True)
class Comparison:
    """Runs to compare, before any work.

    ``names`` are the labels of the sides. ``sides`` are evaluations, or runs for truncation; those of one side are
    seeds of one setting.
    """

    plan: Plan
    config: CompareConfig
    names: list[str]
    sides: list[list[Artifact]]


def plan(
    ws: Workspace, dataset: str, layers: dict[str, dict[str, Any]], *, sides: list[str], names: Sequence[str] = ()
) -> Comparison:
    """Resolve the sides, and refuse what cannot be compared.

    Args:
        sides: a run or evaluation each; names with commas between them are seeds of one setting.
        names: of the sides, in place of the labels of their runs.
    """
    config = _config(layers.get("compare", {}))
    by_truncation = config.by == "truncation"
    find = partial(ws.find, dataset, "runs") if by_truncation else partial(_evaluation, ws, dataset, config)
    found = [[find(name.strip()) for name in side.split(",")] for side in sides]
    flat = [artifact for side in found for artifact in side]
    refuse_repeated(flat)
    refuse_other_data([ws.input(a, "runs") if a.kind == "eval" else a for a in flat])
    if by_truncation:
        deepest = max(config.metrics, key=lambda metric: metrics.parse(metric)[1])
        for run in flat:
            hint = f"Smaller cutoffs for {run.path.name}"
            Run(ws, run).refuse_longer(deepest, metrics.parse(deepest)[1], hint=hint)
    else:
        _refuse_unequal(ws, flat, config)
    for side in found:
        if len({setting_of(ws.input(a, "runs") if a.kind == "eval" else a) for a in side}) > 1:
            console.warn(f"{', '.join(map(run_name, side))} differ in more than the seed, and count as seeds here.")
    labels = _names(found)
    label = "-vs-".join(labels)[:60] + ("" if config.by == "all" else f"-by-{config.by}")
    settings = config.model_dump(mode="json") | {"sides": [len(side) for side in found]}
    settings |= {"names": list(names)} if names else {}
    inputs = {f"{flat[0].kind}{number}": artifact for number, artifact in enumerate(flat)}
    made = Plan(dataset, "comparisons", label, VERSION, {"compare": settings}, inputs)
    return Comparison(made, config, list(names) or labels, found)


def sides_of_sweep(ws: Workspace, dataset: str, name: str, layers: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The sides of a finished sweep and the names of their rows: the evaluations of each row, which are its seeds. Rows
    with the evaluations of an earlier row are left out with a message. ``layers`` gets the split of the sweep."""
    sweep = ws.find(dataset, "sweeps", name)
    split = sweep.config["sweep"]["split"]
    layers.setdefault("compare", {}).setdefault("split", split)
    rows: dict[str, list[Artifact]] = {}
    for number, (row, _) in enumerate(sweep.config["sweep"]["cells"]):
        rows.setdefault(row, []).append(ws.input(sweep, f"eval{number}"))
    if layers["compare"].get("by") == "truncation":
        rows = {row: [ws.input(evaluation, "runs") for evaluation in made] for row, made in rows.items()}
    sides: dict[str, str] = {}
    for row, made in rows.items():
        side = ",".join(str(artifact.path) for artifact in made)
        if side in sides:
            console.say(f"'{row}' has the runs of '{sides[side]}' and is left out")
        sides.setdefault(side, row)
    if len(sides) < 2:
        raise UsageError(f"The sweep '{name}' has {len(sides)} row to compare.", hint="genrec table    shows all runs")
    return sides


def _config(given: dict[str, Any]) -> CompareConfig:
    """The settings, with metrics in one spelling. Raises UsageError for settings that do not fit each other."""
    config = validate(CompareConfig, "compare", given)
    for by, keys in (("truncation", ("drop", "longer_than")), ("length", ("lengths",))):
        if config.by != by and (unused := sorted(given.keys() & set(keys))):
            message = f"compare.{unused[0]} is for '{by}', and this compares by '{config.by}'."
            raise UsageError(message, hint=f"--by {by}, or leave it out")
    if list(config.lengths) != sorted(set(config.lengths)):
        message = f"compare.lengths must rise (given: {', '.join(map(str, config.lengths))})."
        raise UsageError(message, hint="For example: --set compare.lengths=[4,6,10,20]")
    if config.by == "truncation" and config.drop > config.longer_than:
        message = f"Histories with more than {config.longer_than} items cannot all lose {config.drop}."
        raise UsageError(message, hint=f"--drop {config.longer_than} at most, or --set compare.longer_than=N")
    return config.model_copy(
        update={"metrics": tuple(dict.fromkeys("{}@{}".format(*metrics.parse(m)) for m in config.metrics))}
    )


def run(ws: Workspace, comparison: Comparison, *, device: str, bar: Callable[[int], Any]) -> Artifact:
    """Compute the table and write it; ``bar`` makes a progress bar over a number of users."""
    config = comparison.config
    with ws.build(comparison.plan) as draft:
        if config.by == "truncation":
            ranks = truncated(ws, comparison.sides, config, resolve_device(device), bar)
        else:
            ranks = evaluated(ws, comparison.sides, config)
        rows = table(ranks, comparison.names, config.metrics, draws=config.draws, seed=config.seed)
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), draft.path / "table.parquet")
        title = f"# {' and '.join(comparison.names)} on {comparison.plan.dataset}, {config.split} split\n\n"
        title += mark(ws, comparison.plan)
        (draft.path / "table.md").write_text(title + console.markdown(*shown(rows)) + f"\n{note(config)}\n", "utf-8")
        draft.result |= {"split": config.split, "by": config.by, "rows": rows}
    return ws.made(comparison.plan)


def _evaluation(ws: Workspace, dataset: str, config: CompareConfig, name: str) -> Artifact:
    """The evaluation with this name, or the evaluation of the run with this name by the run's default search."""
    evaluations = ws.all(dataset, "eval")
    if any(name in (e.path.name, str(e.path), e.path.name.rpartition("-")[0]) for e in evaluations):
        return ws.find(dataset, "eval", name)
    run = ws.find(dataset, "runs", name)
    wanted = {"split": config.split, "search": Run(ws, run).default_search}
    evaluations = [e for e in evaluations if e.manifest["inputs"]["runs"]["key"] == run.key]
    evaluations = [e for e in evaluations if wanted.items() <= e.config["evaluate"].items()]
    if not evaluations:
        hint = f"genrec evaluate --dataset {dataset} --run {run.path.name} --split {config.split}"
        raise InputError(f"{run.path.name} was not evaluated on the {config.split} split yet.", hint=hint)
    if len({_rank_settings(e) for e in evaluations}) > 1:
        lines = "\n".join(f"  {e.path.name}" for e in evaluations)
        raise InputError(f"{run.path.name} was evaluated in several ways:\n{lines}", hint="Name one of these")
    return ws.verified(evaluations[0])


def _rank_settings(evaluation: Artifact) -> str:
    """The settings that change the ranks of an evaluation. Cutoffs do not change them."""
    settings = {name: value for name, value in evaluation.config["evaluate"].items() if name != "at"}
    settings |= {"settings": evaluation.config.get("search", {}), "version": evaluation.manifest["version"]}
    return canonical_json(settings)


def _refuse_unequal(ws: Workspace, evaluations: list[Artifact], config: CompareConfig) -> None:
    """Check split, search and cutoffs in the manifests. Users and targets are checked when they are read."""
    settings = [evaluation.config["evaluate"] for evaluation in evaluations]
    default = [Run(ws, ws.input(evaluation, "runs")).default_search for evaluation in evaluations]
    searches = ["the model's" if s["search"] == d else s["search"] for s, d in zip(settings, default, strict=True)]
    for key, values in (("split", {s["split"] for s in settings}), ("search", set(searches))):
        if len(values) > 1:
            message = f"The evaluations differ in '{key}': {', '.join(sorted(values))}."
            raise UsageError(message, hint="Evaluate all with the same settings")
    split = settings[0]["split"]
    if split != config.split:
        raise UsageError(f"The evaluations are of the {split} split.", hint=f"--split {split}")
    deepest = max(metrics.parse(m)[1] for m in config.metrics)
    if any(not registry.load("search", s["search"]).exact and deepest > max(s["at"]) for s in settings):
        raise UsageError(f"An approximate list has no rank {deepest}.", hint="Evaluate with a larger --at")


def _names(sides: list[list[Artifact]]) -> list[str]:
    """``rpg-s0`` for one run, ``rpg`` for its seeds; longer names where two sides would have the same."""
    runs = [[run_name(artifact) for artifact in side] for side in sides]
    short = []
    for side in runs:
        labels = [name.rpartition("-")[0] for name in side]
        settings = {without_seed(label) for label in labels}
        short.append(settings.pop() if len(side) > 1 and len(settings) == 1 else "+".join(labels))
    names = [short, ["+".join(side) for side in runs], ["+".join(a.path.name for a in side) for side in sides]]
    return next((unique for unique in names if len(set(unique)) == len(unique)), names[-1])


def note(config: CompareConfig) -> str:
    """The paragraph below the table."""
    if config.by == "truncation":
        return (
            "Cut as printed: the target is the item after the cut. It belongs to the training part, and the model was\n"
            f"trained to predict it here; that row measures memory. Dropped: the target is that of the {config.split} "
            f"split, and the\nlast {config.drop} items before it are removed. p is adjusted over the whole table."
        )
    return f"Differences are to the first run, users paired; {config.draws:,} draws; p adjusted over the whole table."

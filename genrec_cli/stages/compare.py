"""compare: runs side by side on the same users, as a whole or by slices, with paired tests.

The first run, or set of seeds, is the baseline of all others. ``table.parquet`` and ``table.md`` hold one row for each
slice, metric, protocol (seen items kept or left out) and run.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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
from genrec_cli.stages.taint import mark
from genrec_cli.stages.trained import Run

VERSION = 2

By = Literal["all", "cold-start", "length", "day", "truncation"]
Bar = Callable[[int], Any]
"""Makes a progress bar over so many users."""


class CompareConfig(Section):
    """What to compare, and on which users."""

    split: Literal["valid", "test"] = "test"
    """valid or test."""
    metrics: tuple[str, ...] = Field(("Recall@10", "NDCG@10"), min_length=1)
    """Metrics with their cutoffs."""
    by: By = "all"
    """all: all users together; cold-start: by how often the target was trained on; length: by the history's length;
    day: targets of the same day as the item before, and later ones; truncation: truncated histories."""
    lengths: tuple[Count, ...] = Field(slices.LENGTHS, min_length=1)
    """Longest history of each bin of lengths, rising; above the last is one more. [4,6,10] tells cold users apart."""
    drop: int = Field(15, ge=2)
    """Items that truncation takes off the end of a history."""
    longer_than: Count = 20
    """Truncation looks at histories with more items than this."""
    draws: int = Field(10_000, ge=100, le=1_000_000)
    """Draws of the bootstrap and of the randomisation test."""
    seed: Seed = 0
    """Of these draws."""


@dataclass(frozen=True)
class Comparison:
    """Runs to compare, before any work."""

    plan: Plan
    config: CompareConfig
    names: list[str]
    """What the sides are called."""
    sides: list[list[Artifact]]
    """Evaluations, or runs for truncation; those of one side are seeds of one setting."""


def plan(ws: Workspace, dataset: str, layers: dict[str, dict[str, Any]], *, sides: list[str]) -> Comparison:
    """Resolve what was named, and refuse what cannot be compared.

    Args:
        sides: a run or evaluation each; several of them with commas between are seeds of one setting.
    """
    given = layers.get("compare", {})
    config = validate(CompareConfig, "compare", given)
    for by, keys in (("truncation", ("drop", "longer_than")), ("length", ("lengths",))):
        if config.by != by and (idle := sorted(given.keys() & set(keys))):
            raise UsageError(
                f"compare.{idle[0]} is for '{by}', and this compares by '{config.by}'.",
                hint=f"--by {by}, or leave it out",
            )
    if list(config.lengths) != sorted(set(config.lengths)):
        raise UsageError(
            f"compare.lengths must rise (given: {', '.join(map(str, config.lengths))}).",
            hint="For example: --set compare.lengths=[4,6,10,20]",
        )
    config = config.model_copy(update={"metrics": tuple("{}@{}".format(*metrics.parse(m)) for m in config.metrics)})
    if config.by == "truncation" and config.drop > config.longer_than:
        raise UsageError(
            f"Histories with more than {config.longer_than} items cannot all lose {config.drop}.",
            hint=f"--drop {config.longer_than} at most, or --set compare.longer_than=N",
        )

    def pick(name: str) -> Artifact:
        cut = config.by == "truncation"
        return ws.find(dataset, "runs", name) if cut else _evaluation(ws, dataset, name, config)

    chosen = [[pick(name.strip()) for name in side.split(",")] for side in sides]
    flat = [artifact for side in chosen for artifact in side]
    if len({artifact.key for artifact in flat}) < len(flat):
        raise UsageError("The same run is named twice.")
    _refuse_unequal(ws, flat, config)
    if config.by == "truncation":
        name, deepest = max(((m, metrics.parse(m)[1]) for m in config.metrics), key=lambda pair: pair[1])
        for chosen_run in flat:
            hint = f"Smaller cutoffs for {chosen_run.path.name}"
            Run(ws, chosen_run).refuse_longer(name, deepest, hint=hint)
    names = _names(chosen)
    label = "-vs-".join(names)[:60] + ("" if config.by == "all" else f"-by-{config.by}")
    settings = config.model_dump(mode="json") | {"sides": [len(side) for side in chosen]}
    inputs = {f"{flat[0].kind}{number}": artifact for number, artifact in enumerate(flat)}
    made = Plan(dataset, "comparisons", label, VERSION, {"compare": settings}, inputs)
    return Comparison(made, config, names, chosen)


def run(ws: Workspace, comparison: Comparison, *, device: str, bar: Bar) -> Artifact:
    """Fill the table and write it."""
    config = comparison.config
    with ws.build(comparison.plan) as draft:
        if config.by == "truncation":
            found = truncated(ws, comparison.sides, config, resolve_device(device), bar)
        else:
            found = evaluated(ws, comparison.sides, config)
        rows = table(found, comparison.names, config.metrics, draws=config.draws, seed=config.seed)
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), draft.path / "table.parquet")
        title = f"# {' and '.join(comparison.names)} on {comparison.plan.dataset}, {config.split} split\n\n"
        title += mark(ws, comparison.plan)
        (draft.path / "table.md").write_text(title + console.markdown(*shown(rows)) + f"\n{note(config)}\n", "utf-8")
        draft.result |= {"split": config.split, "by": config.by, "rows": rows}
    return ws.made(comparison.plan)


# ---- what is compared ------------------------------------------------------------------------------


def _evaluation(ws: Workspace, dataset: str, name: str, config: CompareConfig) -> Artifact:
    """The evaluation of a run on the split by its own search, or the evaluation of that very name."""
    everything = ws.all(dataset, "eval")
    if any(name in (e.path.name, str(e.path), e.path.name.rpartition("-")[0]) for e in everything):
        return ws.find(dataset, "eval", name)
    chosen = ws.find(dataset, "runs", name)
    way = {"split": config.split, "search": Run(ws, chosen).own_search}
    of_run = [e for e in everything if e.manifest["inputs"]["runs"]["key"] == chosen.key]
    found = [e for e in of_run if way.items() <= e.config["evaluate"].items()]
    if not found:
        raise InputError(
            f"{chosen.path.name} was not evaluated on the {config.split} split yet.",
            hint=f"genrec evaluate --dataset {dataset} --run {chosen.path.name} --split {config.split}",
        )
    if len({canonical_json(_way(e)) for e in found}) > 1:
        lines = "\n".join(f"  {e.path.name}" for e in found)
        raise InputError(f"{chosen.path.name} was evaluated in several ways:\n{lines}", hint="Name one of these")
    return ws.verified(found[0])


def _way(evaluation: Artifact) -> dict[str, Any]:
    """What decides the ranks of an evaluation. Cutoffs do not: they are cut from the same lists."""
    way = {name: value for name, value in evaluation.config["evaluate"].items() if name != "at"}
    return way | {"settings": evaluation.config.get("search", {}), "version": evaluation.manifest["version"]}


def _refuse_unequal(ws: Workspace, flat: list[Artifact], config: CompareConfig) -> None:
    """What the sides must share, from their manifests; users and targets are checked when they are read."""
    runs = [ws.input(a, "runs") if a.kind == "eval" else a for a in flat]
    if len({run.manifest["inputs"]["data"]["digest"] for run in runs}) > 1:
        raise UsageError("The runs were trained on different data, so their users are not the same.")
    if flat[0].kind == "runs":
        return
    ways = [a.config["evaluate"] for a in flat]
    told = [
        way | ({"search": "the model's own"} if way["search"] == Run(ws, run).own_search else {})
        for way, run in zip(ways, runs, strict=True)
    ]
    for key in ("split", "search"):
        if len(values := {str(way[key]) for way in told}) > 1:
            raise UsageError(
                f"The evaluations differ in '{key}': {', '.join(sorted(values))}.", hint="Evaluate all in one way"
            )
    if ways[0]["split"] != config.split:
        raise UsageError(f"The evaluations are of the {ways[0]['split']} split.", hint=f"--split {ways[0]['split']}")
    deepest = max(metrics.parse(m)[1] for m in config.metrics)
    if any(not registry.load("search", way["search"]).exact and deepest > max(way["at"]) for way in ways):
        raise UsageError(f"An approximate list has no rank {deepest}.", hint="Evaluate with a larger --at")


def _names(sides: list[list[Artifact]]) -> list[str]:
    """``rpg-s0`` of one run, ``rpg`` of its seeds; full names, or the evaluations', where these are not told apart."""

    def name(side: list[Artifact]) -> str:
        labels = [_run_name(artifact).rpartition("-")[0] for artifact in side]
        settings = {re.sub(r"-s\d+$", "", label) for label in labels}
        return settings.pop() if len(side) > 1 and len(settings) == 1 else "+".join(labels)

    names = [name(side) for side in sides]
    if len(set(names)) < len(names):
        names = ["+".join(map(_run_name, side)) for side in sides]
    if len(set(names)) < len(names):  # evaluations of one run
        names = ["+".join(artifact.path.name for artifact in side) for side in sides]
    return names


def _run_name(artifact: Artifact) -> str:
    """The folder of a run, or of the run that an evaluation is of."""
    inputs = artifact.manifest["inputs"]
    return Path(inputs["runs"]["path"]).name if artifact.kind == "eval" else artifact.path.name


def note(config: CompareConfig) -> str:
    """What a reader must know to read the table."""
    if config.by == "truncation":
        return (
            "Cut as printed, the item after the cut is the target: an item of the training part, which the model was\n"
            "taught to predict here; that row measures memory. Dropped: the true target is to be found without the "
            f"last {config.drop} items."
        )
    return f"Differences are to the first run, users paired; {config.draws:,} draws; p adjusted over the whole table."

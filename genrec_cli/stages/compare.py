"""compare: runs side by side on the same users, as a whole or by slices, with paired tests.

The first run, or set of seeds, is the baseline of all others. ``table.parquet`` and ``table.md`` hold one row
for each slice, metric and run.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Count, Section, Seed, canonical_json, validate
from genrec_cli.data.schema import ITEMS, read_table
from genrec_cli.data.sequences import Histories, eval_batches
from genrec_cli.distributed import resolve_device
from genrec_cli.engine import metrics, slices
from genrec_cli.engine.evaluation import Outcome, evaluate
from genrec_cli.errors import DataError, InputError, UsageError
from genrec_cli.stages.compare_table import SCHEMA, Ranks, Slice, shown, table
from genrec_cli.stages.load import load_run, own_decoder, own_ranker, own_search, refuse_longer
from genrec_cli.stages.taint import mark

VERSION = 1
BATCH = 256
"""Users scored at once."""

Bar = Callable[[int], Any]
"""Makes a progress bar over so many users."""


class CompareConfig(Section):
    """What to compare, and on which users."""

    split: Literal["valid", "test"] = "test"
    """valid or test."""
    metrics: tuple[str, ...] = Field(("Recall@10", "NDCG@10"), min_length=1)
    """Metrics with their cutoffs."""
    by: Literal["all", "cold-start", "length", "truncation"] = "all"
    """all users together; cold-start: by how often the target was trained on; length: by the history's
    length; truncation: histories cut short."""
    lengths: tuple[Count, ...] = Field(slices.LENGTHS, min_length=1)
    """Longest history of each bin of lengths, rising; above the last is one more. [4,6,10] tells cold users apart."""
    drop: int = Field(15, ge=2)
    """Items that truncation takes off the end of a history."""
    longer_than: Count = 20
    """Truncation looks at histories with more items than this."""
    draws: int = Field(10_000, ge=100)
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
    config = validate(CompareConfig, "compare", layers.get("compare", {}))
    if config.by != "truncation" and (idle := {"drop", "longer_than"} & layers.get("compare", {}).keys()):
        raise UsageError(f"compare.{min(idle)} is for truncation, and this compares by '{config.by}'.",
                         hint="--by truncation, or leave it out")  # fmt: skip
    if config.by != "length" and "lengths" in layers.get("compare", {}):
        raise UsageError(f"compare.lengths is for the length of histories, and this compares by '{config.by}'.",
                         hint="--by length, or leave it out")  # fmt: skip
    if list(config.lengths) != sorted(set(config.lengths)):
        raise UsageError(f"compare.lengths must rise (given: {', '.join(map(str, config.lengths))}).",
                         hint="For example: --set compare.lengths=[4,6,10,20]")  # fmt: skip
    config = config.model_copy(update={"metrics": tuple("{}@{}".format(*metrics.parse(m)) for m in config.metrics)})
    if config.by == "truncation" and config.drop > config.longer_than:
        raise UsageError(f"Histories with more than {config.longer_than} items cannot all lose {config.drop}.",
                         hint=f"--drop {config.longer_than} at most, or --set compare.longer_than=N")  # fmt: skip
    pick = _run if config.by == "truncation" else _evaluation
    chosen = [[pick(ws, dataset, name.strip(), config) for name in side.split(",")] for side in sides]
    flat = [artifact for side in chosen for artifact in side]
    if len({artifact.key for artifact in flat}) < len(flat):
        raise UsageError("The same run is named twice.")
    _refuse_unequal(ws, flat, config)
    if config.by == "truncation":
        name, deepest = max(((m, metrics.parse(m)[1]) for m in config.metrics), key=lambda pair: pair[1])
        for chosen_run in flat:
            refuse_longer(name, deepest, *own_search(chosen_run), hint=f"Smaller cutoffs for {chosen_run.path.name}")
    names = _names(chosen)
    label = "-vs-".join(names)[:60] + ("" if config.by == "all" else f"-by-{config.by}")
    settings = config.model_dump(mode="json") | {"sides": [len(side) for side in chosen]}
    inputs = {f"{flat[0].kind}{number}": artifact for number, artifact in enumerate(flat)}
    return Comparison(
        Plan(dataset, "comparisons", label, VERSION, {"compare": settings}, inputs), config, names, chosen
    )


def run(ws: Workspace, comparison: Comparison, *, device: str, bar: Bar) -> Artifact:
    """Fill the table and write it."""
    config = comparison.config
    with ws.build(comparison.plan) as draft:
        found = _truncated(ws, comparison, device, bar) if config.by == "truncation" else _sliced(ws, comparison)
        rows = table(found, comparison.names, config.metrics, draws=config.draws, seed=config.seed)
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), draft.path / "table.parquet")
        title = f"# {' and '.join(comparison.names)} on {comparison.plan.dataset}, {config.split} split\n\n"
        title += mark(ws, comparison.plan)
        (draft.path / "table.md").write_text(title + console.markdown(*shown(rows)) + f"\n{note(config)}\n", "utf-8")
        draft.result |= {"split": config.split, "by": config.by, "rows": rows}
    return ws.made(comparison.plan)


# ---- what is compared ------------------------------------------------------------------------------


def _run(ws: Workspace, dataset: str, name: str, config: CompareConfig) -> Artifact:
    return ws.find(dataset, "runs", name)


def _evaluation(ws: Workspace, dataset: str, name: str, config: CompareConfig) -> Artifact:
    """The evaluation of a run on the split by its own decoder, or the evaluation of that very name."""
    everything = ws.all(dataset, "eval")
    if any(name in (e.path.name, str(e.path), e.path.name.rpartition("-")[0]) for e in everything):
        return ws.find(dataset, "eval", name)
    chosen = ws.find(dataset, "runs", name)
    way = {"split": config.split, "decoder": own_decoder(chosen)}
    found = [e for e in everything if e.manifest["inputs"]["runs"]["key"] == chosen.key
             and way.items() <= e.config["evaluate"].items()]  # fmt: skip
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
    return way | {"settings": evaluation.config.get("decoder", {}), "version": evaluation.manifest["version"]}


def _refuse_unequal(ws: Workspace, flat: list[Artifact], config: CompareConfig) -> None:
    """What the sides must share, from their manifests; users and targets are checked when they are read."""
    runs = [ws.input(a, "runs") if a.kind == "eval" else a for a in flat]
    if len({run.manifest["inputs"]["data"]["digest"] for run in runs}) > 1:
        raise UsageError("The runs were trained on different data, so their users are not the same.")
    ways = [a.config["evaluate"] for a in flat if a.kind == "eval"]
    own = [own_decoder(run) for run, a in zip(runs, flat, strict=True) if a.kind == "eval"]
    told = [
        way | ({"decoder": "the model's own"} if way["decoder"] == o else {}) for way, o in zip(ways, own, strict=True)
    ]
    for key in ("split", "decoder", "exclude_seen"):
        if len(values := {str(way[key]) for way in told}) > 1:
            raise UsageError(f"The evaluations differ in '{key}': {', '.join(sorted(values))}.",
                             hint="Evaluate all in one way")  # fmt: skip
    if ways and ways[0]["split"] != config.split:
        raise UsageError(f"The evaluations are of the {ways[0]['split']} split.", hint=f"--split {ways[0]['split']}")
    deepest = max(metrics.parse(m)[1] for m in config.metrics)
    if any(way["decoder"] != "exhaustive" and deepest > max(way["at"]) for way in ways):
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


# ---- slices ----------------------------------------------------------------------------------------


def _sliced(ws: Workspace, comparison: Comparison) -> list[Slice]:
    """Ranks as they were evaluated, of all users and of each bin."""
    config, read = comparison.config, [[_per_user(e) for e in side] for side in comparison.sides]
    first = read[0][0]
    for side, tables in zip(comparison.sides, read, strict=True):
        for evaluation, found in zip(side, tables, strict=True):
            for column in ("user", "target"):
                if not np.array_equal(found[column], first[column]):
                    raise DataError(
                        f"{evaluation.path.name} has other {column}s than {comparison.sides[0][0].path.name}."
                    )
    ranks = [Ranks(*(np.stack([t[column] for t in tables]) for column in ("rank", "ties"))) for tables in read]
    everyone: list[Slice] = [("all", ranks)]
    if config.by == "all":
        return everyone
    data = ws.input(ws.input(comparison.sides[0][0], "runs"), "data")
    if config.by == "length":
        value_U = slices.history_length(Histories.read(data.path), first["user"] - 1, config.split)
        parts = slices.bins(value_U, config.lengths)
    else:
        count_I = read_table(data.path / "items.parquet", ITEMS, ["train_count"])["train_count"].to_numpy()
        parts = slices.bins(count_I[first["target"] - 1], slices.COLD_START)
    return everyone + [(name, [side.of(rows) for side in ranks]) for name, rows in parts]


def _per_user(evaluation: Artifact) -> dict[str, np.ndarray]:
    path = evaluation.path / "per_user.parquet"
    try:
        found = pq.read_table(path, columns=["user", "target", "rank", "ties"])
        return {name: found[name].to_numpy().astype(np.int64) for name in found.column_names}
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}.", hint="Evaluate again with --force") from None


def _truncated(ws: Workspace, comparison: Comparison, device: str, bar: Bar) -> list[Slice]:
    """Every run scored on whole and on cut histories."""
    config, where = comparison.config, resolve_device(device)
    over = f"over {config.longer_than}"
    names = ["all", over, f"{over}, last {config.drop} dropped", f"{over}, cut as printed (memory)"]
    sides = []
    for side in comparison.sides:
        seeds = [_conditions(ws, chosen, config, where, bar) for chosen in side]
        sides.append([_stacked([seed[number] for seed in seeds]) for number in range(len(names))])
    return [(name, [side[number] for side in sides]) for number, name in enumerate(names)]


def _conditions(ws: Workspace, chosen: Artifact, config: CompareConfig, device: Any, bar: Bar) -> list[Outcome]:
    """Whole histories of all users, of those with long ones, and these cut in the sound and in the printed way."""
    model, catalog, histories = load_run(ws, chosen, device)
    user, at = histories.targets(config.split)
    few, few_at = slices.long_histories(histories, config.split, config.longer_than)
    if not len(few):
        raise DataError(f"No history of the {config.split} split has more than {config.longer_than} items.",
                        hint="--set compare.longer_than=N takes shorter ones")  # fmt: skip
    size: dict[str, int] = {"max_length": chosen.config["train"]["max_length"], "batch_size": BATCH}
    batches = [eval_batches(histories, user, at, **size), eval_batches(histories, few, few_at, **size)]
    batches += [
        slices.truncated_batches(histories, few, few_at, config.drop, cut, **size) for cut in ("sound", "printed")
    ]
    ranker = own_ranker(chosen, model, catalog)
    with bar(len(user) + 3 * len(few)) as progress:
        return [evaluate(ranker, part, device, tick=progress.update) for part in batches]


def _stacked(outcomes: list[Outcome]) -> Ranks:
    """Ranks of several seeds, users in the order of the user table."""
    orders = [np.argsort(outcome.user, kind="stable") for outcome in outcomes]
    pairs = [(o.above[order], o.ties[order]) for o, order in zip(outcomes, orders, strict=True)]
    return Ranks(*(np.stack(column) for column in zip(*pairs, strict=True)))


def note(config: CompareConfig) -> str:
    """What a reader must know to read the table."""
    if config.by != "truncation":
        return (
            f"Differences are to the first run, users paired; {config.draws:,} draws; p adjusted over the whole table."
        )
    return (
        "Cut as printed, the item after the cut is the target: an item of the training part, which the model was\n"
        "taught to predict here; that row measures memory. Dropped: the true target is to be found without the "
        f"last {config.drop} items."
    )

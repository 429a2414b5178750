"""case-study: runs side by side on single users, with titles: history, target, top 5 of each."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Section, did_you_mean
from genrec_cli.data.names import Names
from genrec_cli.data.sequences import Histories, eval_batches
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.evaluation import Outcome, evaluate
from genrec_cli.errors import DataError, InputError, UsageError
from genrec_cli.stages.train import load_run

VERSION = 1
SECTIONS = ["case_study"]
MOST_HISTORY = 10
"""Items of a history that are shown; the last ones."""


class CaseStudyConfig(Section):
    """Which users to look at."""

    users: int = Field(6, ge=1)
    """How many, where they are picked: those on whom the runs differ most, or hits and misses of one run."""
    user: tuple[str, ...] = ()
    """Raw ids of users to look at instead."""
    k: int = Field(5, ge=1)
    """Length of the lists."""


def plan(ws: Workspace, dataset: str, config: CaseStudyConfig, runs: list[str]) -> Plan:
    """Resolve the runs: those named, or all there are."""
    chosen = [ws.find(dataset, "runs", name) for name in runs] or _all_runs(ws, dataset)
    if not chosen:
        raise InputError(f"'{dataset}' has no finished run yet.", hint=f"genrec train --dataset {dataset}")
    if len({run.key for run in chosen}) < len(chosen):
        raise UsageError("The same run is named twice.")
    if len({run.manifest["inputs"]["data"]["digest"] for run in chosen}) > 1:
        raise UsageError(
            "The runs were trained on different data, so their users are not the same.",
            hint=f"Name those to compare: {' '.join(run.path.name for run in chosen)}",
        )
    label = "-vs-".join(run.path.name.rpartition("-")[0] for run in chosen)[:60]
    inputs = {f"runs{number}": run for number, run in enumerate(chosen)}
    return Plan(dataset, "cases", label, VERSION, {"case_study": config.model_dump(mode="json")}, inputs)


def _all_runs(ws: Workspace, dataset: str) -> list[Artifact]:
    """Every run that is fresh; if none is, the error of the first says why."""
    everything = ws.all(dataset, "runs")
    fresh = [run for run in everything if ws.allow_stale or not ws.stale(run)]
    return fresh or [ws.verified(run) for run in everything]


def run(ws: Workspace, plan: Plan, config: CaseStudyConfig, *, device: str, bar: Callable[[int], Any]) -> Artifact:
    """Score every test user under every run, pick users, write cases.md and cases.parquet."""
    where = resolve_device(device)
    runs = list(plan.inputs.values())
    names = Names.read(ws.input(runs[0], "data").path)
    outcomes: list[Outcome] = []
    with ws.build(plan) as draft:
        for chosen in runs:
            model, catalog, histories = load_run(ws, chosen, where)
            user, at = histories.targets("test")
            batches = eval_batches(histories, user, at, max_length=chosen.config["train"]["max_length"], batch_size=256)
            with bar(len(user)) as progress:
                found = evaluate(model, catalog, batches, where, k=min(config.k, catalog.items), tick=progress.update)
            outcomes.append(by_user(found))
        picked = _named(config.user, names, outcomes[0]) if config.user else pick(outcomes, config.users)
        labels = labels_of(runs)
        text = "\n".join(_case(row, labels, outcomes, histories, names) for row in picked)
        head = f"# {' and '.join(labels)} on {plan.dataset}\n\n" + (
            "Users named on the command line.\n\n" if config.user
            else "Users on whom the runs differ most, each run's best cases in turn.\n\n" if len(runs) > 1
            else "Best and worst predicted users in turn.\n\n"
        )  # fmt: skip
        (draft.path / "cases.md").write_text(head + text, encoding="utf-8")
        table = {
            "user": [names.user[outcomes[0].user[row]] for row in picked for _ in runs],
            "run": [label for _ in picked for label in labels],
            "target": [names.item[outcomes[0].target[row] - 1] for row in picked for _ in runs],
            "rank": [rank_of(outcome, row) for row in picked for outcome in outcomes],
            "items": [[names.item[i - 1] for i in outcome.item[row] if i] for row in picked for outcome in outcomes],
        }
        pq.write_table(pa.table(table), draft.path / "cases.parquet")
        draft.result |= {"users": len(picked), "runs": labels}
    finished = ws.read(ws.path(plan))
    assert finished is not None
    return finished


def labels_of(runs: list[Artifact]) -> list[str]:
    """What a reader tells the runs apart by: their labels, or their full names where two labels are equal."""
    labels = [run.path.name.rpartition("-")[0] for run in runs]
    return labels if len(set(labels)) == len(labels) else [run.path.name for run in runs]


def by_user(outcome: Outcome) -> Outcome:
    """The same outcome in the order of the user table, so that runs can be laid side by side."""
    order = np.argsort(outcome.user, kind="stable")
    return Outcome(**{name: value[order] for name, value in vars(outcome).items()})


def rank_of(outcome: Outcome, row: int) -> int:
    """The target's expected rank from 1, ties counted half."""
    return int(outcome.above[row] + (outcome.ties[row] - 1) // 2) + 1


def pick(outcomes: list[Outcome], count: int) -> list[int]:
    """Rows of the most telling users: largest difference of 1 / log2(rank + 1), each side in turn."""
    gains = [1 / np.log2(outcome.above + (outcome.ties + 1) / 2 + 1) for outcome in outcomes]
    difference = gains[-1] - (gains[0] if len(gains) > 1 else np.median(gains[0]))
    order = np.argsort(difference, kind="stable")
    ends = [int(row) for pair in zip(order[::-1], order, strict=True) for row in pair]
    return list(dict.fromkeys(ends))[: min(count, len(order))]


def _named(raw_ids: tuple[str, ...], names: Names, outcome: Outcome) -> list[int]:
    row_of = {names.user[user]: row for row, user in enumerate(outcome.user)}
    for raw in raw_ids:
        if raw not in row_of:
            raise DataError(f"No test user is called '{raw}'.{did_you_mean(raw, list(row_of)[:10_000])}")
    return [row_of[raw] for raw in dict.fromkeys(raw_ids)]


def _case(row: int, labels: list[str], outcomes: list[Outcome], histories: Histories, names: Names) -> str:
    """One user as Markdown."""
    first = outcomes[0]
    user, target = int(first.user[row]), int(first.target[row])
    start = int(histories.offset[user])
    history = histories.item[start : start + int(histories.test_at[user])].astype(int).tolist()
    shown = history[-MOST_HISTORY:]
    lines = [f"## User {names.user[user]}", "", f"History ({len(history)} items, oldest first):", ""]
    if len(shown) < len(history):
        lines.append(f"- ... {len(history) - len(shown)} earlier items")
    lines += [f"- {names.shown(item)}" for item in shown]
    lines += ["", f"Next: **{names.shown(target)}**", ""]
    for label, outcome in zip(labels, outcomes, strict=True):
        lines += [f"{label} (target at rank {rank_of(outcome, row):,}):", ""]
        for place, item in enumerate((i for i in outcome.item[row].tolist() if i), 1):
            lines.append(f"{place}. {names.shown(item)}" + (" **✓**" if item == target else ""))
        lines.append("")
    return "\n".join(lines)

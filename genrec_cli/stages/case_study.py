"""case-study: runs side by side on single users, with titles: history, target, top 5 of each.

For runs of masked history learning also why: how uncertain the model is at each item of the history, what it predicts
where the least certain item is masked, and on which item of the history the list depends most. For runs on codes also
the items that share digits with the targets.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field

from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Section, did_you_mean
from genrec_cli.console import printable
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.names import Names
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.evaluation import Outcome, evaluate
from genrec_cli.engine.explain import Why, explain, strongest
from genrec_cli.engine.protocols import LABELS, PROTOCOLS, Protocol
from genrec_cli.engine.ranking import UNLISTED
from genrec_cli.errors import DataError, InputError, UsageError
from genrec_cli.models.mhl import Mhl
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.stages.shared_digits import described
from genrec_cli.stages.taint import mark
from genrec_cli.stages.trained import Run

VERSION = 4
MOST_HISTORY = 10
"""Items of a history that are shown; the last ones."""
HEAT = "▁▂▃▄▅▆▇█"
"""From the most certain item of a history to the least."""
MOST_NEW = 2
"""Items named that enter a list when an item of the history is removed."""


class CaseStudyConfig(Section):
    """Which users to look at."""

    users: int = Field(6, ge=1)
    """How many, where they are picked: those on whom the runs differ most, or hits and misses of one run."""
    user: tuple[str, ...] = ()
    """Raw ids of users to look at instead."""
    k: int = Field(5, ge=1)
    """Length of the lists."""
    exclude_seen: bool = False
    """Show lists without the items of the user's history. The ranks of both protocols are always told."""

    @property
    def protocol(self) -> Protocol:
        """What the lists are of."""
        return "left_out" if self.exclude_seen else "kept"


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
    label = "-vs-".join(run.label for run in chosen)[:60]
    inputs = {f"runs{number}": run for number, run in enumerate(chosen)}
    return Plan(dataset, "cases", label, VERSION, {"case_study": config.model_dump(mode="json")}, inputs)


def _all_runs(ws: Workspace, dataset: str) -> list[Artifact]:
    """Every run that is fresh; if none is, the error of the first says why."""
    everything = ws.all(dataset, "runs")
    fresh = [run for run in everything if ws.allow_stale or not ws.stale(run)]
    return fresh or [ws.verified(run) for run in everything]


def run(ws: Workspace, plan: Plan, config: CaseStudyConfig, *, device: str, bar: Callable[[int], Any]) -> Artifact:
    """Score every test user under every run, pick users, write cases.md and cases.parquet."""
    runs, where = list(plan.inputs.values()), resolve_device(device)
    first = Run(ws, runs[0])
    user, at = first.histories.targets("test")
    outcomes: list[Outcome] = []
    explained: dict[int, Run] = {}
    catalogs: dict[str, Catalog] = {}
    with ws.build(plan) as draft:
        for number, artifact in enumerate(runs):
            of = Run(ws, artifact, where)
            with bar(len(user)) as progress:
                k = min(config.k, of.catalog.items)
                found = evaluate(of.ranker(), of.batches(user, at), where, k=k, tick=progress.update)
            outcomes.append(found.by_user())
            if of.codes:
                catalogs.setdefault(of.codes.path.name, of.catalog)
            if isinstance(of.model, Mhl):
                explained[number] = of
        names = first.names
        picked = _named(config.user, names, outcomes[0]) if config.user else pick(outcomes, config.users)
        labels = labels_of(runs)
        cases = []
        for row in picked:
            start, end = (int(x[outcomes[0].user[row]]) for x in (first.histories.offset, first.histories.test_at))
            history = first.histories.item[start : start + end].tolist()
            case = Case(row, outcomes, labels, history, config.protocol, {})
            case.why.update({number: _explained(of, case, number) for number, of in explained.items()})
            cases.append(case)
        text = "\n".join(_case(case, names) for case in cases)
        how = "Best and worst predicted users in turn."
        if len(runs) > 1:
            how = "Users on whom the runs differ most, each run's best cases in turn."
        if config.user:
            how = "Users named on the command line."
        head = f"# {' and '.join(labels)} on {plan.dataset}\n\n{how} Lists with {LABELS[config.protocol]}.\n\n"
        for name, catalog in catalogs.items():
            if shared := described(catalog, names, [case.target for case in cases]):
                text += f"\n{shared}\nBy {name}; those that share the fewest other digits, the best known first.\n"
        (draft.path / "cases.md").write_text(printable(head + mark(ws, plan) + text), encoding="utf-8")
        rows = [row for case in cases for row in _rows(case, names)]
        pq.write_table(pa.Table.from_pylist(rows, COLUMNS), draft.path / "cases.parquet")
        draft.result |= {"users": len(picked), "runs": labels}
    return ws.made(plan)


def labels_of(runs: list[Artifact]) -> list[str]:
    """What a reader tells the runs apart by: their labels, or their full names where two labels are equal."""
    labels = [run.label for run in runs]
    return labels if len(set(labels)) == len(labels) else [run.path.name for run in runs]


def rank_of(outcome: Outcome, row: int, protocol: Protocol = "kept") -> int:
    """The target's expected rank from 1, ties counted half."""
    found = outcome.ranks[protocol]
    return int(found.above[row] + (found.ties[row] - 1) // 2) + 1


def place_of(rank: int) -> str:
    """A rank in words."""
    return f"at rank {rank:,}" if rank < UNLISTED else "not listed"


def pick(outcomes: list[Outcome], count: int) -> list[int]:
    """Rows of the most telling users: largest difference of 1 / log2(rank + 1), each side in turn."""
    ranks = [outcome.ranks["kept"] for outcome in outcomes]
    gains = [1 / np.log2(found.above + (found.ties + 1) / 2 + 1) for found in ranks]
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


def _explained(run: Run, case: "Case", number: int) -> Why:
    """Why a run lists what it lists."""
    item_T = torch.tensor(case.history[-run.max_length :], device=run.device)
    list_k = torch.tensor(case.listed(number, "kept"), device=run.device)
    return explain(run.model, Exhaustive(run.catalog), item_T, case.target, list_k)


# ---- what is written -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One user under every run."""

    row: int
    outcomes: list[Outcome]
    labels: list[str]
    history: list[int]
    protocol: Protocol
    """What the lists are of."""
    why: dict[int, Why]
    """By number of the run, for those that can tell."""

    @property
    def target(self) -> int:
        return int(self.outcomes[0].target[self.row])

    def listed(self, number: int, protocol: Protocol | None = None) -> list[int]:
        """The list of a run."""
        return [item for item in self.outcomes[number].ranks[protocol or self.protocol].item[self.row].tolist() if item]


COLUMNS = pa.schema(
    [
        ("user", pa.string()),
        ("run", pa.string()),
        ("target", pa.string()),
        ("rank_kept", pa.int64()),
        ("rank_left_out", pa.int64()),
        ("items", pa.list_(pa.string())),
        ("history", pa.list_(pa.string())),
        ("entropy", pa.list_(pa.float32())),
        ("hidden", pa.string()),
        ("hidden_rank", pa.int64()),
        ("guesses", pa.list_(pa.string())),
        ("kept_without", pa.list_(pa.int64())),
        ("rank_without", pa.list_(pa.int64())),
    ]
)
"""``cases.parquet``: one row per user and run. From ``entropy`` on null if the run cannot tell. The columns
``entropy``, ``kept_without`` and ``rank_without`` belong to the last items of ``history``, which the model reads."""


def _rows(case: Case, names: Names) -> Iterator[dict[str, Any]]:
    """One user's rows of the table."""
    for number, (label, outcome) in enumerate(zip(case.labels, case.outcomes, strict=True)):
        items = [names.item[item - 1] for item in case.listed(number)]
        row: dict[str, Any] = {"user": names.user[outcome.user[case.row]], "run": label, "items": items}
        row |= {f"rank_{protocol}": rank_of(outcome, case.row, protocol) for protocol in PROTOCOLS}
        row |= {"target": names.item[case.target - 1], "history": [names.item[item - 1] for item in case.history]}
        if why := case.why.get(number):
            read = case.history[-len(why.entropy_T) :]
            row |= {"entropy": why.entropy_T.tolist(), "hidden": names.item[read[why.hidden] - 1]}
            row |= {"hidden_rank": why.hidden_rank, "guesses": [names.item[item - 1] for item in why.guess_k.tolist()]}
            row |= {"kept_without": why.kept_T.tolist(), "rank_without": why.rank_T.tolist()}
        yield row


def _case(case: Case, names: Names) -> str:
    """One user as Markdown."""
    outcome = case.outcomes[0]
    heats = [heat(why.entropy_T.tolist()).rjust(len(case.history)) for why in case.why.values()]
    bars = ["".join(column) for column in zip(*heats, strict=True)] or [""] * len(case.history)
    lines = [f"## User {names.user[outcome.user[case.row]]}", "", _history_head(case), ""]
    if (earlier := len(case.history) - MOST_HISTORY) > 0:
        lines.append(f"- ... {earlier} earlier items")
    shown = list(zip(case.history, bars, strict=True))[-MOST_HISTORY:]
    lines += [f"- `{bar}` {names.shown(item)}" if bar else f"- {names.shown(item)}" for item, bar in shown]
    lines += ["", f"Next: **{names.shown(case.target)}**", ""]
    for number, (label, outcome) in enumerate(zip(case.labels, case.outcomes, strict=True)):
        places = [f"{place_of(rank_of(outcome, case.row, protocol))} ({LABELS[protocol]})" for protocol in PROTOCOLS]
        lines += [f"{label}, target {', '.join(places)}:", ""]
        lines += [*_places(case.listed(number), case.target, names), ""]
        if why := case.why.get(number):
            lines += [*_why(case, number, why, names), ""]
    return "\n".join(lines)


def _history_head(case: Case) -> str:
    ranges = [
        f"of {case.labels[number]}, {float(why.entropy_T.min()):.2f} to {float(why.entropy_T.max()):.2f} nats"
        for number, why in case.why.items()
    ]
    legend = f"; {HEAT[0]} to {HEAT[-1]}: entropy {' and '.join(ranges)}" if ranges else ""
    return f"History ({len(case.history)} items, oldest first{legend}):"


def heat(values: list[float]) -> str:
    """One block a value, from the lowest of them to the highest."""
    low, high = min(values), max(values)
    step = (high - low) / (len(HEAT) - 1) or 1.0
    return "".join(HEAT[round((value - low) / step)] for value in values)


def _places(items: list[int], true: int, names: Names) -> list[str]:
    """A numbered list with the true item ticked."""
    return [f"{n}. {names.shown(item)}" + (" **✓**" if item == true else "") for n, item in enumerate(items, 1)]


def _why(case: Case, number: int, why: Why, names: Names) -> list[str]:
    """The two experiments with the history."""
    read = case.history[-len(why.entropy_T) :]
    true = read[why.hidden]
    lines = [
        f"Its least certain item hidden, *{names.shown(true)}*, it fills in (that one at rank {why.hidden_rank:,}):",
        "",
        *_places(why.guess_k.tolist(), true, names),
    ]
    rank = rank_of(case.outcomes[number], case.row)
    if (gone := strongest(why, rank)) is None:
        return lines
    listed, after = case.listed(number, "kept"), int(why.rank_T[gone])
    new = [names.shown(item) for item in why.without_Tk[gone].tolist() if item and item not in listed]
    moved = f"stays at rank {rank:,}" if after == rank else f"goes from rank {rank:,} to {after:,}"
    entered = f" New: {'; '.join(new[:MOST_NEW])}" + (f"; {len(new) - MOST_NEW} more." if new[MOST_NEW:] else ".")
    return [
        *lines,
        "",
        f"Its list depends most on *{names.shown(read[gone])}*: without it {why.kept_T[gone]} of {len(listed)} stay "
        f"and the target {moved}." + (entered if new else ""),
    ]

"""case-study: runs side by side on single users, with titles: history, target and the top of each list.

For runs of masked history learning it also explains the lists: the entropy of the model at each item of the history,
its prediction where the item of highest entropy is masked, and the item on which the list depends most. For runs on
codes it names items that share digits with the targets.
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
from genrec_cli.engine.explain import Explanation, explain, most_influential_item
from genrec_cli.engine.protocols import LABELS, PROTOCOLS, Protocol
from genrec_cli.errors import DataError, InputError
from genrec_cli.models.base import tells_apart
from genrec_cli.models.mhl import Mhl
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.searches.rank import UNLISTED
from genrec_cli.stages.run_names import labels_of
from genrec_cli.stages.shared_digits import described
from genrec_cli.stages.taint import mark
from genrec_cli.stages.trained import Run, refuse_other_data, refuse_repeated

VERSION = 4
MAX_HISTORY = 10
"""Items of a history that are shown; the last ones."""
HEAT = "▁▂▃▄▅▆▇█"
"""From the lowest entropy of a history to the highest."""
MAX_NEW = 2
"""Items named that enter a list when an item of the history is removed."""


class CaseStudyConfig(Section):
    """Which users to look at."""

    users: int = Field(6, ge=1)
    """Number of users: those on whom the runs differ most, or hits and misses of one run."""
    user: tuple[str, ...] = ()
    """Raw ids of users, in place of this choice."""
    k: int = Field(5, ge=1)
    """Length of the lists."""
    exclude_seen: bool = False
    """Show lists without the items of the user's history. Ranks are given for both protocols."""

    @property
    def protocol(self) -> Protocol:
        """The protocol of the lists."""
        return "left_out" if self.exclude_seen else "kept"


def plan(ws: Workspace, dataset: str, config: CaseStudyConfig, runs: list[str]) -> Plan:
    """Resolve the runs: those named, or all of the data set."""
    found = [ws.find(dataset, "runs", name) for name in runs] or _all_runs(ws, dataset)
    if not found:
        raise InputError(f"'{dataset}' has no finished run yet.", hint=f"genrec train --dataset {dataset}")
    refuse_repeated(found)
    refuse_other_data(found)
    label = "-vs-".join(run.label for run in found)[:60]
    inputs = {f"runs{number}": run for number, run in enumerate(found)}
    return Plan(dataset, "cases", label, VERSION, {"case_study": config.model_dump(mode="json")}, inputs)


def _all_runs(ws: Workspace, dataset: str) -> list[Artifact]:
    """Every run that is not stale; if all are stale, the error of the first."""
    runs = ws.all(dataset, "runs")
    return [run for run in runs if ws.allow_stale or not ws.stale(run)] or [ws.verified(run) for run in runs]


def run(ws: Workspace, plan: Plan, config: CaseStudyConfig, *, device: str, bar: Callable[[int], Any]) -> Artifact:
    """Score every test user under every run, pick users, write cases.md and cases.parquet."""
    runs, where = list(plan.inputs.values()), resolve_device(device)
    first, labels = Run(ws, runs[0]), labels_of(runs)
    names, histories = first.names, first.histories
    user, at = histories.targets("test")
    outcomes: list[Outcome] = []
    explained: dict[int, Run] = {}
    catalogs: dict[str, Catalog] = {}
    with ws.build(plan) as draft:
        for number, artifact in enumerate(runs):
            one = Run(ws, artifact, where)
            with bar(len(user)) as progress:
                k, batches = min(config.k, one.catalog.items), one.batches(user, at)
                outcomes.append(evaluate(one.ranker(), batches, where, k=k, tick=progress.update).by_user())
            if one.codes:
                catalogs.setdefault(one.codes.path.name, one.catalog)
            if isinstance(one.model, Mhl):
                explained[number] = one
        rows = _named(config.user, names, outcomes[0]) if config.user else pick(outcomes, config.users)
        cases = []
        for row in rows:
            start, end = (int(x[outcomes[0].user[row]]) for x in (histories.offset, histories.test_at))
            history = histories.item[start : start + end].tolist()
            case = Case(row, outcomes, labels, history, config.protocol, {})
            case.why.update({number: _explained(one, case, number) for number, one in explained.items()})
            cases.append(case)
        selection = "Users named on the command line."
        if not config.user and len(runs) > 1:
            selection = "Users on whom the runs differ most, each run's best cases in turn."
        elif not config.user:
            selection = "Best and worst predicted users in turn."
        text = f"# {' and '.join(labels)} on {plan.dataset}\n\n{selection} Lists with {LABELS[config.protocol]}.\n\n"
        text += mark(ws, plan) + "\n".join(_case(case, names) for case in cases)
        for name, catalog in catalogs.items():
            if shared := described(catalog, names, [case.target for case in cases]):
                text += f"\n{shared}\nBy {name}; items that share the fewest other digits first, then popular items.\n"
        (draft.path / "cases.md").write_text(printable(text), encoding="utf-8")
        table = [row for case in cases for row in _rows(case, names)]
        pq.write_table(pa.Table.from_pylist(table, COLUMNS), draft.path / "cases.parquet")
        draft.result |= {"users": len(cases), "runs": labels}
    return ws.made(plan)


def rank_of(outcome: Outcome, row: int, protocol: Protocol = "kept") -> int:
    """The expected rank of the target from 1, ties counted half."""
    ranks = outcome.ranks[protocol]
    return int(ranks.above[row] + (ranks.ties[row] - 1) // 2) + 1


def pick(outcomes: list[Outcome], count: int) -> list[int]:
    """Rows of the users with the largest differences of 1 / log2(rank + 1), from both ends in turn."""
    ranks = [outcome.ranks["kept"] for outcome in outcomes]
    gains = [1 / np.log2(r.above + (r.ties + 1) / 2 + 1) for r in ranks]
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


def _explained(run: Run, case: "Case", number: int) -> Explanation:
    """The explanation of the list of a run of masked history learning."""
    assert isinstance(run.model, Mhl)
    item_T = torch.tensor(case.history[-run.max_length :], device=run.device)
    list_k = torch.tensor(case.listed(number, "kept"), device=run.device)
    search = Exhaustive(run.catalog, by_item=tells_apart(run.model))
    return explain(run.model, search, item_T, case.target, list_k)


@dataclass(frozen=True)
class Case:
    """One user under every run: ``row`` of the outcomes, labels of the runs, item ids of the history.

    ``protocol`` is that of the lists; ``why`` holds explanations by number of the run, for runs that have them.
    """

    row: int
    outcomes: list[Outcome]
    labels: list[str]
    history: list[int]
    protocol: Protocol
    why: dict[int, Explanation]

    @property
    def target(self) -> int:
        return int(self.outcomes[0].target[self.row])

    def listed(self, number: int, protocol: Protocol | None = None) -> list[int]:
        """The list of a run."""
        return [item for item in self.outcomes[number].ranks[protocol or self.protocol].item[self.row].tolist() if item]


IDS = pa.list_(pa.string())
COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("user", "run", "target")),
        *((f"rank_{protocol}", pa.int64()) for protocol in PROTOCOLS),
        *(("items", IDS), ("history", IDS), ("entropy", pa.list_(pa.float32()))),
        *(("hidden", pa.string()), ("hidden_rank", pa.int64()), ("guesses", IDS)),
        *(("kept_without", pa.list_(pa.int64())), ("rank_without", pa.list_(pa.int64()))),
    ]
)
"""``cases.parquet``: one row per user and run. From ``entropy`` on, columns are null without an explanation.
``hidden`` is the masked item. ``entropy``, ``kept_without`` and ``rank_without`` belong to the last items of
``history``, which the model reads."""


def _rows(case: Case, names: Names) -> Iterator[dict[str, Any]]:
    """The rows of one user in the table."""

    def ids(items: list[int]) -> list[str]:
        return [names.item[item - 1] for item in items]

    for number, (label, outcome) in enumerate(zip(case.labels, case.outcomes, strict=True)):
        row: dict[str, Any] = {"user": names.user[outcome.user[case.row]], "run": label}
        row |= {f"rank_{protocol}": rank_of(outcome, case.row, protocol) for protocol in PROTOCOLS}
        row |= {"target": ids([case.target])[0], "items": ids(case.listed(number)), "history": ids(case.history)}
        if why := case.why.get(number):
            masked = row["history"][-len(why.entropy_T) :][why.masked]
            row |= {"entropy": why.entropy_T.tolist(), "hidden": masked, "hidden_rank": why.masked_rank}
            row |= {"guesses": ids(why.guess_k.tolist())}
            row |= {"kept_without": why.kept_T.tolist(), "rank_without": why.rank_T.tolist()}
        yield row


def _case(case: Case, names: Names) -> str:
    """One user as Markdown."""
    heats = [heat(why.entropy_T.tolist()).rjust(len(case.history)) for why in case.why.values()]
    bars = ["".join(column) for column in zip(*heats, strict=True)] or [""] * len(case.history)
    ranges = [
        f"of {case.labels[number]}, {float(why.entropy_T.min()):.2f} to {float(why.entropy_T.max()):.2f} nats"
        for number, why in case.why.items()
    ]
    legend = f"; {HEAT[0]} to {HEAT[-1]}: entropy {' and '.join(ranges)}" if ranges else ""
    lines = [f"## User {names.user[case.outcomes[0].user[case.row]]}", ""]
    lines += [f"History ({len(case.history)} items, oldest first{legend}):", ""]
    if (earlier := len(case.history) - MAX_HISTORY) > 0:
        lines.append(f"- ... {earlier} earlier items")
    shown = list(zip(case.history, bars, strict=True))[-MAX_HISTORY:]
    lines += [f"- `{bar}` {names.shown(item)}" if bar else f"- {names.shown(item)}" for item, bar in shown]
    lines += ["", f"Next: **{names.shown(case.target)}**", ""]
    for number, (label, outcome) in enumerate(zip(case.labels, case.outcomes, strict=True)):
        ranks = {protocol: rank_of(outcome, case.row, protocol) for protocol in PROTOCOLS}
        places = {p: f"at rank {rank:,}" if rank < UNLISTED else "not listed" for p, rank in ranks.items()}
        lines += [f"{label}, target {', '.join(f'{place} ({LABELS[p]})' for p, place in places.items())}:", ""]
        lines += [*_numbered(case.listed(number), case.target, names), ""]
        if why := case.why.get(number):
            lines += [*_explanation_lines(case, number, why, names), ""]
    return "\n".join(lines)


def heat(values: list[float]) -> str:
    """One block character per value, from the lowest value to the highest."""
    low, high = min(values), max(values)
    step = (high - low) / (len(HEAT) - 1) or 1.0
    return "".join(HEAT[round((value - low) / step)] for value in values)


def _numbered(items: list[int], true: int, names: Names) -> list[str]:
    """A numbered list with the true item ticked."""
    return [f"{n}. {names.shown(item)}" + (" **✓**" if item == true else "") for n, item in enumerate(items, 1)]


def _explanation_lines(case: Case, number: int, why: Explanation, names: Names) -> list[str]:
    """The explanation of a list as lines of Markdown."""
    read = case.history[-len(why.entropy_T) :]
    true = read[why.masked]
    head = f"Prediction where the item of highest entropy, *{names.shown(true)}*, is masked"
    lines = [f"{head} (that item is at rank {why.masked_rank:,}):", ""]
    lines += _numbered(why.guess_k.tolist(), true, names)
    rank = rank_of(case.outcomes[number], case.row)
    if (removed := most_influential_item(why, rank)) is None:
        return lines
    listed, after = case.listed(number, "kept"), int(why.rank_T[removed])
    new = [names.shown(item) for item in why.without_Tk[removed].tolist() if item and item not in listed]
    moved = f"stays at rank {rank:,}" if after == rank else f"goes from rank {rank:,} to {after:,}"
    entered = f" New: {'; '.join(new[:MAX_NEW])}" + (f"; {len(new) - MAX_NEW} more." if new[MAX_NEW:] else ".")
    depends = f"Its list depends most on *{names.shown(read[removed])}*"
    kept = f"without it {why.kept_T[removed]} of {len(listed)} stay and the target {moved}."
    return [*lines, "", f"{depends}: {kept}{entered if new else ''}"]

"""table: a leaderboard of the evaluations of a data set, with the best values and paired tests against a reference.

One row per setting; seeds of one setting (runs whose labels differ only in ``-sN``) are averaged. The tests are those
of ``compare``: a paired randomisation test per user, adjusted over the whole table (Holm).
"""

import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.config import did_you_mean
from genrec_cli.engine import protocols
from genrec_cli.errors import InputError, UsageError
from genrec_cli.stages.run_names import run_name, without_seed
from genrec_cli.stages.seeds import setting_of

FORMATS = ("text", "markdown", "latex", "csv")
LEVEL = 0.05
"""Adjusted p-values below it are significant."""
MARK = "*"


@dataclass
class Line:
    """One setting: its evaluations (one per seed), the mean of each column, and the columns that differ from the
    reference significantly."""

    name: str
    evaluations: list[Artifact]
    values: dict[str, float | None] = field(default_factory=dict)
    deviations: dict[str, float] = field(default_factory=dict)
    """Standard deviation over the seeds of each column; empty for one seed."""
    significant: set[str] = field(default_factory=set)


def lines(ws: Workspace, dataset: str, metrics: Sequence[str], split: str) -> list[Line]:
    """The settings with an evaluation on a split by the search that validated the run, best first by the last metric.

    Only evaluations on the data with the latest evaluation are in one table, since others have other users; a message
    says how many are left out.

    Raises:
        InputError: there is no evaluation, or none has a metric.
    """
    fresh = [e for e in ws.all(dataset, "eval") if e.config["evaluate"]["split"] == split and not ws.stale(e)]
    found = comparable(ws, fresh)
    if not found:
        raise InputError(
            f"'{dataset}' has no finished evaluation on the {split} split.",
            hint=f"genrec evaluate --dataset {dataset} --split {split}",
        )
    of_others = [e for e in fresh if _is_default(ws, e) and _data_of(ws, e) != _data_of(ws, found[0])]
    if of_others:
        others = ", ".join(sorted({_data_name(ws, e) for e in of_others}))
        console.say(f"the table is of {_data_name(ws, found[0])}, which has the latest evaluation;")
        console.say(f"{len(of_others)} evaluation(s) on other data are left out: {others}")
    groups: dict[str, dict[str, Artifact]] = {}
    names: dict[str, str] = {}
    for evaluation in sorted(found, key=lambda e: e.manifest["started"]):
        run = ws.input(evaluation, "runs")
        name = names.setdefault(run.key, without_seed(run.label))  # a run may have several labels
        of_setting = groups.setdefault(f"{name}|{setting_of(run)}", {})
        if run.key not in of_setting or set(metrics) <= evaluation.result["metrics"]["kept"].keys():
            of_setting[run.key] = evaluation  # the last one that has the metrics wins
    table = [Line(key.partition("|")[0], list(of_run.values())) for key, of_run in groups.items()]
    count = Counter(line.name for line in table)
    for line in table:
        if count[line.name] > 1:
            line.name = "+".join(run_name(e) for e in line.evaluations)
        for column in columns(metrics):
            values = [v for e in line.evaluations if (v := protocols.flat(e.result).get(column)) is not None]
            whole = len(values) == len(line.evaluations)  # a mean of some of the seeds is no value of the setting
            line.values[column] = statistics.fmean(values) if whole else None
            if whole and len(values) > 1:
                line.deviations[column] = statistics.stdev(values)
    if unknown := [name for name in metrics if all(line.values[name] is None for line in table)]:
        known_names = sorted({name for line in table for e in line.evaluations for name in e.result["metrics"]["kept"]})
        near = did_you_mean(unknown[0], known_names)
        raise InputError(
            f"No row has {unknown[0]} for all of its seeds.{near}", hint=f"There are: {', '.join(known_names)}"
        )
    return sorted(table, key=lambda line: -(line.values[metrics[-1]] or 0.0))


def columns(metrics: Sequence[str]) -> list[str]:
    """The columns of both protocols: first all with seen items kept, then all with them left out."""
    return [protocols.column(name, protocol) for protocol in protocols.PROTOCOLS for name in metrics]


def mark_significant(
    ws: Workspace, table: list[Line], reference: str, metrics: Sequence[str], split: str, bar: Callable[[int], Any]
) -> str:
    """Compare every line with the reference, as ``genrec compare`` does; returns the name of the reference."""
    from genrec_cli.stages import compare

    named = [line for line in table if reference in {line.name, *map(run_name, line.evaluations)}]
    named = named or [x for x in table if any(run_name(e).startswith(f"{reference}-") for e in x.evaluations)]
    if len(named) != 1:
        near = did_you_mean(reference, [line.name for line in table])
        listed = ", ".join(line.name for line in table)
        raise UsageError(f"{len(named)} rows of the table are named '{reference}'.{near}", hint=f"Rows: {listed}")
    first = named[0]
    tested = [line for line in table if None not in line.values.values()]
    rest = [line for line in tested if line is not first] if first in tested else []
    if not rest:
        return first.name
    sides = [",".join(str(e.path) for e in line.evaluations) for line in (first, *rest)]
    layers: dict[str, dict[str, Any]] = {"compare": {"metrics": list(metrics), "split": split}}
    comparison = compare.plan(ws, first.evaluations[0].dataset, layers, sides=sides)
    made = ws.done(comparison.plan) or compare.run(ws, comparison, device="cpu", bar=bar)
    line_of = dict(zip(comparison.names, (first, *rest), strict=True))
    for row in made.result["rows"]:
        if row["p_holm"] is not None and row["p_holm"] < LEVEL:
            line_of[row["run"]].significant.add(protocols.column(row["metric"], row["seen"]))
    return first.name


def best(table: Sequence[Line], column: str) -> float | None:
    """The largest value of a column, as it is printed."""
    return max((round(v, 4) for line in table if (v := line.values[column]) is not None), default=None)


def body(table: Sequence[Line], metrics: Sequence[str], bold: Callable[[str], str]) -> list[list[str]]:
    """The cells as text: model, seeds, and per column the mean, the standard deviation over seeds, and ``*`` if it is
    significant; the best is bold."""
    rows = []
    for line in table:
        cells = [line.name, str(len(line.evaluations))]
        for column in columns(metrics):
            value = line.values[column]
            text = console.cell(value)
            text += f" ± {console.cell(spread)}" if (spread := line.deviations.get(column)) is not None else ""
            text += MARK if column in line.significant else ""
            cells.append(bold(text) if value is not None and round(value, 4) == best(table, column) else text)
        rows.append(cells)
    return rows


def text_of(table: Sequence[Line], metrics: Sequence[str], form: str) -> str:
    """The table as Markdown, LaTeX (packages booktabs) or CSV."""
    head = ["model", "seeds", *columns(metrics)]
    if form == "markdown":
        return console.markdown(head, body(table, metrics, lambda text: f"**{text}**"))
    if form == "csv":
        import csv
        import io

        sink = io.StringIO()
        writer = csv.writer(sink)
        writer.writerow([*head, "significant"])
        for line in table:
            values = [line.values[column] for column in columns(metrics)]
            writer.writerow([line.name, len(line.evaluations), *values, ";".join(sorted(line.significant))])
        return sink.getvalue()
    body_rows = body(table, metrics, lambda text: f"\\textbf{{{text}}}")
    rows = [[_latex(cells[0]), *(cell.replace("±", r"$\pm$") for cell in cells[1:])] for cells in body_rows]
    listed = [" & ".join(cells) + r" \\" for cells in ([_latex(name) for name in head], *rows)]
    shape = "l" + "r" * (len(head) - 1)
    lines = [f"\\begin{{tabular}}{{{shape}}}", r"\toprule", listed[0], r"\midrule", *listed[1:], r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def facts(table: Sequence[Line], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The rows for ``--json``."""
    return [
        {"model": line.name, "seeds": len(line.evaluations), **{c: line.values[c] for c in columns(metrics)}}
        | {"deviations": line.deviations, "significant": sorted(line.significant)}
        | {"evaluations": [e.path.name for e in line.evaluations]}
        for line in table
    ]


def _latex(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)


def comparable(ws: Workspace, evaluations: Sequence[Artifact]) -> list[Artifact]:
    """The default evaluations on the data with the latest one: they have the same users and targets."""
    default = [e for e in evaluations if _is_default(ws, e)]
    latest = max(default, key=lambda e: e.manifest["started"], default=None)
    return [e for e in default if latest and _data_of(ws, e) == _data_of(ws, latest)]


def _is_default(ws: Workspace, evaluation: Artifact) -> bool:
    """Whether it is of all users, by the search and the settings that validated the run."""
    search: Mapping[str, Any] = ws.input(evaluation, "runs").config.get("search", {"name": "exhaustive"})
    used = {"name": evaluation.config["evaluate"]["search"], **evaluation.config.get("search", {})}
    return evaluation.config["evaluate"]["users"] is None and used == dict(search)


def _data_of(ws: Workspace, evaluation: Artifact) -> str:
    return str(ws.input(evaluation, "runs").manifest["inputs"]["data"]["digest"])


def _data_name(ws: Workspace, evaluation: Artifact) -> str:
    return Path(ws.input(evaluation, "runs").manifest["inputs"]["data"]["path"]).name

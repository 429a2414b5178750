"""report: everything that was measured on a data set in one HTML file, without any new scoring.

``report.html`` has all evaluations, intervals, paired tests, slices, curves, quality of codes, studies and cases.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field

from genrec_cli import __version__, console
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Section, Seed, canonical_json
from genrec_cli.engine import metrics, protocols
from genrec_cli.engine.compare import bootstrap_means
from genrec_cli.engine.protocols import PROTOCOLS
from genrec_cli.errors import GenrecError, InputError
from genrec_cli.report import svg
from genrec_cli.report.page import Part, Table, page
from genrec_cli.stages import compare, compare_table
from genrec_cli.stages.compare_slices import evaluated, ranks_of
from genrec_cli.stages.leaderboard import comparable
from genrec_cli.stages.report_popularity import popularity
from genrec_cli.stages.run_names import labels_of, without_seed
from genrec_cli.stages.seeds import setting_of
from genrec_cli.stages.sweep_table import QUALITY
from genrec_cli.stages.tune_table import shown_importance, shown_models, shown_trials

VERSION = 1
KINDS = ("eval", "codes", "studies", "cases")
ORDER = list(metrics.SPELLINGS)
Setting = tuple[str, list[Artifact]]
"""A name, and the evaluations of its seeds."""


class ReportConfig(Section):
    """What the report measures again from the ranks of evaluations."""

    split: Literal["valid", "test"] = "test"
    """Split of the intervals, tests and slices. The table of evaluations has both."""
    metric: str = "NDCG@10"
    """Metric of bars, tests and slices."""
    draws: int = Field(10_000, ge=100, le=1_000_000)
    """Draws of the bootstrap and of the randomisation test."""
    seed: Seed = 0
    """Seed of these draws."""


def plan(ws: Workspace, dataset: str, config: ReportConfig) -> Plan:
    """All artifacts that the report shows. Raises InputError where nothing was evaluated."""
    config = config.model_copy(update={"metric": "{}@{}".format(*metrics.parse(config.metric))})
    found = {kind: [a for a in ws.all(dataset, kind) if not ws.stale(a)] for kind in KINDS}
    if not found["eval"]:
        hint = f"genrec evaluate --dataset {dataset}    measures a run"
        raise InputError(f"Nothing was evaluated on '{dataset}' yet.", hint=hint)
    inputs = {f"{kind}{n}": artifact for kind in KINDS for n, artifact in enumerate(found[kind])}
    return Plan(dataset, "reports", dataset, VERSION, {"report": config.model_dump(mode="json")}, inputs)


def run(ws: Workspace, made: Plan) -> Artifact:
    """Write ``report.html``."""
    config = ReportConfig(**made.config["report"])
    by_kind = {kind: [a for a in made.inputs.values() if a.kind == kind] for kind in KINDS}
    settings = settings_of(ws, by_kind["eval"])
    shown = [s for s in settings if s[1][0].config["evaluate"]["split"] == config.split]
    parts = [evaluations(settings)]
    parts += [intervals(shown, config)] if shown else []
    parts += [popularity(ws, shown)] if shown else []
    alike = comparable(ws, [e for _, group in shown for e in group])
    tested = [setting for setting in shown if all(e in alike for e in setting[1])]
    apart = [name for name, group in shown if group not in [of_setting for _, of_setting in tested]]
    parts += tests(ws, made.dataset, tested, apart, config) if len(tested) > 1 else []
    runs = list({run.key: run for e in by_kind["eval"] if (run := ws.input(e, "runs"))}.values())
    parts += [part for part in (curves(runs), quality(by_kind["codes"])) if part]
    parts += [_study(artifact) for artifact in by_kind["studies"]]
    parts += [cases(by_kind["cases"])] if by_kind["cases"] else []
    footer = f"genrec {__version__}. Made from {len(made.inputs)} artifacts. This file makes no requests."
    with ws.build(made) as draft:
        text = page(f"{made.dataset}: evaluations", parts, footer)
        (draft.path / "report.html").write_text(text, encoding="utf-8")
        draft.result |= {"sections": [part.title for part in parts], "evaluations": len(by_kind["eval"])}
    return ws.made(made)


def settings_of(ws: Workspace, found: Sequence[Artifact]) -> list[Setting]:
    """Evaluations by setting: those of one list differ in the seed of the training only."""
    groups: dict[str, dict[str, Artifact]] = {}
    for evaluation in found:
        trained = ws.input(evaluation, "runs")
        of_setting = groups.setdefault(canonical_json([setting_of(trained), evaluation.config]), {})
        of_setting[trained.key] = evaluation  # another evaluation of a run is no other seed
    by_split = sorted(
        (list(group.values()) for group in groups.values()), key=lambda group: group[0].config["evaluate"]["split"]
    )
    names = []
    for group in by_split:
        labels = labels_of([ws.input(e, "runs") for e in group])
        short = without_seed(labels[0]) if len(group) > 1 else labels[0]
        search = group[0].config["evaluate"]["search"]
        names.append(short + (f", {search}" if search != "exhaustive" else ""))
    for n, (name, group) in enumerate(zip(names, by_split, strict=True)):
        split = group[0].config["evaluate"]["split"]
        same = [m for m, g in enumerate(by_split) if names[m] == name and g[0].config["evaluate"]["split"] == split]
        if len(same) > 1:
            names[n] = group[0].path.name
    return list(zip(names, by_split, strict=True))


def evaluations(settings: Sequence[Setting]) -> Part:
    """One row per setting: every metric under both protocols, with the deviation over seeds."""
    names = {name for _, group in settings for name in group[0].result["metrics"]["kept"]}
    columns = sorted(names, key=lambda name: (ORDER.index(metrics.parse(name)[0]), metrics.parse(name)[1]))
    wide = [(name, protocol) for name in columns for protocol in PROTOCOLS]
    rows = []
    for name, group in settings:
        first = group[0].result
        row: list[Any] = [name, first["model"], first["split"], len(group), first["users"]]
        flat = [protocols.flat(e.result) for e in group]
        for metric, protocol in wide:
            found = [values[c] for values in flat if (c := protocols.column(metric, protocol)) in values]
            row.append(_mean(found))
        rows.append(row)
    head = ["setting", "model", "split", "seeds", "users", *(protocols.column(*pair) for pair in wide)]
    note = "Mean ± standard deviation over seeds. The two protocols: items of the history are kept in the ranking, or "
    return Part("Evaluations", note + "left out. Choose by validation; report the test split.", [Table(head, rows)])


def _mean(values: Sequence[float]) -> Any:
    if not values:
        return None
    mean = statistics.fmean(values)
    return (f"{mean:.4f} ± {statistics.stdev(values):.4f}", mean) if len(values) > 1 else mean


def intervals(settings: Sequence[Setting], config: ReportConfig) -> Part:
    """Bars of the metric with 95 % bootstrap intervals over users, one figure per protocol."""
    tables = []
    for number, protocol in enumerate(PROTOCOLS):
        rows = []
        for name, group in settings:
            value_U = _per_user(group, config.metric, protocol)
            draws = bootstrap_means(value_U, config.draws, np.random.default_rng(config.seed))
            low, high = np.quantile(draws, [0.025, 0.975])
            rows.append(svg.Bar(name, float(value_U.mean()), float(low), float(high), number))
        rows.sort(key=lambda row: -row.value)
        title = f"{protocols.column(config.metric, protocol)}, {config.split} split"
        head = ["setting", "value", "low", "high"]
        tables.append(Table(head, [row[:4] for row in rows], title, svg.bars(rows, title)))
    note = (
        "Bars are means over users and seeds. Lines are 95 % bootstrap intervals over users; they do not contain the "
    )
    return Part("Intervals", note + "variation over seeds. For differences read the paired tests.", tables)


def _per_user(group: Sequence[Artifact], metric: str, protocol: protocols.Protocol) -> np.ndarray:
    """``value_U``: the metric per user, its mean over seeds."""
    seeds = []
    for evaluation in group:
        ranks = ranks_of(evaluation)
        above_U, ties_U = ranks[f"{protocol}_rank"], ranks[f"{protocol}_ties"]
        seeds.append(metrics.per_user(*metrics.parse(metric), above_U, ties_U))
    return np.stack(seeds).mean(0)


def tests(
    ws: Workspace, dataset: str, settings: Sequence[Setting], apart: Sequence[str], config: ReportConfig
) -> Iterator[Part]:
    """Paired tests on all users, then by slices. The baseline is the setting with the best value; ``apart`` are
    settings that have other users or searches, so they cannot be paired."""

    def value(setting: Setting) -> float:
        return float(_per_user(setting[1], config.metric, "kept").mean())

    ordered = sorted(settings, key=value, reverse=True)
    common = {"split": config.split, "metrics": [config.metric], "draws": config.draws, "seed": config.seed}
    titles = {"all": "Paired tests", "cold-start": "Slices: training count of the target"}
    titles |= {"length": "Slices: length of the history", "day": "Slices: day of the target"}
    for by, title in titles.items():
        sides = [",".join(str(e.path) for e in group) for _, group in ordered]
        try:
            chosen = compare.plan(ws, dataset, {"compare": common | {"by": by}}, sides=sides)
            ranks = evaluated(ws, chosen.sides, chosen.config)
            names = [name for name, _ in ordered]
            rows = compare_table.table(ranks, names, chosen.config.metrics, draws=config.draws, seed=config.seed)
        except GenrecError as error:
            yield Part(title, f"Not shown: {error.message}")
            continue
        note = f"{config.metric}. Differences are to {ordered[0][0]}, users paired; p adjusted over this table (Holm)."
        note += f" Not paired, as they have other data, users or searches: {', '.join(apart)}." if apart else ""
        head, numbers = _tests_table([row for row in rows if by == "all" or row["slice"] != "all"])
        wide = [] if by == "all" else [_by_slice(rows, names, protocol) for protocol in PROTOCOLS]
        yield Part(title, note, [*wide, Table(head, numbers, folded=by != "all")])


def _tests_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """The table of ``genrec compare`` with the run first, without columns that have one value only."""
    head, body = compare_table.shown(rows)
    varied = [n for n, name in enumerate(head) if name == "value" or len({row[n] for row in body}) > 1]
    order = sorted(varied, key=lambda n: head[n] != "run")
    return [head[n] for n in order], [[_numeric(row[n]) for n in order] for row in body]


def _by_slice(rows: Sequence[Mapping[str, Any]], names: Sequence[str], protocol: protocols.Protocol) -> Table:
    """The value of each setting (row) in each slice (column), empty slices left out."""
    of_slice = {row["slice"]: row["users"] for row in rows if row["slice"] != "all" and row["users"]}
    value = {(row["run"], row["slice"]): row["value"] for row in rows if row["seen"] == protocol}
    head = ["setting", *(f"{name} ({console.cell(users)} users)" for name, users in of_slice.items())]
    body = [[name, *(value.get((name, part)) for part in of_slice)] for name in names]
    return Table(head, body, protocols.column(rows[0]["metric"], protocol))


def _numeric(cell: Any) -> Any:
    """``+0.0012`` and ``+3.1%`` with their number, so that they sort by it."""
    try:
        return (cell, float(cell.removesuffix("%"))) if isinstance(cell, str) else cell
    except ValueError:
        return cell


def curves(runs: Sequence[Artifact]) -> Part | None:
    """The validation metric over epochs, one line per run."""
    series, rows = [], []
    for run, label in zip(runs, labels_of(list(runs)), strict=True):
        if not (run.path / "log.parquet").is_file():
            continue
        column = f"valid/{run.config['train']['metric']}"
        log = [row for row in pq.read_table(run.path / "log.parquet").to_pylist() if row.get(column) is not None]
        series += [svg.Line(label, [r["epoch"] for r in log], [r[column] for r in log])] if log else []
        rows += [[label, row["epoch"], row[column], row.get("loss/next"), row["seconds"] / 60] for row in log]
    if not series:
        return None
    names = sorted({run.config["train"].get("metric", "") for run in runs} - {""})
    label = f"{' or '.join(names)}, validation"
    chart = svg.lines(series, label, x_label="epoch", y_label=label)
    table = Table(["run", "epoch", label, "training loss", "minutes"], rows, "", chart, folded=True)
    return Part("Curves of training", "The weights of the best epoch are kept.", [table])


def quality(codes: Sequence[Artifact]) -> Part | None:
    """One row per codes artifact."""
    known = [name for name in QUALITY if any(name in a.result for a in codes)]
    rows = [[a.path.name, *map(a.result.get, known)] for a in codes]
    return Part("Quality of codes", "", [Table(["codes", *known], rows)]) if rows and known else None


def _study(study: Artifact) -> Part:
    """What the budget of each model bought, how much each setting decides (with a figure), and all trials."""
    tables = [Table(*shown_models(study.result))]
    head, rows = shown_importance(study.result)
    if rows:
        models = list(study.result["models"])
        title = "Importance of the settings"
        bars = [svg.Bar(f"{model}: {name}", v, v, v, models.index(model)) for model, name, v in rows]
        tables.append(Table(head, rows, title, svg.bars(bars, title)))
    tables.append(Table(*shown_trials(study.result), folded=True))
    note = f"{study.result['metric']} on the validation split. Importance: the fraction of the variance of the metric "
    return Part(f"Study {study.label}", note + "over a model's trials that a setting explains (fANOVA).", tables)


def cases(found: Sequence[Artifact]) -> Part:
    """The files of case studies, as text in a table."""
    rows: list[list[Any]] = []
    for artifact in found:
        for path in sorted(artifact.path.glob("*.md")):
            rows += [[artifact.label, n, line] for n, line in enumerate(path.read_text("utf-8").splitlines()) if line]
    return Part("Cases", "", [Table(["case study", "line", "text"], rows)])


def facts(result: Mapping[str, Any]) -> str:
    """What the report shows, in a line."""
    return f"{console.cell(result['evaluations'])} evaluations; {', '.join(result['sections'])}"

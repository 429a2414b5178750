"""The table of a sweep: per row mean and standard deviation over seeds, and the published numbers."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genrec_cli import console
from genrec_cli.artifacts import Artifact
from genrec_cli.config import did_you_mean
from genrec_cli.engine import metrics, protocols
from genrec_cli.engine.protocols import CODE_LEVEL
from genrec_cli.errors import ConfigError

COSTS = ("minutes", "step_ms", "epochs", "best_epoch", "peak_memory_mib", "parameters")
"""Costs from the result of a run. Seconds include the validations; memory is measured on CUDA only."""
SPEED = "users_per_second"
SEARCH = (SPEED, "valid_fraction", "recall_against_exact")
"""Stats of the search, from the result of an evaluation."""
QUALITY: tuple[str, ...] = ("colliding_fraction", "largest_group", "mean_entropy", "least_used_fraction")
QUALITY += ("mutual_information_adjusted", "neighbours_kept_by_decoded", "neighbours_kept_by_digits")
QUALITY += ("reconstruction_error",)
"""Quality of the codes, from ``quality.json``; a dash for models without codes."""


@dataclass(frozen=True)
class Done:
    """A finished cell."""

    row: str
    seed: int
    run: Artifact
    evaluation: Artifact
    codes: Artifact | None = None
    """The codes of the model; None for a model without codes."""

    def value(self, column: str) -> float | None:
        """The value of a column; None if it is unknown."""
        run, evaluation = self.run.result, self.evaluation.result
        if column == "minutes":
            return run["seconds"] / 60 if "seconds" in run else None
        if column == "step_ms":
            return 1000 * run["seconds"] / run["steps"] if run.get("steps") else None
        codes = self.codes.result if self.codes else {}
        sources = dict.fromkeys(COSTS, run) | dict.fromkeys(SEARCH, evaluation) | dict.fromkeys(QUALITY, codes)
        return sources.get(column, protocols.flat(evaluation)).get(column)


def with_protocols(columns: Sequence[str]) -> list[str]:
    """The columns, with each metric followed by the same metric with seen items left out."""
    left_out = {name: protocols.column(name, "left_out") for name in columns if "@" in name}
    return [column for name in columns for column in (name, left_out.get(name)) if column]


def check_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns in standard spelling. Raises ConfigError for a name that is no column."""
    known = [*COSTS, *SEARCH, *QUALITY]
    for column in columns:
        if column not in known and "@" not in column:
            hint = f"Metrics such as NDCG@10, the same of codes as {CODE_LEVEL}NDCG@10, or: {', '.join(known)}"
            raise ConfigError(f"sweep.columns: there is no '{column}'.{did_you_mean(column, known)}", hint=hint)
    return tuple(column if column in known else _standard(column) for column in columns)


def _standard(column: str) -> str:
    name, cutoff = metrics.parse(column.removeprefix(CODE_LEVEL))
    return f"{CODE_LEVEL if column.startswith(CODE_LEVEL) else ''}{name}@{cutoff}"


def cutoffs(columns: Sequence[str], at: Sequence[int]) -> list[int]:
    """The cutoffs of the settings and of the columns, sorted."""
    return sorted({*at} | {metrics.parse(name.removeprefix(CODE_LEVEL))[1] for name in columns if "@" in name})


def per_run(done: Sequence[Done], columns: Sequence[str]) -> list[dict[str, Any]]:
    """One row per finished cell: its name, its folders, its values."""
    return [
        {"row": cell.row, "seed": cell.seed, "run": cell.run.path.name, "evaluation": cell.evaluation.path.name}
        | {column: cell.value(column) for column in (*with_protocols(columns), *COSTS)}
        for cell in done
    ]


def per_row(
    rows: Sequence[str], done: Sequence[Done], columns: Sequence[str], expected: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """One row per row of the sweep: ``n`` seeds, and for each column mean, ``sd`` (n > 1) and ``paper``."""
    table = []
    for name in rows:
        published = dict(zip(columns, map(float, expected.get(name, ())), strict=False))
        cells = [cell for cell in done if cell.row == name]
        line: dict[str, Any] = {"row": name, "n": len(cells)}
        for column in with_protocols(columns):
            values = [float(v) for cell in cells if (v := cell.value(column)) is not None]
            line[column] = statistics.fmean(values) if values else None
            line[f"{column} sd"] = statistics.stdev(values) if len(values) > 1 else None
            line[f"{column} paper"] = published.get(column)
        line["runs"] = ",".join(cell.run.path.name for cell in cells)
        table.append(line)
    return table


def shown(table: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for people, with means as ``0.0431 ± 0.0012`` and published numbers."""
    # Code-level metrics with seen items left out are only in the files.
    columns = [c for c in with_protocols(columns) if c in columns or not c.startswith(CODE_LEVEL)]
    published = {column for column in columns if any(line[f"{column} paper"] is not None for line in table)}
    head, body = ["row", "n"], [[line["row"], line["n"]] for line in table]
    for column in columns:
        head += [column, f"{column}, paper"] if column in published else [column]
        for line, cells in zip(table, body, strict=True):
            mean, std, paper = (_number(column, line[name]) for name in (column, f"{column} sd", f"{column} paper"))
            cells.append(f"{mean} ± {std}" if std else mean)
            cells += [paper] if column in published else []
    return head, body


def _number(column: str, value: float | None) -> str | None:
    """A metric with four digits; a cost or speed as a whole number or with three significant digits."""
    if value is None or column not in (*COSTS, SPEED):
        return None if value is None else console.cell(value)
    return f"{console.rate(value):,}".removesuffix(".0")

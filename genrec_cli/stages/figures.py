"""figures: the logs of runs -> curves; for a run of masked history learning also its entropies and masks, and on a
generated shop these against its planted labels.

The figures are an artifact apart from the runs: the content of a run does not depend on matplotlib, and one set of
figures may show several runs.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from genrec_cli import registry
from genrec_cli.artifacts import Artifact, Draft, Plan, Workspace
from genrec_cli.config import Count, Section, Seed, validate
from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.data.names import Names
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.entropies import sample
from genrec_cli.errors import DataError, UsageError
from genrec_cli.models.base import EntropyModel
from genrec_cli.report import entropy, figures, labels, noise, sweep_lines, tradeoff
from genrec_cli.stages.load import load_labels
from genrec_cli.stages.run_names import labels_of
from genrec_cli.stages.trained import Run, refuse_repeated

VERSION = 3
MAX_RUNS = 12
"""Runs in one figure; a reader cannot distinguish more of them."""


class FiguresConfig(Section):
    """How entropies are sampled; curves need no setting."""

    users: Count = 1000
    """Users whose training histories are read for entropies and masks."""
    seed: Seed = 0
    """Seed for the users and the masks."""
    labels: bool = False
    """Compare entropies and masks with the planted labels of a generated shop."""


def plan(ws: Workspace, dataset: str, config: FiguresConfig, names: list[str]) -> Plan:
    """Resolve the runs: those named, or the only one. All errors of the user are raised here."""
    figures.require_matplotlib()
    choice = "genrec figures NAME [NAME ...]"
    runs = [ws.find(dataset, "runs", name, choice=choice) for name in [*names] or (None,)]
    refuse_repeated(runs)
    if len(runs) > MAX_RUNS:
        raise UsageError(f"{len(runs)} runs in one figure cannot be told apart.", hint=f"Name at most {MAX_RUNS}")
    for run in runs:
        if not (run.path / "log.parquet").is_file():
            message = f"{run.path.name} has no log: the model '{run.config['model']['name']}' learns without epochs."
            raise UsageError(message, hint="genrec list runs    shows the others")
        if config.labels:
            _check_labels(ws, run)
    label = "-vs-".join(run.label for run in runs)[:60]
    inputs = {f"runs{n}": run for n, run in enumerate(runs)}
    return Plan(dataset, "figures", label, VERSION, {"figures": config.model_dump(mode="json")}, inputs)


def run(ws: Workspace, plan: Plan, config: FiguresConfig, *, device: str, bar: Callable[[int], Any]) -> Artifact:
    """Draw ``training`` for all runs together; for each run of MHL ``entropy``, ``entropy-epochs`` and ``masked``,
    for each run of MDGR ``mask-counts``."""
    where, runs = resolve_device(device), list(plan.inputs.values())
    curves = [_curve(run, label) for run, label in zip(runs, labels_of(runs), strict=True)]
    with ws.build(plan) as draft:
        names = curves[0].label if len(curves) == 1 else f"{len(curves)} runs"
        files = figures.save(figures.training(curves, f"{names} on {plan.dataset}"), draft.path, "training")
        for number, (run, curve) in enumerate(zip(runs, curves, strict=True), 1):
            suffix = f"-{number}" if len(runs) > 1 else ""
            masking = registry.load("model", run.config["model"]["name"]).masking
            masked = any(row["ratio"] > 0 for row in curve.rows)
            if masking == "entropy" and (masked or config.labels):
                files += _of_masks(Run(ws, run, where), curve, config, draft, suffix, bar)
            if fractions := noise.mask_counts(curve.rows):
                figure = noise.over_epochs(curve.rows, f"Masked digits of a target while {curve.label} learned")
                files += figures.save(figure, draft.path, f"mask-counts{suffix}")
                table = {"epoch": [row["epoch"] for row in curve.rows]} | {str(k): v for k, v in fractions.items()}
                pq.write_table(pa.table(table), draft.path / f"mask-counts{suffix}.parquet")
        draft.result |= {"runs": [run.path.name for run in runs], "figures": files}
    return ws.made(plan)


def _check_labels(ws: Workspace, run: Artifact) -> None:
    """Raise UsageError if a run has no entropies, or its data no planted labels."""
    if registry.load("model", run.config["model"]["name"]).masking != "entropy":
        message = f"--labels compares entropies, and the model of {run.path.name} has none."
        raise UsageError(message, hint="genrec train --model mhl")
    if load_labels(ws.input(run, "data")) is None:
        message = f"The data of {run.path.name} have no planted labels: only a generated shop has them."
        raise UsageError(message, hint="genrec download --dataset synthetic    makes one")


def plan_sweep(ws: Workspace, dataset: str, name: str) -> Plan:
    """Resolve a finished sweep whose table has a metric."""
    figures.require_matplotlib()
    sweep = ws.find(dataset, "sweeps", name)
    if all(column == tradeoff.SPEED for column in sweep.result["columns"]):
        hint = f'columns = ["Recall@10", "{tradeoff.SPEED}"] in its [sweep]'
        raise UsageError(f"The table of {sweep.path.name} lacks a metric.", hint=hint)
    return Plan(dataset, "figures", sweep.label, VERSION, {"figures": {}}, {"sweeps": sweep})


def run_sweep(ws: Workspace, plan: Plan) -> Artifact:
    """Draw the first column of the sweep's table: ``lines`` over the setting that varies last, and ``tradeoff`` against
    users per second if the table has them."""
    sweep = plan.inputs["sweeps"]
    metric = next(column for column in sweep.result["columns"] if column != tradeoff.SPEED)
    title = f"{sweep.config['sweep']['title']}: {plan.dataset}, {sweep.result['split']} split"
    with ws.build(plan) as draft:
        files = figures.save(sweep_lines.lines(sweep.result["rows"], metric, title), draft.path, "lines")
        if tradeoff.SPEED in sweep.result["columns"]:
            files += figures.save(tradeoff.tradeoff(sweep.result["rows"], metric, title), draft.path, "tradeoff")
        draft.result |= {"sweep": sweep.path.name, "figures": files}
    return ws.made(plan)


def _curve(run: Artifact, label: str) -> figures.Curve:
    """The log of a run, its columns checked."""
    path = run.path / "log.parquet"
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.", hint="Train again with --force") from None
    if not rows or not {"epoch", "phase", "ratio"} <= rows[0].keys():
        raise DataError(f"{path} is not the log of a training.", hint="Train again with --force")
    return figures.Curve(label, rows, run.config["train"]["metric"], "codes" in run.manifest["inputs"])


def _of_masks(
    run: Run, curve: figures.Curve, config: FiguresConfig, draft: Draft, suffix: str, bar: Callable[[int], Any]
) -> list[str]:
    """Entropies and masks of one run, as figures and as Parquet."""
    count_I = run.catalog.train_count_I.cpu().numpy()
    batches = sample(run.histories, max_length=run.max_length, users=config.users, seed=config.seed)
    samplers = mask_samplers(run.artifact, run.device, config.seed)
    with bar(sum(batch.packing.sequences for batch in batches)) as progress:
        model = cast(EntropyModel, run.model)
        survey = entropy.survey(model, batches, run.device, samplers, tick=progress.update)
    stats = {phase: entropy.mask_stats(survey, phase, count_I) for phase in survey.masked_N}
    random = {phase for phase, sampler in samplers.items() if not sampler.by_entropy}
    title = f"{curve.label} on {run.artifact.dataset}"
    drawn = {"entropy": entropy.entropies(survey, curve.rows, run.catalog.codewords, f"Entropy of {title}")}
    if stats:
        items = f"Items masked in the training of {title}"
        drawn["masked"] = entropy.masked(stats, run.names.shown, items, random=random)
    if config.labels and (planted := load_labels(run.data)):
        found = labels.compare(survey, planted.kinds(batches), config.seed)
        drawn["labels"] = labels.against_labels(found, curve, f"Entropy of {title} against the planted labels")
        facts = {"run": run.name, "by_phase": labels.areas_by_phase(curve.rows), **found.facts()}
        draft.result.setdefault("labels", []).append(facts)
    if any(row.get("entropy/mean") is not None for row in curve.rows):
        drawn["entropy-epochs"] = entropy.entropy_over_epochs(curve.rows, f"Entropy of {title} over epochs")
    _write_stats(draft, suffix, survey, stats, run.names, count_I)
    return [file for name, figure in drawn.items() for file in figures.save(figure, draft.path, name + suffix)]


def mask_samplers(run: Artifact, device: torch.device, seed: int) -> dict[str, HistoryMasks]:
    """The mask sampler of each masking phase of a run, at the phase's initial ratio."""
    curriculum = validate(CurriculumConfig, "curriculum", run.config["curriculum"])
    generator = torch.Generator(device).manual_seed(seed)
    last = curriculum.budget, generator, curriculum.smoothing
    masking = [phase for phase in curriculum.phases() if phase.mask != "none" and phase.ratio > 0]
    return {phase.name: HistoryMasks(phase.mask, phase.granularity, phase.ratio, *last) for phase in masking}


Stats = dict[str, entropy.MaskStats]


def _write_stats(
    draft: Draft, suffix: str, survey: entropy.Survey, stats_of: Stats, names: Names, count_I: np.ndarray
) -> None:
    """``masked.parquet``: one row per item and masking phase; ``entropy.parquet``: one row per position and digit."""
    tables = []
    for phase, stats in stats_of.items():
        index = stats.item - 1
        table = {"phase": [phase] * len(index), "item": stats.item, "raw_id": [names.item[i] for i in index]}
        table |= {"title": [names.title[i] for i in index], "train_count": count_I[index]}
        tables.append(pa.table(table | {"read": stats.read, "masked_fraction": stats.fraction}))
    if tables:
        pq.write_table(pa.concat_tables(tables), draft.path / f"masked{suffix}.parquet")
    row, digit = np.nonzero(~np.isnan(survey.entropy_NK))
    cell, index, read = np.unique(
        np.stack([survey.position_N[row], digit]), axis=1, return_inverse=True, return_counts=True
    )
    mean = np.bincount(index.ravel(), weights=survey.entropy_NK[row, digit]) / read
    table = {"position": cell[0] + 1, "digit": cell[1] + 1, "read": read, "entropy": mean}
    pq.write_table(pa.table(table), draft.path / f"entropy{suffix}.parquet")

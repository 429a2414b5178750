"""train: data (and codes) -> a run: the weights of the best epoch, their configuration, the log."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from genrec_cli import console, registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.checkpoint import BEST, save_weights
from genrec_cli.engine.diagnosis import Training, diagnose
from genrec_cli.engine.estimate import estimate, expected_faults
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.progress import Callbacks, Counters
from genrec_cli.engine.ranking import make_ranker
from genrec_cli.engine.warm_start import freeze, warm_start
from genrec_cli.errors import ConfigError, DataError
from genrec_cli.files import write_atomically
from genrec_cli.models.base import Model
from genrec_cli.process_group import current_group
from genrec_cli.stages.doctor import cpu_has_bf16
from genrec_cli.stages.load import load_catalog, load_labels
from genrec_cli.stages.train_plan import TrainPlan

INPUTS = "inputs.json"
"""Digests of the inputs of an unfinished training. A checkpoint is resumed only with the same inputs."""
Parts = tuple[Model, Catalog, Histories]
CallbacksFor = Callable[[Loop], Callbacks]


def train(ws: Workspace, run: TrainPlan, *, device: str, force: bool, callbacks_for: CallbacksFor) -> Artifact | None:
    """Train; resume from the last checkpoint if there is one.

    With several processes the main one writes the artifact, the others return None.
    """
    where = resolve_device(device)
    if run.train.precision == "bf16" and where.type == "cpu" and not cpu_has_bf16():
        console.warn("This CPU only emulates bf16, about 100 times slower than fp32: leave --precision out.")
    model, catalog, histories = parts = _assemble(run, where)
    if model.trainable or current_group().main:
        model.fit(catalog, histories)
    loop = _loop(run, parts, where, ws.path(run.plan)) if model.trainable else None  # refused before a folder exists
    if not current_group().main:
        if loop is not None:
            current_group().barrier()
            loop.callbacks = callbacks_for(loop)
            loop.run()
        return None
    if not force and of_other_inputs(ws, run.plan):
        console.warn(f"{run.plan.name} was begun on inputs that have changed since; it starts anew.")
        force = True
    with ws.build(run.plan, resumable=True, force=force) as draft:
        if not (draft.path / INPUTS).exists():
            write_atomically(draft.path / INPUTS, (json.dumps(_digests(ws, run.plan), indent=2) + "\n").encode())
        (draft.path / "config.json").write_text(json.dumps(run.plan.config, indent=2) + "\n", encoding="utf-8")
        draft.result["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if loop is None:
            save_weights(draft.path / BEST, model)
        else:
            current_group().barrier()  # the other processes may read the folder: stale checkpoints are deleted
            draft.result |= _train(run, loop, callbacks_for)
        draft.result["device"] = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
        (draft.path / "README.md").write_text(card(run, draft.result), encoding="utf-8")
    return ws.made(run.plan)


def forecast(run: TrainPlan, *, device: str) -> dict[str, Any]:
    """Steps, phases, parameters, memory and time of a training. It runs a few real steps and writes nothing."""
    where = resolve_device(device)
    model, catalog, histories = parts = _assemble(run, where)
    if not model.trainable:
        return {"parameters": 0}
    model.fit(catalog, histories)  # counts and graphs are a part of a step
    return estimate(_loop(run, parts, where, Path()))


def _assemble(run: TrainPlan, device: torch.device) -> Parts:
    """The untrained model of a plan, its catalogue and histories, on a device."""
    torch.manual_seed(run.train.seed)
    inputs, kind = run.plan.inputs, registry.load("model", run.model)
    needs = kind.needs_of(run.model_config)
    catalog = load_catalog(inputs, needs).to(device)
    kind.check(run.model_config, run.train, catalog)
    histories = Histories.read(inputs["data"].path, times="times" in needs)
    try:
        model = kind(run.model_config, catalog, max_length=run.train.max_length).to(device)
    except ValueError as error:  # each setting is allowed, but not together, such as heads and width
        raise ConfigError(f"model: {error}.", hint="Change it with --set model.KEY=VALUE") from None
    if "init" in inputs:
        _start_from(model, run)
    freeze(model, run.train.freeze)
    return model, catalog, histories


def _start_from(model: Model, run: TrainPlan) -> None:
    """Load the parameters that fit from the run of ``--init-from``, and report the others."""
    inputs = run.plan.inputs
    source = inputs["init"]
    table = "codes" if "codes" in inputs else "data"
    same_ids = source.manifest["inputs"].get(table, {}).get("digest") == inputs[table].digest
    same_data = source.manifest["inputs"].get("data", {}).get("digest") == inputs["data"].digest
    loaded, kept = warm_start(model, source.path / BEST, same_ids=same_ids, same_data=same_data)
    if kept and model.pretrained_by and not getattr(run.model_config, "from_scratch", False):
        message = f"{source.path.name} has other data: {kept[0]} does not fit."
        raise ConfigError(message, hint="Train both stages on the same data")
    names = ", ".join(kept[:5]) + (", ..." if len(kept) > 5 else "")
    rest = f"; {len(kept)} keep their initial values: {names}" if kept else ""
    console.say(f"{len(loaded)} of {len(loaded) + len(kept)} parameters start from {source.path.name}{rest}")


def _loop(run: TrainPlan, parts: Parts, device: torch.device, folder: Path) -> Loop:
    """The training loop. Raises DataError without training rows or, unless nothing needs them, validation targets."""
    model, catalog, histories = parts
    if len(histories.targets("valid", sample=1)[0]) == 0:
        _check_without_validation(run)
    make = partial(make_ranker, model, catalog, registry.load("search", model.search), run.search)
    options: dict[str, Any] = {"noise": run.noise, "labels": load_labels(run.plan.inputs["data"])}
    loop = Loop(*parts, run.train, run.curriculum, device, folder, make_ranker=make, **options)
    if len(loop.batches.rows) == 0:
        raise DataError("No user has two training items, so there is nothing to learn from.")
    return loop


def _check_without_validation(run: TrainPlan) -> None:
    """Refuse a training that validation would end or select, on data without validation targets."""
    reason = "No user has a validation target"
    if run.train.select != "last":
        hint = "--set train.select=last    keeps the last epoch; or a split, with 3 interactions per user"
        raise DataError(f"{reason}, so nothing can select the best epoch.", hint=hint)
    for phase in run.curriculum.phases()[:-1]:
        if phase.max_epochs is None:
            hint = "--set curriculum.max_epochs=N ends each masking phase of a preset"
            raise DataError(f"{reason}, so the phase '{phase.name}' never ends.", hint=hint)


def _train(run: TrainPlan, loop: Loop, callbacks_for: CallbacksFor) -> dict[str, Any]:
    """Run the loop and write the log after each epoch; the result of the artifact."""
    folder, device = loop.folder, loop.device
    for finding in expected_faults(loop):
        console.warn(f"{finding.seen}\n  try: {finding.change}")
    callbacks = callbacks_for(loop)

    def epoch(row: dict[str, Any]) -> None:
        write_log(folder, loop.counters.rows)
        callbacks.epoch(row)

    loop.callbacks = replace(callbacks, epoch=epoch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    counters = loop.run()
    if not (folder / BEST).exists():
        lost = f"{folder / BEST} is gone, the weights of epoch {counters.best_epoch}."
        raise DataError(lost, hint="--force starts anew")
    write_log(folder, counters.rows)
    result = outcome(counters, run)
    if device.type == "cuda":
        result["peak_memory_mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return result


def outcome(counters: Counters, run: TrainPlan) -> dict[str, Any]:
    """Epochs, speed, validation metrics and diagnosis of a training, for its manifest."""
    seconds = max(counters.seconds, 1e-9)
    best = counters.rows[counters.best_epoch - 1]
    shifts = registry.load("model", run.model).masking == "target" and run.noise.preset != "random"
    phases = [phase.name for phase in run.curriculum.phases()]
    log = Training(counters.rows, run.train.metric, run.train.epochs, run.train.warmup_steps, shifts, phases)
    return {
        "epochs": counters.epoch,
        "best_epoch": counters.best_epoch,
        "steps": counters.step,
        "seconds": round(counters.seconds, 3),
        "positions_per_second": console.rate(counters.positions / seconds),
        "waited_fraction": round(counters.waited / seconds, 4),
        "processes": current_group().world,
        "valid": {name.removeprefix("valid/"): value for name, value in best.items() if name.startswith("valid/")},
        "diagnosis": [asdict(finding) for finding in diagnose(log)],
    }


def _digests(ws: Workspace, plan: Plan) -> dict[str, str]:
    """The digest of each input, with the reason appended where it is stale."""
    stale = {name: ws.stale(artifact) for name, artifact in plan.inputs.items()}
    return {name: a.digest + (f" stale: {stale[name]}" if stale[name] else "") for name, a in plan.inputs.items()}


def of_other_inputs(ws: Workspace, plan: Plan) -> bool:
    """Whether the folder of a run holds a checkpoint of inputs with the same key and other content."""
    file = ws.path(plan) / INPUTS
    try:
        return file.exists() and json.loads(file.read_text("utf-8")) != _digests(ws, plan)
    except ValueError:
        return True


def write_log(folder: Path, rows: list[dict[str, Any]]) -> None:
    """``log.parquet``: one row per epoch, replaced in one rename."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    temporary = folder / ".log.parquet.tmp"
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), temporary)
    temporary.replace(folder / "log.parquet")


def card(run: TrainPlan, result: dict[str, Any]) -> str:
    """The model card: model, inputs and result."""
    inputs = "".join(f"- {name}: `{a.path.name}` (digest `{a.digest[:16]}`)\n" for name, a in run.plan.inputs.items())
    return (
        f"---\nlibrary_name: genrec-cli\ntags: [recommendation, {run.model}]\n---\n"
        f"# {run.model} on {run.plan.dataset}\n\n"
        f"Trained by `genrec train --model {run.model}`; settings in config.json, epochs in log.parquet.\n\n{inputs}\n"
        f"```json\n{json.dumps(result, indent=2)}\n```\n"
    )

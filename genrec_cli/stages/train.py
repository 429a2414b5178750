"""train: data (and codes) -> a run: the best weights, their configuration, the log."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from genrec_cli import console, registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Section, merge, validate
from genrec_cli.curriculum.noise import NoiseConfig
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories
from genrec_cli.distributed import resolve_device
from genrec_cli.engine import metrics
from genrec_cli.engine.checkpoint import BEST, save_weights
from genrec_cli.engine.diagnosis import Training, diagnose
from genrec_cli.engine.estimate import estimate
from genrec_cli.engine.loop import Counters, Loop, Report
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.engine.ranking import make_ranker
from genrec_cli.errors import ConfigError, DataError, UsageError
from genrec_cli.files import write_atomically
from genrec_cli.models.base import Model
from genrec_cli.ranks import here
from genrec_cli.stages.load import load_catalog, matching_decoder, on_device, refuse_longer

VERSION = 4
SECTIONS = ["model", "train", "curriculum", "noise", "decoder"]
INPUTS = "inputs.json"
"""Digests of what a run is being trained on: a checkpoint is good for these and no others."""


@dataclass(frozen=True)
class TrainPlan:
    """A run before it starts."""

    plan: Plan
    model: str
    model_config: Section
    train: TrainConfig
    curriculum: CurriculumConfig
    noise: NoiseConfig
    decoder: Section
    """Settings of the model's own decoder, which validates."""


def plan(
    ws: Workspace, dataset: str, model: str, layers: dict[str, dict[str, Any]], *, data: str | None = None,
    codes: str | None = None, label: str | None = None,
) -> TrainPlan:  # fmt: skip
    """Resolve inputs and configuration; all errors of the user's come from here, before any work."""
    kind = registry.load("model", model)
    layers = merge(kind.defaults, layers)
    settings = dict(layers.get("model", {}))
    settings.pop("name", None)
    model_config = validate(kind.Config, "model", settings)
    train = validate(TrainConfig, "train", layers.get("train", {}))
    curriculum = validate(CurriculumConfig, "curriculum", layers.get("curriculum", {}))
    noise = validate(NoiseConfig, "noise", layers.get("noise", {}))
    face = f"In the class {kind.__name__}: decoder = NAME, of one whose face it has (docs/add-a-model.md, Faces)"
    search = matching_decoder(kind.decoder, model, face)
    # exact decoding has no settings, so [decoder] is not for it
    decoder = validate(search.Config, "decoder", {} if search.exact else layers.get("decoder", {}))
    refuse_longer(f"train.metric={train.metric}", metrics.parse(train.metric)[1], search, decoder)
    masked = [phase.name for phase in curriculum.phases() if phase.mask != "none"]
    if masked and not kind.masks:
        raise UsageError(
            f"The model '{model}' cannot mask, and the curriculum has the phase '{masked[0]}'.",
            hint="--curriculum inf    trains without masks",
        )
    if not getattr(model_config, "causal", True) and train.windows != "each":
        raise UsageError(
            "An encoder that reads both directions (model.causal = false) learns one target a row.",
            hint="--set train.windows=each, or --set model.causal=true",
        )
    if getattr(model_config, "next_targets", "all") == "last" and train.windows != "each":
        raise UsageError(
            f"model.next_targets = last needs rows of one target; of train.windows = {train.windows} they have many.",
            hint="--set train.windows=each    gives every target a row",
        )
    if "codes" in kind.needs:
        found = ws.find(dataset, "codes", codes, made_from=data and ws.find(dataset, "data", data))
        inputs = {"data": ws.input(found, "data"), "codes": found}
    else:
        inputs = {"data": ws.find(dataset, "data", data)}
    config = {"model": {"name": model, **model_config.model_dump(mode="json")}}
    if kind.trainable:
        config |= {
            "train": train.model_dump(mode="json"),
            "curriculum": {
                "watch": curriculum.watch,
                "budget": curriculum.budget,
                "smoothing": curriculum.smoothing,
                "phase": [phase.model_dump(mode="json") for phase in curriculum.phases()],
            },
        }
        if kind.noised:
            config["noise"] = noise.resolved()
    else:
        config["train"] = {"max_length": train.max_length, "seed": train.seed}
    if not search.exact:
        config["decoder"] = {"name": kind.decoder, **decoder.model_dump(mode="json")}
    if label is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,63}", label):
        hint = "At most 64 letters, digits, '-', '_' and '.'"
        raise UsageError(f"--label '{label}' cannot be the name of a folder.", hint=hint)
    label = label or f"{model}-s{train.seed}"
    plan = Plan(dataset, "runs", label, VERSION, config, inputs)
    return TrainPlan(plan, model, model_config, train, curriculum, noise, decoder)


def sections_of(model: str) -> list[str]:
    """The sections that a model reads; a file may hold others, meant for another model."""
    kind = registry.load("model", model)
    unread = {"noise": not kind.noised, "decoder": registry.load("decoder", kind.decoder).exact}
    return [name for name in SECTIONS if not unread.get(name)]


def train(
    ws: Workspace, run: TrainPlan, *, device: str, force: bool, report_to: "Callable[[Loop], Report]"
) -> Artifact | None:
    """Train, from the last checkpoint if the run was begun before.

    Where several processes train together, the first one writes the artifact; the others return None.
    """
    where = resolve_device(device)
    model, catalog, histories = _assemble(run, where)
    if not here().main:
        if model.trainable:
            here().barrier()
            loop = _loop(model, catalog, histories, run, where, ws.path(run.plan))
            loop.report = report_to(loop)
            loop.run()
        return None
    if not force and of_other_inputs(ws, run.plan):
        console.warn(f"{run.plan.name} was begun on inputs that have changed since; it starts anew.")
        force = True
    with ws.build(run.plan, resumable=True, force=force) as draft:
        if not (draft.path / INPUTS).exists():
            write_atomically(draft.path / INPUTS, (json.dumps(_digests(ws, run.plan), indent=2) + "\n").encode())
        config_json = json.dumps(run.plan.config, indent=2) + "\n"
        (draft.path / "config.json").write_text(config_json, encoding="utf-8")
        draft.result["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if not model.trainable:
            model.fit(catalog)
            save_weights(draft.path / BEST, model)
        else:
            here().barrier()  # the others may look at the folder: what is not to be resumed is gone
            draft.result |= _train(model, catalog, histories, run, where, draft.path, report_to)
        draft.result["device"] = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
        (draft.path / "README.md").write_text(card(run, draft.result), encoding="utf-8")
    return ws.made(run.plan)


def forecast(run: TrainPlan, *, device: str) -> dict[str, Any]:
    """What training would take: steps, phases, parameters, memory, time. Takes a few real steps, writes nothing."""
    where = resolve_device(device)
    model, catalog, histories = _assemble(run, where)
    if not model.trainable:
        return {"parameters": 0}
    return estimate(_loop(model, catalog, histories, run, where, Path()))


def _assemble(run: TrainPlan, device: torch.device) -> tuple[Model, Catalog, Histories]:
    """The untrained model of a plan, its catalogue and histories, on a device."""
    torch.manual_seed(run.train.seed)
    catalog = on_device(load_catalog(run.plan.inputs["data"], run.plan.inputs.get("codes")), device)
    histories = Histories.read(run.plan.inputs["data"].path)
    kind = registry.load("model", run.model)
    try:
        return kind(run.model_config, catalog, max_length=run.train.max_length).to(device), catalog, histories
    except ValueError as error:  # settings that are each allowed and do not fit each other, such as heads and width
        raise ConfigError(f"model: {error}.", hint="Change it with --set model.KEY=VALUE") from None


def _loop(
    model: Model, catalog: Catalog, histories: Histories, run: TrainPlan, device: torch.device, folder: Path
) -> Loop:
    """A loop that has something to learn from and something to select by."""
    user, _ = histories.targets("valid", sample=1)
    if len(user) == 0:
        raise DataError("No user has a validation target, so nothing can select the best epoch.",
                        hint="Preprocess with users of at least 3 interactions")  # fmt: skip
    search = registry.load("decoder", model.decoder)
    loop = Loop(model, catalog, histories, run.train, run.curriculum, device, folder, report=Report(), noise=run.noise,
                make_ranker=lambda: make_ranker(model, catalog, search, run.decoder))  # fmt: skip
    if len(loop.rows) == 0:
        raise DataError("No user has two training items, so there is nothing to learn from.")
    return loop


def _train(
    model: Model, catalog: Catalog, histories: Histories, run: TrainPlan, device: torch.device, folder: Path,
    report_to: "Callable[[Loop], Report]",
) -> dict[str, Any]:  # fmt: skip
    loop = _loop(model, catalog, histories, run, device, folder)
    told = report_to(loop)

    def epoch(row: dict[str, Any]) -> None:
        write_log(folder, loop.counters.rows)
        told.epoch(row)

    loop.report = replace(told, epoch=epoch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    counters = loop.run()
    if not (folder / BEST).exists():
        raise DataError(
            f"{folder / BEST} is gone, the weights of epoch {counters.best_epoch}.", hint="--force starts anew"
        )
    write_log(folder, counters.rows)
    result = outcome(counters, run)
    if device.type == "cuda":
        result["peak_memory_mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return result


def outcome(counters: Counters, run: TrainPlan) -> dict[str, Any]:
    """What a training tells of itself."""
    best = counters.rows[counters.best_epoch - 1]
    result = {
        "epochs": counters.epoch, "best_epoch": counters.best_epoch, "steps": counters.step,
        "seconds": round(counters.seconds, 3),
        "positions_per_second": console.rate(counters.positions / max(counters.seconds, 1e-9)),
        "waited_share": round(counters.waited / max(counters.seconds, 1e-9), 4),
        "processes": here().world,
        "valid": {name.removeprefix("valid/"): value for name, value in best.items() if name.startswith("valid/")},
    }  # fmt: skip
    shifts = registry.load("model", run.model).noised and run.noise.laws[0] == "curriculum"
    log = Training(counters.rows, run.train.metric, run.train.epochs, run.train.warmup_steps, shifts)
    result["diagnosis"] = [asdict(finding) for finding in diagnose(log)]
    return result


def _digests(ws: Workspace, plan: Plan) -> dict[str, str]:
    """What a digest stands for, unless the input was changed since: then also how."""
    stale = {name: ws.stale(artifact) for name, artifact in plan.inputs.items()}
    return {name: a.digest + (f" stale: {stale[name]}" if stale[name] else "") for name, a in plan.inputs.items()}


def of_other_inputs(ws: Workspace, plan: Plan) -> bool:
    """Whether the folder of a run holds a checkpoint of inputs with the same key and other content."""
    folder = ws.path(plan)
    if not (folder / INPUTS).exists():
        return False
    try:
        return json.loads((folder / INPUTS).read_text("utf-8")) != _digests(ws, plan)
    except ValueError:
        return True


def write_log(folder: Path, rows: list[dict[str, Any]]) -> None:
    """``log.parquet``: one row an epoch, replaced in one rename."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    temporary = folder / ".log.parquet.tmp"
    pq.write_table(table, temporary)
    temporary.replace(folder / "log.parquet")


def card(run: TrainPlan, result: dict[str, Any]) -> str:
    """The model card: what was trained on what, and what validation said."""
    inputs = "".join(f"- {name}: `{a.path.name}` (digest `{a.digest[:16]}`)\n" for name, a in run.plan.inputs.items())
    return (
        f"---\nlibrary_name: genrec-cli\ntags: [recommendation, {run.model}]\n---\n"
        f"# {run.model} on {run.plan.dataset}\n\n"
        f"Trained by `genrec train --model {run.model}`; settings in config.json, epochs in log.parquet.\n\n{inputs}\n"
        f"```json\n{json.dumps(result, indent=2)}\n```\n"
    )

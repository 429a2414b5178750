"""tune: searches the settings of one or several models by validation, with equal budgets (docs/tune.md).

A trial is the same run that ``genrec train`` makes from its settings. The study is an SQLite file of Optuna in the
artifact, so that the same command goes on.
"""

import multiprocessing
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.engine import protocols
from genrec_cli.engine.progress import Callbacks
from genrec_cli.errors import ConfigError, DivergedError, GenrecError, Interrupted, UsageError, of_memory
from genrec_cli.stages import evaluate, sweep_cell, train
from genrec_cli.stages.tune_draws import ask, is_spent, open_study, restart, spent
from genrec_cli.stages.tune_recipe import ModelStudy, Tune, TuneConfig
from genrec_cli.stages.tune_table import write_tables

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

VERSION = 3


class OutOfBudget(Exception):
    """Ends a training when the minutes of its model are spent."""


class EndOfTrial(Exception):
    """Ends a training when the minutes of a trial are spent. ``value``: its best validation."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self.value = value


@dataclass(frozen=True)
class Job:
    """What a process needs to work on a study."""

    ws: Workspace
    tune: Tune
    given: sweep_cell.Inputs
    folder: Path
    device: str
    progress: Callable[[], AbstractContextManager[Any]]


def require_optuna() -> None:
    """Raise UsageError, with the line that installs it, if Optuna is absent."""
    try:
        import optuna
    except ImportError:
        message = "Tuning needs Optuna, and it is not installed."
        raise UsageError(message, hint="pip install 'genrec-cli[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def plan(ws: Workspace, tune: Tune, given: sweep_cell.Inputs) -> Plan:
    """The artifact of a study. The budget is not in its key: with a larger one the study goes on.

    Raises:
        UsageError: codes are given, and the trials have codes of their own.
    """
    name, cutoff, _ = protocols.parse(tune.metric)
    for model in tune.models:
        sweep_cell.check_cell(model.first(), [f"{name}@{cutoff}"])
        for cell in model.extremes():
            sweep_cell.check_values(cell)
        varied = [name for name in model.space if name.partition(".")[0] in sweep_cell.OF_CODES]
        if varied and given.codes:
            message = (
                f"The trials of '{model.name}' vary {varied[0]}, so each makes its codes: --codes cannot be given."
            )
            raise UsageError(message, hint="Leave --codes out")
    settings = tune.config.model_dump(mode="json", exclude={"trials", "minutes", "model", "space"})
    models = {
        model.name: {"set": model.layers, "space": {name: v.model_dump(mode="json") for name, v in model.space.items()}}
        for model in tune.models
    }
    inputs = {"data": given.data} | ({"codes": given.codes} if given.codes else _only_inputs(ws, tune, given))
    inputs |= {f"init {m.name}": ws.find(given.data.dataset, "runs", m.init_from) for m in tune.models if m.init_from}
    config = {"tune": settings | {"encoder": given.encoder}, "models": models}
    return Plan(given.data.dataset, "studies", tune.name, VERSION, config, inputs)


def _only_inputs(ws: Workspace, tune: Tune, given: sweep_cell.Inputs) -> dict[str, Artifact]:
    """The codes and the vectors that trials without settings of them read: the only ones of the data."""
    found: dict[str, Artifact] = {}
    for cell in (model.first() for model in tune.models):
        needs = sweep_cell.needs_of(cell) if not cell.layers.keys() & set(sweep_cell.OF_CODES) else frozenset()
        kind = next((kind for kind in ("codes", "vectors") if kind in needs), None)
        if kind and given.data.kind == "data":
            found[kind] = ws.find(given.data.dataset, kind, made_from=given.data)
    return found


def finished(artifact: Artifact | None, config: TuneConfig) -> bool:
    """Whether every model of a finished study has spent the budget."""
    models = artifact.result["models"].values() if artifact else ()
    return bool(models) and all(is_spent(config, model["trials"], model["minutes"]) for model in models)


def run(job: Job, made: Plan, *, jobs: int, force: bool) -> Artifact:
    """Search until the budget of every model is spent, and write the tables."""
    with job.ws.build(made, resumable=True, force=force) as draft:
        job = replace(job, folder=draft.path)
        studies: dict[str, Study] = {}
        for number, model in enumerate(job.tune.models):
            studies[model.name] = study = open_study(job.tune.config, model, job.folder)
            restart(study)
            if jobs == 1:
                work(job, number, nullcontext())
            else:
                _in_processes(job, number, jobs)
        write_tables(draft, job.tune, studies)
        for study in studies.values():
            study._storage.remove_session()
    return job.ws.made(made)


def _in_processes(job: Job, number: int, jobs: int) -> None:
    context = multiprocessing.get_context("spawn")
    lock = context.Lock()
    workers = [context.Process(target=_worker, args=(job, number, lock)) for _ in range(jobs)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.terminate()  # SIGTERM: each stops after its step, with a checkpoint
        for worker in workers:
            worker.join()
        raise Interrupted(
            "The study was stopped; its trials have checkpoints.", hint="the same command again"
        ) from None
    if failed := [worker.exitcode for worker in workers if worker.exitcode]:
        hint = "The lines above have the reason; the same command goes on"
        raise UsageError(f"{len(failed)} of {jobs} processes ended with an error.", hint=hint)


def _worker(job: Job, number: int, lock: AbstractContextManager[Any]) -> None:
    """The body of a process of ``--jobs``."""
    import sys

    console.configure(verbosity=0)
    os.setpgrp()  # Ctrl-C reaches the first process alone, which stops the others once
    try:
        require_optuna()
        work(job, number, lock)
    except Interrupted:
        sys.exit(130)
    except GenrecError as error:
        console.warn(error.message)
        sys.exit(error.exit_code)


def work(job: Job, number: int, lock: AbstractContextManager[Any]) -> None:
    """Run trials of one model until its budget is spent. ``lock`` keeps processes from the same draws and codes."""
    from optuna.trial import TrialState

    model = job.tune.models[number]
    study = open_study(job.tune.config, model, job.folder)
    while True:
        with lock:
            trial = ask(job.tune.config, model, study)
        if trial is None:
            return
        values = trial.params
        outcome, value = "complete", None
        same = [t for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if t.params == values]
        if any(other.number < trial.number for other in same):
            outcome = "same settings as a running trial"
        else:
            try:
                value = _train(job, model, study, trial, lock)
            except Interrupted:
                raise
            except OutOfBudget:
                outcome = "out of minutes"
            except EndOfTrial as end:
                outcome, value = "its minutes spent", end.value
            except _Pruned:
                outcome = "stopped by halving"
            except (DivergedError, ConfigError) as error:
                outcome = f"failed: {error.message}"
            except Exception as error:
                # All else is no fault of the settings: the study stops, and this trial starts again with it.
                if not (memory := of_memory(error)):
                    raise
                outcome = f"failed: {memory.message}"
        trial.set_user_attr("outcome", outcome)
        study.tell(trial, value, state=TrialState.COMPLETE if value is not None else TrialState.PRUNED)
        shown = ", ".join(f"{name} {console.cell(v)}" for name, v in values.items())
        result = f"{job.tune.metric} {value:.4f}" if value is not None else outcome
        console.say(f"{model.name}, trial {trial.number}: {result}  ({shown})", level=0)


class _Pruned(Exception):
    """Ends a training by successive halving."""


def _train(job: Job, model: ModelStudy, study: "Study", trial: "Trial", lock: AbstractContextManager[Any]) -> float:
    """Train one trial, or take the finished run with its settings; the best validation value."""
    ws, cell = job.ws, model.cell(trial.params)
    with lock:
        made = sweep_cell.codes_and_vectors(ws, cell, job.given, make=True)
    assert made is not None
    label = f"{job.tune.name[:40]}-{model.name}-t{trial.number}"
    planned = sweep_cell.train_plan(ws, cell, job.given, made, label=label)
    trial.set_user_attr("run", ws.path(planned.plan).name)
    trial.set_user_attr("inputs", {name: made.path.name for name, made in planned.plan.inputs.items()})

    def callbacks_for(bar: Any, loop: Any) -> Callbacks:
        shown, column, reported = bar.attach(loop), f"valid/{planned.train.metric}", set[int]()

        def epoch(row: dict[str, Any]) -> None:
            shown.epoch(row)
            for past in loop.counters.rows:  # those before an interruption too
                if past.get(column) is not None and past["epoch"] not in reported:
                    trial.report(past["best"], past["epoch"])
                    reported.add(past["epoch"])
            trial.set_user_attr("seconds", row["seconds"])
            ended = loop.counters.step >= loop.steps or loop.curriculum.state.finished
            if not ended and row.get(column) is not None and trial.should_prune():
                raise _Pruned
            share, minutes = job.tune.config.trial_minutes, job.tune.config.minutes
            if not ended and share is not None and row["seconds"] >= 60 * share and row.get(column) is not None:
                raise EndOfTrial(row["best"])
            if not ended and minutes is not None and spent(study)[1] >= minutes:
                raise OutOfBudget

        return replace(shown, epoch=epoch)

    finished = ws.done(planned.plan)
    if finished is None:
        with job.progress() as bar:
            options: dict[str, Any] = {"device": job.device, "force": False}
            finished = train.train(ws, planned, callbacks_for=lambda loop: callbacks_for(bar, loop), **options)
    assert finished is not None
    trial.set_user_attr("seconds", finished.result.get("seconds", finished.manifest["seconds"]))
    return _value(job, finished)


def _value(job: Job, run: Artifact) -> float:
    """The validation metric of a run's best epoch; for a model without epochs, that of an evaluation."""
    if values := run.result.get("valid"):
        return float(values[job.tune.metric])
    name, cutoff, protocol = protocols.parse(job.tune.metric)
    settings = {"evaluate": {"at": [cutoff], "split": "valid"}}
    measure, config = evaluate.plan(job.ws, run.dataset, settings, run=str(run.path))
    made = job.ws.done(measure)
    made = made or evaluate.run(job.ws, measure, config, device=job.device, bar=console.user_bar("scoring"))
    assert made is not None
    return float(made.result["metrics"][protocol][f"{name}@{cutoff}"])

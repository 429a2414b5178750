"""The study of one model in Optuna: its file, its budget, and what its trials draw.

What a sampler draws is a function of (seed, model, number of the trial), so a resumed study restores no sampler.
"""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_cli.stages.tune_recipe import ModelStudy, TuneConfig

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

STORAGE = "study.sqlite3"
DRAWS = 50
"""Times that the settings of a trial are drawn before those of an earlier one are taken."""
RESTARTED = "restarted"
"""Mark of a trial that another one with the same settings has replaced."""


def is_spent(config: TuneConfig, trials: int, minutes: float) -> bool:
    """Whether the trials or the minutes of a model have reached the budget."""
    enough = config.trials is not None and trials >= config.trials
    return enough or (config.minutes is not None and minutes >= config.minutes)


def open_study(config: TuneConfig, model: ModelStudy, folder: Path) -> "Study":
    """The study of a model in the file of the artifact, made if it is new."""
    import optuna
    from optuna.storages import RDBStorage

    halving = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=config.first_rung, reduction_factor=config.reduction, bootstrap_count=0
    )
    storage = RDBStorage(f"sqlite:///{folder / STORAGE}", engine_kwargs={"connect_args": {"timeout": 60}})
    pruner = halving if config.halving else optuna.pruners.NopPruner()
    options: dict[str, Any] = {"direction": "maximize", "load_if_exists": True}
    return optuna.create_study(storage=storage, study_name=model.name, pruner=pruner, **options)


def restart(study: "Study") -> None:
    """Trials that an earlier process left unfinished are started again with the same settings: their runs resume."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, RESTARTED, True)
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)


def ask(config: TuneConfig, model: ModelStudy, study: "Study") -> "Trial | None":
    """The next trial, its values drawn; None if the budget is spent or all settings were tried. Settings of an earlier
    trial are drawn again, up to ``DRAWS`` times."""
    from optuna.trial import TrialState

    counted, minutes = spent(study)
    tried = {tuple(sorted(trial.params.items())) for trial in counted}
    if is_spent(config, len(counted), minutes) or len(tried) >= model.size:
        return None
    for _ in range(DRAWS):
        trial = _draw(config, model, study)
        if all(trial.params != other.params for other in counted):
            return trial
        study.tell(trial, state=TrialState.FAIL)  # such trials are not counted
    return _draw(config, model, study)


def _draw(config: TuneConfig, model: ModelStudy, study: "Study") -> "Trial":
    """A trial whose values follow from the seed, the model and the number of the trial. Models draw different values:
    with equal ones, a value that is never drawn is missing for all of them."""
    import optuna
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler

    waiting = optuna.trial.TrialState.WAITING
    earlier = [t for t in study.get_trials(deepcopy=False) if t.state != waiting and RESTARTED not in t.user_attrs]
    number = len(earlier)
    # Far apart, so that no trial draws what another one of a neighbouring seed draws.
    seed = (config.seed + zlib.crc32(model.name.encode()) + 7919 * number) % 2**32
    by_name: Mapping[str, Callable[[], BaseSampler]] = {
        "random": lambda: RandomSampler(seed=seed),
        "tpe": lambda: TPESampler(seed=seed, constant_liar=True),
    }
    study.sampler = by_name[config.sampler]()
    trial = study.ask()
    for name, values in model.space.items():
        values.suggest(trial, name)
    return trial


def spent(study: "Study") -> tuple[list["FrozenTrial"], float]:
    """Trials, the running ones included, and minutes of training so far."""
    from optuna.trial import TrialState

    counted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED))
    return counted, sum(trial.user_attrs.get("seconds", 0.0) for trial in counted) / 60

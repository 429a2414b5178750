"""Trackers: each sends the rows of a training log, one per epoch, to a dashboard. The log itself stays complete.

A tracker is begun with the settings of the run, and gets the epochs. None of them needs a network:
TensorBoard writes files, MLflow writes to ``MLFLOW_TRACKING_URI`` (default: a SQLite file in the working folder), and
W&B obeys ``WANDB_MODE=offline``. The name of a run in all of them is that of its folder.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from genrec_cli.errors import UsageError

Flat = dict[str, str | int | float | bool]


class Tracker(Protocol):
    """What the training calls."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """The numbers of an epoch, by the column of the log."""

    def close(self) -> None:
        """Called once at the end, also after an error or a stop."""


class TensorBoard:
    """Event files in ``<root>/<dataset>/tensorboard/<run>``: ``tensorboard --logdir`` shows them."""

    def __init__(self, name: str, folder: Path, settings: Flat) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard" / name))
        lines = "".join(f"| {key} | {value} |\n" for key, value in settings.items())
        self.writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{lines}")

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, epoch)

    def close(self) -> None:
        self.writer.close()


class MLflow:
    """A run in the experiment ``<dataset>``. A resumed training is another run of the same name."""

    def __init__(self, name: str, folder: Path, settings: Flat) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient()
        found = self.client.get_experiment_by_name(folder.name)
        experiment = found.experiment_id if found else self.client.create_experiment(folder.name)
        self.run = self.client.create_run(experiment, run_name=name).info.run_id
        for key, value in settings.items():
            self.client.log_param(self.run, key, value)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.client.log_metric(self.run, key.replace("@", "_at_"), value, step=epoch)  # MLflow refuses '@'

    def close(self) -> None:
        self.client.set_terminated(self.run)


class WandB:
    """A run of the project ``<dataset>``. A training that resumes has the same id."""

    def __init__(self, name: str, folder: Path, settings: Flat) -> None:
        import wandb

        options: dict[str, Any] = {"id": name[-64:], "resume": "allow", "config": settings}
        self.run = wandb.init(project=folder.name, name=name, dir=str(folder), **options)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=epoch)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[str, Path, Flat], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
"""The values of ``--track``."""


def start(kind: str, name: str, folder: Path, config: Mapping[str, Any]) -> Tracker:
    """A tracker, begun. ``folder`` is that of the data set. Raises UsageError for an unknown or absent one."""
    if kind not in TRACKERS:
        raise UsageError(f"--track takes {', '.join(TRACKERS)}, not '{kind}'.", hint="For example: --track tensorboard")
    try:
        return TRACKERS[kind](name, folder, dict(flat(config)))
    except ImportError:
        hint = f"pip install 'genrec-cli[{kind}]'"
        raise UsageError(f"--track {kind} needs a package that is not installed.", hint=hint) from None


def flat(config: Mapping[str, Any], prefix: str = "") -> Flat:
    """The settings as ``section.key``; lists and tables within lists as text."""
    found: Flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, (str, int, float, bool)) else str(value)
    return found


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of the log, without its epoch."""
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key != "epoch"
    }

"""run --budget: the count of epochs with which a training fits into a time, by a short forecast on real steps. Masking
phases are shortened by the same factor."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from genrec_cli.artifacts import Workspace
from genrec_cli.errors import UsageError
from genrec_cli.stages.train import forecast
from genrec_cli.stages.train_plan import TrainPlan

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def seconds_of(text: str) -> float:
    """Seconds of ``30m``, ``1h30m``, ``90s`` or ``minutes=30``. Raises UsageError for any other text."""
    if text.startswith("minutes="):
        text = text.removeprefix("minutes=") + "m"
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or total <= 0:
        raise UsageError(f"--budget takes a time, not '{text}'.", hint="For example: --budget 30m, or 1h30m, or 90s")
    return total


def shortened(curriculum: Mapping[str, Any], epochs: int, full: int) -> dict[str, Any]:
    """``[curriculum]`` of a training of ``epochs`` in place of ``full``: ``max_epochs`` of masking phases is shortened,
    too, since else the phases after them might never begin."""
    longest = curriculum.get("max_epochs")
    return {**curriculum} if longest is None else {**curriculum, "max_epochs": max(1, longest * epochs // full)}


def fitting_epochs(
    ws: Workspace, plan_of: Callable[[int | None], TrainPlan], seconds: float, *, device: str
) -> int | None:
    """The epochs of a training that takes at most ``seconds``: at least 1, at most those of its settings.

    A run that was begun with the same settings and fewer epochs keeps its epochs, so that the same command resumes it.

    Args:
        plan_of: the plan of the training for a count of epochs; None: those of its settings.

    Returns:
        None for a model without gradients, which has no epochs.
    """
    full = plan_of(None)
    if "curriculum" not in full.plan.config:
        return None
    if (begun := _begun(ws, full, plan_of)) is not None:
        return begun
    time_of_all = forecast(full, device=device)["time"]["at_most_seconds"]
    return max(1, min(full.train.epochs, int(full.train.epochs * seconds / max(time_of_all, 1e-9))))


def _begun(ws: Workspace, full: TrainPlan, plan_of: Callable[[int | None], TrainPlan]) -> int | None:
    """The most epochs of the runs, finished or begun, that differ from a plan in their epochs only."""
    found = []
    for file in ws.path(full.plan).parent.glob("[!.]*/config.json"):
        try:
            epochs = json.loads(file.read_text(encoding="utf-8"))["train"]["epochs"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(epochs, int) and 0 < epochs <= full.train.epochs and file.parent == ws.path(plan_of(epochs).plan):
            found.append(epochs)
    return max(found, default=None)

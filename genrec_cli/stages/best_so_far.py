"""train --best-so-far: makes a run of the best epoch of a training that is not finished.

The folder of the training is only read. The settings of the new run name the epoch after which it was taken, so its key
differs from that of the whole training.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import prod

from safetensors import safe_open

from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.engine.checkpoint import BEST, LAST, epoch_of, read_counters
from genrec_cli.engine.loop import Counters
from genrec_cli.errors import InputError, UsageError
from genrec_cli.process_group import current_group
from genrec_cli.stages import train

GO_ON = "the same command without --best-so-far    trains on"


def plan(ws: Workspace, run: train.TrainPlan) -> tuple[Plan, Callable[[], Artifact]]:
    """The plan of a run from an unfinished training, and the work that makes it."""
    if not current_group().single:
        raise UsageError("--best-so-far is the work of one process.", hint="Type it without torchrun")
    folder = ws.path(run.plan)
    if ws.done(run.plan):
        raise UsageError(f"{folder} is finished.", hint=f"genrec evaluate --run {run.plan.label}")
    if not (folder / LAST).exists():
        raise UsageError(f"Nothing has been trained in {folder}.", hint=GO_ON)
    if train.of_other_inputs(ws, run.plan):
        raise UsageError(f"{folder} was begun on inputs that have changed since.", hint=f"{GO_ON} anew")
    counters = Counters(**read_counters(folder / LAST))
    if counters.best is None:
        raise UsageError("No epoch has been validated yet.", hint=GO_ON)
    made = replace(
        run.plan,
        label=f"{run.plan.label}-e{counters.epoch}",
        config={**run.plan.config, "stopped": {"epoch": counters.epoch}},
    )

    def work() -> Artifact:
        with ws.build(made) as draft:
            shutil.copyfile(folder / BEST, draft.path / BEST)
            if (epoch := epoch_of(draft.path / BEST)) != counters.best_epoch:
                raise InputError(
                    f"{folder / BEST} is of epoch {epoch} and {folder / LAST} says {counters.best_epoch}: the "
                    "training goes on, or was killed between the two.",
                    hint=f"Type it again, or {GO_ON}",
                )
            train.write_log(draft.path, counters.rows)
            (draft.path / "config.json").write_text(json.dumps(made.config, indent=2) + "\n", encoding="utf-8")
            with safe_open(draft.path / BEST, framework="pt") as weights:
                draft.result["parameters"] = sum(prod(weights.get_slice(n).get_shape()) for n in weights.keys())  # noqa: SIM118
            draft.result |= train.outcome(counters, run) | {"stopped": f"taken after epoch {counters.epoch}"}
            (draft.path / "README.md").write_text(train.card(run, draft.result), encoding="utf-8")
        return ws.made(made)

    return made, work

"""train --best-so-far: makes a run from the best epoch of an unfinished training.

The folder of the training is only read. The config of the new run records the epoch at which it was taken, so its key
differs from the key of the training.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace

from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.engine.checkpoint import BEST, LAST, epoch_of, read_counters, read_weights
from genrec_cli.engine.progress import Counters
from genrec_cli.errors import InputError, UsageError
from genrec_cli.process_group import current_group
from genrec_cli.stages import train
from genrec_cli.stages.train_plan import TrainPlan

GO_ON = "the same command without --best-so-far    trains on"


def plan(ws: Workspace, run: TrainPlan) -> tuple[Plan, Callable[[], Artifact]]:
    """The plan of a run from an unfinished training, and the work that makes it."""
    if not current_group().single:
        raise UsageError("--best-so-far runs as one process.", hint="Type it without torchrun")
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
    config = {**run.plan.config, "stopped": {"epoch": counters.epoch}}
    made = replace(run.plan, label=f"{run.plan.label}-e{counters.epoch}", config=config)

    def work() -> Artifact:
        with ws.build(made) as draft:
            shutil.copyfile(folder / BEST, draft.path / BEST)
            if (epoch := epoch_of(draft.path / BEST)) != counters.best_epoch:
                raise InputError(
                    f"{folder / BEST} is of epoch {epoch}, and the best epoch in {folder / LAST} is "
                    f"{counters.best_epoch}: the training still runs, or it was killed between the two writes.",
                    hint=f"Type it again, or {GO_ON}",
                )
            train.write_log(draft.path, counters.rows)
            (draft.path / "config.json").write_text(json.dumps(made.config, indent=2) + "\n", encoding="utf-8")
            draft.result["parameters"] = sum(weight.numel() for weight in read_weights(draft.path / BEST).values())
            draft.result |= train.outcome(counters, run) | {"stopped": f"taken after epoch {counters.epoch}"}
            (draft.path / "README.md").write_text(train.card(run, draft.result), encoding="utf-8")
        return ws.made(made)

    return made, work

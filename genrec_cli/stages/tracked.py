"""A training whose epochs are also sent to a dashboard (``genrec train --track``)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from genrec_cli.artifacts import Workspace
from genrec_cli.engine import tracking
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.progress import Callbacks
from genrec_cli.process_group import current_group
from genrec_cli.stages.train import CallbacksFor
from genrec_cli.stages.train_plan import TrainPlan


@contextmanager
def tracked(ws: Workspace, run: TrainPlan, kind: str | None, callbacks_for: CallbacksFor) -> Iterator[CallbacksFor]:
    """The callbacks, which also send each epoch to a dashboard (``engine/tracking.py``) from the main process."""
    if kind is None or not current_group().main:
        yield callbacks_for
        return
    folder = ws.path(run.plan)
    tracker = tracking.start(kind, folder.name, folder.parent.parent, run.plan.config)

    def attach(loop: Loop) -> Callbacks:
        shown = callbacks_for(loop)

        def epoch(row: dict[str, Any]) -> None:
            tracker.log(row["epoch"], tracking.numbers(row))
            shown.epoch(row)

        return replace(shown, epoch=epoch)

    try:
        yield attach
    finally:
        tracker.close()

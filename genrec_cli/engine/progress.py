"""Where a training stands, and whom it tells."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counters:
    """Where a run stands; a checkpoint holds it."""

    epoch: int = 0
    """Epochs finished."""
    step_in_epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds in which the device waited for data."""
    positions: int = 0
    """Items read so far, without padding."""
    best: float | None = None
    best_epoch: int = 0
    """The epoch whose weights the run keeps."""
    totals: dict[str, list[float]] = field(default_factory=dict)
    """Sum and count of each loss in this epoch."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The log: one row per epoch."""
    curriculum: dict[str, Any] | None = None

    @property
    def means(self) -> dict[str, float]:
        """Mean of each loss in this epoch; a loss with no count yet, such as that of an empty mask, has none."""
        return {name: total / count for name, (total, count) in self.totals.items() if count}


@dataclass(frozen=True)
class Callbacks:
    """What the loop calls. The defaults do nothing."""

    step: Callable[[Counters, int], None] = lambda counters, steps: None
    """After each check of the losses: the counters, and the steps in this epoch."""
    epoch: Callable[[dict[str, Any]], None] = lambda row: None
    """After each epoch: its row of the log."""
    stop_requested: Callable[[], bool] = lambda: False
    """Whether somebody asked to stop after the present step."""

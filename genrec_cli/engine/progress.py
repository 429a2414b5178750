"""The state of a training, and the callbacks that report it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counters:
    """The state of a run, which a checkpoint holds."""

    epoch: int = 0  # epochs finished
    step_in_epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds in which the device waited for data
    positions: int = 0  # items read so far, without padding
    best: float | None = None
    best_epoch: int = 0  # the epoch whose weights the run keeps
    totals: dict[str, list[float]] = field(default_factory=dict)  # sum and count of each loss in this epoch
    rows: list[dict[str, Any]] = field(default_factory=list)  # the log: one row per epoch
    curriculum: dict[str, Any] | None = None

    @property
    def means(self) -> dict[str, float]:
        """Mean of each loss in this epoch, without losses whose count is 0, such as that of an empty mask."""
        return {name: total / count for name, (total, count) in self.totals.items() if count}


@dataclass(frozen=True)
class Callbacks:
    """What the loop calls. The defaults do nothing."""

    step: Callable[[Counters, int], None] = lambda counters, steps: None
    """After each check of the losses: the counters, and the steps in this epoch."""
    epoch: Callable[[dict[str, Any]], None] = lambda row: None  # after each epoch: its row of the log
    stop_requested: Callable[[], bool] = lambda: False  # whether to stop after the present step

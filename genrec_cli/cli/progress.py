"""The progress of a training: a live line in a terminal, one line per epoch, and a stop on request.

    ███▌   <1:02:13 left epoch 112/150 entropy 0.135 next 3.211 mask 2.871 masked 8.1% NDCG@10 0.0412

The live line needs 100 columns; a narrower terminal shows its beginning. The time left is an upper limit, as early
stopping may end a training sooner. A file or a pipe gets only the line of each epoch.
"""

import signal
import time
from typing import Any, Self

from genrec_cli.cli.common import in_process_group


class TrainProgress:
    """A progress bar for the training loop. SIGTERM and Ctrl-C request a stop after the present step."""

    def __init__(self) -> None:
        self.stop_requested = False
        self.bar: Any = None

    def __enter__(self) -> Self:
        self.handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.bar is not None:
            self.bar.close()

    def attach(self, loop: Any) -> Any:
        """The :class:`~genrec_cli.engine.progress.Callbacks` that show a loop's progress."""
        from genrec_cli import console
        from genrec_cli.engine.progress import Callbacks

        epochs, metric, total = loop.config.epochs, loop.config.metric, loop.steps
        self.bar = console.progress(total=total, unit="step", bar_format="{bar:6} {desc}")
        first: tuple[int, float] | None = None

        def step(counters: Any, steps: int) -> None:
            nonlocal first
            now = time.perf_counter()
            first = first or (counters.step, now)
            done = counters.step - first[0]
            left = (total - counters.step) * (now - first[1]) / done if done else None
            state, last = loop.curriculum.state, counters.rows[-1] if counters.rows else {}
            words = [f"<{clock(left)} left" if left is not None else ""]  # first, as a narrow terminal cuts the end
            words += [f"epoch {counters.epoch + 1}/{epochs}", shown_phase(loop.curriculum.phase.name, state.ratio)]
            words += [shown_losses(counters.means, digits=3), shown_metric(metric, last)]
            self.bar.n = counters.step
            self.bar.set_description_str(console.printable(" ".join(word for word in words if word)))

        def epoch(row: dict[str, Any]) -> None:
            console.say(epoch_line(row, epochs, metric))

        return Callbacks(step=step, epoch=epoch, stop_requested=lambda: self.stop_requested)

    def _stop(self, number: int, frame: Any) -> None:
        if self.stop_requested and not in_process_group():  # torchrun may send the same signal twice
            raise KeyboardInterrupt
        self.stop_requested = True


def epoch_line(row: dict[str, Any], epochs: int, metric: str) -> str:
    """A finished epoch in one line: phase, losses, validation, time, and what the curriculum changed."""
    losses = {name.removeprefix("loss/"): value for name, value in row.items() if name.startswith("loss/")}
    best = "" if row["best"] is None else f" (best {row['best']:.4f})"
    best = " (best)" if best and row.get(f"valid/{metric}") == row["best"] else best
    words = [f"epoch {row['epoch']}/{epochs}", shown_phase(row["phase"], row["ratio"]), shown_losses(losses)]
    words += [shown_metric(metric, row) + best, clock(row["seconds"]), f"[{row['change']}]" if row["change"] else ""]
    return "  ".join(word for word in words if word)


def shown_phase(name: str, ratio: float) -> str:
    """The phase, its name cut to 12 letters, and its mask ratio."""
    return name[:12] + (f" {ratio:.3g}" if ratio else "")


def shown_losses(losses: dict[str, float], *, digits: int = 4) -> str:
    """The losses by name, and the fraction of codes that were masked. Fractions per mask count are only in the log."""
    return " ".join(
        f"masked {value:.1%}" if name == "masked_fraction" else f"{name} {value:.{digits}f}"
        for name, value in losses.items()
        if name != "gradient_norm" and value is not None and not name.removeprefix("masked_").isdigit()
    )


def shown_metric(metric: str, row: dict[str, Any]) -> str:
    """The validation metric of an epoch, if it was measured."""
    value = row.get(f"valid/{metric}")
    return f"{metric} {value:.4f}" if value is not None else ""


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

"""The live line of a training run, and the polite way to stop it."""

import signal
import time
from typing import Any, Self


class TrainProgress:
    """A progress bar fed by the training loop. SIGTERM and Ctrl-C ask it to stop after the present step."""

    def __init__(self) -> None:
        self.asked = False
        self.bar: Any = None
        self.before: list[tuple[int, Any]] = []

    def __enter__(self) -> Self:
        self.before = [(number, signal.signal(number, self._ask)) for number in (signal.SIGINT, signal.SIGTERM)]
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before:
            signal.signal(number, handler)
        if self.bar is not None:
            self.bar.close()

    def attach(self, loop: Any) -> Any:
        """The :class:`~genrec_cli.engine.loop.Report` that shows a loop's progress."""
        from genrec_cli import console
        from genrec_cli.engine.loop import Report

        total = loop.config.epochs * loop.steps_per_epoch
        started, first = time.perf_counter(), None
        self.bar = console.progress(total=total, unit="step", bar_format="{desc} {bar} {postfix}")

        def step(counters: Any, steps: int, losses: dict[str, float]) -> None:
            nonlocal first
            first = first if first is not None else (counters.step, counters.positions)
            spent = max(time.perf_counter() - started, 1e-9)
            done, seen = counters.step - first[0], counters.positions - first[1]
            left = (total - counters.step) * spent / done if done else 0.0
            state = loop.curriculum.state
            phase = loop.curriculum.phase.name + (f" {state.ratio:.3g}" if state.ratio else "")
            shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if name != "gradient_norm")
            best = f", best {loop.config.metric} {counters.best:.4f}" if counters.best is not None else ""
            self.bar.n = counters.step
            self.bar.set_description_str(f"epoch {counters.epoch + 1}/{loop.config.epochs} {phase}")
            self.bar.set_postfix_str(f"{shown}{best}, {seen / spent:,.0f} positions/s, at most {_clock(left)} left")

        def epoch(row: dict[str, Any]) -> None:
            metric = row.get(f"valid/{loop.config.metric}")
            shown = f"  {loop.config.metric} {metric:.4f} (best {row['best']:.4f})" if metric is not None else ""
            losses = "  ".join(
                f"{name} {value:.4f}" for name, value in row.items() if name.startswith("loss/") and "norm" not in name
            )
            change = f"  [{row['change']}]" if row["change"] else ""
            ratio = f" {row['ratio']:.3g}" if row["ratio"] else ""
            console.say(
                f"epoch {row['epoch']}  {row['phase']}{ratio}  {losses}{shown}  {_clock(row['seconds'])}{change}"
            )

        return Report(step=step, epoch=epoch, stop_requested=lambda: self.asked)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

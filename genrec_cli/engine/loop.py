"""The one training loop: packed batches, a curriculum, validation, checkpoints that resume to the same bits.

Everything that decides the next bit is either a pure function of the step (order of rows, learning rate)
or part of the checkpoint (weights, moments, random states, counters, curriculum).
"""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_cli.curriculum.masks import Masker
from genrec_cli.curriculum.phases import Curriculum, CurriculumConfig
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories, Rows, eval_batches
from genrec_cli.data.shuffle import Order
from genrec_cli.engine import metrics
from genrec_cli.engine.checkpoint import BEST, LAST, load_state, save_state, save_weights
from genrec_cli.engine.entropies import EntropyProbe, Unsure
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.optim import TrainConfig, autocast, learning_rate, make_optimizer
from genrec_cli.errors import DivergedError, Interrupted
from genrec_cli.models.base import Choose, Model
from genrec_cli.nn.losses import Loss

CHECK_EVERY = 50
"""Steps between looks at whether the loss is finite: looking stops the device, a bad loss stays bad."""
VALIDATION_BATCH = {"cpu": 64, "cuda": 1024}
"""Users scored at once: on a processor the table of their log-probabilities should stay in the cache."""


@dataclass
class Counters:
    """Where a run stands."""

    epoch: int = 0
    """Epochs finished."""
    step_in_epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds in which the device waited for data."""
    positions: int = 0
    """Valid positions (items read) so far."""
    best: float | None = None
    best_epoch: int = 0
    running: dict[str, list[float]] = field(default_factory=dict)
    """Sum and count of each loss in this epoch."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The log: one row an epoch."""
    curriculum: dict[str, Any] | None = None


@dataclass(frozen=True)
class Report:
    """What the loop tells the outside. The defaults say nothing."""

    step: Callable[[Counters, int, dict[str, float]], None] = lambda counters, steps, losses: None
    """After each look at the losses: counters, steps in an epoch, mean losses of the epoch so far."""
    epoch: Callable[[dict[str, Any]], None] = lambda row: None
    """After each epoch: its row of the log."""
    stop_requested: Callable[[], bool] = lambda: False
    """Whether somebody asked to stop after the present step."""


class Loop:
    """Trains one model.

    Args:
        catalog, model: on the device.
        folder: where ``model.safetensors`` (best), ``last/`` and nothing else are written.
        chooser: makes the mask chooser of a phase from its curriculum.
    """

    def __init__(
        self, model: Model, catalog: Catalog, histories: Histories, config: TrainConfig, curriculum: CurriculumConfig,
        device: torch.device, folder: Path, *, report: Report,
    ) -> None:  # fmt: skip
        self.model, self.catalog, self.histories, self.config, self.device = (
            model,
            catalog,
            histories,
            config,
            device,
        )
        self.folder, self.report = folder, report
        self.rows = Rows.of(histories, max_length=config.max_length, windows=config.windows)
        self.steps_per_epoch = -(-len(self.rows) // config.batch_size)
        self.steps = min(config.epochs * self.steps_per_epoch, config.max_steps or sys.maxsize)
        self.optimizer = make_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.counters = Counters()
        self.curriculum_config = curriculum
        self.curriculum = Curriculum(curriculum)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.probe = EntropyProbe(histories, device, config) if isinstance(model, Unsure) else None

    # ---- the loop ------------------------------------------------------------------------------

    def run(self) -> Counters:
        """Train to the end, from the last checkpoint if there is one."""
        if (self.folder / LAST).exists():
            self._restore()
        while (self.counters.step < self.steps or self.counters.step_in_epoch) and not self.curriculum.state.finished:
            self._epoch()
            self._finish_epoch()
        return self.counters

    @property
    def epoch_ends(self) -> int:
        """Steps in this epoch; the last one ends early where the steps of the run are limited."""
        return min(self.steps_per_epoch, self.steps - self.counters.step + self.counters.step_in_epoch)

    def _epoch(self) -> None:
        counters, config = self.counters, self.config
        order = self.rows.order(config.seed, counters.epoch)
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        running = {n: torch.tensor(pair, dtype=exact, device=self.device) for n, pair in counters.running.items()}
        choose = self._masker()
        mark = saved = time.perf_counter()
        self.model.train()
        for batches in self._batches(order, first=counters.step_in_epoch):
            self._step(batches, choose, running)
            counters.step += 1
            counters.step_in_epoch += 1
            counters.positions += sum(len(batch.item_N) for batch in batches)
            stop = self.report.stop_requested()
            due = time.perf_counter() - saved > 60 * config.checkpoint_minutes
            if stop or due or counters.step % CHECK_EVERY == 0 or counters.step_in_epoch == self.epoch_ends:
                self._check(running)
                now = time.perf_counter()
                counters.seconds, mark = counters.seconds + now - mark, now
                self.report.step(counters, self.epoch_ends, self._means())
            if due and not stop and counters.step_in_epoch < self.epoch_ends:
                self._save()
                saved = time.perf_counter()
            if stop:
                self._save()
                raise Interrupted(
                    f"stopped in epoch {counters.epoch + 1} after step {counters.step}; "
                    f"the checkpoint is in {self.folder / 'last'}",
                    hint="the same command goes on from there",
                )

    def _step(self, batches: list[Batch], choose: Choose | None, running: dict[str, Tensor]) -> None:
        """One optimiser step over the global batch, in as many parts as it takes."""
        rate = learning_rate(self.counters.step, self.steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        parts = [batch.to(self.device) for batch in batches]
        counts = self._global_counts(parts, choose) if len(parts) > 1 else {}
        for part in parts:
            losses = self._losses(part, choose)
            weighted = [
                loss.weight * loss.sum / counts.get(name, loss.count).clamp_min(1)
                for name, loss in losses.items()
                if loss.weight
            ]
            self.scaler.scale(torch.stack(weighted).sum()).backward()
            for name, loss in losses.items():
                self._add(running, name, loss.sum.detach(), loss.count)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or float("inf"))
        if self.config.precision != "fp16":  # the scaler skips steps whose gradients overflow
            self._add(running, "gradient_norm", norm.detach(), torch.ones_like(norm))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _add(self, running: dict[str, Tensor], name: str, total: Tensor, count: Tensor) -> None:
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        pair = torch.stack([total.to(exact), count.to(exact)])
        running[name] = running[name] + pair if name in running else pair

    def _masker(self) -> Masker | None:
        """What chooses the masks of the present phase; None where nothing is masked."""
        phase, ratio = self.curriculum.phase, self.curriculum.state.ratio
        if phase.mask == "none" or ratio == 0:
            return None
        config = self.curriculum_config
        return Masker(phase.mask, phase.granularity, ratio, config.budget, self.generator, smoothing=config.smoothing)

    def _losses(self, part: Batch, choose: Choose | None) -> dict[str, Loss]:
        with autocast(self.device, self.config.precision):
            return self.model.losses(part, choose)

    @torch.no_grad()
    def _global_counts(self, parts: list[Batch], choose: Choose | None) -> dict[str, Tensor]:
        """The counts over all parts of a step, from a rehearsal that leaves no trace in the random states.

        How much a mask hides is drawn inside the model, so only a rehearsal can tell before the gradients.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        drawn = self.generator.get_state()
        with torch.random.fork_rng(devices):
            counts: dict[str, Tensor] = {}
            for part in parts:
                for name, loss in self._losses(part, choose).items():
                    counts[name] = counts.get(name, torch.zeros_like(loss.count)) + loss.count
        self.generator.set_state(drawn)
        return counts

    def _batches(self, order: Order, *, first: int) -> Iterator[list[Batch]]:
        """The steps' batches on the host, each prepared while the one before it is computed."""
        config = self.config

        def prepare(step: int) -> list[Batch]:
            rows = order[step * config.batch_size : (step + 1) * config.batch_size]
            size = config.micro_batch_size or len(rows)
            return [self.rows.batch(self.histories, rows[begin : begin + size]) for begin in range(0, len(rows), size)]

        last = self.epoch_ends
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(prepare, first)
            for step in range(first, last):
                began = time.perf_counter()
                batches = ahead.result()
                self.counters.waited += time.perf_counter() - began
                if step + 1 < last:
                    ahead = pool.submit(prepare, step + 1)
                yield batches

    def _finish_epoch(self) -> None:
        counters, config = self.counters, self.config
        began = time.perf_counter()
        state = self.curriculum.state
        row: dict[str, Any] = {
            "epoch": counters.epoch + 1, "step": counters.step, "phase": self.curriculum.phase.name,
            "ratio": state.ratio, "lr": self.optimizer.param_groups[0]["lr"],
            **{f"loss/{n}": v for n, v in self._means().items()},
        }  # fmt: skip
        value = None
        due = (counters.epoch + 1) % config.eval_every == 0 or counters.step >= self.steps
        if due:
            row |= self._validate()
            value = row[f"valid/{config.metric}"]
            if counters.best is None or value > counters.best:
                counters.best, counters.best_epoch = value, counters.epoch + 1
                save_weights(self.folder / BEST, self.model)
        watched = row.get("valid/loss") if self.curriculum_config.watch == "loss" else value
        row["change"] = self.curriculum.after_epoch(watched) or ""
        counters.seconds += time.perf_counter() - began
        row |= {"best": counters.best, "seconds": counters.seconds, "waited": counters.waited,
                "positions": counters.positions}  # fmt: skip
        counters.epoch, counters.step_in_epoch, counters.running = counters.epoch + 1, 0, {}
        counters.rows.append(row)
        self._save()
        self.report.epoch(row)

    def _validate(self) -> dict[str, Any]:
        name, cutoff = metrics.parse(self.config.metric)
        user, at = self.histories.targets("valid", sample=self.config.valid_users, seed=self.config.seed)
        batches = eval_batches(
            self.histories, user, at, max_length=self.config.max_length,
            batch_size=VALIDATION_BATCH.get(self.device.type, 256),
        )  # fmt: skip
        with autocast(self.device, self.config.precision):
            outcome = evaluate(self.model, self.catalog, batches, self.device)
            entropies = self.probe(self.model) if self.probe else {}
        found = {f"valid/{n}": v for n, v in outcome.means(sorted({5, 10, cutoff})).items()}
        return {
            **found,
            "valid/loss": float(outcome.loss.mean()),
            f"valid/{self.config.metric}": found[f"valid/{name}@{cutoff}"],
            **entropies,
        }

    # ---- losses and checkpoints ----------------------------------------------------------------

    def _means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self.counters.running.items()}

    def _check(self, running: dict[str, Tensor]) -> None:
        self.counters.running = {name: pair.tolist() for name, pair in running.items()}
        for name, value in self._means().items():
            if not np.isfinite(value):
                raise DivergedError(
                    f"The {name} is {value} in epoch {self.counters.epoch + 1}, step {self.counters.step}.",
                    hint="Lower the rate (--set train.lr=...) or warm up longer; the last good checkpoint is kept",
                )

    def _save(self) -> None:
        self.counters.curriculum = self.curriculum.dump()
        counters = asdict(self.counters) | {"generator": self.generator.get_state().tolist()}
        save_state(self.folder / LAST, self.model, self.optimizer, self.scaler, counters, self.device)

    def _restore(self) -> None:
        counters = load_state(self.folder / LAST, self.model, self.optimizer, self.scaler, self.device)
        generator = counters.pop("generator")
        if len(generator) == len(self.generator.get_state()):
            self.generator.set_state(torch.tensor(generator, dtype=torch.uint8))
        self.counters = Counters(**counters)
        self.curriculum = Curriculum(self.curriculum_config, self.counters.curriculum)

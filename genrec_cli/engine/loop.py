"""The one training loop: packed batches, a curriculum, validation, checkpoints that resume to the same bits.

Everything that decides the next bit is either a pure function of the step (order of rows, learning rate)
or part of the checkpoint (weights, moments, random states, counters, curriculum).

Where several processes train together, each takes its share of every global batch and of the validation users;
what is added up or agreed upon goes through ``self.ranks``, which does nothing where a process is alone.
"""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from genrec_cli.curriculum.masks import Masker
from genrec_cli.curriculum.noise import Noise, NoiseConfig
from genrec_cli.curriculum.phases import Curriculum, CurriculumConfig, Phase
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories, Rows, eval_batches
from genrec_cli.data.shuffle import Order
from genrec_cli.distributed import Gradients
from genrec_cli.engine import metrics
from genrec_cli.engine.checkpoint import BEST, LAST, load_state, save_state, save_weights
from genrec_cli.engine.entropies import EntropyProbe, Unsure
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.graphs import Flat, Graphs
from genrec_cli.engine.optim import TrainConfig, autocast, learning_rate, make_optimizer, products_kept
from genrec_cli.engine.ranking import ExactRanker, Ranker
from genrec_cli.errors import DivergedError, Interrupted
from genrec_cli.models.base import Choose, Hide, Model
from genrec_cli.nn.losses import Loss
from genrec_cli.ranks import here

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
        folder: where ``model.safetensors`` (best), the checkpoint ``LAST`` and nothing else are written.
        make_ranker: what validation ranks with, made anew for each; default: exactly.
        noise: how targets lose digits, for a model that fills them in.
    """

    def __init__(
        self, model: Model, catalog: Catalog, histories: Histories, config: TrainConfig, curriculum: CurriculumConfig,
        device: torch.device, folder: Path, *, report: Report, make_ranker: Callable[[], Ranker] | None = None,
        noise: NoiseConfig | None = None,
    ) -> None:  # fmt: skip
        self.model, self.catalog, self.histories, self.config = model, catalog, histories, config
        self.device, self.folder, self.report = device, folder, report
        self.make_ranker = make_ranker or (lambda: ExactRanker(model, catalog))
        self.rows = Rows.of(histories, max_length=config.max_length, windows=config.windows, stride=config.stride)
        self.steps_per_epoch = -(-len(self.rows) // config.batch_size)
        self.steps = min(config.epochs * self.steps_per_epoch, config.max_steps or sys.maxsize)
        self.optimizer = make_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.counters = Counters()
        self.curriculum_config = curriculum
        self.curriculum = Curriculum(curriculum)
        self.ranks = here()
        self.gradients = Gradients(model.parameters(), self.ranks)
        self.generator = torch.Generator(device).manual_seed(self.ranks.seed(config.seed))
        self.noise = Noise(noise or NoiseConfig(), catalog.digits, self.generator) if model.noised else None
        self.masker: tuple[Phase, Masker] | None = None
        """The last phase that had one, and what chooses its masks."""
        self.graphs: Graphs | None = None
        """Recorded steps, from the first batch of a phase on that allows it."""
        self.saved = time.perf_counter()
        self.probe = EntropyProbe(histories, device, config) if isinstance(model, Unsure) else None

    # ---- the loop ------------------------------------------------------------------------------

    @products_kept()
    def run(self) -> Counters:
        """Train to the end, from the last checkpoint if there is one."""
        if any(self.ranks.agree(self.ranks.main and (self.folder / LAST).exists())):
            self._restore()
        elif not self.ranks.main:
            torch.manual_seed(self.ranks.seed(self.config.seed))
        self.ranks.align(self.model.parameters())
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
        before = counters.running if self.ranks.main else {}
        running = {n: torch.tensor(pair, dtype=exact, device=self.device) for n, pair in before.items()}
        choose = self._masker()
        mark = time.perf_counter()
        self.model.train()
        for batches in self._batches(order, choose, first=counters.step_in_epoch):
            self._step(batches, choose, running)
            counters.positions += int(self._lengths(self._rows(order, counters.step_in_epoch)).sum())
            counters.step += 1
            counters.step_in_epoch += 1
            stop, due = self.ranks.agree(self.report.stop_requested(), self._overdue())
            if stop or due or counters.step % CHECK_EVERY == 0 or counters.step_in_epoch == self.epoch_ends:
                self._check(running)
                now = time.perf_counter()
                counters.seconds, mark = counters.seconds + now - mark, now
                self.report.step(counters, self.epoch_ends, self._means())
            if due and not stop and counters.step_in_epoch < self.epoch_ends:
                self._save()
            if stop:
                self._stop()

    def _overdue(self) -> bool:
        return time.perf_counter() - self.saved > 60 * self.config.checkpoint_minutes

    def _stop(self) -> NoReturn:
        self._save()
        self.ranks.barrier()
        raise Interrupted(
            f"stopped in epoch {self.counters.epoch + 1} after step {self.counters.step}; "
            f"the checkpoint is {self.folder / LAST}",
            hint="the same command goes on from there; with --best-so-far its best epoch becomes a run",
        )

    def _step(self, batches: list[Batch] | Flat, choose: Choose | Hide | None, running: dict[str, Tensor]) -> None:
        """One optimiser step over the global batch, in as many parts as it takes."""
        rate = learning_rate(self.counters.step, self.steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        if self.noise is not None:
            self.noise.at(self.counters.step / self.steps)
        if isinstance(batches, Flat):
            if self.graphs is None or self.graphs.choose is not choose:
                self.graphs = Graphs(self._pass, self.model.parameters(), self.generator, choose)
            done = [self.graphs(batches)]
        else:
            parts = [batch.to(self.device) for batch in batches]
            counts = self._global_counts(self._rehearsed(parts, choose)) if len(parts) > 1 else None
            done = [self._pass(part, choose, counts, last=part is parts[-1]) for part in parts]
        for losses in done:
            for name, loss in losses.items():
                self._add(running, name, loss.sum, loss.count)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or float("inf"))
        if self.config.precision != "fp16":  # the scaler skips steps whose gradients overflow
            share = 1 / self.ranks.world  # it is the same everywhere
            self._add(running, "gradient_norm", norm.detach() * share, torch.full_like(norm, share))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _pass(
        self, part: Batch, choose: Choose | Hide | None = None, counts: dict[str, Tensor] | None = None, *,
        last: bool = True,
    ) -> dict[str, Loss]:  # fmt: skip
        """Forward and backward. Without ``counts`` this part is the whole of what this process has of the step."""
        losses = self._losses(part, choose)
        if counts is None:
            counts = self._global_counts({name: loss.count for name, loss in losses.items()})
        weighted = [loss.weight * loss.sum / counts[name].clamp_min(1) for name, loss in losses.items() if loss.weight]
        self.gradients.backward(self.scaler.scale(torch.stack(weighted).sum()), last=last)
        return {name: loss._replace(sum=loss.sum.detach()) for name, loss in losses.items()}

    def _add(self, running: dict[str, Tensor], name: str, total: Tensor, count: Tensor) -> None:
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        pair = torch.stack([total.to(exact), count.to(exact)])
        running[name] = running[name] + pair if name in running else pair

    def _masker(self) -> Masker | Noise | None:
        """What chooses the masks of the present phase; None where nothing is masked."""
        if self.noise is not None:
            return self.noise
        phase, ratio = self.curriculum.phase, self.curriculum.state.ratio
        if phase.mask == "none" or ratio == 0:
            return None
        if self.masker is None or self.masker[0] is not phase:
            how = self.curriculum_config
            masker = Masker(phase.mask, phase.granularity, ratio, how.budget, self.generator, smoothing=how.smoothing)
            self.masker = phase, masker
        return self.masker[1].at(ratio)

    def _losses(self, part: Batch, choose: Choose | Hide | None) -> dict[str, Loss]:
        with autocast(self.device, self.config.precision):
            losses = self.model.losses(part, choose)
        if self.ranks.rank < len(self.rows) - self.counters.step_in_epoch * self.config.batch_size:
            return losses
        # The epoch's last batch has fewer rows than there are processes: this one repeats a row for nothing.
        return {name: Loss(0 * loss.sum, 0 * loss.count, loss.weight) for name, loss in losses.items()}

    def _global_counts(self, counts: dict[str, Tensor]) -> dict[str, Tensor]:
        """The counts over all processes. They are known after the forward pass and needed before the backward."""
        if self.ranks.alone:
            return counts
        total = self.ranks.sum(torch.stack([count.double() for count in counts.values()]))
        return {name: total[at].to(count.dtype) for at, (name, count) in enumerate(counts.items())}

    @torch.no_grad()
    def _rehearsed(self, parts: list[Batch], choose: Choose | Hide | None) -> dict[str, Tensor]:
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

    def _rows(self, order: Order, step: int) -> np.ndarray:
        """The rows of a step's global batch."""
        return order[step * self.config.batch_size : (step + 1) * self.config.batch_size]

    def _lengths(self, rows: np.ndarray) -> np.ndarray:
        """How many items each row reads."""
        return self.rows.lengths(self.histories, rows)

    def _recordable(self, choose: Choose | Hide | None) -> bool:
        """Whether the steps of this epoch can be CUDA graphs."""
        config = self.config
        whole = config.micro_batch_size is None and self.ranks.alone and config.precision != "fp16"
        wanted = config.graphs and (choose is None or config.graphs_of_masks)
        return wanted and self.device.type == "cuda" and whole and self.model.static

    def _batches(self, order: Order, choose: Choose | Hide | None, *, first: int) -> Iterator[list[Batch] | Flat]:
        """The steps' batches on the host, each prepared while the one before it is computed."""
        recorded = self._recordable(choose)

        def prepare(step: int) -> list[Batch] | Flat:
            rows = self._rows(order, step)
            if recorded:
                return Flat.of(self.rows.batch(self.histories, rows, rounded=True))
            if not self.ranks.alone:  # dealt by length, so that no process waits for the one with the long rows
                rows = rows[np.argsort(self._lengths(rows), kind="stable")]
                rows = rows[self.ranks.rank :: self.ranks.world] if self.ranks.rank < len(rows) else rows[:1]
            size = self.config.micro_batch_size or len(rows)
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
        row: dict[str, Any] = {
            "epoch": counters.epoch + 1, "step": counters.step, "phase": self.curriculum.phase.name,
            "ratio": self.curriculum.state.ratio, "lr": learning_rate(counters.step - 1, self.steps, config),
            **{f"loss/{n}": v for n, v in self._means().items()},
        }  # fmt: skip
        value = None
        if (counters.epoch + 1) % config.eval_every == 0 or counters.step >= self.steps or self.curriculum.ends:
            if any(self.ranks.agree(self._overdue())):
                self._save()
            row |= self._validate()
            value = row[f"valid/{config.metric}"]
            if counters.best is None or value > counters.best:
                counters.best, counters.best_epoch = value, counters.epoch + 1
        watched = row.get("valid/loss") if self.curriculum_config.watch == "loss" else value
        row["change"] = self.curriculum.after_epoch(watched) or ""
        counters.seconds += time.perf_counter() - began
        (counters.waited,) = self.ranks.most(counters.waited)
        row |= {"best": counters.best, "seconds": counters.seconds, "waited": counters.waited,
                "positions": counters.positions}  # fmt: skip
        counters.epoch, counters.step_in_epoch, counters.running = counters.epoch + 1, 0, {}
        counters.rows.append(row)
        self._save()
        self.report.epoch(row)

    def _validate(self) -> dict[str, Any]:
        name, cutoff = metrics.parse(self.config.metric)
        user, at = self.histories.targets("valid", sample=self.config.valid_users, seed=self.config.seed)
        size = self.ranks.batch_size(VALIDATION_BATCH.get(self.device.type, 256), len(user))
        batches = eval_batches(
            self.histories, user, at, max_length=self.config.max_length, batch_size=size,
            first=self.ranks.rank, every=self.ranks.world,
        )  # fmt: skip
        with autocast(self.device, self.config.precision):
            outcome = evaluate(self.make_ranker(), batches, self.device, tick=self._validated)
            entropies = self.probe(self.model) if self.probe and self.ranks.main else {}
        found = {f"valid/{n}": v for n, v in outcome.means(sorted({5, 10, cutoff})).items()}
        found = self.ranks.mean(found | {"valid/loss": float(outcome.loss.mean())}, len(outcome.user))
        return found | {f"valid/{self.config.metric}": found[f"valid/{name}@{cutoff}"]} | entropies

    def _validated(self, users: int) -> None:
        """Between two batches of a validation one process stops at once; several go on to the next step."""
        if self.ranks.alone and self.report.stop_requested():
            self._stop()

    # ---- losses and checkpoints ----------------------------------------------------------------

    def _means(self) -> dict[str, float]:
        # a mask that has hidden nothing yet has no mean
        return {name: total / count for name, (total, count) in self.counters.running.items() if count}

    def _check(self, running: dict[str, Tensor]) -> None:
        pairs = self.ranks.sum(torch.stack(list(running.values())))
        self.counters.running = dict(zip(running, pairs.tolist(), strict=True))
        for name, value in self._means().items():
            if not np.isfinite(value):
                raise DivergedError(
                    f"The loss '{name}' is {value} in epoch {self.counters.epoch + 1}, step {self.counters.step}.",
                    hint="Lower the rate (--set train.lr=...) or warm up longer; the last good checkpoint is kept",
                )

    def _save(self) -> None:
        self.counters.curriculum = self.curriculum.dump()
        states = {"cpu": torch.get_rng_state(), "masks": self.generator.get_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        gathered = {name: self.ranks.gather(state[None].numpy()) for name, state in states.items()}
        if self.ranks.main:
            random = {name: torch.from_numpy(np.concatenate(rows)) for name, rows in gathered.items()}
            save_state(self.folder / LAST, self.model, self.optimizer, self.scaler, asdict(self.counters), random)
        self._save_best()
        self.saved = time.perf_counter()

    def _save_best(self) -> None:
        """Write the weights if they are the best: second, and so again when a kill has left the checkpoint alone."""
        counters = self.counters
        if self.ranks.main and counters.best_epoch == counters.epoch > 0 == counters.step_in_epoch:
            save_weights(self.folder / BEST, self.model, epoch=counters.best_epoch)

    def _restore(self) -> None:
        counters, random = load_state(self.folder / LAST, self.model, self.optimizer, self.scaler)
        self.counters = Counters(**counters)
        self.curriculum = Curriculum(self.curriculum_config, self.counters.curriculum)
        self._save_best()
        if self.ranks.rank >= len(random["cpu"]):  # more processes than before: new streams
            seed = self.ranks.seed(self.config.seed, self.counters.step)
            torch.manual_seed(seed)
            self.generator.manual_seed(seed)
            return
        own = {name: rows[self.ranks.rank].clone() for name, rows in random.items()}
        torch.set_rng_state(own["cpu"])
        if own["masks"].shape == self.generator.get_state().shape:
            self.generator.set_state(own["masks"])
        if self.device.type == "cuda" and "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"], self.device)

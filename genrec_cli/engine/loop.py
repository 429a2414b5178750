"""The training loop: epochs, curriculum, validation, and checkpoints from which a run resumes to the same bits.

The order of rows and the learning rate are pure functions of the step. The checkpoint holds all other state: weights,
moments, random states, counters, curriculum. With several processes each takes its shard of every global batch and of
the validation users; the collectives of ``self.group`` combine the results.
"""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.curriculum.phases import Curriculum, CurriculumConfig
from genrec_cli.curriculum.target_masks import NoiseConfig, TargetMasks
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.labels import Labels
from genrec_cli.data.sequences import Histories, Rows, eval_batches
from genrec_cli.engine import protocols
from genrec_cli.engine.batches import TrainingBatches
from genrec_cli.engine.checkpoint import BEST, LAST, load_state, save_state, save_weights
from genrec_cli.engine.entropies import EntropyProbe
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.optim import TrainConfig, autocast, learning_rate
from genrec_cli.engine.progress import Callbacks, Counters
from genrec_cli.engine.ranking import ExactRanker, Ranker
from genrec_cli.engine.step import MaskSampler, TrainStep
from genrec_cli.errors import DivergedError, Interrupted
from genrec_cli.models.base import EntropyModel, Model
from genrec_cli.process_group import current_group

CHECK_EVERY = 50
"""Steps between checks of the losses: a check synchronises with the device, and a loss that is not finite stays so."""
VALIDATION_BATCH = {"cpu": 64, "cuda": 1024}
"""Users per validation batch, 256 on other devices. On a CPU their log-probabilities should fit into the cache."""


class Loop:
    """Trains one model, which is on the device like the catalogue; ``folder`` gets the kept weights and the checkpoint.
    ``make_ranker`` makes the ranker of a validation (default: the exact ranker), ``noise`` sets target masking, and
    ``labels`` are compared with the entropies."""

    def __init__(
        self,
        model: Model,
        catalog: Catalog,
        histories: Histories,
        config: TrainConfig,
        curriculum: CurriculumConfig,
        device: torch.device,
        folder: Path,
        *,
        callbacks: Callbacks | None = None,
        make_ranker: Callable[[], Ranker] | None = None,
        noise: NoiseConfig | None = None,
        labels: Labels | None = None,
    ) -> None:
        self.model, self.catalog, self.histories, self.config = model, catalog, histories, config
        self.device, self.folder, self.callbacks = device, folder, callbacks or Callbacks()
        self.make_ranker = make_ranker or (lambda: ExactRanker(model, catalog))
        self.group = current_group()
        rows = Rows.of(histories, max_length=config.max_length, windows=config.windows, stride=config.stride)
        self.batches = TrainingBatches(rows, histories, config, self.group)
        self.steps = min(config.epochs * len(self.batches), config.max_steps or sys.maxsize)
        self.step = TrainStep(model, config, device, self.group, steps=self.steps, items=catalog.items)
        self.counters = Counters()
        self.curriculum_config, self.noise = curriculum, noise or NoiseConfig()
        self.curriculum = Curriculum(curriculum)
        self.validates = len(histories.targets("valid", sample=1)[0]) > 0
        self.saved = time.perf_counter()
        self.probe = EntropyProbe(histories, device, config, labels) if isinstance(model, EntropyModel) else None

    def run(self) -> Counters:
        """Train to the end, from the last checkpoint if there is one."""
        if any(self.group.any(self.group.main and (self.folder / LAST).exists())):
            self._restore()
        elif not self.group.main:
            torch.manual_seed(self.group.seed(self.config.seed))
        averages = self.step.average.state_dict().values() if self.step.average else ()
        self.group.broadcast([*self.model.parameters(), *averages])
        counters = self.counters
        with ExitStack() as stack:  # the precision of matrix products is that of the process: restore it
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            while (counters.step < self.steps or counters.step_in_epoch) and not self.curriculum.state.finished:
                self._epoch()
                self._finish_epoch()
        return counters

    def averaged(self) -> AbstractContextManager[None]:
        """Gives the model its averaged weights (``train.ema``), which are validated and kept; without them, nothing."""
        return self.step.average.applied() if self.step.average else nullcontext()

    def sampler(self) -> MaskSampler | None:
        """The mask sampler of the present phase; None where nothing is masked."""
        generator, config = self.step.generator, self.curriculum_config
        if self.model.masking == "target":
            return TargetMasks(self.noise, self.catalog.digits, generator)
        phase, ratio = self.curriculum.phase, self.curriculum.state.ratio
        if phase.mask == "none" or ratio == 0:
            return None
        return HistoryMasks(phase.mask, phase.granularity, ratio, config.budget, generator, config.smoothing)

    def _epoch(self) -> None:
        counters, step, batches = self.counters, self.step, self.batches
        last = min(len(batches), self.steps - counters.step + counters.step_in_epoch)
        totals = counters.totals if self.group.main else {}
        step.totals = {n: torch.tensor(pair, dtype=step.exact, device=self.device) for n, pair in totals.items()}
        step.sampler = sampler = self.sampler()
        checked = time.perf_counter()
        self.model.train()
        for prepared in batches.epoch(counters.epoch, counters.step_in_epoch, last, captured=step.capturable):
            if isinstance(sampler, TargetMasks):
                sampler.at(counters.step / self.steps)
            step(prepared, counters.step)
            counters.positions += prepared.positions
            counters.step += 1
            counters.step_in_epoch += 1
            stop, due = self.group.any(self.callbacks.stop_requested(), self._checkpoint_due())
            if stop or due or counters.step % CHECK_EVERY == 0 or counters.step_in_epoch == last:
                self._check()
                now = time.perf_counter()
                counters.seconds, checked = counters.seconds + now - checked, now
                counters.waited, batches.waited = counters.waited + batches.waited, 0.0
                self.callbacks.step(counters, last)
            if stop:
                self._stop()
            if due and counters.step_in_epoch < last:
                self._save()

    def _checkpoint_due(self) -> bool:
        return time.perf_counter() - self.saved > 60 * self.config.checkpoint_minutes

    def _stop(self) -> NoReturn:
        self._save()
        self.group.barrier()
        raise Interrupted(
            f"stopped in epoch {self.counters.epoch + 1} after step {self.counters.step}; "
            f"the checkpoint is {self.folder / LAST}",
            hint="the same command goes on from there; with --best-so-far its best epoch becomes a run",
        )

    def _check(self) -> None:
        """Read the losses of all processes from the device; stop where one is not finite."""
        totals = self.step.totals
        pairs = self.group.all_reduce_sum(torch.stack(list(totals.values())))
        self.counters.totals = dict(zip(totals, pairs.tolist(), strict=True))
        for name, value in self.counters.means.items():
            if not np.isfinite(value):
                raise DivergedError(
                    f"The loss '{name}' is {value} in epoch {self.counters.epoch + 1}, step {self.counters.step}.",
                    hint="Lower the learning rate (--lr) or warm up longer; the last good checkpoint is kept",
                )

    def _finish_epoch(self) -> None:
        counters, config = self.counters, self.config
        started = time.perf_counter()
        row: dict[str, Any] = {"epoch": counters.epoch + 1, "step": counters.step}
        row |= {"phase": self.curriculum.phase.name, "ratio": self.curriculum.state.ratio}
        row |= {"lr": learning_rate(counters.step - 1, self.steps, config)}
        row |= {f"loss/{n}": v for n, v in counters.means.items()}
        value = None
        due = (counters.epoch + 1) % config.eval_every == 0 or counters.step >= self.steps or self.curriculum.ends
        if self.validates and due:
            if any(self.group.any(self._checkpoint_due())):
                self._save()
            row |= self._validate()
            value = row[f"valid/{config.metric}"]
        better = value is not None and (counters.best is None or value > counters.best)
        counters.best = value if better else counters.best
        if better or config.select == "last":
            counters.best_epoch = counters.epoch + 1
        watched = row.get("valid/loss") if self.curriculum_config.watch == "loss" else value
        row["change"] = self.curriculum.after_epoch(watched) or ""
        counters.seconds += time.perf_counter() - started
        (counters.waited,) = self.group.all_reduce_max(counters.waited)
        row |= {name: getattr(counters, name) for name in ("best", "seconds", "waited", "positions")}
        counters.epoch, counters.step_in_epoch, counters.totals = counters.epoch + 1, 0, {}
        counters.rows.append(row)
        self._save()
        self.callbacks.epoch(row)

    def _validate(self) -> dict[str, Any]:
        config, group = self.config, self.group
        _, cutoff, protocol = protocols.parse(config.metric)
        user, at = self.histories.targets("valid", sample=config.valid_users, seed=config.valid_seed)
        size = group.batch_size(VALIDATION_BATCH.get(self.device.type, 256), len(user))
        options: dict[str, Any] = {"max_length": config.max_length, "first": group.rank, "every": group.world}
        options |= {"exclude_seen": protocol == "left_out"}
        batches = eval_batches(self.histories, user, at, batch_size=size, **options)
        with self.averaged(), autocast(self.device, config.precision):
            outcome = evaluate(self.make_ranker(), batches, self.device, tick=self._after_validation_batch)
            entropies = self.probe(self.model) if self.probe and group.main else {}
        values = {
            f"valid/{protocols.column(name, ranked)}": value
            for ranked in outcome.ranks
            for name, value in outcome.means(sorted({5, 10, cutoff}), protocol=ranked).items()
        }
        values = group.weighted_mean(values | {"valid/loss": float(outcome.loss.mean())}, len(outcome.user))
        return values | {f"valid/{config.metric}": values[f"valid/{protocols.canonical(config.metric)}"]} | entropies

    def _after_validation_batch(self, users: int) -> None:
        """A single process stops between two batches of a validation; several processes finish the validation."""
        if self.group.single and self.callbacks.stop_requested():
            with self.averaged():  # a second exchange: the checkpoint holds the weights and their averages apart
                self._stop()

    def _save(self) -> None:
        self.counters.curriculum = self.curriculum.dump()
        states = {"cpu": torch.get_rng_state(), "masks": self.step.generator.get_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        gathered = {name: self.group.gather(state[None].numpy()) for name, state in states.items()}
        if self.group.main:
            random = {name: torch.from_numpy(np.concatenate(rows)) for name, rows in gathered.items()}
            step = self.step
            counters = asdict(self.counters)
            save_state(self.folder / LAST, self.model, step.optimizer, step.scaler, counters, random, step.average)
        self._save_best()
        self.saved = time.perf_counter()

    def _save_best(self) -> None:
        """Write the weights if they are the best. This follows the checkpoint, and is repeated after a restore, since
        a kill between the two writes leaves the checkpoint alone."""
        counters = self.counters
        if self.group.main and counters.best_epoch == counters.epoch > 0 == counters.step_in_epoch:
            with self.averaged():
                save_weights(self.folder / BEST, self.model, epoch=counters.best_epoch)

    def _restore(self) -> None:
        step, rank = self.step, self.group.rank
        counters, random = load_state(self.folder / LAST, self.model, step.optimizer, step.scaler, step.average)
        self.counters = Counters(**counters)
        self.curriculum = Curriculum(self.curriculum_config, self.counters.curriculum)
        self._save_best()
        if rank >= len(random["cpu"]):  # more processes than before: new streams
            seed = self.group.seed(self.config.seed, self.counters.step)
            torch.manual_seed(seed)
            step.generator.manual_seed(seed)
            return
        states = {name: rows[rank].clone() for name, rows in random.items()}
        torch.set_rng_state(states["cpu"])
        if states["masks"].shape == step.generator.get_state().shape:
            step.generator.set_state(states["masks"])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)

"""One optimiser step: masks, forward and backward passes of all micro-batches, clipping, the update.

Masks and sampled items are drawn before the forward pass. So the counts that losses are divided by are known before any
gradient, and gradient accumulation needs one pass. With several processes the counts are summed before any gradient.
"""

from typing import Protocol

import torch
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.distributed import Gradients
from genrec_cli.engine.averaging import AveragedWeights
from genrec_cli.engine.batches import Prepared
from genrec_cli.engine.graphs import FlatBatch, Graphs
from genrec_cli.engine.optim import TrainConfig, autocast, learning_rate, make_optimizer
from genrec_cli.models.base import Model
from genrec_cli.nn.losses import Loss
from genrec_cli.process_group import ProcessGroup


class MaskSampler(Protocol):
    """Draws the mask of a training batch (``curriculum/``)."""

    def __call__(self, model: Model, batch: Batch) -> Tensor: ...


class TrainStep:
    """Holds what an update changes: weights and their average, moments, the gradient scaler, the random generator.
    ``steps`` is the count of the whole run, for the learning rate, and ``items`` the size of the catalogue, for sampled
    items."""

    def __init__(
        self, model: Model, config: TrainConfig, device: torch.device, group: ProcessGroup, *, steps: int, items: int
    ) -> None:
        self.model, self.config, self.device, self.group = model, config, device, group
        self.steps, self.items = steps, items
        self.optimizer = make_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.gradients = Gradients(model.parameters(), group)
        self.average = AveragedWeights(model, config.ema) if config.ema else None
        self.generator = torch.Generator(device).manual_seed(group.seed(config.seed))
        self.sampler: MaskSampler | None = None  # the mask sampler of the present phase; None where nothing is masked
        self.graphs: Graphs | None = None
        self.exact = torch.float32 if device.type == "mps" else torch.float64
        self.totals: dict[str, Tensor] = {}  # loss name -> tensor of its sum and count in this epoch

    @property
    def capturable(self) -> bool:
        """Whether the steps of this phase can be CUDA graphs."""
        config = self.config
        whole = config.micro_batch_size is None and self.group.single and config.precision != "fp16"
        wanted = config.graphs and self.sampler is None and self.model.graph_capturable
        return wanted and whole and self.device.type == "cuda"

    def __call__(self, prepared: Prepared, number: int) -> None:
        """Take step ``number`` (from 0) of the run."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, self.steps, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        if isinstance(prepared.parts, FlatBatch):
            self.graphs = self.graphs or Graphs(self._captured, self.model.parameters(), self.device)
            done = [self.graphs(prepared.parts)]
        else:
            done = self._accumulate([part.to(self.device) for part in prepared.parts], prepared.counted)
        for losses in done:
            for name, loss in losses.items():
                self._add(name, loss.sum, loss.count)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or float("inf"))
        if self.config.precision != "fp16":  # the scaler skips steps whose gradients overflow
            weight = 1 / self.group.world  # the norm is the same in every process
            self._add("gradient_norm", norm.detach() * weight, torch.full_like(norm, weight))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update(number)

    def losses(self, batch: Batch, mask: Tensor | None) -> dict[str, Loss]:
        """The model's losses in the run's precision."""
        with autocast(self.device, self.config.precision):
            return self.model.losses(batch, mask)

    def draw(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """The batch with its sampled items, and its mask."""
        shared = self.model.shared_negatives
        batch = batch.with_negatives(self.model.negatives, self.items, self.generator, shared=shared)
        if self.sampler is None:
            return batch, None
        with autocast(self.device, self.config.precision):
            return batch, self.sampler(self.model, batch)

    def _accumulate(self, parts: list[Batch], counted: bool) -> list[dict[str, Loss]]:
        """Gradients of all micro-batches, each loss divided by its count over all of them."""
        drawn = [self.draw(part) for part in parts]
        totals: dict[str, Tensor] | None = None
        if len(parts) > 1:
            counts = [self.model.counts(batch, mask) for batch, mask in drawn]
            totals = self._all_reduce({name: torch.stack([c[name] for c in counts]).sum() for name in counts[0]})
        done = []
        for number, (batch, mask) in enumerate(drawn, 1):
            losses = self.losses(batch, mask)
            if not counted:
                losses = {name: Loss(0 * loss.sum, 0 * loss.count, loss.weight) for name, loss in losses.items()}
            divisors = totals or self._all_reduce({name: loss.count for name, loss in losses.items() if loss.weight})
            done.append(self._backward(losses, divisors, last=number == len(drawn)))
        return done

    def _captured(self, batch: Batch) -> dict[str, Loss]:
        """Forward and backward pass of a step that CUDA captures."""
        losses = self.losses(batch, None)
        return self._backward(losses, {name: loss.count for name, loss in losses.items()}, last=True)

    def _backward(self, losses: dict[str, Loss], counts: dict[str, Tensor], *, last: bool) -> dict[str, Loss]:
        weighted = [loss.weight * loss.sum / counts[name].clamp_min(1) for name, loss in losses.items() if loss.weight]
        self.gradients.backward(self.scaler.scale(torch.stack(weighted).sum()), last=last)
        return {name: loss._replace(sum=loss.sum.detach()) for name, loss in losses.items()}

    def _all_reduce(self, counts: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.group.single:
            return counts
        total = self.group.all_reduce_sum(torch.stack([count.double() for count in counts.values()]))
        return {name: total[at].to(count.dtype) for at, (name, count) in enumerate(counts.items())}

    def _add(self, name: str, total: Tensor, count: Tensor) -> None:
        pair = torch.stack([total.to(self.exact), count.to(self.exact)])
        self.totals[name] = self.totals[name] + pair if name in self.totals else pair

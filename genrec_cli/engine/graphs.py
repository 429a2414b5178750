"""CUDA graphs: the forward and backward pass of a step, captured once per batch shape and then replayed.

Launching the some hundreds of short kernels of a step takes longer than running them; a replay launches them at once.
Batches are bucketed to few shapes (``data/bucketing.py``) and copied to the device as one tensor. Gradients keep their
memory, so that the optimiser can stay outside the graph. All graphs share one memory pool, as they never overlap.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.nn.losses import Loss


@dataclass(frozen=True)
class FlatBatch:
    """A batch on the host whose tensors are parts of one pinned tensor, for an asynchronous copy."""

    batch: Batch
    numbers: Tensor

    @classmethod
    def of(cls, batch: Batch) -> "FlatBatch":
        return cls(batch, torch.cat([x.flatten() for x in batch.tensors()]).pin_memory())

    @property
    def shape(self) -> tuple[int, ...]:
        """The key of the graph that fits this batch."""
        return (*(x.numel() for x in self.batch.tensors()), self.batch.packing.grid.longest)

    def at(self, numbers: Tensor) -> Batch:
        """The batch whose tensors are parts of ``numbers``."""
        parts = iter(numbers.split([x.numel() for x in self.batch.tensors()]))
        return self.batch.mapped(lambda x: next(parts))


@dataclass(frozen=True)
class _Captured:
    graph: "torch.cuda.CUDAGraph"
    numbers: Tensor  # the graph reads its batch from here
    losses: dict[str, Loss]  # the graph writes its losses here


class Graphs:
    """Replays ``compute``, which adds to the gradients of ``parameters`` and returns the detached losses."""

    def __init__(
        self, compute: Callable[[Batch], dict[str, Loss]], parameters: Iterable[Tensor], device: torch.device
    ) -> None:
        self.compute, self.parameters, self.device = compute, list(parameters), device
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)  # one for all: cuBLAS keeps tens of MiB per stream
        self.gradients: list[tuple[Tensor, Tensor]] = []
        self.captured: dict[tuple[int, ...], _Captured] = {}

    def __call__(self, flat: FlatBatch) -> dict[str, Loss]:
        """Gradients of this batch alone, and its losses, which the next call overwrites."""
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        captured = self.captured.get(flat.shape)
        if captured is None:
            captured = self.captured[flat.shape] = self._capture(flat)
        captured.numbers.copy_(flat.numbers, non_blocking=True)
        captured.graph.replay()
        return captured.losses

    def _capture(self, flat: FlatBatch) -> _Captured:
        """Run once without capture, since first calls do extra work, then capture; restore the random state."""
        random = torch.cuda.get_rng_state(self.device)
        numbers = flat.numbers.to(self.device)
        batch = flat.at(numbers)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self.compute(batch)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        if not self.gradients:
            self.gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that prepares the next batch allocates pinned memory meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            torch._foreach_zero_([gradient for _, gradient in self.gradients])
            losses = self.compute(batch)
        torch.cuda.set_rng_state(random, self.device)
        return _Captured(graph, numbers, losses)

"""CUDA graphs: the forward and backward pass of a step, recorded once for each shape of batch and then replayed.

A step of these models is some hundreds of kernels of a few microseconds; launching them one by one takes longer than
they do. A replay launches them all at once. Batches are rounded to few shapes (``data/rounding.py``) and travel
as one copy. Gradients stay where they are and are added to, so that the optimiser, outside, needs nothing new.

All graphs share one pool of memory: they run one after the other, so it holds what the largest needs.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.models.base import Choose, Hide
from genrec_cli.nn.losses import Loss

Shape = tuple[int, ...]
Chooser = Choose | Hide | None


@dataclass(frozen=True)
class Flat:
    """A batch on the host, all its tensors in one that can be copied while the device computes."""

    batch: Batch
    numbers: Tensor

    @classmethod
    def of(cls, batch: Batch) -> "Flat":
        return cls(batch, torch.cat([x.flatten() for x in batch.tensors()]).pin_memory())

    @property
    def shape(self) -> Shape:
        """What decides which graph a batch needs."""
        return (*(x.numel() for x in self.batch.tensors()), self.batch.packing.grid.longest)

    def at(self, numbers: Tensor) -> Batch:
        """The batch whose tensors are parts of ``numbers``."""
        parts = iter(numbers.split([x.numel() for x in self.batch.tensors()]))
        return self.batch.mapped(lambda x: next(parts))


@dataclass(frozen=True)
class _Recorded:
    graph: "torch.cuda.CUDAGraph"
    numbers: Tensor
    """Where the graph reads its batch."""
    losses: dict[str, Loss]
    """Where it writes its losses."""


class Graphs:
    """Replays ``compute``, which does a forward and a backward pass and returns the detached losses.

    Args:
        parameters: whose gradients ``compute`` adds to.
        generator: of the device, what ``compute`` draws from beside the device's own.
        choose: the second argument of ``compute``. What it goes by may change from step to step in tensors alone.
    """

    def __init__(
        self, compute: Callable[[Batch, Chooser], dict[str, Loss]], parameters: Iterable[Tensor],
        generator: torch.Generator, choose: Chooser = None,
    ) -> None:  # fmt: skip
        self.compute, self.parameters, self.generator = compute, list(parameters), generator
        self.choose = choose
        self.device = device = generator.device
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)  # one, as cuBLAS keeps tens of MiB for each
        self.gradients: list[tuple[Tensor, Tensor]] = []
        self.recorded: dict[Shape, _Recorded] = {}

    def __call__(self, flat: Flat) -> dict[str, Loss]:
        """Gradients of this batch alone, and its losses, which the next call overwrites."""
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        recorded = self.recorded.get(flat.shape)
        if recorded is None:
            recorded = self.recorded[flat.shape] = self._record(flat)
        recorded.numbers.copy_(flat.numbers, non_blocking=True)
        recorded.graph.replay()
        return recorded.losses

    def _record(self, flat: Flat) -> _Recorded:
        """Once without recording, as first calls do more than later ones; random numbers are as if neither had been."""
        random, own = torch.cuda.get_rng_state(self.device), self.generator.get_state()
        numbers = flat.numbers.to(self.device)
        batch = flat.at(numbers)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self.compute(batch, self.choose)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        if not self.gradients:
            self.gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]
        graph = torch.cuda.CUDAGraph()
        if self.choose is not None:  # otherwise nothing draws from it
            graph.register_generator_state(self.generator)
        # The thread that prepares the next batch allocates pinned memory meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            torch._foreach_zero_([gradient for _, gradient in self.gradients])
            losses = self.compute(batch, self.choose)
        torch.cuda.set_rng_state(random, self.device)
        self.generator.set_state(own)
        return _Recorded(graph, numbers, losses)

"""The input of a model: a batch of packed histories.

Legend: B histories, N packed items, M positions with a target, S sampled items.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genrec_cli.nn.packing import Packing


@dataclass(frozen=True)
class Batch:
    """Packed histories and, in training, the target of each position."""

    item_N: Tensor
    """Item ids (from 1) of all histories, one after the other."""
    packing: Packing
    user_B: Tensor
    """Row of the user table of each history; -1: not a user of the data."""
    target_N: Tensor | None = None
    """The next item of each position; 0: no target. None outside training."""
    learn_M: Tensor | None = None
    """Indices in N of the positions with a target, made on the host."""
    time_N: Tensor | None = None
    """Time of each interaction, in seconds since 1970 (int64); for models that need times."""
    next_time_N: Tensor | None = None
    """Time of the next interaction; that of the interaction itself where the next one is unknown. This is a fact about
    the target: only a reproduction of models that read it may use it."""
    negative_MS: Tensor | None = None
    """Sampled items (ids from 1) per target, or one row for all targets; for models with ``negatives``."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return self.mapped(lambda x: x.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with ``change`` applied to every tensor, always in the same order."""
        optional = (self.target_N, self.learn_M, self.time_N, self.next_time_N, self.negative_MS)
        return Batch(
            change(self.item_N),
            self.packing.mapped(change),
            change(self.user_B),
            *(None if x is None else change(x) for x in optional),
        )

    def with_negatives(self, count: int, items: int, generator: torch.Generator, *, shared: bool = False) -> "Batch":
        """The same batch with ``count`` uniform random items per target, or for all targets if they are ``shared``; the
        batch itself if ``count`` is 0."""
        if not count:
            return self
        assert self.learn_M is not None, "a training batch"
        shape, device = (1 if shared else len(self.learn_M), count), self.item_N.device
        return replace(self, negative_MS=torch.randint(1, items + 1, shape, device=device, generator=generator))

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of :meth:`mapped`."""
        tensors: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            tensors.append(x)
            return x

        self.mapped(keep)
        return tensors

"""A batch of histories as a model sees it.

Legend: B histories, N packed items, M positions with a target, S sampled items.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genrec_cli.nn.packing import Packing


@dataclass(frozen=True)
class Batch:
    """Packed histories and, for training, the item that follows each position."""

    item_N: Tensor
    """Item ids (from 1) of all histories, one after the other."""
    packing: Packing
    user_B: Tensor
    """User of each history (row of the user table); -1: not a user of the data."""
    target_N: Tensor | None = None
    """The next item at each position; 0 = not to be learned from here. None outside training."""
    learn_M: Tensor | None = None
    """Indices in N of the positions with a target, made on the host."""
    time_N: Tensor | None = None
    """When each item was taken, in seconds since 1970 (int64); for models that need times."""
    negative_MS: Tensor | None = None
    """Sampled items (ids from 1) of each target; for models with ``negatives``."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return self.mapped(lambda x: x.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with every tensor changed, always in the same order."""

        def maybe(x: Tensor | None) -> Tensor | None:
            return None if x is None else change(x)

        return Batch(
            change(self.item_N),
            self.packing.mapped(change),
            change(self.user_B),
            *map(maybe, (self.target_N, self.learn_M, self.time_N, self.negative_MS)),
        )

    def with_negatives(self, count: int, items: int, generator: torch.Generator) -> "Batch":
        """The same batch with ``count`` items per target, drawn uniformly; with no count the batch itself."""
        if not count:
            return self
        shape, device = (len(self.learn_M), count), self.item_N.device
        return replace(self, negative_MS=torch.randint(1, items + 1, shape, device=device, generator=generator))

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of :meth:`mapped`."""
        found: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            found.append(x)
            return x

        self.mapped(keep)
        return found

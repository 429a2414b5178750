"""A batch of histories as a model sees it.

Legend: B histories, N packed items, M positions with a target.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
    """User of each history (row of the user table)."""
    target_N: Tensor | None = None
    """The next item at each position; 0 = not to be learned from here. None outside training."""
    learn_M: Tensor | None = None
    """Indices in N of the positions with a target, made on the host."""
    rounded: bool = False
    """Whether rows were added that mean nothing: what they are to learn, item 0, is not to be counted."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return self.mapped(lambda x: x.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with every tensor changed, in an order that depends on nothing."""
        return Batch(
            change(self.item_N),
            self.packing.mapped(change),
            change(self.user_B),
            None if self.target_N is None else change(self.target_N),
            None if self.learn_M is None else change(self.learn_M),
            self.rounded,
        )

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of :meth:`mapped`."""
        found: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            found.append(x)
            return x

        self.mapped(keep)
        return found

"""A batch of histories as a model sees it.

Legend: B histories, N packed items, M positions with a target.
"""

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

    @property
    def cells(self) -> tuple[Tensor, Tensor]:
        """The items of the histories and the row of the history that each stands in."""
        return self.item_N, self.packing.sequence_N

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""

        def moved(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        return Batch(
            moved(self.item_N),
            self.packing.to(device),
            moved(self.user_B),
            None if self.target_N is None else moved(self.target_N),
            None if self.learn_M is None else moved(self.learn_M),
        )

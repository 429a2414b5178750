"""The process group: this process's rank among those that work together, and the collectives that they call.

torchrun starts the processes. All hold the same model and take shards of each batch and of the users. Only rank 0, the
main process, writes and prints. The collectives of a :class:`ProcessGroup` do nothing, for a single process;
:class:`genrec_cli.distributed.TorchGroup` overrides them. This module does not import torch.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from genrec_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


class ProcessGroup:
    """All processes call the collectives in the same order."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def single(self) -> bool:
        return self.world == 1

    def seed(self, seed: int, *words: int) -> int:
        """The seed of this rank's random stream; that of the main process is the seed of a single process."""
        if self.main and not words:
            return seed
        return int(np.random.SeedSequence([seed, self.rank, *words]).generate_state(1, np.uint64)[0])

    def batch_size(self, size: int, rows: int) -> int:
        """``size``, or less where a process would otherwise get no batch."""
        if rows < self.world:
            raise UsageError(f"{rows} users are too few for {self.world} processes.", hint="Start fewer processes")
        return size if -(-rows // size) >= self.world else rows // self.world

    def any(self, *flags: bool) -> list[bool]:
        """Each flag, true if it is true in any process."""
        return [value > 0 for value in self.all_reduce_max(*flags)]

    def barrier(self) -> None:
        """Wait for all processes."""
        self.all_reduce_max(0.0)

    def all_reduce_sum(self, tensor: "Tensor") -> "Tensor":
        """The sum over all processes, in place."""
        return tensor

    def all_reduce_max(self, *values: float) -> list[float]:
        """The maximum of each value over all processes, by way of the host: no device synchronises."""
        return list(values)

    def weighted_mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:
        """The weighted mean of each value over all processes."""
        return dict(values)

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """In the main process the arrays of all (first axes may differ); an empty list in the others."""
        return [array]

    def broadcast(self, tensors: "Iterable[Tensor]") -> None:
        """Copy the main process's tensors to all."""


_current = ProcessGroup()


def current_group() -> ProcessGroup:
    """The process group of this process."""
    return _current


def set_group(group: ProcessGroup) -> None:
    """Make a group the current one."""
    global _current
    _current = group

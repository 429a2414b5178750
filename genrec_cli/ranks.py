"""The processes that work together: which of them this one is, and what they tell each other.

Started by torchrun, each process is a *rank* with a device of its own, and all hold the same model. They take
their shares of each batch and of the users, and add up what they found. Rank 0, the *main* one, alone writes and
speaks.

:func:`here` gives a :class:`Ranks`: a process that is alone, for which all of this is nothing, or the ``Team`` of
:mod:`genrec_cli.distributed`, which overrides every method that talks. No torch is imported here.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from genrec_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


class Ranks:
    """This process among those that work together. All of them call the methods that talk in the same order."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world == 1

    def seed(self, seed: int, *words: int) -> int:
        """A seed for this rank's own random stream; the main one has the stream of a process that is alone."""
        if self.main and not words:
            return seed
        return int(np.random.SeedSequence([seed, self.rank, *words]).generate_state(1, np.uint64)[0])

    def batch_size(self, size: int, rows: int) -> int:
        """``size``, or less where ranks that take batches in turn would otherwise go away empty-handed."""
        if rows < self.world:
            raise UsageError(f"{rows} users cannot be shared by {self.world} processes.", hint="Start fewer of them")
        return size if -(-rows // size) >= self.world else rows // self.world

    def agree(self, *flags: bool) -> list[bool]:
        """Each flag, true if it is on any rank."""
        return [value > 0 for value in self.most(*flags)]

    def barrier(self) -> None:
        """Wait for all."""
        self.most(0.0)

    # ---- what a team overrides -------------------------------------------------------------------

    def sum(self, tensor: "Tensor") -> "Tensor":
        """The sum over ranks, in place."""
        return tensor

    def most(self, *values: float) -> list[float]:
        """The largest of each value over ranks. Goes through the host: no device is waited for."""
        return list(values)

    def mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:
        """The mean of each value over ranks, weighted."""
        return dict(values)

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """On the main rank what each one gave (first axes may differ); nothing on the others."""
        return [array]

    def align(self, tensors: "Iterable[Tensor]") -> None:
        """Give every rank the main one's numbers."""


_here = Ranks()


def here() -> Ranks:
    """This process among the others."""
    return _here


def become(ranks: Ranks) -> None:
    """From now on this process is the given rank."""
    global _here
    _here = ranks

"""An exponential moving average (EMA) of the weights over the optimiser steps.

After step t (from 0): ``average = d * average + (1 - d) * weights``, with ``d = min(decay, (1 + t) / (10 + t))``. The
smaller decay of the first steps lets the average forget the initial weights (Polyak and Juditsky 1992 average over all
steps; the warm-up is that of TensorFlow's ExponentialMovingAverage).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """The averages of a model's trainable parameters. The memory is one more copy of these."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after step ``step`` of the run (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), list(self.parameters.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the context. Values are exchanged and no tensor is replaced, since
        captured CUDA graphs read the memory of the parameters."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self.parameters.items():
            weight = parameter.detach().clone()
            parameter.copy_(self.averages[name])
            self.averages[name].copy_(weight)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of the parameters."""
        return self.averages

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the averages; ValueError if the names differ."""
        if state.keys() != self.averages.keys():
            raise ValueError(f"averages of {len(state)} parameters, not {len(self.averages)}")
        for name, average in self.averages.items():
            average.copy_(state[name])

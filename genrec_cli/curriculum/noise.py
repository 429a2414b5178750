"""Which digits of a target to hide: how many (the global curriculum), and which (history-aware allocation).

MDGR, arXiv 2601.19501: the number of masked digits grows with training progress to the power gamma, and codes
that are rare in the user's own history are masked first. Only a summary of the paper is at hand, which names the
ideas and gamma = 2 but no formula. What stands here is **our reading**:

* progress p = step / (``ramp`` x all steps), at most 1, difficulty s = p^gamma, mean number mu = 1 + s (K - 1);
  the number k of 1 .. K has the probability proportional to exp(-(k - mu)^2 / (2 sigma^2)), sigma = K / 4. No k
  ever vanishes, since decoding visits K, K - 1, ..., 1 masked digits.
* f_k, how often the target's code at digit k stands at digit k of the history before it; weight 1 / (1 + f_k)^a;
  k digits are drawn without replacement by Gumbel top-k. All weights of a cold user are equal.

``random`` is what vanilla masked diffusion does: k uniform over 1 .. K, digits uniform.

A new idea is one function, its name in ``Counts`` or ``Allocation``, and one line in a table: of ``COUNTS``, the
probabilities of each number of masked digits; of ``ALLOCATIONS``, log-weights of the digits. Nothing here loops over
users, targets or digits, and masks depend on nothing but the step and the generator, so a resumed run draws what the
whole one would have.

Legend: N packed items, M targets, K digits.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from genrec_cli.config import Positive, Section
from genrec_cli.data.batch import Batch

Preset = Literal["random", "curriculum", "curriculum-history"]
Counts = Literal["uniform", "curriculum"]
Allocation = Literal["uniform", "history"]

PRESETS: dict[Preset, tuple[Counts, Allocation]] = {
    "random": ("uniform", "uniform"),
    "curriculum": ("curriculum", "uniform"),
    "curriculum-history": ("curriculum", "history"),
}
"""The rows of the paper's ablation."""


class NoiseConfig(Section):
    """How a model that fills in masked digits (mdgr) is trained: how many digits of a target are hidden, and which."""

    preset: Preset = "curriculum-history"
    """random: vanilla masking; curriculum: more and more digits; curriculum-history: and rare codes first."""
    counts: Counts | None = None
    """In place of the preset's law of numbers. uniform: 1 to K alike; curriculum: grows with training."""
    allocation: Allocation | None = None
    """In place of the preset's choice of digits. uniform: all alike; history: rare codes of the history first."""
    gamma: float = Field(2.0, ge=1, le=4)
    """The difficulty is training progress to this power; higher: easy for longer."""
    ramp: float = Field(1.0, gt=0, le=1)
    """Share of the training over which the difficulty grows; what is left trains at the highest. At 1 most digits are
    masked only when the cosine's learning rate has gone."""
    spread: Positive = 0.25
    """Deviation of the number of masked digits around its mean, as a share of K."""
    rarity: Positive = 1.0
    """Power a of the weight 1 / (1 + f)^a of a code that stands f times in the history."""

    @property
    def laws(self) -> tuple[Counts, Allocation]:
        """What the preset and what replaces it come to."""
        counts, allocation = PRESETS[self.preset]
        return self.counts or counts, self.allocation or allocation

    def resolved(self) -> dict[str, Any]:
        """The same as plain values that do not name a preset: what a run records."""
        counts, allocation = self.laws
        values = {name: value for name, value in self.model_dump(mode="json").items() if name != "preset"}
        return values | {"counts": counts, "allocation": allocation}


# ---- how many: probabilities of 1 .. K masked digits ------------------------------------------------


def uniform_counts(progress: float, digits: int, config: NoiseConfig) -> list[float]:
    """Every number alike, at any time."""
    return [1 / digits] * digits


def curriculum_counts(progress: float, digits: int, config: NoiseConfig) -> list[float]:
    """A bell whose mean moves from 1 to K as training goes on."""
    mean = 1 + min(progress / config.ramp, 1.0) ** config.gamma * (digits - 1)
    weight = [math.exp(-((k - mean) ** 2) / (2 * (config.spread * digits) ** 2)) for k in range(1, digits + 1)]
    return [w / sum(weight) for w in weight]


COUNTS: dict[Counts, Callable[[float, int, NoiseConfig], list[float]]] = {
    "uniform": uniform_counts,
    "curriculum": curriculum_counts,
}


# ---- which: log-weights of the digits ----------------------------------------------------------------


def uniform_weights(target_MK: Tensor, codes_NK: Tensor, batch: Batch, config: NoiseConfig) -> Tensor:
    """Every digit alike."""
    return torch.zeros(target_MK.shape, device=target_MK.device)


def history_weights(target_MK: Tensor, codes_NK: Tensor, batch: Batch, config: NoiseConfig) -> Tensor:
    """``-a log(1 + f)``: codes that the history has not shown come first."""
    return -config.rarity * frequency(target_MK, codes_NK, batch).log1p()


ALLOCATIONS: dict[Allocation, Callable[[Tensor, Tensor, Batch, NoiseConfig], Tensor]] = {
    "uniform": uniform_weights,
    "history": history_weights,
}


def frequency(target_MK: Tensor, codes_NK: Tensor, batch: Batch) -> Tensor:
    """``f_MK``: how often a target's code stands at the same digit of its history, up to the item before it.

    Every code of a history is a number that sorts by history, digit, code, position; a count is the distance
    between two places in that order.
    """
    packing, digits = batch.packing, target_MK.shape[1]
    most = packing.grid.longest
    codewords = torch.maximum(codes_NK.max(), target_MK.max()) + 1
    digit_K = torch.arange(digits, device=codes_NK.device)

    def number(code_XK: Tensor, sequence_X: Tensor) -> Tensor:
        return ((sequence_X[:, None] * digits + digit_K) * codewords + code_XK) * most

    known = (number(codes_NK, packing.sequence_N) + packing.position_N[:, None]).flatten().sort().values
    first_MK = number(target_MK, packing.sequence_N[batch.learn_M])
    last_MK = first_MK + packing.position_N[batch.learn_M, None]
    return (torch.searchsorted(known, last_MK, right=True) - torch.searchsorted(known, first_MK)).float()


class Noise:
    """Chooses the digits to hide at one moment of training.

    Nothing is asked of the device and nothing sent to it but by :meth:`at`, so that a step can be recorded.

    Args:
        generator: on the device of the batches; every draw comes from it.
    """

    def __init__(self, config: NoiseConfig, digits: int, generator: torch.Generator) -> None:
        self.config, self.digits, self.generator = config, digits, generator
        counts, allocation = config.laws
        self.counts, self.allocation = COUNTS[counts], ALLOCATIONS[allocation]
        self.bound_K = torch.empty(digits - 1, device=generator.device)
        """Probabilities of at most 1, 2, ..., K - 1 masked digits."""
        self.at(0.0)

    def at(self, progress: float) -> "Noise":
        """Go to the moment when this share of all steps is done, 0 to 1."""
        share_K = torch.tensor(self.counts(progress, self.digits, self.config))
        self.bound_K.copy_(share_K.cumsum(0)[:-1], non_blocking=True)
        return self

    def __call__(self, target_MK: Tensor, codes_NK: Tensor, batch: Batch) -> Tensor:
        """``mask_MK`` for targets of these codes behind histories of these; at least one digit a target."""
        targets, digits = target_MK.shape
        device = target_MK.device
        draw_M = torch.rand(targets, device=device, generator=self.generator)
        number_M = torch.searchsorted(self.bound_K, draw_M, right=True) + 1
        # -log of an exponential draw is a Gumbel draw: the k highest are k draws without replacement.
        drawn_MK = torch.empty(targets, digits, device=device).exponential_(generator=self.generator)
        score_MK = self.allocation(target_MK, codes_NK, batch, self.config) - drawn_MK.log()
        place_MK = score_MK.argsort(dim=1, descending=True).argsort(dim=1)
        return place_MK < number_M[:, None]

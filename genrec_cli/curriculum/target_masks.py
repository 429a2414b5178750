"""Target masks: which digits of each target to mask (MDGR, arXiv 2601.19501).

The count of masked digits grows with training progress to the power gamma (global curriculum), and codes that are rare
in the user's history are masked first (history-aware allocation). Only a summary of the paper is at hand, which names
the ideas and gamma = 2 but no formula. This is **our reading**:

* progress p = step / (``ramp`` x all steps), at most 1, difficulty s = p^gamma, mean count mu = 1 + s (K - 1); count
  k of 1 .. K has a probability proportional to exp(-(k - mu)^2 / (2 sigma^2)), sigma = ``std`` K. No k has probability
  0, since the search visits K, K - 1, ..., 1 masked digits.
* f_k is the count of the target's code at digit k in the history before it; weight 1 / (1 + f_k)^a; k digits are drawn
  without replacement by Gumbel top-k. A user without history has equal weights.

The preset ``random`` is vanilla masked diffusion: k uniform over 1 .. K, digits uniform. Masks depend on the step and
the generator only, so that a resumed run draws the same masks.

Legend: N packed items, M targets, W views per target, K digits.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from genrec_cli.config import Count, Positive, Section
from genrec_cli.data.batch import Batch


class NoiseConfig(Section):
    """Target masking of mdgr: the count of masked digits per target in training, and which ones."""

    preset: Literal["random", "curriculum", "curriculum-history"] = "curriculum-history"
    """random: any digits; curriculum: more and more digits in the course of the training; curriculum-history: and first
    the codes that are rare in the history."""
    gamma: float = Field(2.0, ge=1, le=4)
    """The difficulty is the training progress to this power; a higher power keeps it low for longer."""
    ramp: float = Field(1.0, gt=0, le=1)
    """Fraction of the training in which the difficulty grows. At 1 most digits are masked only while the learning rate
    is almost zero."""
    std: Positive = 0.25
    """Standard deviation of the count of masked digits, as a fraction of K."""
    views: Count = 1
    """Masks per target. They are nested: the digits are masked in one order. With more than one, the first view masks
    every digit (as in DiffGRM)."""
    rarity: Positive = 1.0
    """Power a of the weight 1 / (1 + f)^a of a code that is f times in the history."""


def count_probabilities(progress: float, digits: int, config: NoiseConfig) -> list[float]:
    """Probabilities of 1 .. K masked digits: equal for ``random``, else a bell curve whose mean moves from 1 to K."""
    if config.preset == "random":
        return [1 / digits] * digits
    mean = 1 + min(progress / config.ramp, 1.0) ** config.gamma * (digits - 1)
    weight = [math.exp(-((k - mean) ** 2) / (2 * (config.std * digits) ** 2)) for k in range(1, digits + 1)]
    return [w / sum(weight) for w in weight]


def frequency(target_MK: Tensor, codes_NK: Tensor, batch: Batch) -> Tensor:
    """``f_MK``: the count of a target's code at the same digit of its history, up to the item before it.

    Sorted keys and binary search: codes are sorted by history, digit, code, position; a count is the distance between
    two positions in this order.
    """
    packing, digits, longest = batch.packing, target_MK.shape[1], batch.packing.grid.longest
    codewords = torch.maximum(codes_NK.max(), target_MK.max()) + 1
    digit_K = torch.arange(digits, device=codes_NK.device)

    def sort_key(code_XK: Tensor, sequence_X: Tensor) -> Tensor:
        return ((sequence_X[:, None] * digits + digit_K) * codewords + code_XK) * longest

    known = (sort_key(codes_NK, packing.sequence_N) + packing.position_N[:, None]).flatten().sort().values
    first_MK = sort_key(target_MK, packing.sequence_N[batch.learn_M])
    last_MK = first_MK + packing.position_N[batch.learn_M, None]
    return (torch.searchsorted(known, last_MK, right=True) - torch.searchsorted(known, first_MK)).float()


class TargetMasks:
    """Mask sampler of targets. Every draw is from ``generator``, which is on the device of the batches."""

    def __init__(self, config: NoiseConfig, digits: int, generator: torch.Generator) -> None:
        self.config, self.digits, self.generator = config, digits, generator
        self.at(0.0)

    def at(self, progress: float) -> "TargetMasks":
        """Set the fraction of all steps that is done, 0 to 1."""
        probability_K = torch.tensor(count_probabilities(progress, self.digits, self.config))
        self.bound_K = probability_K.cumsum(0)[:-1].to(self.generator.device)  # of at most 1, ..., K - 1 digits
        return self

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """``mask_MK`` for the targets of a training batch."""
        return self.sample(model.target_codes(batch), model.codes_of(batch.item_N), batch)

    def sample(self, target_MK: Tensor, codes_NK: Tensor, batch: Batch) -> Tensor:
        """``mask_MK`` for targets with these codes after histories with those; at least one digit per target. With
        several views: a row per view, the views of a target one after the other."""
        shape = len(target_MK), self.config.views
        draw_MW = torch.rand(shape, device=target_MK.device, generator=self.generator)
        count_MW = torch.searchsorted(self.bound_K, draw_MW, right=True) + 1
        if self.config.views > 1:
            count_MW[:, 0] = self.digits
        # Gumbel top-k: -log of an exponential draw is a Gumbel draw.
        score_MK = -torch.empty(target_MK.shape, device=target_MK.device).exponential_(generator=self.generator).log()
        if self.config.preset == "curriculum-history":
            score_MK = score_MK - self.config.rarity * frequency(target_MK, codes_NK, batch).log1p()
        place_MK = score_MK.argsort(dim=1, descending=True).argsort(dim=1)
        return (place_MK[:, None] < count_MW[..., None]).flatten(0, 1)

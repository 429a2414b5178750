"""Target masks: which digits of each target to mask. How many: the global curriculum; which: history-aware allocation.

MDGR, arXiv 2601.19501: the number of masked digits grows with training progress to the power gamma, and codes
that are rare in the user's own history are masked first. Only a summary of the paper is at hand, which names the
ideas and gamma = 2 but no formula. This is **our reading**:

* progress p = step / (``ramp`` x all steps), at most 1, difficulty s = p^gamma, mean number mu = 1 + s (K - 1);
  the number k of 1 .. K has the probability proportional to exp(-(k - mu)^2 / (2 sigma^2)), sigma = ``std`` K. No k
  ever vanishes, since the search visits K, K - 1, ..., 1 masked digits.
* f_k, how often the target's code at digit k stands at digit k of the history before it; weight 1 / (1 + f_k)^a;
  k digits are drawn without replacement by Gumbel top-k. All weights of a cold user are equal.

The preset ``random`` is vanilla masked diffusion: k uniform over 1 .. K, digits uniform.

Nothing here loops over users, targets or digits, and masks depend on nothing but the step and the generator, so a
resumed run draws the same masks as a run without a stop.

Legend: N packed items, M targets, K digits.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from genrec_cli.config import Positive, Section
from genrec_cli.data.batch import Batch


class NoiseConfig(Section):
    """Target masking of mdgr: how many digits of a target are masked in training, and which."""

    preset: Literal["random", "curriculum", "curriculum-history"] = "curriculum-history"
    """random: vanilla masking; curriculum: more and more digits; curriculum-history: and rare codes first. The rows of
    the paper's ablation."""
    gamma: float = Field(2.0, ge=1, le=4)
    """The difficulty is training progress to this power; a higher power keeps it low for longer."""
    ramp: float = Field(1.0, gt=0, le=1)
    """Fraction of the training over which the difficulty grows; the rest trains at the highest. At 1 most digits are
    masked only when the learning rate is almost zero."""
    std: Positive = 0.25
    """Standard deviation of the number of masked digits around its mean, as a fraction of K."""
    rarity: Positive = 1.0
    """Power a of the weight 1 / (1 + f)^a of a code that stands f times in the history."""


def count_probabilities(progress: float, digits: int, config: NoiseConfig) -> list[float]:
    """The probability of 1 .. K masked digits: equal for ``random``, else a bell whose mean moves from 1 to K."""
    if config.preset == "random":
        return [1 / digits] * digits
    mean = 1 + min(progress / config.ramp, 1.0) ** config.gamma * (digits - 1)
    weight = [math.exp(-((k - mean) ** 2) / (2 * (config.std * digits) ** 2)) for k in range(1, digits + 1)]
    return [w / sum(weight) for w in weight]


def frequency(target_MK: Tensor, codes_NK: Tensor, batch: Batch) -> Tensor:
    """``f_MK``: how often a target's code stands at the same digit of its history, up to the item before it.

    Every code of a history is a number that sorts by history, digit, code, position; a count is the distance
    between two places in that order.
    """
    packing, digits = batch.packing, target_MK.shape[1]
    longest = packing.grid.longest
    codewords = torch.maximum(codes_NK.max(), target_MK.max()) + 1
    digit_K = torch.arange(digits, device=codes_NK.device)

    def sort_key(code_XK: Tensor, sequence_X: Tensor) -> Tensor:
        return ((sequence_X[:, None] * digits + digit_K) * codewords + code_XK) * longest

    known = (sort_key(codes_NK, packing.sequence_N) + packing.position_N[:, None]).flatten().sort().values
    first_MK = sort_key(target_MK, packing.sequence_N[batch.learn_M])
    last_MK = first_MK + packing.position_N[batch.learn_M, None]
    return (torch.searchsorted(known, last_MK, right=True) - torch.searchsorted(known, first_MK)).float()


class TargetMasks:
    """Mask sampler of targets at one moment of training.

    Args:
        generator: on the device of the batches; every draw comes from it.
    """

    def __init__(self, config: NoiseConfig, digits: int, generator: torch.Generator) -> None:
        self.config, self.digits, self.generator = config, digits, generator
        self.at(0.0)

    def at(self, progress: float) -> "TargetMasks":
        """Go to the moment when this fraction of all steps is done, 0 to 1."""
        probability_K = torch.tensor(count_probabilities(progress, self.digits, self.config))
        self.bound_K = probability_K.cumsum(0)[:-1].to(self.generator.device)
        """Probabilities of at most 1, 2, ..., K - 1 masked digits."""
        return self

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """``mask_MK`` for the targets of a training batch."""
        return self.sample(model.target_codes(batch), model.codes_of(batch.item_N), batch)

    def sample(self, target_MK: Tensor, codes_NK: Tensor, batch: Batch) -> Tensor:
        """``mask_MK`` for targets with these codes after histories with those; at least one digit per target."""
        targets, digits = target_MK.shape
        device = target_MK.device
        draw_M = torch.rand(targets, device=device, generator=self.generator)
        count_M = torch.searchsorted(self.bound_K, draw_M, right=True) + 1
        # -log of an exponential draw is a Gumbel draw: the k highest are k draws without replacement.
        drawn_MK = torch.empty(targets, digits, device=device).exponential_(generator=self.generator)
        score_MK = -drawn_MK.log()
        if self.config.preset == "curriculum-history":
            score_MK = score_MK - self.config.rarity * frequency(target_MK, codes_NK, batch).log1p()
        place_MK = score_MK.argsort(dim=1, descending=True).argsort(dim=1)
        return place_MK < count_M[:, None]

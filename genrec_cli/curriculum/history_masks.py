"""History masks: which codes of a history to mask, at random or by entropy, per code, per item or mixed (MHL,
sections 3.2, 3.3).

No loop over users or positions: scores are laid out as B x X (X: items, or all their digits), the budget N
of each history is drawn, and the N highest scores are masked.

Legend: B histories, N packed items, T longest history, K digits (1 for a model of items), X = T or T * K candidates.

Readings where the paper is silent or contradicts itself:

* ``budget``: "printed" draws N from U{1 .. max(1, floor(ratio * T))} (section 3.3; the printed range is empty
  for short histories, hence the 1); "rounded" takes floor(ratio * T + u), u uniform, so that the expected
  fraction is the ratio whatever the length, and N may be 0. At token level T is T * K.
* random masking draws under the same budget, or each token by itself ("bernoulli").
* mixed: each item takes item or token granularity with probability one half, then each kind is ranked
  among its own, under its own budget.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from genrec_cli.curriculum.phases import Granularity, Mask
from genrec_cli.data.batch import Batch
from genrec_cli.nn.packing import Packing

Budget = Literal["printed", "rounded", "bernoulli"]


class HistoryMasks:
    """Mask sampler of one phase: its policy, granularity and ratio.

    Args:
        generator: on the device of the batches; every draw comes from it.
    """

    def __init__(
        self,
        mask: Mask,
        granularity: Granularity,
        ratio: float,
        budget: Budget,
        generator: torch.Generator,
        smoothing: bool = False,
    ) -> None:
        self.smoothing, self.by_entropy = smoothing, mask == "entropy"
        self.granularity, self.generator, self.ratio = granularity, generator, ratio
        # An entropy policy ranks, so it needs a number to cut at; independent draws have none.
        self.budget: Budget = "rounded" if self.by_entropy and budget == "bernoulli" else budget

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """``mask_NK`` for a training batch of a model whose ``masking`` is random or entropy."""
        entropy_NK = model.entropies(batch) if self.by_entropy else None
        return self.sample(batch.packing, model.maskable(batch), entropy_NK)

    def sample(self, packing: Packing, candidate_NK: Tensor, entropy_NK: Tensor | None = None) -> Tensor:
        """``mask_NK`` among the candidates, by entropy where it is given and at random otherwise."""
        grid, device, digits = packing.grid, candidate_NK.device, candidate_NK.shape[1]
        items = len(candidate_NK)
        if entropy_NK is None:
            entropy_NK = torch.rand(items, digits, device=device, generator=self.generator)
            item_score_N = torch.rand(items, device=device, generator=self.generator)
        else:
            entropy_NK = smooth(entropy_NK, packing) if self.smoothing else entropy_NK
            item_score_N = entropy_NK.mean(-1)
        as_item_N = torch.full((items,), self.granularity == "item", device=device)
        if self.granularity == "mixed":
            as_item_N = torch.rand(items, device=device, generator=self.generator) < 0.5

        real_BT = grid.real_BT()
        mask_NK = torch.zeros(items, digits, dtype=torch.bool, device=device)
        if self.granularity != "token":
            open_BT = grid.pad(as_item_N) & real_BT
            mask_NK |= grid.pack(self._select(grid.pad(item_score_N), open_BT))[:, None]
        if self.granularity != "item":
            open_BT = ~grid.pad(as_item_N) & real_BT
            open_BX = (open_BT[..., None] & grid.pad(candidate_NK)).flatten(1)
            chosen_BX = self._select(grid.pad(entropy_NK).flatten(1), open_BX)
            mask_NK |= grid.pack(chosen_BX.unflatten(1, (-1, digits)))
        return mask_NK & candidate_NK

    def _select(self, score_BX: Tensor, open_BX: Tensor) -> Tensor:
        """The N highest scores among the open candidates of each history."""
        if self.budget == "bernoulli":
            coin_BX = torch.rand(score_BX.shape, device=score_BX.device, generator=self.generator)
            return open_BX & (coin_BX < self.ratio)
        number_B = self._number(open_BX.sum(1))
        order_BX = score_BX.masked_fill(~open_BX, -torch.inf).argsort(dim=1, descending=True, stable=True)
        chosen_BX = torch.arange(score_BX.shape[1], device=score_BX.device) < number_B[:, None]
        return torch.zeros_like(open_BX).scatter_(1, order_BX, chosen_BX) & open_BX

    def _number(self, open_B: Tensor) -> Tensor:
        """The budget N of each history with so many candidates."""
        draw_B = torch.rand(open_B.shape, device=open_B.device, generator=self.generator)
        if self.budget == "rounded":
            return (self.ratio * open_B + draw_B).floor().long()
        most_B = (self.ratio * open_B).floor().clamp_min(1)
        return torch.minimum((draw_B * most_B).floor() + 1, most_B).long()


def smooth(entropy_NK: Tensor, packing: Packing, *, window: int = 3, decay: float = 2.0, mixing: float = 0.2) -> Tensor:
    """Our reading of appendix I's "window size 3, decay factor 2.0, residual mixing 0.2".

    ``(1 - mixing) * H_t^k + mixing * (sum over j < window of decay^-j * H_{t-j}) / (sum of the weights)``.
    """
    item_N = entropy_NK.mean(-1)
    total_N, weight_N = torch.zeros_like(item_N), torch.zeros_like(item_N)
    for back in range(window):
        there_N = packing.position_N >= back
        total_N = total_N + torch.where(there_N, item_N.roll(back), 0.0) * decay**-back
        weight_N = weight_N + there_N * decay**-back
    return (1 - mixing) * entropy_NK + mixing * (total_N / weight_N)[:, None]

"""History masks: which codes of a history to mask, at random or by entropy (MHL, sections 3.2 and 3.3).

Scores are padded to B x X, the budget N of each history is drawn, and the N highest scores are masked.

Legend: B histories, N packed items, T longest history, K digits (1 for a model of items), X = T or T * K candidates.

Our readings of what the paper leaves open:

* ``budget``: "printed" masks each code independently with probability ``ratio`` in random masking (section 3.2), and
  draws N from U{1 .. max(1, floor(ratio * T))} in entropy masking (section 3.3; the printed range is empty for short
  histories, hence the 1). "uniform" draws N so for both; on average it masks half of the ratio. "rounded" is
  floor(ratio * T + u), u uniform: its mean is ratio * T, and N may be 0. At token level T is T * K.
* mixed: each item is masked at item or token level with probability one half; each level has its own ranks and budget.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from genrec_cli.curriculum.phases import Granularity, Mask
from genrec_cli.data.batch import Batch
from genrec_cli.nn.packing import Packing

Budget = Literal["printed", "uniform", "rounded"]


class HistoryMasks:
    """Mask sampler of one phase. Every draw is from ``generator``, which is on the device of the batches."""

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
        self.granularity, self.generator, self.ratio, self.budget = granularity, generator, ratio, budget

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """``mask_NK`` for a training batch of a model whose ``masking`` is random or entropy."""
        entropy_NK = model.entropies(batch) if self.by_entropy else None
        return self.sample(batch.packing, model.maskable(batch), entropy_NK)

    def sample(self, packing: Packing, candidate_NK: Tensor, entropy_NK: Tensor | None = None) -> Tensor:
        """``mask_NK`` among the candidates, by entropy where it is given and at random otherwise."""
        grid, digits = packing.grid, candidate_NK.shape[1]
        if entropy_NK is None:
            entropy_NK, item_score_N = self._uniform(candidate_NK), self._uniform(candidate_NK[:, 0])
        else:
            entropy_NK = smooth(entropy_NK, packing) if self.smoothing else entropy_NK
            item_score_N = entropy_NK.mean(-1)
        as_item_N = torch.full_like(candidate_NK[:, 0], self.granularity == "item")
        if self.granularity == "mixed":
            as_item_N = self._uniform(as_item_N) < 0.5
        real_BT, mask_NK = grid.real_BT(), torch.zeros_like(candidate_NK)
        if self.granularity != "token":
            open_BT = grid.pad(as_item_N) & real_BT
            mask_NK |= grid.pack(self._select(grid.pad(item_score_N), open_BT))[:, None]
        if self.granularity != "item":
            open_BT = ~grid.pad(as_item_N) & real_BT
            open_BX = (open_BT[..., None] & grid.pad(candidate_NK)).flatten(1)
            mask_BX = self._select(grid.pad(entropy_NK).flatten(1), open_BX)
            mask_NK |= grid.pack(mask_BX.unflatten(1, (-1, digits)))
        return mask_NK & candidate_NK

    def _select(self, score_BX: Tensor, open_BX: Tensor) -> Tensor:
        """The N highest scores among the open candidates of each history."""
        if self.budget == "printed" and not self.by_entropy:
            return open_BX & (self._uniform(score_BX) < self.ratio)
        budget_B = self._budget(open_BX.sum(1))
        order_BX = score_BX.masked_fill(~open_BX, -torch.inf).argsort(dim=1, descending=True, stable=True)
        first_BX = torch.arange(score_BX.shape[1], device=score_BX.device) < budget_B[:, None]
        return torch.zeros_like(open_BX).scatter_(1, order_BX, first_BX) & open_BX

    def _budget(self, open_B: Tensor) -> Tensor:
        """The budget N of each history, from its count of candidates."""
        draw_B = self._uniform(open_B)
        if self.budget == "rounded":
            return (self.ratio * open_B + draw_B).floor().long()
        max_B = (self.ratio * open_B).floor().clamp_min(1)
        return torch.minimum((draw_B * max_B).floor() + 1, max_B).long()

    def _uniform(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, device=like.device, generator=self.generator)


def smooth(entropy_NK: Tensor, packing: Packing, *, window: int = 3, decay: float = 2.0, mixing: float = 0.2) -> Tensor:
    """Our reading of appendix I's "window size 3, decay factor 2.0, residual mixing 0.2".

    ``(1 - mixing) * H_t^k + mixing * (sum over j < window of decay^-j * H_{t-j}) / (sum of the weights)``.
    """
    item_N = entropy_NK.mean(-1)
    total_N, weight_N = torch.zeros_like(item_N), torch.zeros_like(item_N)
    for back in range(window):
        exists_N = packing.position_N >= back
        total_N = total_N + torch.where(exists_N, item_N.roll(back), 0.0) * decay**-back
        weight_N = weight_N + exists_N * decay**-back
    return (1 - mixing) * entropy_NK + mixing * (total_N / weight_N)[:, None]

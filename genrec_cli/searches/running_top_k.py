"""Running top-k over chunks of items: best score first, and of equal scores the lowest item id first.

Top-k by block maxima: a chunk is divided into blocks of consecutive items. The k best items are in the k blocks with
the highest maxima (of equal maxima the first), since each of these blocks holds an item that precedes all items of
other blocks. One pass computes the maxima; then only k blocks per user are searched.

Legend: B users, C items of a chunk, P blocks, L = BLOCK items of a block, k length of a list.
"""

import torch
from torch import Tensor

BLOCK = 32
"""More makes longer lists of candidates, less makes more maxima to sort."""
DIRECT = {"cuda": 1 << 16}
"""Largest chunk that a device sorts directly, with fewer kernel launches."""


class RunningTopK:
    """The k best items of all chunks so far; chunks are added in the order of their items."""

    def __init__(self, users: int, k: int, device: torch.device, *, direct: int | None = None) -> None:
        self.k, self.direct = k, DIRECT.get(device.type, 0) if direct is None else direct
        self.score_Bk = torch.full((users, k), -torch.inf, device=device)
        self.item_Bk = torch.zeros(users, k, dtype=torch.long, device=device)
        """Ids from 1; 0 after the last item."""

    def add(self, score_CB: Tensor, begin: int) -> None:
        """Add a chunk whose first item is ``begin`` (from 0)."""
        if self.k == 0 or score_CB.numel() == 0:
            return
        items, users = score_CB.shape
        if items <= self.direct:
            self._sort(score_CB, begin)
            return
        whole = items // BLOCK * BLOCK
        peak_PB = score_CB[:whole].view(-1, BLOCK, users).amax(1)
        if whole < items:
            peak_PB = torch.cat([peak_PB, score_CB[whole:].amax(0, keepdim=True)])
        block_Bp = first(peak_PB.t(), min(self.k, len(peak_PB))).sort(1).values
        place_Bn = (block_Bp[:, :, None] * BLOCK + torch.arange(BLOCK, device=score_CB.device)).flatten(1)
        score_Bn = score_CB.t().gather(1, place_Bn.clamp_max(items - 1)).masked_fill(place_Bn >= items, -torch.inf)
        self._join(score_Bn, place_Bn + (begin + 1))

    def _sort(self, score_CB: Tensor, begin: int) -> None:
        score_BC, place_BC = (score_CB.t() + 0.0).sort(dim=1, descending=True, stable=True)
        if begin or score_BC.shape[1] < self.k:
            self._join(score_BC[:, : self.k], place_BC[:, : self.k] + (begin + 1))
        else:
            self.score_Bk = score_BC[:, : self.k].contiguous()
            self.item_Bk = (place_BC[:, : self.k] + 1).masked_fill_(~(self.score_Bk > -torch.inf), 0)

    def _join(self, score_Bn: Tensor, item_Bn: Tensor) -> None:
        """Add n items per user: scores and ids, equal scores in ascending order of ids."""
        score_Bn, item_Bn = torch.cat([self.score_Bk, score_Bn], 1), torch.cat([self.item_Bk, item_Bn], 1)
        best_Bk = first(score_Bn, self.k)
        self.score_Bk = score_Bn.gather(1, best_Bk)
        self.item_Bk = item_Bn.gather(1, best_Bk).masked_fill_(~(self.score_Bk > -torch.inf), 0)


def first(score_Bn: Tensor, k: int) -> Tensor:
    """Columns of the k highest scores of each row (float32), of equal scores the first ones first."""
    bits_Bn = (score_Bn + 0.0).view(torch.int32)  # adding 0 turns -0 into 0
    # The bits of a float order like an integer if those of negative values, except the sign, are flipped.
    order_Bn = (bits_Bn ^ ((bits_Bn >> 31) & 0x7FFFFFFF)).long()
    column_n = torch.arange(score_Bn.shape[1], device=score_Bn.device)
    return ((order_Bn << 32) - column_n).topk(k, dim=1).indices

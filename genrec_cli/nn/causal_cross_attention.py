"""All targets of a history in one pass: the digits of each look at what stands up to the item that it follows.

So every history is read once an epoch, where a row for each target reads it again and again. It needs an encoder
in which an item sees nothing later. Linear layers see M x K digits and X packed places; only the attention product
is a grid, of B x (T K) queries and B x S keys, whose mask is the same for every history, since padding stands on the
right.

Legend: B histories, N packed items, T items of the longest, M targets, K digits, X packed places that are looked at
(items, or their codes behind a user token), S places of the longest history, D width, H heads.
"""

from typing import Protocol

import torch
from torch import Tensor

from genrec_cli.nn.packing import Packing, take


class Product(Protocol):
    """``mixed_BHQd`` of queries, keys and values by head, and what a query sees."""

    def __call__(self, q_BHQd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, seen_QS: Tensor, /) -> Tensor: ...


def item_of(places: int, tokens_per_item: int, prefix: int, device: torch.device) -> Tensor:
    """``item_S``: which item of its history, from 0, each place belongs to; -1 for the ``prefix`` places."""
    return (torch.arange(places, device=device) - prefix).div(tokens_per_item, rounding_mode="floor")


class CausalCrossAttention:
    """Targets in packed histories, and what each may look at.

    Args:
        items: the histories, item by item.
        at_M: packed items that the targets follow, in ascending order, none twice.
        digits: K.
        places: the packing of what is looked at, made of ``items`` by :meth:`Packing.spread`; default: the items.
        tokens_per_item, prefix: what it was spread by.
    """

    def __init__(
        self,
        items: Packing,
        at_M: Tensor,
        digits: int,
        places: Packing | None = None,
        *,
        tokens_per_item: int = 1,
        prefix: int = 0,
    ) -> None:
        self.at_M, self.digits, self.total = at_M, digits, len(items.position_N)
        self.grids = list(zip(items.parts, (places or items).parts, strict=True))
        self.seen = []
        """``seen_QS`` of each grid, Q = T x K."""
        for grid, looked_at in self.grids:
            target_Q = item_of(grid.longest * digits, digits, 0, at_M.device)
            self.seen.append(item_of(looked_at.longest, tokens_per_item, prefix, at_M.device) <= target_Q[:, None])

    def mix(self, q_MKD: Tensor, memory_XD: Tensor, heads: int, product: Product) -> Tensor:
        """``mixed_MKD``: what ``product`` makes of the queries and of the keys and values, side by side in
        ``memory_XD``, that they may see."""
        everywhere, q_NKD = len(self.at_M) == self.total, q_MKD
        if not everywhere:
            q_NKD = q_MKD.new_zeros(self.total, *q_MKD.shape[1:]).index_copy(0, self.at_M, q_MKD)
        mixed = []
        for (grid, looked_at), seen_QS in zip(self.grids, self.seen, strict=True):
            k_BHSd, v_BHSd = looked_at.sides(memory_XD, heads, 2)
            mixed_BHQd = product(grid.digits(q_NKD, heads), k_BHSd, v_BHSd, seen_QS)
            mixed.append(grid.join(mixed_BHQd, self.digits))
        mixed_NKD = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        found = mixed_NKD if everywhere else take(mixed_NKD, self.at_M)
        return found.view(*q_MKD.shape[:2], -1)  # one digit has no axis of its own there

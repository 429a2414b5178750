"""Causal cross-attention: the K digits of the target after item t attend to encoder states of items <= t.

All targets of a history are learned in one pass of a causal encoder. Linear layers work on M x K digits and X packed
states; the attention product is a grid of B x (T K) queries and B x S keys. Padding is on the right, so one mask fits
all histories.

Legend: B histories, N packed items, T longest history, M targets, K digits, X packed encoder states (items, or user
tokens and the codes of items), S states of the longest history, D width, H heads.
"""

from typing import Protocol

import torch
from torch import Tensor

from genrec_cli.nn.packing import Packing, concatenate, take


class Product(Protocol):
    """``mixed_BHQd`` of queries, keys and values by head; ``visible_QS`` are the keys that each query sees."""

    def __call__(self, q_BHQd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, visible_QS: Tensor, /) -> Tensor: ...


def item_of(tokens: int, per_item: int, prefix: int, device: torch.device) -> Tensor:
    """``item_S``: the item (from 0) of each token of a sequence; negative at the ``prefix`` tokens."""
    return (torch.arange(tokens, device=device) - prefix).div(per_item, rounding_mode="floor")


class CausalCrossAttention:
    """The targets of packed histories, which follow the items ``at_M`` (ascending, distinct), and the visible states.

    ``states`` is the packing of the encoder states, ``items.expand(per_item, prefix=prefix)``; default: ``items``.
    """

    def __init__(
        self,
        items: Packing,
        at_M: Tensor,
        digits: int,
        states: Packing | None = None,
        per_item: int = 1,
        prefix: int = 0,
    ) -> None:
        self.at_M, self.digits, self.total = at_M, digits, len(items.position_N)
        self.grids = list(zip(items.parts, (states or items).parts, strict=True))
        self.visible = []
        """``visible_QS`` per grid, Q = T x K."""
        for grid, state_grid in self.grids:
            target_Q = item_of(grid.longest * digits, digits, 0, at_M.device)
            self.visible.append(item_of(state_grid.longest, per_item, prefix, at_M.device) <= target_Q[:, None])

    def mix(self, q_MKD: Tensor, memory_XD: Tensor, heads: int, product: Product) -> Tensor:
        """``mixed_MKD``; ``memory_XD`` holds keys and values side by side."""
        all_items, q_NKD = len(self.at_M) == self.total, q_MKD
        if not all_items:
            q_NKD = q_MKD.new_zeros(self.total, *q_MKD.shape[1:]).index_copy(0, self.at_M, q_MKD)
        mixed = []
        for (grid, state_grid), visible_QS in zip(self.grids, self.visible, strict=True):
            k_BHSd, v_BHSd = state_grid.sides(memory_XD, heads, 2)
            mixed_BHQd = product(grid.digits(q_NKD, heads), k_BHSd, v_BHSd, visible_QS)
            mixed.append(grid.join(mixed_BHQd, self.digits))
        mixed_NKD = concatenate(mixed)
        mixed_MKD = mixed_NKD if all_items else take(mixed_NKD, self.at_M)
        return mixed_MKD.view(*q_MKD.shape[:2], -1)  # restores the axis of a single digit

"""Sums of table rows over the codes of each item, for the whole catalogue, with a gradient by an inverted index.

The sum over an item's codes is an embedding-bag. Its gradient at a row of the table is the sum over the items that have
this code: an embedding-bag of the inverted index. So both directions are gathers, in a fixed order, and nothing is
sorted or scattered in a step.

Legend: I items, K digits, V codewords, S codes of all items, R rows of the table, C columns.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CodeBags(nn.Module):
    """``sum_IC``: for each item, the sum of the rows of ``table_RC`` that belong to its codes.

    ``token_IK`` are rows of the table; a negative one is padding and is left out.
    """

    token_S: Tensor
    start_I: Tensor
    item_S: Tensor
    start_R: Tensor

    def __init__(self, token_IK: Tensor, rows: int) -> None:
        super().__init__()
        real_IK = token_IK >= 0
        token_S = token_IK[real_IK]
        item_S = real_IK.nonzero()[:, 0]
        order_S = token_S.argsort(stable=True)
        indices = {
            "token_S": token_S,
            "start_I": _starts(real_IK.sum(1)),
            "item_S": item_S[order_S],
            "start_R": _starts(torch.bincount(token_S.long(), minlength=rows)),
        }
        for name, index in indices.items():
            self.register_buffer(name, index.to(torch.int32), persistent=False)

    def forward(self, table_RC: Tensor) -> Tensor:
        return _Bags.apply(table_RC, self.token_S, self.start_I, self.item_S, self.start_R)


class _Bags(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table_RC: Tensor, token_S: Tensor, start_I: Tensor, item_S: Tensor, start_R: Tensor
    ) -> Tensor:
        ctx.save_for_backward(item_S, start_R)
        return F.embedding_bag(token_S, table_RC, start_I, mode="sum")

    @staticmethod
    def backward(ctx: Any, g_IC: Tensor) -> tuple[Tensor, None, None, None, None]:
        item_S, start_R = ctx.saved_tensors
        return F.embedding_bag(item_S, g_IC.contiguous(), start_R, mode="sum"), None, None, None, None


def _starts(count_X: Tensor) -> Tensor:
    """The place of the first entry of each bag."""
    return count_X.cumsum(0) - count_X

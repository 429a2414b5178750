"""Softmax cross-entropy over the whole catalogue, with its gradient in one pass.

    score_Im = vectors_ID @ h_mD.T,   loss = log sum_i exp score_im - score_ym

On a CPU the scores are the most expensive part of a step. They are computed for a chunk of rows that fits into a cache,
with items first: the tall product is the faster one, and the softmax then runs along contiguous memory. The gradient of
a chunk is computed right away from its exponentials, ``softmax - one_hot``, so each score is exponentiated once. Under
bf16 autocast the three products are bf16, and softmax and sums are float32.

On other devices, and in fp16, whose gradients need the scale of the GradScaler, ``torch.nn.functional.cross_entropy``
does the same in larger chunks (``nn/chunks.py``).

Legend: M positions, m those of a chunk, I items, D width.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.nn.chunks import AT_ONCE, CHUNK, limit, sum_over_chunks
from genrec_cli.nn.losses import Loss

ROWS = 32
"""A chunk on a CPU has a multiple of these rows, and at least one, however many items there are: with fewer, or with an
odd number, the products are slow."""
SCORES = 1 << 20
"""The most scores of a chunk on a CPU, if these are more rows: 4 MiB."""
LOG2_E = math.log2(math.e)


class Added(Protocol):
    """A part of the scores of M x I that is made in chunks of rows, without gradient."""

    def rows(self, begin: int, end: int) -> Tensor:
        """``part_mI`` of the rows from ``begin`` to ``end``."""


def item_cross_entropy(
    h_MD: Tensor, vectors_ID: Tensor, column_M: Tensor, *, added: tuple[Added, float] | None = None
) -> Loss:
    """Softmax cross-entropy of the scores ``h_MD @ vectors_ID.T`` over the whole catalogue; ``column_M`` are items from
    0, -1 is ignored. ``added``: a part of the scores, and the factor by which it is multiplied."""
    count = (column_M >= 0).sum().to(torch.float32)
    dtype = _product_dtype(h_MD)
    if h_MD.device.type == "cpu" and dtype != torch.float16:
        return Loss(_ItemCrossEntropy.apply(h_MD, vectors_ID, column_M, added, dtype), count)
    return Loss(_in_chunks(h_MD, vectors_ID, column_M, added), count)


def _product_dtype(h_MD: Tensor) -> torch.dtype:
    kind = h_MD.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else h_MD.dtype


def _in_chunks(h_MD: Tensor, vectors_ID: Tensor, column_M: Tensor, added: tuple[Added, float] | None) -> Tensor:
    large = len(h_MD) * len(vectors_ID) > limit(AT_ONCE, h_MD.device)
    rows = max(limit(CHUNK, h_MD.device) // len(vectors_ID), 1) if large else max(len(h_MD), 1)
    column = column_M.split(rows)

    def loss(chunk: int, shared: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
        score_mI = parts[0] @ shared[0].t()
        if added is not None:
            score_mI = score_mI + added[1] * added[0].rows(chunk * rows, chunk * rows + len(score_mI))
        return F.cross_entropy(score_mI.float(), column[chunk], ignore_index=-1, reduction="sum")

    return sum_over_chunks(loss, [len(part) for part in column], [vectors_ID], [h_MD])


def softmax_gradient_(score_Im: Tensor, column_1m: Tensor, real_m: Tensor) -> Tensor:
    """The cross-entropy of the targets ``column_1m``, summed where ``real_m`` is 1. Its gradient overwrites
    ``score_Im``: no other array of this size is made."""
    target_m, top_m = score_Im.gather(0, column_1m)[0], score_Im.amax(0)
    exp_Im = score_Im.sub_(top_m).mul_(LOG2_E).exp2_()  # exp_ takes three times as long
    sum_m = exp_Im.sum(0)
    exp_Im.mul_(real_m / sum_m).scatter_add_(0, column_1m, -real_m[None])
    return ((sum_m.log() + top_m - target_m) * real_m).sum()


class ScoresCrossEntropy(torch.autograd.Function):
    """Softmax cross-entropy of given scores ``score_Im``, items first, summed; ``column_m`` counts from 0, -1 is
    ignored. The scores are overwritten: nothing else may read them."""

    @staticmethod
    def forward(ctx: Any, score_Im: Tensor, column_m: Tensor) -> Tensor:
        grad_Im, real_m = score_Im.detach(), (column_m >= 0).to(score_Im.dtype)
        total = softmax_gradient_(grad_Im, column_m.clamp_min(0)[None], real_m)
        ctx.save_for_backward(grad_Im)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (grad_Im,) = ctx.saved_tensors
        return grad_Im * gradient, None


class _ItemCrossEntropy(torch.autograd.Function):
    """Saves the gradients for the backward pass; there they are multiplied by the scalar gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        h_MD: Tensor,
        vectors_ID: Tensor,
        column_M: Tensor,
        added: tuple[Added, float] | None,
        dtype: torch.dtype,
    ) -> Tensor:
        backward = any(ctx.needs_input_grad)
        exact = torch.promote_types(h_MD.dtype, torch.float32)
        vector_ID, rows = vectors_ID.to(dtype), max(SCORES // max(len(vectors_ID), 1) // ROWS, 1) * ROWS
        total = torch.zeros((), dtype=exact)
        h_grad_MD, vector_grad_ID = torch.zeros_like(h_MD), torch.zeros_like(vectors_ID)
        # Arrays of some MiB are made once: to allocate them costs as much as to fill them.
        product_X = torch.empty(len(vector_ID) * min(rows, len(h_MD)), dtype=dtype)
        score_X = product_X if dtype == exact else torch.empty_like(product_X, dtype=exact)
        more_ID = torch.empty_like(vector_ID)
        for begin in range(0, len(h_MD), rows):
            chunk = slice(begin, begin + rows)
            h_mD, column_1m = h_MD[chunk].to(dtype), column_M[chunk].clamp_min(0)[None]
            real_m = (column_M[chunk] >= 0).to(exact)
            shape = (len(vector_ID), len(h_mD))
            product_Im, score_Im = (x[: shape[0] * shape[1]].view(shape) for x in (product_X, score_X))
            torch.mm(vector_ID, h_mD.t(), out=product_Im)
            score_Im.copy_(product_Im)
            if added is not None:
                score_Im.add_(added[0].rows(begin, begin + len(h_mD)).t(), alpha=added[1])
            total += softmax_gradient_(score_Im, column_1m, real_m)
            if not backward:
                continue
            product_Im.copy_(score_Im)  # now the gradient of the scores
            h_grad_MD[chunk] = product_Im.t() @ vector_ID
            vector_grad_ID += torch.mm(product_Im, h_mD, out=more_ID)
        ctx.save_for_backward(h_grad_MD, vector_grad_ID)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        h_grad_MD, vector_grad_ID = ctx.saved_tensors
        return h_grad_MD * gradient, vector_grad_ID * gradient, None, None, None

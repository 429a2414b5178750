"""Dropout whose masks are cheap on a CPU.

There ``torch`` draws one double a cell and multiplies, 6 to 9 ns each, which made a seventh of a training step.
Here a 64-bit draw of the same generator decides four cells, 15 bits each, and what is dropped loses all its bits:
1.5 ns a cell, and .4 in the gradient (a core with AVX-512, torch 2.13). On other devices ``torch``'s kernel runs.

The probability is rounded to 1/32,768, and what is kept is scaled by the rounded one, so that the mean stays.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**15
"""Values of the bits that decide a cell."""
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def kept(shape: torch.Size, below: int) -> Tensor:
    """All bits (-1) of a cell that is kept, none (0) of one that is dropped, which has probability below / LEVELS."""
    cells = math.prod(shape)
    draw = torch.empty(-(-cells // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:cells]
    # evenly between -LEVELS and -1; after the sum only the sign bit counts, and the shift copies it to all others
    return draw.bitwise_or_(-LEVELS).add_(below).bitwise_right_shift_(15).view(shape)


def _drop(x: Tensor, mask: Tensor, below: int) -> Tensor:
    bits = x.contiguous().view(BITS[x.element_size()]) & mask
    return bits.view(x.dtype).mul_(LEVELS / (LEVELS - below))


class _Dropout(torch.autograd.Function):
    """Keeps the mask, two bytes a cell; gradients are dropped and scaled like their cells."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, below: int) -> Tensor:
        mask = kept(x.shape, below)
        ctx.save_for_backward(mask)
        ctx.below = below
        return _drop(x, mask, below)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return _drop(g, mask, ctx.below), None


def dropout(x: Tensor, share: float) -> Tensor:
    """``x`` with each cell zero with probability ``share`` and else divided by ``1 - share``. Only for training."""
    below = round(share * LEVELS)
    if share == 0 or x.device.type != "cpu" or not 0 < below < LEVELS:
        return F.dropout(x, share)
    return _Dropout.apply(x, below)  # type: ignore[no-any-return]


class Dropout(nn.Dropout):
    """``nn.Dropout`` with these masks."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p else x

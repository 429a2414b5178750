"""Chunked loss: a sum over digits, some digits at a time.

The gradient of a chunk is taken right after its loss. So the logits of one chunk exist at a time and stay in the cache.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def even_chunks(number: Sequence[int], *, most: int | None = None) -> list[int]:
    """Lengths of chunks of neighbouring digits whose numbers of pairs are about equal.

    A chunk is one matrix product, padded to its most-masked digit; at most a quarter of it is padding.

    Args:
        most: pairs of a chunk, the empty ones included, if it has more than one digit.
    """
    chunks: list[int] = []
    pairs = widest = 0
    for count in number:
        pairs, widest = pairs + count, max(widest, count)
        size = (chunks[-1] + 1) * widest if chunks else 0
        if chunks and 0.75 * size <= pairs and (most is None or size <= most):
            chunks[-1] += 1
        else:
            chunks.append(1)
            pairs = widest = count
    return chunks


ChunkLoss = Callable[[int, Sequence[Tensor], Sequence[Tensor]], Tensor]


def sum_over_chunks(
    loss: ChunkLoss, chunks: Sequence[int], shared: Sequence[Tensor], split: Sequence[Tensor]
) -> Tensor:
    """``sum of loss(chunk, shared, parts)``, with ``parts`` the chunk's digits of the tensors ``split``.

    With several chunks each gradient is taken right after the chunk's loss, but not in fp16: there gradients need the
    scale of the GradScaler, which is known only in the backward pass.
    """
    if len(chunks) == 1:
        return loss(0, shared, split)
    if torch.is_grad_enabled() and not _half(shared[0].device.type):
        return _SumOverChunks.apply(loss, chunks, len(shared), *shared, *split)  # type: ignore[no-any-return]
    parts = zip(*(x.split(list(chunks)) for x in split), strict=True)
    return torch.stack([loss(chunk, shared, own) for chunk, own in enumerate(parts)]).sum()


def _half(kind: str) -> bool:
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16


class _SumOverChunks(torch.autograd.Function):
    """Keeps gradients in place of what they are made from. The loss is a scalar: its gradient is a factor."""

    @staticmethod
    def forward(ctx: Any, loss: ChunkLoss, chunks: Sequence[int], number: int, *tensors: Tensor) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        shared = [x.detach().requires_grad_(wanted) for x in tensors[:number]]
        split = tensors[number:]
        gradient_of_shared = [torch.zeros_like(x) for x in shared]
        gradient_of_split = [torch.empty_like(x) for x in split]
        total, first = torch.zeros((), device=tensors[0].device), 0
        for chunk, size in enumerate(chunks):
            here = slice(first, first := first + size)
            parts = [x[here].detach().requires_grad_(wanted) for x in split]
            with torch.set_grad_enabled(wanted):
                value = loss(chunk, shared, parts)
            total += value.detach()
            if value.requires_grad:
                found = torch.autograd.grad(value, [*shared, *parts])
            else:  # no pair at all
                found = tuple(torch.zeros_like(x) for x in (*shared, *parts))
            torch._foreach_add_(gradient_of_shared, found[:number])
            for gradient, part in zip(gradient_of_split, found[number:], strict=True):
                gradient[here] = part
        ctx.save_for_backward(*gradient_of_shared, *gradient_of_split)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, *(gradient * factor for gradient in ctx.saved_tensors))

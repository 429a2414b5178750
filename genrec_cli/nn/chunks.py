"""Chunked loss: a sum over digits or rows, a chunk of them at a time.

The gradient of a chunk is computed right after its loss, so only the logits of one chunk exist and they fit into a
cache.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

AT_ONCE = {"cpu": 3 << 20, "cuda": 1 << 27}
"""Logits of a step below which chunks save no time."""
CHUNK = {"cpu": 3 << 19, "cuda": 1 << 26}
"""Logits of a chunk above that. On a CPU: the size of the second-level cache."""


def limit(table: dict[str, int], device: torch.device) -> int:
    """The entry of a device in ``AT_ONCE`` or ``CHUNK``."""
    return table.get(device.type, table["cuda"])


def even_chunks(pairs: Sequence[int], *, max_pairs: int | None = None) -> list[int]:
    """The number of neighbouring digits per chunk. A chunk is one matrix product, padded to the most-masked digit; at
    most a quarter of it is padding, and ``max_pairs`` limits a chunk of several digits, padding included."""
    chunks: list[int] = []
    total = widest = 0
    for count in pairs:
        total, widest = total + count, max(widest, count)
        size = (chunks[-1] + 1) * widest if chunks else 0
        if chunks and 0.75 * size <= total and (max_pairs is None or size <= max_pairs):
            chunks[-1] += 1
        else:
            chunks.append(1)
            total = widest = count
    return chunks


ChunkLoss = Callable[[int, Sequence[Tensor], Sequence[Tensor]], Tensor]


def sum_over_chunks(
    loss: ChunkLoss, chunks: Sequence[int], shared: Sequence[Tensor], split: Sequence[Tensor]
) -> Tensor:
    """The sum of ``loss(chunk, shared, parts)``; ``parts`` are the chunk's rows (such as digits) of the tensors
    ``split``.

    In fp16 the gradients are not computed early: they need the scale of the GradScaler, known only in the backward
    pass.
    """
    if len(chunks) == 1:
        return loss(0, shared, split)
    kind = shared[0].device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    if torch.is_grad_enabled() and not half:
        return _SumOverChunks.apply(loss, chunks, len(shared), *shared, *split)
    parts = zip(*(x.split(list(chunks)) for x in split), strict=True)
    return torch.stack([loss(chunk, shared, part) for chunk, part in enumerate(parts)]).sum()


class _SumOverChunks(torch.autograd.Function):
    """Saves the gradients of the inputs for the backward pass; there they are multiplied by the scalar gradient."""

    @staticmethod
    def forward(ctx: Any, loss: ChunkLoss, chunks: Sequence[int], shared_count: int, *tensors: Tensor) -> Tensor:
        needs_grad = any(ctx.needs_input_grad)
        shared = [x.detach().requires_grad_(needs_grad) for x in tensors[:shared_count]]
        split = tensors[shared_count:]
        shared_grads = [torch.zeros_like(x) for x in shared]
        split_grads = [torch.empty_like(x) for x in split]
        total, first = torch.zeros((), device=tensors[0].device), 0
        for chunk, size in enumerate(chunks):
            digits = slice(first, first := first + size)
            parts = [x[digits].detach().requires_grad_(needs_grad) for x in split]
            with torch.set_grad_enabled(needs_grad):
                value = loss(chunk, shared, parts)
            total += value.detach()
            if value.requires_grad:
                grads = torch.autograd.grad(value, [*shared, *parts])
            else:  # a chunk without pairs
                grads = tuple(torch.zeros_like(x) for x in (*shared, *parts))
            torch._foreach_add_(shared_grads, grads[:shared_count])
            for split_grad, grad in zip(split_grads, grads[shared_count:], strict=True):
                split_grad[digits] = grad
        ctx.save_for_backward(*shared_grads, *split_grads)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, *(gradient * factor for gradient in ctx.saved_tensors))

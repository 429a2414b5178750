"""A sum over digits, a run of digits at a time.

Where the loss of a run needs much memory, its gradient is taken as soon as it is known: what the run made stays in a
cache, and that of all digits never exists at a time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def even_runs(number: Sequence[int], *, most: int | None = None) -> list[int]:
    """Lengths of runs of neighbouring digits whose numbers of pairs are about equal.

    A run is one matrix product, as wide as its widest digit; at most a quarter of it is empty. Entropy singles out
    digits, and one run for all of them would be as wide as the favourite.

    Args:
        most: pairs of a run, the empty ones included, if it has more than one digit.
    """
    runs: list[int] = []
    pairs = widest = 0
    for count in number:
        pairs, widest = pairs + count, max(widest, count)
        size = (runs[-1] + 1) * widest if runs else 0
        if runs and 0.75 * size <= pairs and (most is None or size <= most):
            runs[-1] += 1
        else:
            runs.append(1)
            pairs = widest = count
    return runs


RunLoss = Callable[[int, Sequence[Tensor], Sequence[Tensor]], Tensor]


def total_of_runs(loss: RunLoss, runs: Sequence[int], shared: Sequence[Tensor], split: Sequence[Tensor]) -> Tensor:
    """``sum of loss(run, shared, parts)``, with ``parts`` the run's digits of the tensors ``split``.

    With several runs, each run's gradients, if any are wanted, are taken right after its loss. Not in fp16: there they
    must be made at the scale of the GradScaler, which comes with the backward pass; what overflows would do so forever.
    """
    if len(runs) == 1:
        return loss(0, shared, split)
    if torch.is_grad_enabled() and not _half(shared[0].device.type):
        return _TotalOfRuns.apply(loss, runs, len(shared), *shared, *split)  # type: ignore[no-any-return]
    parts = zip(*(x.split(list(runs)) for x in split), strict=True)
    return torch.stack([loss(run, shared, own) for run, own in enumerate(parts)]).sum()


def _half(kind: str) -> bool:
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16


class _TotalOfRuns(torch.autograd.Function):
    """Keeps gradients in place of what they are made from. The loss is a scalar: its gradient is a factor."""

    @staticmethod
    def forward(ctx: Any, loss: RunLoss, runs: Sequence[int], number: int, *tensors: Tensor) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        shared = [x.detach().requires_grad_(wanted) for x in tensors[:number]]
        split = tensors[number:]
        gradient_of_shared = [torch.zeros_like(x) for x in shared]
        gradient_of_split = [torch.empty_like(x) for x in split]
        total, first = torch.zeros((), device=tensors[0].device), 0
        for run, size in enumerate(runs):
            here = slice(first, first := first + size)
            parts = [x[here].detach().requires_grad_(wanted) for x in split]
            with torch.set_grad_enabled(wanted):
                value = loss(run, shared, parts)
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

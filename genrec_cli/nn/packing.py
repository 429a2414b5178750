"""Packed sequences: one flat array of tokens, so that linear layers and heads do no work on padding.

Legend: B sequences, N tokens in all, T longest length, C = B x T cells of a padded grid, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

SPLIT_BELOW = 0.6
"""Attention uses two grids, of short and of long sequences, if they have at most this fraction of the cells of one."""


class _Gather(torch.autograd.Function):
    """``x[there]`` with the gradient ``g[back]``: a gather in both directions, in place of autograd's scatter-add. The
    indices invert each other on real cells; padding cells get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return g.index_select(0, *ctx.saved_tensors), None, None


class _Scatter(torch.autograd.Function):
    """``x[there]`` whose gradient is copied to the rows ``there``; it is zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor) -> Tensor:
        ctx.save_for_backward(there)
        ctx.rows = x.shape[0]
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (there,) = ctx.saved_tensors
        return g.new_zeros(ctx.rows, *g.shape[1:]).index_copy_(0, there, g), None


def take(x_ND: Tensor, index_M: Tensor) -> Tensor:
    """``x_ND[index_M]`` for indices without repetition; the gradient is a copy in place of a sum."""
    return _Scatter.apply(x_ND, index_M)


def views(x: Tensor) -> bool:
    """Whether heads are split by views in place of one gather. Views take fewer kernel launches on a GPU, fewer nodes
    in an exported graph, and no copy on a CPU, where only training, for its gradient and dropout, is slower by them."""
    return x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_inference_mode_enabled()


def concatenate(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.cat`` without a copy of a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def by_head(x_BTD: Tensor, heads: int) -> Tensor:
    """``x_BHTd``, a view."""
    return x_BTD.unflatten(-1, (heads, -1)).transpose(1, 2)


def positions(length_B: Tensor, size: int | None = None) -> tuple[Tensor, Tensor]:
    """``position_N`` and ``sequence_N`` of the tokens of consecutive sequences. Without their number ``size`` there is
    a host-device synchronisation."""
    sequence_N = torch.arange(len(length_B), device=length_B.device).repeat_interleave(length_B, output_size=size)
    start_B = length_B.cumsum(0) - length_B
    return torch.arange(len(sequence_N), device=length_B.device) - start_B[sequence_N], sequence_N


@dataclass(frozen=True)
class Grid:
    """Neighbouring sequences of a packed batch and their padded layout, padding on the right."""

    begin: int
    """First token."""
    end: int
    """Token after the last."""
    longest: int
    """T, the longest of these sequences."""
    length_B: Tensor
    cell_N: Tensor
    """Cell of each token."""
    token_C: Tensor
    """Token of each cell, from ``begin``; 0 in a padding cell."""
    full: bool
    """Whether there is no padding."""
    layouts: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    """Cache of :meth:`_layout`: all blocks of a model use the same."""

    @classmethod
    def of(cls, length_B: Tensor, begin: int, size: int, longest: int, *, full: bool) -> "Grid":
        """From lengths on any device; their sum ``size`` and maximum ``longest`` come from the host: no
        synchronisation."""
        position_N, sequence_N = positions(length_B, size)
        start_B1 = (length_B.cumsum(0) - length_B)[:, None]
        step_T = torch.arange(longest, device=length_B.device)
        token_C = torch.where(step_T < length_B[:, None], start_B1 + step_T, 0).flatten()
        return cls(begin, begin + size, longest, length_B, sequence_N * longest + position_N, token_C, full)

    def expand(self, rows_before: int, digits: int, extra: int) -> "Grid":
        """This grid with ``digits`` tokens in place of each token, and ``extra`` more tokens per sequence."""
        size = (self.end - self.begin) * digits + extra * len(self.length_B)
        length_B, longest = self.length_B * digits + extra, self.longest * digits + extra
        return Grid.of(length_B, self.begin * digits + extra * rows_before, size, longest, full=self.full)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Grid":
        """The same grid with every tensor changed."""
        length_B, cell_N, token_C = change(self.length_B), change(self.cell_N), change(self.token_C)
        return replace(self, length_B=length_B, cell_N=cell_N, token_C=token_C, layouts={})

    def pad(self, x_ND: Tensor) -> Tensor:
        """This grid's tokens of a packed ``x_ND`` as ``x_BTD``; the values of padding cells have no meaning."""
        tokens = x_ND[self.begin : self.end]
        cells = tokens if self.full else _Gather.apply(tokens, self.token_C, self.cell_N)
        return cells.unflatten(0, (-1, self.longest))

    def pack(self, x_BTD: Tensor) -> Tensor:
        """Padded ``x_BTD`` to this grid's packed tokens."""
        cells = x_BTD.flatten(0, 1)
        return cells if self.full else take(cells, self.cell_N)

    def sides(self, x_ND: Tensor, heads: int, sides: int) -> tuple[Tensor, ...]:
        """``sides`` tensors ``x_BHTd``, such as queries, keys and values, from a packed ``x_ND`` that holds them side
        by side."""
        if views(x_ND):
            return tuple(by_head(x_BTD, heads) for x_BTD in self.pad(x_ND).chunk(sides, dim=-1))
        cells = self._gather(x_ND, sides, heads, (2, 0, 3, 1))
        return cells.view(sides, -1, heads, self.longest, cells.shape[1]).unbind()

    def digits(self, x_NKD: Tensor, heads: int) -> Tensor:
        """``x_BHQd``: the K vectors of each token as K positions, Q = T x K."""
        if views(x_NKD):
            return by_head(self.pad(x_NKD).flatten(1, 2), heads)
        cells = self._gather(x_NKD, x_NKD.shape[1], heads, (0, 3, 1, 2))
        return cells.view(-1, heads, self.longest * x_NKD.shape[1], cells.shape[1])

    def join(self, x_BHQd: Tensor, digits: int = 1) -> Tensor:
        """The inverse of :meth:`digits`: ``x_NKD``, or ``x_ND`` for one position per token."""
        heads = x_BHQd.shape[1]
        if views(x_BHQd):
            x_BQD = x_BHQd.transpose(1, 2).flatten(2)
            return self.pack(x_BQD if digits == 1 else x_BQD.unflatten(1, (-1, digits)))
        _, back = self._layout(digits, heads, (0, 3, 1, 2))
        x_ND = take(x_BHQd.reshape(-1, x_BHQd.shape[-1]), back).view(len(self.cell_N), digits, -1)
        return x_ND[:, 0] if digits == 1 else x_ND

    def _gather(self, x: Tensor, parts: int, heads: int, order: tuple[int, ...]) -> Tensor:
        there, back = self._layout(parts, heads, order)
        tokens = x[self.begin : self.end]
        return _Gather.apply(tokens.reshape(len(tokens) * parts * heads, -1), there, back)

    def _layout(self, parts: int, heads: int, order: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Indices between rows (N, parts, H) and cells (B, T, parts, H), whose axes are in the given order."""
        key = parts, heads, *order
        if key not in self.layouts:
            row_PH = torch.arange(parts * heads).view(parts, heads)
            there = (self.token_C.view(-1, self.longest, 1, 1) * (parts * heads) + row_PH).permute(order).contiguous()
            place_BTPH = torch.arange(there.numel()).view(there.shape).permute([order.index(axis) for axis in range(4)])
            back = place_BTPH.reshape(-1, parts * heads)[self.cell_N]
            self.layouts[key] = there.flatten(), back.flatten()
        return self.layouts[key]

    def real_BT(self) -> Tensor:
        """Which cells hold a token."""
        return torch.arange(self.longest, device=self.length_B.device) < self.length_B[:, None]

    def padding_mask(self) -> Tensor | None:
        """``real_B11T``, the mask of keys for attention; None without padding."""
        return None if self.full else self.real_BT()[:, None, None]


@dataclass(frozen=True)
class Packing:
    """The layout of N packed tokens in B sequences, one sequence after the other. The host makes the index tensors once
    per batch: no host-device synchronisation."""

    length_B: Tensor
    """Length of each sequence, at least 1."""
    position_N: Tensor
    """Position of each token in its sequence, from 0."""
    sequence_N: Tensor
    """Sequence of each token."""
    last_B: Tensor
    """Index in N of each sequence's last token."""
    grid: Grid
    """All sequences as one grid."""
    parts: tuple[Grid, ...]
    """The grids of attention: the same grid, or two with less padding."""

    @classmethod
    def of(cls, lengths: np.ndarray, longest: int | None = None) -> "Packing":
        """From lengths (B) on the host; sorted lengths need least padding. ``longest`` pads the one grid to this
        length, so that no shape depends on the lengths.

        Raises:
            ValueError: for an empty sequence.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        if lengths.size == 0 or lengths.min() < 1:
            raise ValueError("a packed batch needs sequences of length 1 or more")
        length_B, size, maximum = torch.from_numpy(lengths), int(lengths.sum()), int(lengths.max())
        full = longest is None and bool((lengths == maximum).all())
        grid = Grid.of(length_B, 0, size, longest or maximum, full=full)
        return cls._of(grid, (grid,) if longest else _parts(lengths, grid))

    @classmethod
    def _of(cls, grid: Grid, parts: tuple[Grid, ...]) -> "Packing":
        position_N, sequence_N = positions(grid.length_B, grid.end)
        return cls(grid.length_B, position_N, sequence_N, grid.length_B.cumsum(0) - 1, grid, parts)

    def to(self, device: torch.device) -> "Packing":
        return self.mapped(lambda x: x.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Packing":
        """The same packing with every tensor changed."""
        length_B, position_N, sequence_N = change(self.length_B), change(self.position_N), change(self.sequence_N)
        last_B, grid = change(self.last_B), self.grid.mapped(change)
        parts = (grid,) if len(self.parts) == 1 else tuple(part.mapped(change) for part in self.parts)
        return Packing(length_B, position_N, sequence_N, last_B, grid, parts)

    def expand(self, digits: int = 1, *, prefix: int = 0, suffix: int = 0) -> "Packing":
        """The packing of the same sequences with ``digits`` tokens in place of each token, and ``prefix`` tokens before
        and ``suffix`` tokens after each sequence. No host-device synchronisation."""
        extra, rows, parts = prefix + suffix, 0, []
        for part in self.parts:
            parts.append(part.expand(rows, digits, extra))
            rows += len(part.length_B)
        grid = parts[0] if len(parts) == 1 else self.grid.expand(0, digits, extra)
        return Packing._of(grid, tuple(parts))

    @property
    def sequences(self) -> int:
        """B."""
        return self.length_B.shape[0]


def _parts(lengths: np.ndarray, grid: Grid) -> tuple[Grid, ...]:
    """The best split into short and long sequences, if the lengths are sorted and it saves enough cells."""
    if grid.full or (np.diff(lengths) < 0).any():
        return (grid,)
    cut = np.arange(1, len(lengths))
    cells = cut * lengths[cut - 1] + (len(lengths) - cut) * lengths[-1]
    best = int(cells.argmin()) + 1
    if cells[best - 1] > SPLIT_BELOW * len(lengths) * lengths[-1]:
        return (grid,)
    parts, begin = [], 0
    for part in (lengths[:best], lengths[best:]):
        parts.append(
            Grid.of(torch.from_numpy(part), begin, int(part.sum()), int(part[-1]), full=bool(part[0] == part[-1]))
        )
        begin = parts[-1].end
    return tuple(parts)

"""Packed sequences: one flat row of tokens, so that no linear layer or head works on padding.

Legend: B sequences, N tokens in all, T longest length, C = B x T cells of a padded grid, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

SPLIT_BELOW = 0.6
"""Attention is laid out as two grids, short and long sequences, if that leaves so few of the cells."""


class _Gather(torch.autograd.Function):
    """``x[there]`` whose gradient is ``g[back]``: a gather both ways, where autograd would add up one by one.

    Right only if the two index tensors invert each other on the cells that matter and no gradient reaches
    the rest; padding never gets one, since nothing real reads it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return g.index_select(0, back), None, None


class _Scatter(torch.autograd.Function):
    """The transpose of :class:`_Gather` for taking tokens out of a grid: padding cells get gradient zero."""

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
    """``x_ND[index_M]`` for indices without repetition, with a gradient that is a copy instead of a sum."""
    return _Scatter.apply(x_ND, index_M)  # type: ignore[no-any-return]


def by_head(x_BTD: Tensor, heads: int) -> Tensor:
    """``x_BHTd``, a view."""
    return x_BTD.unflatten(-1, (heads, -1)).transpose(1, 2)


def _rows(x: Tensor, rows: int) -> Tensor:
    """Every token as so many rows."""
    return x.reshape(len(x) * rows, -1)


@dataclass(frozen=True)
class Grid:
    """Some neighbouring sequences of a packed batch and their padded layout, padding on the right."""

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
    """Token of each cell, counted from ``begin``; a padding cell names the first."""
    full: bool
    """Whether there is no padding at all."""
    layouts: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    """What :meth:`_layout` has made: the blocks of a model ask for the same."""

    @classmethod
    def of(cls, lengths: np.ndarray, begin: int, longest: int | None = None) -> "Grid":
        """``longest`` may be more than any of the lengths; then the grid counts as padded in any case."""
        total, wider = int(lengths.sum()), longest is not None
        longest = longest or int(lengths.max())
        starts = np.cumsum(lengths) - lengths
        steps = np.arange(longest)
        token = np.where(steps < lengths[:, None], starts[:, None] + steps, 0)
        sequence = np.repeat(np.arange(len(lengths)), lengths)
        cell = sequence * longest + np.arange(total) - starts[sequence]
        return cls(
            begin, begin + total, longest, torch.from_numpy(lengths), torch.from_numpy(cell),
            torch.from_numpy(token.ravel()), len(cell) == token.size and not wider,
        )  # fmt: skip

    def expand(self, rows_before: int, digits: int, extra: int) -> "Grid":
        """This grid where every token becomes ``digits`` tokens and each sequence has ``extra`` tokens more."""
        length_B = self.length_B * digits + extra
        longest, rows = self.longest * digits + extra, len(length_B)
        begin = self.begin * digits + extra * rows_before
        end = self.end * digits + extra * (rows_before + rows)
        start_B1 = (length_B.cumsum(0) - length_B)[:, None]
        step_T = torch.arange(longest, device=length_B.device)
        token_C = torch.where(step_T < length_B[:, None], start_B1 + step_T, 0).flatten()
        row_N = torch.arange(rows, device=length_B.device).repeat_interleave(length_B, output_size=end - begin)
        cell_N = torch.arange(end - begin, device=length_B.device) + (row_N * longest - start_B1[row_N, 0])
        return Grid(begin, end, longest, length_B, cell_N, token_C, self.full)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Grid":
        """The same grid with every tensor changed."""
        changed = map(change, (self.length_B, self.cell_N, self.token_C))
        return Grid(self.begin, self.end, self.longest, *changed, self.full)

    def pad(self, x_ND: Tensor) -> Tensor:
        """This grid's tokens of a packed ``x_ND`` as ``x_BTD``; padding cells hold copies: never read them."""
        own = x_ND[self.begin : self.end]
        cells = own if self.full else _Gather.apply(own, self.token_C, self.cell_N)
        return cells.unflatten(0, (-1, self.longest))  # type: ignore[no-any-return]

    def pack(self, x_BTD: Tensor) -> Tensor:
        """Padded ``x_BTD`` to this grid's packed tokens."""
        cells = x_BTD.flatten(0, 1)
        return cells if self.full else take(cells, self.cell_N)

    # ---- heads: packed tokens to (B, H, T, d) and back -------------------------------------------

    def sides(self, x_ND: Tensor, heads: int, sides: int) -> tuple[Tensor, ...]:
        """``sides`` tensors ``x_BHTd``, such as queries, keys and values, that lie side by side in ``x_ND``."""
        if x_ND.device.type != "cpu":  # attention reads views there; indices of heads would be launches
            return tuple(by_head(x_BTD, heads) for x_BTD in self.pad(x_ND).chunk(sides, dim=-1))
        there, back = self._layout(sides, heads, (2, 0, 3, 1))
        cells = _Gather.apply(_rows(x_ND[self.begin : self.end], sides * heads), there, back)
        return cells.view(sides, -1, heads, self.longest, cells.shape[1]).unbind()  # type: ignore[no-any-return]

    def digits(self, x_NKD: Tensor, heads: int) -> Tensor:
        """``x_BHQd``: the K vectors of each token as places of their own, Q = T x K."""
        if x_NKD.device.type != "cpu":
            return by_head(self.pad(x_NKD).flatten(1, 2), heads)
        digits = x_NKD.shape[1]
        there, back = self._layout(digits, heads, (0, 3, 1, 2))
        cells = _Gather.apply(_rows(x_NKD[self.begin : self.end], digits * heads), there, back)
        return cells.view(-1, heads, self.longest * digits, cells.shape[1])  # type: ignore[no-any-return]

    def join(self, x_BHQd: Tensor, digits: int = 1) -> Tensor:
        """The inverse of :meth:`digits`, ``x_NKD``, or ``x_ND`` where there is one place a token."""
        heads = x_BHQd.shape[1]
        if x_BHQd.device.type != "cpu":
            x_BQD = x_BHQd.transpose(1, 2).flatten(2)
            return self.pack(x_BQD if digits == 1 else x_BQD.unflatten(1, (-1, digits)))
        _, back = self._layout(digits, heads, (0, 3, 1, 2))
        x_ND = take(x_BHQd.reshape(-1, x_BHQd.shape[-1]), back).view(len(self.cell_N), digits, -1)
        return x_ND[:, 0] if digits == 1 else x_ND

    def _layout(self, parts: int, heads: int, order: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Indices between rows (N, parts, H) and cells (B, T, parts, H) in the given order of their axes."""
        key = parts, heads, *order
        if key not in self.layouts:
            row_PH = torch.arange(parts * heads).view(parts, heads)
            there = (self.token_C.view(-1, self.longest, 1, 1) * (parts * heads) + row_PH).permute(order).contiguous()
            inverse = [order.index(axis) for axis in range(4)]
            place_BTPH = torch.arange(there.numel()).view(there.shape).permute(inverse)
            back = place_BTPH.reshape(-1, parts * heads)[self.cell_N]
            self.layouts[key] = there.flatten(), back.flatten()
        return self.layouts[key]

    def real_BT(self) -> Tensor:
        """Which cells hold a token."""
        steps_T = torch.arange(self.longest, device=self.length_B.device)
        return steps_T < self.length_B[:, None]


@dataclass(frozen=True)
class Packing:
    """How N packed tokens lie in B sequences, one sequence after the other.

    All index tensors are made on the host, once a batch, so that a device is never asked for a size.
    """

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
    """The same as one grid, or as two of less padding: what attention works on."""

    @classmethod
    def of(cls, lengths: np.ndarray, longest: int | None = None) -> "Packing":
        """From lengths (B), on the host; sorted lengths pad least. Raises ValueError for an empty sequence.

        With ``longest``, how the tokens lie on the grid decides about no shape: there is one grid, so wide.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        if lengths.size == 0 or lengths.min() < 1:
            raise ValueError("a packed batch needs sequences of length 1 or more")
        starts = np.cumsum(lengths) - lengths
        sequence = np.repeat(np.arange(lengths.size), lengths)
        grid = Grid.of(lengths, 0, longest)
        return cls(
            torch.from_numpy(lengths),
            torch.from_numpy(np.arange(int(lengths.sum())) - starts[sequence]),
            torch.from_numpy(sequence),
            torch.from_numpy(starts + lengths - 1),
            grid,
            (grid,) if longest else _parts(lengths, grid),
        )

    def to(self, device: torch.device) -> "Packing":
        """The same packing with its index tensors on a device."""
        return self.mapped(lambda x: x.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Packing":
        """The same packing with every tensor changed."""
        changed = [change(x) for x in (self.length_B, self.position_N, self.sequence_N, self.last_B)]
        grid = self.grid.mapped(change)
        parts = (grid,) if len(self.parts) == 1 else tuple(part.mapped(change) for part in self.parts)
        return Packing(*changed, grid, parts)

    def expand(self, digits: int = 1, *, prefix: int = 0, suffix: int = 0) -> "Packing":
        """The packing of the same sequences with more tokens: every item becomes ``digits`` tokens, one after the
        other, between ``prefix`` tokens before and ``suffix`` tokens behind each sequence. Made on the device of this
        packing without synchronisation: all sizes follow from those that the host knows."""
        extra = prefix + suffix
        rows, parts = 0, []
        for part in self.parts:
            parts.append(part.expand(rows, digits, extra))
            rows += len(part.length_B)
        grid = parts[0] if len(parts) == 1 else self.grid.expand(0, digits, extra)
        length_B = grid.length_B
        sequence_B = torch.arange(len(length_B), device=length_B.device)
        sequence_N = sequence_B.repeat_interleave(length_B, output_size=grid.end)
        end_B = length_B.cumsum(0)
        position_N = torch.arange(grid.end, device=length_B.device) - (end_B - length_B)[sequence_N]
        return Packing(length_B, position_N, sequence_N, end_B - 1, grid, tuple(parts))

    @property
    def sequences(self) -> int:
        """B."""
        return self.length_B.shape[0]


def _parts(lengths: np.ndarray, grid: Grid) -> tuple[Grid, ...]:
    """The best cut into short and long sequences, if the lengths are sorted and it saves enough."""
    if grid.full or (np.diff(lengths) < 0).any():
        return (grid,)
    cut = np.arange(1, len(lengths))
    cells = cut * lengths[cut - 1] + (len(lengths) - cut) * lengths[-1]
    best = int(cells.argmin())
    if cells[best] > SPLIT_BELOW * len(lengths) * lengths[-1]:
        return (grid,)
    short, long = lengths[: best + 1], lengths[best + 1 :]
    return Grid.of(short, 0), Grid.of(long, int(short.sum()))

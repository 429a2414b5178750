"""T5's encoder and decoder (Raffel et al., JMLR 2020, arXiv 1910.10683), packed and cached.

Pre-norm blocks with RMS norm, no biases, attention logits that are not scaled, ReLU inside the feed-forward,
and a learned bias for each head and bucket of relative positions in place of position embeddings; one table
serves all blocks of a stack. Parity with ``transformers.T5ForConditionalGeneration`` is tested weight for weight.

The encoder's linear layers see N packed tokens. The decoder reads L tokens of every row at once (training), or
one token of each of M beams, whose earlier keys and values lie in a :class:`Cache`. Queries of one row, places
or beams, share what :class:`Memory` holds of it: no beam has a copy of the history.

Legend: B rows, N packed tokens, T tokens of the longest history, L places of a target, M beams, H heads,
d head width, D width.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from genrec_cli.nn.attend import attend
from genrec_cli.nn.cache import Cache
from genrec_cli.nn.causal_cross_attention import CausalCrossAttention
from genrec_cli.nn.dropout import Dropout
from genrec_cli.nn.packing import Grid, Packing, by_head

BUCKETS, FARTHEST = 32, 128
"""T5's buckets of relative positions, and the distance from which all share the last one."""


class RelativeBias(nn.Module):
    """A number for each head and bucket of distances; short distances have buckets of their own."""

    def __init__(self, heads: int, *, both_sides: bool) -> None:
        super().__init__()
        self.both_sides = both_sides
        self.table = nn.Embedding(BUCKETS, heads)

    def forward(self, longest: int) -> Tensor:
        """``bias_HLL``: row is the place that looks, column the place looked at."""
        place_L = torch.arange(longest, device=self.table.weight.device)
        return self.table(self.buckets(place_L - place_L[:, None])).permute(2, 0, 1)

    def buckets(self, ahead: Tensor) -> Tensor:
        """The bucket of each relative position (place looked at minus place that looks)."""
        number = BUCKETS // 2 if self.both_sides else BUCKETS
        distance = ahead.abs() if self.both_sides else (-ahead).clamp_min(0)
        near = number // 2
        stretch = (distance.clamp_min(1).float() / near).log() / math.log(FARTHEST / near)
        far = (near + (stretch * (number - near)).long()).clamp_max(number - 1)
        bucket = torch.where(distance < near, distance, far)
        return bucket + number * (ahead > 0) if self.both_sides else bucket


class Attention(nn.Module):
    """Queries of one side, keys and values of the same or another."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.memory = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.output = nn.Linear(heads * head_width, width, bias=False)

    def reset(self) -> None:
        """T5's start: as if logits had been scaled."""
        width, inner = self.query.in_features, self.query.out_features
        nn.init.normal_(self.query.weight, std=(width * inner / self.heads) ** -0.5)
        nn.init.normal_(self.memory.weight, std=width**-0.5)
        nn.init.normal_(self.output.weight, std=inner**-0.5)

    def split(self, x_BLD: Tensor) -> Tensor:
        """``x_BHLd``."""
        return by_head(x_BLD, self.heads)

    def keys(self, memory_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values by head from what ``memory`` made of whole rows."""
        k_BTD, v_BTD = memory_BTD.chunk(2, dim=-1)
        return self.split(k_BTD), self.split(v_BTD)

    def packed_keys(self, memory_ND: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Keys and values by head from what ``memory`` made of packed tokens."""
        k_BHTd, v_BHTd = grid.sides(memory_ND, self.heads, 2)
        return k_BHTd, v_BHTd

    def mix(self, q_BHLd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, mask: Tensor | None) -> Tensor:
        """Values by the softmax of ``q k + mask``: ``mixed_BHLd``."""
        return attend(q_BHLd, k_BHTd, v_BHTd, mask, dropout_p=self.dropout if self.training else 0.0, scale=1.0)

    def join(self, mixed_BHLd: Tensor) -> Tensor:
        """Heads side by side."""
        return mixed_BHLd.transpose(1, 2).flatten(2)

    def packed(self, x_ND: Tensor, parts: list[tuple[Grid, Tensor]]) -> Tensor:
        """Self-attention within packed sequences, grid by grid with its bias."""
        q_ND, memory_ND = self.query(x_ND), self.memory(x_ND)
        mixed = [
            grid.join(self.mix(*grid.sides(q_ND, self.heads, 1), *self.packed_keys(memory_ND, grid), bias))
            for grid, bias in parts
        ]
        return self.output(mixed[0] if len(mixed) == 1 else torch.cat(mixed))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.inward = nn.Linear(width, inner, bias=False)
        self.outward = nn.Linear(inner, width, bias=False)
        self.dropout = Dropout(dropout)

    def reset(self) -> None:
        """T5's start."""
        nn.init.normal_(self.inward.weight, std=self.inward.in_features**-0.5)
        nn.init.normal_(self.outward.weight, std=self.outward.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.outward(self.dropout(self.inward(x).relu_()))


class Sizes(Protocol):
    """What a stack asks of a model's settings."""

    width: int
    layers: int
    heads: int
    head_width: int
    inner: int
    dropout: float
    attention_dropout: float


def _norm(width: int) -> nn.Module:
    return nn.RMSNorm(width, eps=1e-6)


class EncoderBlock(nn.Module):
    """Norm, self-attention, residual; norm, feed-forward, residual."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm_self = _norm(sizes.width)
        self.self_attention = Attention(sizes.width, sizes.heads, sizes.head_width, sizes.attention_dropout)
        self.norm_feed = _norm(sizes.width)
        self.feed = FeedForward(sizes.width, sizes.inner, sizes.dropout)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, x_ND: Tensor, parts: list[tuple[Grid, Tensor]]) -> Tensor:
        x_ND = x_ND + self.dropout(self.self_attention.packed(self.norm_self(x_ND), parts))
        return x_ND + self.dropout(self.feed(self.norm_feed(x_ND)))


class Encoder(nn.Module):
    """Packed token embeddings to packed states: ``x_ND -> h_ND``."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.bias = RelativeBias(sizes.heads, both_sides=True)
        self.blocks = nn.ModuleList(EncoderBlock(sizes) for _ in range(sizes.layers))
        self.norm = _norm(sizes.width)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, x_ND: Tensor, packing: Packing, seen_TT: Tensor | None = None) -> Tensor:
        """``seen_TT``: what a place of the longest sequence sees, nothing that is padding for it; None: all tokens of
        its sequence."""
        bias_HTT = self.bias(max(grid.longest for grid in packing.parts))
        if seen_TT is not None:
            bias_HTT = bias_HTT.masked_fill(~seen_TT, -torch.inf)
        parts = []
        for grid in packing.parts:
            bias = bias_HTT[None, :, : grid.longest, : grid.longest]
            if seen_TT is None and not grid.full:
                bias = bias.masked_fill(~grid.real_BT()[:, None, None], -torch.inf)
            parts.append((grid, bias))
        h_ND = self.dropout(x_ND)
        for block in self.blocks:
            h_ND = block(h_ND, parts)
        return self.dropout(self.norm(h_ND))


class Memory(Protocol):
    """What the decoder's blocks look up of the histories."""

    def attend(self, block: int, attention: Attention, x_BLD: Tensor) -> Tensor:
        """What block number ``block``'s attention makes of it at every place, before the output's layer."""
        ...


@dataclass(frozen=True)
class CachedMemory:
    """A memory of which a row sees all of its history: computed once, read at every place and by every beam."""

    rows: list[slice]
    """Rows of each grid."""
    real: list[Tensor | None]
    """``real_B11T`` of each grid, None where nothing is padding."""
    keys: list[list[tuple[Tensor, Tensor]]]
    """For each block and grid ``k_BHTd`` and ``v_BHTd``."""

    def attend(self, block: int, attention: Attention, x_BLD: Tensor) -> Tensor:
        q_BHLd = attention.split(attention.query(x_BLD))
        parts = zip(self.rows, self.real, self.keys[block], strict=True)
        mixed = [attention.mix(q_BHLd[rows], *keys, real) for rows, real, keys in parts]
        return attention.join(mixed[0] if len(mixed) == 1 else torch.cat(mixed))


@dataclass(frozen=True)
class CausalMemory:
    """A memory of which every target sees its history up to the item that it follows: rows are targets."""

    h_ND: Tensor
    past: CausalCrossAttention

    def attend(self, block: int, attention: Attention, x_BLD: Tensor) -> Tensor:
        memory_ND = attention.memory(self.h_ND)
        return self.past.mix(attention.query(x_BLD), memory_ND, attention.heads, attention.mix)


class DecoderBlock(EncoderBlock):
    """An encoder block with attention to the memory between its two halves."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.norm_cross = _norm(sizes.width)
        self.cross_attention = Attention(sizes.width, sizes.heads, sizes.head_width, sizes.attention_dropout)

    def forward(  # type: ignore[override]
        self, x_BLD: Tensor, bias: Tensor, memory: Memory, block: int, cache: Cache | None = None
    ) -> Tensor:
        """L places of a target, or the newest places of L beams and the cached ones before them."""
        attention, normal_BLD = self.self_attention, self.norm_self(x_BLD)
        keys = attention.keys(attention.memory(normal_BLD))
        if cache is not None:
            keys = cache.append(block, *keys)
        mixed_BHLd = attention.mix(attention.split(attention.query(normal_BLD)), *keys, bias)
        x_BLD = x_BLD + self.dropout(attention.output(attention.join(mixed_BHLd)))
        attended_BLD = memory.attend(block, self.cross_attention, self.norm_cross(x_BLD))
        x_BLD = x_BLD + self.dropout(self.cross_attention.output(attended_BLD))
        return x_BLD + self.dropout(self.feed(self.norm_feed(x_BLD)))


class Decoder(nn.Module):
    """Embeddings of the digits so far and the memory of the histories to states."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.bias = RelativeBias(sizes.heads, both_sides=False)
        self.blocks = nn.ModuleList(DecoderBlock(sizes) for _ in range(sizes.layers))
        self.norm = _norm(sizes.width)
        self.dropout = Dropout(sizes.dropout)

    def remember(self, h_ND: Tensor, packing: Packing) -> CachedMemory:
        """Keys and values of the encoder's states, for all blocks."""
        rows, begin = [], 0
        for grid in packing.parts:
            rows.append(slice(begin, begin + len(grid.length_B)))
            begin = rows[-1].stop
        keys = []
        for block in self.blocks:
            memory_ND = block.cross_attention.memory(h_ND)
            keys.append([block.cross_attention.packed_keys(memory_ND, grid) for grid in packing.parts])
        return CachedMemory(rows, [None if g.full else g.real_BT()[:, None, None] for g in packing.parts], keys)

    def forward(self, x_BLD: Tensor, memory: Memory) -> Tensor:
        """``h_BLD``: the state of each place, which sees the places up to itself."""
        places = x_BLD.shape[1]
        later_LL = torch.ones(places, places, dtype=torch.bool, device=x_BLD.device).triu(1)
        bias_HLL = self.bias(places).masked_fill(later_LL, -torch.inf)
        return self._blocks(x_BLD, bias_HLL[None], memory)

    def step(self, x_BMD: Tensor, parent_BM: Tensor, memory: Memory, cache: Cache) -> Tensor:
        """``h_BMD`` of one more token a beam; its keys and values go into the cache."""
        cache.grow(parent_BM)
        bias_H1l = self.bias(cache.ancestor_BMl.shape[2])[:, -1:]
        return self._blocks(x_BMD, cache.bias(bias_H1l), memory, cache)

    def _blocks(self, x_BLD: Tensor, bias: Tensor, memory: Memory, cache: Cache | None = None) -> Tensor:
        h_BLD = self.dropout(x_BLD)
        for number, block in enumerate(self.blocks):
            h_BLD = block(h_BLD, bias, memory, number, cache)
        return self.dropout(self.norm(h_BLD))


def initialise(stack: Encoder | Decoder) -> None:
    """T5's start of a stack."""
    for part in stack.modules():
        if isinstance(part, (Attention, FeedForward)):
            part.reset()
    nn.init.normal_(stack.bias.table.weight, std=stack.norm.weight.shape[0] ** -0.5)

"""T5's encoder and decoder (Raffel et al., JMLR 2020, arXiv 1910.10683), packed, with a KV cache.

Pre-norm blocks with RMS norm, no biases, logits without scaling, ReLU in the feed-forward, and a learned bias per head
and bucket of relative positions; the blocks of a stack share one table. Parity with
``transformers.T5ForConditionalGeneration`` is tested weight for weight.

Legend: B rows, N packed tokens, T longest history, L positions of a target, M beams, H heads, d head width, D width.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from genrec_cli.nn.attention import MultiHead
from genrec_cli.nn.cache import Cache
from genrec_cli.nn.causal_cross_attention import CausalCrossAttention
from genrec_cli.nn.dropout import Dropout
from genrec_cli.nn.packing import Grid, Packing, concatenate
from genrec_cli.nn.transformer import Sizes

BUCKETS, FARTHEST = 32, 128
"""T5's buckets of relative positions, and the distance from which all share the last one."""


class RelativeBias(nn.Module):
    """A bias per head and bucket of relative positions; each short distance has its own bucket."""

    def __init__(self, heads: int, *, both_sides: bool) -> None:
        super().__init__()
        self.both_sides, self.table = both_sides, nn.Embedding(BUCKETS, heads)

    def forward(self, longest: int) -> Tensor:
        place_L = torch.arange(longest, device=self.table.weight.device)
        return self.table(self.buckets(place_L - place_L[:, None])).permute(2, 0, 1)

    def buckets(self, ahead: Tensor) -> Tensor:
        """The bucket of each relative position (key minus query)."""
        count = BUCKETS // 2 if self.both_sides else BUCKETS
        distance = ahead.abs() if self.both_sides else (-ahead).clamp_min(0)
        near = count // 2
        stretch = (distance.clamp_min(1).float() / near).log() / math.log(FARTHEST / near)
        far = (near + (stretch * (count - near)).long()).clamp_max(count - 1)
        bucket = torch.where(distance < near, distance, far)
        return bucket + count * (ahead > 0) if self.both_sides else bucket


class Attention(MultiHead):
    """Attention without biases and without scaling; ``memory`` gives keys and values side by side."""

    scale = 1.0

    def __init__(self, sizes: Sizes) -> None:
        inner = sizes.heads * sizes.head_width
        super().__init__(inner, sizes.heads, sizes.attention_dropout)
        self.query = nn.Linear(sizes.width, inner, bias=False)
        self.memory = nn.Linear(sizes.width, 2 * inner, bias=False)
        self.output = nn.Linear(inner, sizes.width, bias=False)

    def reset(self) -> None:
        width, inner = self.query.in_features, self.query.out_features
        nn.init.normal_(self.query.weight, std=(width * inner / self.heads) ** -0.5)
        nn.init.normal_(self.memory.weight, std=width**-0.5)
        nn.init.normal_(self.output.weight, std=inner**-0.5)

    def packed(self, x_ND: Tensor, parts: list[tuple[Grid, Tensor]]) -> Tensor:
        """Self-attention within packed sequences; ``parts`` are the grids and their biases."""
        q_ND, memory_ND = self.query(x_ND), self.memory(x_ND)
        mixed = []
        for grid, bias in parts:
            (q_BHTd,), (k_BHTd, v_BHTd) = grid.sides(q_ND, self.heads, 1), grid.sides(memory_ND, self.heads, 2)
            mixed.append(grid.join(self.mix(q_BHTd, k_BHTd, v_BHTd, bias)))
        return self.output(concatenate(mixed))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.inward = nn.Linear(sizes.width, sizes.inner, bias=False)
        self.outward = nn.Linear(sizes.inner, sizes.width, bias=False)
        self.dropout = Dropout(sizes.dropout)

    def reset(self) -> None:
        """T5's initialisation."""
        for linear in (self.inward, self.outward):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.outward(self.dropout(self.inward(x).relu_()))


def _norm(sizes: Sizes) -> nn.Module:
    return nn.RMSNorm(sizes.width, eps=1e-6)


class EncoderBlock(nn.Module):
    """Norm, self-attention, residual; norm, feed-forward, residual."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm_self, self.self_attention = _norm(sizes), Attention(sizes)
        self.norm_feed, self.feed, self.dropout = _norm(sizes), FeedForward(sizes), Dropout(sizes.dropout)

    def forward(self, x_ND: Tensor, parts: list[tuple[Grid, Tensor]]) -> Tensor:
        x_ND = x_ND + self.dropout(self.self_attention.packed(self.norm_self(x_ND), parts))
        return x_ND + self.dropout(self.feed(self.norm_feed(x_ND)))


class Memory(Protocol):
    """The encoder states of the histories for cross-attention."""

    def attend(self, block: int, attention: Attention, x_BLD: Tensor) -> Tensor:
        """``mixed_BLD``: cross-attention of block number ``block`` at every position, before its output layer."""


@dataclass(frozen=True)
class CachedMemory:
    """Cached keys and values of whole histories, shared by all positions and beams of a row."""

    rows: list[slice]
    """Rows of each grid."""
    mask: list[Tensor | None]
    """``real_B11T`` of each grid, None without padding."""
    keys: list[list[tuple[Tensor, ...]]]
    """``k_BHTd`` and ``v_BHTd`` per block and grid."""

    def attend(self, block: int, attention: Attention, x_BLD: Tensor) -> Tensor:
        q_BHLd = attention.split(attention.query(x_BLD))
        parts = zip(self.rows, self.mask, self.keys[block], strict=True)
        return attention.join(concatenate([attention.mix(q_BHLd[rows], k, v, mask) for rows, mask, (k, v) in parts]))


@dataclass(frozen=True)
class CausalMemory:
    """Causal cross-attention: a row per target, which sees its history up to the item that it follows."""

    h_ND: Tensor
    targets: CausalCrossAttention

    def attend(self, block: int, attention: Attention, x_BLD: Tensor) -> Tensor:
        memory_ND = attention.memory(self.h_ND)
        return self.targets.mix(attention.query(x_BLD), memory_ND, attention.heads, attention.mix)


class DecoderBlock(EncoderBlock):
    """An encoder block with cross-attention between its two halves."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.norm_cross, self.cross_attention = _norm(sizes), Attention(sizes)

    def forward(  # type: ignore[override]
        self, x_BLD: Tensor, bias: Tensor, memory: Memory, block: int, cache: Cache | None = None
    ) -> Tensor:
        """L positions of a target, or the newest positions of L beams, which attend to the cached ones too."""
        attention, normal_BLD = self.self_attention, self.norm_self(x_BLD)
        k_BLD, v_BLD = attention.memory(normal_BLD).chunk(2, dim=-1)
        keys = attention.split(k_BLD), attention.split(v_BLD)
        if cache is not None:
            keys = cache.append(block, *keys)
        mixed_BHLd = attention.mix(attention.split(attention.query(normal_BLD)), *keys, bias)
        x_BLD = x_BLD + self.dropout(attention.output(attention.join(mixed_BHLd)))
        attended_BLD = memory.attend(block, self.cross_attention, self.norm_cross(x_BLD))
        x_BLD = x_BLD + self.dropout(self.cross_attention.output(attended_BLD))
        return x_BLD + self.dropout(self.feed(self.norm_feed(x_BLD)))


class Stack(nn.Module):
    """What encoder and decoder share."""

    def __init__(self, sizes: Sizes, block: type[EncoderBlock], *, both_sides: bool) -> None:
        super().__init__()
        self.width, self.bias = sizes.width, RelativeBias(sizes.heads, both_sides=both_sides)
        self.blocks = nn.ModuleList(block(sizes) for _ in range(sizes.layers))
        self.norm, self.dropout = _norm(sizes), Dropout(sizes.dropout)

    def reset(self) -> None:
        """T5's initialisation."""
        for part in self.blocks.modules():
            if isinstance(part, (Attention, FeedForward)):
                part.reset()
        nn.init.normal_(self.bias.table.weight, std=self.width**-0.5)


class Encoder(Stack):
    """Packed token embeddings to packed states: ``x_ND -> h_ND``."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes, EncoderBlock, both_sides=True)

    def forward(self, x_ND: Tensor, packing: Packing, visible_TT: Tensor | None = None) -> Tensor:
        """``visible_TT``: the keys that each position of the longest sequence sees, none of which may be padding; None:
        all tokens of its sequence."""
        bias_HTT = self.bias(max(grid.longest for grid in packing.parts))
        if visible_TT is not None:
            bias_HTT = bias_HTT.masked_fill(~visible_TT, -torch.inf)
        parts = []
        for grid in packing.parts:
            bias, mask = bias_HTT[None, :, : grid.longest, : grid.longest], grid.padding_mask()
            parts.append(
                (grid, bias if visible_TT is not None or mask is None else bias.masked_fill(~mask, -torch.inf))
            )
        h_ND = self.dropout(x_ND)
        for block in self.blocks:
            h_ND = block(h_ND, parts)
        return self.dropout(self.norm(h_ND))


class Decoder(Stack):
    """Embeddings of the preceding digits and the memory of the histories to states."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes, DecoderBlock, both_sides=False)

    def remember(self, h_ND: Tensor, packing: Packing) -> CachedMemory:
        """Keys and values of the encoder states, for all blocks."""
        rows, keys, first = [], [], 0
        for grid in packing.parts:
            rows.append(slice(first, first := first + len(grid.length_B)))
        blocks: Iterable[DecoderBlock] = self.blocks  # type: ignore[assignment]
        for attention in (block.cross_attention for block in blocks):
            memory_ND = attention.memory(h_ND)
            keys.append([grid.sides(memory_ND, attention.heads, 2) for grid in packing.parts])
        return CachedMemory(rows, [grid.padding_mask() for grid in packing.parts], keys)

    def forward(self, x_BLD: Tensor, memory: Memory) -> Tensor:
        """``h_BLD``: the causal state of each position."""
        places = x_BLD.shape[1]
        later_LL = torch.ones(places, places, dtype=torch.bool, device=x_BLD.device).triu(1)
        bias_HLL = self.bias(places).masked_fill(later_LL, -torch.inf)
        return self._blocks(x_BLD, bias_HLL[None], memory)

    def step(self, x_BMD: Tensor, parent_BM: Tensor, memory: Memory, cache: Cache) -> Tensor:
        """``h_BMD`` of one more token per beam; its keys and values are added to the cache."""
        cache.grow(parent_BM)
        bias_H1l = self.bias(cache.ancestor_BMl.shape[2])[:, -1:]
        return self._blocks(x_BMD, cache.bias(bias_H1l), memory, cache)

    def _blocks(self, x_BLD: Tensor, bias: Tensor, memory: Memory, cache: Cache | None = None) -> Tensor:
        h_BLD = self.dropout(x_BLD)
        for number, block in enumerate(self.blocks):
            h_BLD = block(h_BLD, bias, memory, number, cache)
        return self.dropout(self.norm(h_BLD))

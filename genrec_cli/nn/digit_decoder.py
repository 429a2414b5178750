"""A bidirectional Transformer decoder over the K digits of an item, with cross-attention to packed histories.

Training uses causal cross-attention for all targets of a history at once; inference uses cached keys and values.

Legend: B histories, N packed items, T longest history, M targets or candidates, K digits, D width, H heads.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from genrec_cli.nn.attention import MultiHead
from genrec_cli.nn.causal_cross_attention import CausalCrossAttention
from genrec_cli.nn.dropout import Dropout
from genrec_cli.nn.packing import Packing
from genrec_cli.nn.transformer import Sizes, mlp


class Memory(NamedTuple):
    """Cached keys and values of whole histories."""

    layers: list[tuple[Tensor, ...]]
    """``k_BHTd`` and ``v_BHTd`` of each layer."""
    real_B11T: Tensor | None
    """False at padding; None: there is no padding."""


class DigitAttention(MultiHead):
    """Bidirectional self-attention of the digits of a target: ``x_MKD -> x_MKD``."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes.width, sizes.heads, sizes.attention_dropout)
        self.output, self.output_dropout = nn.Linear(sizes.width, sizes.width), Dropout(sizes.dropout)
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)

    def forward(self, x_MKD: Tensor) -> Tensor:
        q_MHKd, k_MHKd, v_MHKd = (self.split(part) for part in self.qkv(x_MKD).chunk(3, dim=-1))
        return self.output_dropout(self.output(self.join(self.mix(q_MHKd, k_MHKd, v_MHKd))))


class CrossAttention(MultiHead):
    """Attention of digits to encoder states: ``x_MKD -> x_MKD``."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes.width, sizes.heads, sizes.attention_dropout)
        self.output, self.output_dropout = nn.Linear(sizes.width, sizes.width), Dropout(sizes.dropout)
        self.query, self.key_value = nn.Linear(sizes.width, sizes.width), nn.Linear(sizes.width, 2 * sizes.width)

    def keys(self, h_ND: Tensor, packing: Packing) -> tuple[Tensor, ...]:
        """``k_BHTd`` and ``v_BHTd`` of the histories, padded to the longest one."""
        return packing.grid.sides(self.key_value(h_ND), self.heads, 2)

    def cached(self, x_MKD: Tensor, keys: tuple[Tensor, ...], real_B11T: Tensor | None) -> Tensor:
        """The M / B targets of each history attend to the whole history."""
        q_BQD = self.query(x_MKD.reshape(len(keys[0]), -1, x_MKD.shape[-1]))
        k_BHTd, v_BHTd = keys
        mixed_BQD = self.join(self.mix(self.split(q_BQD), k_BHTd, v_BHTd, real_B11T))
        return self.output_dropout(self.output(mixed_BQD)).view_as(x_MKD)

    def causal(self, x_MKD: Tensor, h_ND: Tensor, targets: CausalCrossAttention) -> Tensor:
        """Each target attends to its history up to the item that it follows."""
        q_MKD = self.query(x_MKD).view(-1, targets.digits, x_MKD.shape[-1])  # the views of a target side by side
        mixed_MKD = targets.mix(q_MKD, self.key_value(h_ND), self.heads, self.mix)
        return self.output_dropout(self.output(mixed_MKD)).view_as(x_MKD)


class DigitDecoderBlock(nn.Module):
    """Self-attention of digits, cross-attention, MLP; each after a LayerNorm, with a residual."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm_digits, self.norm_cross, self.norm_mlp = (nn.LayerNorm(sizes.width) for _ in range(3))
        self.digits, self.cross = DigitAttention(sizes), CrossAttention(sizes)
        self.mlp = mlp(sizes, sizes.dropout)


class DigitDecoder(nn.Module):
    """Digit vectors in, digit states out: ``x_MKD -> state_MKD``."""

    blocks: Sequence[DigitDecoderBlock]

    def __init__(self, sizes: Sizes, layers: int) -> None:
        super().__init__()
        self.dropout = Dropout(sizes.dropout)
        self.blocks = nn.ModuleList(DigitDecoderBlock(sizes) for _ in range(layers))  # type: ignore[assignment]
        self.norm = nn.LayerNorm(sizes.width)

    def remember(self, h_ND: Tensor, packing: Packing) -> Memory:
        """Cached keys and values of whole histories."""
        return Memory([block.cross.keys(h_ND, packing) for block in self.blocks], packing.grid.padding_mask())

    def cached(self, x_MKD: Tensor, memory: Memory) -> Tensor:
        """Targets that see their whole history; every history has the same number of them, one after the other."""
        layers = zip(self.blocks, memory.layers, strict=True)
        cross = (partial(block.cross.cached, keys=keys, real_B11T=memory.real_B11T) for block, keys in layers)
        return self._blocks(x_MKD, cross)

    def causal(self, x_MKD: Tensor, h_ND: Tensor, packing: Packing, at_M: Tensor) -> Tensor:
        """Targets after any items ``at_M``, the same count of views of each; they see the history up to that item."""
        digits = len(x_MKD) // len(at_M) * x_MKD.shape[1]
        targets = CausalCrossAttention(packing, at_M, digits)
        return self._blocks(x_MKD, (partial(block.cross.causal, h_ND=h_ND, targets=targets) for block in self.blocks))

    def _blocks(self, x_MKD: Tensor, cross: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
        x = self.dropout(x_MKD)
        for block, attend_history in zip(self.blocks, cross, strict=True):
            x = x + block.digits(block.norm_digits(x))
            x = x + attend_history(block.norm_cross(x))
            x = x + block.mlp(block.norm_mlp(x))
        return self.norm(x)

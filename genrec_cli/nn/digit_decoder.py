"""A bidirectional Transformer decoder over the K digits of an item, with cross-attention to packed histories.

In training all targets of a history are decoded in one pass (``nn/causal_cross_attention.py``).

At inference the keys and values of a history are computed once and kept (:class:`Memory`); M candidates of each
history then ask as M x K queries.

Legend: B histories, N packed items, T longest history, M targets or candidates, K digits, D width, H heads.
"""

from typing import NamedTuple

from torch import Tensor, nn

from genrec_cli.nn.attend import attend
from genrec_cli.nn.causal_cross_attention import CausalCrossAttention
from genrec_cli.nn.dropout import Dropout
from genrec_cli.nn.packing import Packing, by_head
from genrec_cli.nn.transformer import Sizes, activation


class Memory(NamedTuple):
    """Histories as a decoder reads them."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    """``k_BHTd`` and ``v_BHTd`` of each layer."""
    seen_B11T: Tensor | None
    """Which of them are no padding; None: all."""


class Heads(nn.Module):
    """The product that both attentions share: ``softmax(q k) v`` with H heads, then the output's linear layer."""

    def __init__(self, width: int, heads: int, dropout: float, output_dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the number of heads ({heads}) must divide the width ({width})")
        self.heads, self.dropout = heads, dropout
        self.output = nn.Linear(width, width)
        self.output_dropout = Dropout(output_dropout)

    def split(self, x_BQD: Tensor) -> Tensor:
        """``x_BHQd``"""
        return by_head(x_BQD, self.heads)

    def mix(self, q_BHQd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, seen: Tensor | None = None) -> Tensor:
        """``mixed_BHQd``, before the output's linear layer."""
        return attend(q_BHQd, k_BHTd, v_BHTd, seen, dropout_p=self.dropout if self.training else 0.0)

    def close(self, mixed: Tensor) -> Tensor:
        return self.output_dropout(self.output(mixed))

    def close_whole(self, mixed_BHQd: Tensor) -> Tensor:
        return self.close(mixed_BHQd.transpose(1, 2).flatten(2))


class DigitAttention(Heads):
    """Every digit of a target sees all digits of it: ``x_MKD -> x_MKD``."""

    def __init__(self, width: int, heads: int, dropout: float, output_dropout: float) -> None:
        super().__init__(width, heads, dropout, output_dropout)
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x_MKD: Tensor) -> Tensor:
        return self.close_whole(self.mix(*(self.split(part) for part in self.qkv(x_MKD).chunk(3, dim=-1))))


class CrossAttention(Heads):
    """Digits look at histories."""

    def __init__(self, width: int, heads: int, dropout: float, output_dropout: float) -> None:
        super().__init__(width, heads, dropout, output_dropout)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def remember(self, h_ND: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Keys and values of whole histories, ``k_BHTd`` and ``v_BHTd``."""
        k_BHTd, v_BHTd = packing.grid.sides(self.key_value(h_ND), self.heads, 2)
        return k_BHTd, v_BHTd

    def whole(self, x_MKD: Tensor, memory: tuple[Tensor, Tensor], seen_B11T: Tensor | None) -> Tensor:
        """Each history's M / B targets see all of it."""
        x_BQD = x_MKD.reshape(len(memory[0]), -1, x_MKD.shape[-1])
        return self.close_whole(self.mix(self.split(self.query(x_BQD)), *memory, seen_B11T)).view_as(x_MKD)

    def past(self, x_MKD: Tensor, h_ND: Tensor, past: CausalCrossAttention) -> Tensor:
        """Each target sees its history up to the item that it follows."""
        return self.close(past.mix(self.query(x_MKD), self.key_value(h_ND), self.heads, self.mix))


class DigitDecoderBlock(nn.Module):
    """Digits among themselves, digits to the history, MLP; each after a LayerNorm, with a residual."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, dropout = sizes.width, sizes.dropout
        self.norm_digits, self.norm_cross, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.digits = DigitAttention(width, sizes.heads, sizes.attention_dropout, dropout)
        self.cross = CrossAttention(width, sizes.heads, sizes.attention_dropout, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, sizes.inner),
            activation(sizes.activation),
            nn.Linear(sizes.inner, width),
            Dropout(dropout),
        )


class DigitDecoder(nn.Module):
    """Digit vectors in, digit states out: ``x_MKD -> state_MKD``."""

    def __init__(self, sizes: Sizes, layers: int) -> None:
        super().__init__()
        self.dropout = Dropout(sizes.dropout)
        self.blocks = nn.ModuleList(DigitDecoderBlock(sizes) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)

    def remember(self, h_ND: Tensor, packing: Packing) -> Memory:
        """Whole histories, read once for any number of candidates."""
        seen_B11T = None if packing.grid.full else packing.grid.real_BT()[:, None, None]
        return Memory(tuple(block.cross.remember(h_ND, packing) for block in self.blocks), seen_B11T)

    def whole(self, x_MKD: Tensor, memory: Memory) -> Tensor:
        """Targets of whole histories, the same number of each, in their order."""
        x = self.dropout(x_MKD)
        for block, kept in zip(self.blocks, memory.layers, strict=True):
            x = x + block.digits(block.norm_digits(x))
            x = x + block.cross.whole(block.norm_cross(x), kept, memory.seen_B11T)
            x = x + block.mlp(block.norm_mlp(x))
        return self.norm(x)

    def past(self, x_MKD: Tensor, h_ND: Tensor, packing: Packing, at_M: Tensor) -> Tensor:
        """Targets anywhere in the histories; each sees what stands up to its item, ``at_M``."""
        past = CausalCrossAttention(packing, at_M, x_MKD.shape[1])
        x = self.dropout(x_MKD)
        for block in self.blocks:
            x = x + block.digits(block.norm_digits(x))
            x = x + block.cross.past(block.norm_cross(x), h_ND, past)
            x = x + block.mlp(block.norm_mlp(x))
        return self.norm(x)

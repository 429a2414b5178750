"""A pre-norm Transformer over packed items, with the blocks of GPT-2.

Parity with ``transformers.GPT2Model`` is tested weight for weight. The start differs: see :func:`initialise`.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from genrec_cli.nn.attention import SelfAttention
from genrec_cli.nn.dropout import Dropout
from genrec_cli.nn.packing import Packing, take

Activation = Literal["gelu", "gelu_tanh", "relu"]


def activation(name: Activation) -> nn.Module:
    """The named activation; ``gelu_tanh`` is GPT-2's approximation."""
    return {"gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh"), "relu": nn.ReLU()}[name]


class Sizes(Protocol):
    """What a Transformer asks of a model's settings."""

    width: int
    layers: int
    heads: int
    inner: int
    """Width inside the MLP."""
    dropout: float
    """Of the sum of item and position embedding."""
    attention_dropout: float
    activation: Activation


class Block(nn.Module):
    """LayerNorm, attention, residual; LayerNorm, two linear layers, residual."""

    def __init__(self, sizes: Sizes, residual_dropout: float, causal: bool, epsilon: float) -> None:
        super().__init__()
        width = sizes.width
        self.norm_attention = nn.LayerNorm(width, eps=epsilon)
        self.attention = SelfAttention(
            width, sizes.heads, dropout=sizes.attention_dropout, output_dropout=residual_dropout, causal=causal
        )
        self.norm_mlp = nn.LayerNorm(width, eps=epsilon)
        self.mlp = nn.Sequential(
            nn.Linear(width, sizes.inner),
            activation(sizes.activation),
            nn.Linear(sizes.inner, width),
            Dropout(residual_dropout),
        )

    def forward(self, x_ND: Tensor, packing: Packing, at_M: Tensor | None = None) -> Tensor:
        mixed = self.attention(self.norm_attention(x_ND), packing, at_M)
        x = (x_ND if at_M is None else take(x_ND, at_M)) + mixed
        return x + self.mlp(self.norm_mlp(x))


class Transformer(nn.Module):
    """Item vectors in, context states out: ``x_ND -> h_ND``, or ``h_MD`` at the wanted items only.

    Args:
        positions: T_max; a longer sequence is an error of the caller.
        residual_dropout: of the outputs of attention and MLP, as in GPT-2.
    """

    def __init__(
        self, sizes: Sizes, positions: int, *, residual_dropout: float = 0.0, causal: bool = True, epsilon: float = 1e-5
    ) -> None:
        super().__init__()
        self.position = nn.Embedding(positions, sizes.width)
        self.dropout = Dropout(sizes.dropout)
        self.blocks = nn.ModuleList(Block(sizes, residual_dropout, causal, epsilon) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width, eps=epsilon)

    def forward(self, x_ND: Tensor, packing: Packing, at_M: Tensor | None = None) -> Tensor:
        """``at_M``, items without repetition, skips all of the last block's work that their states do not need."""
        h = self.dropout(x_ND + self.position(packing.position_N))
        final = len(self.blocks) - 1
        for depth, block in enumerate(self.blocks):
            h = block(h, packing, at_M if depth == final else None)
        return self.norm(h)


def initialise(module: nn.Module, *, std: float = 0.02) -> None:
    """Normal weights of the given standard deviation, zero biases, identity norms.

    GPT-2's start but for one thing: its projections into the residual stream are smaller by sqrt(2 layers).
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            torch.nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            torch.nn.init.zeros_(part.bias)

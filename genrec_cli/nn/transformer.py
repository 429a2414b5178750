"""A Transformer over packed items, with the pre-norm blocks of GPT-2 or the post-norm blocks of BERT.

Parity with ``transformers.GPT2Model`` (pre) and ``transformers.BertModel`` (post) is tested weight for weight; the
initialisation differs: :func:`initialise`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genrec_cli.nn.attention import SelfAttention
from genrec_cli.nn.dropout import Dropout
from genrec_cli.nn.packing import Packing, take

Activation = Literal["gelu", "gelu_tanh", "relu"]
Norm = Literal["pre", "post"]
"""pre: LayerNorm before attention and MLP, and of the output (GPT-2). post: LayerNorm after each residual sum, and of
the input (BERT)."""

Sizes = Any
"""A model's settings: width, layers, heads, inner (the width inside an MLP), dropout (of the sum of item and position
embedding), attention_dropout, and activation, or head_width for T5."""


def mlp(sizes: Sizes, dropout: float) -> nn.Sequential:
    """The MLP of a block; ``gelu_tanh`` is GPT-2's approximation."""
    activations = {"gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh"), "relu": nn.ReLU()}
    inward, outward = nn.Linear(sizes.width, sizes.inner), nn.Linear(sizes.inner, sizes.width)
    return nn.Sequential(inward, activations[sizes.activation], outward, Dropout(dropout))


class Block(nn.Module):
    """Attention and MLP, each with a residual sum and a LayerNorm before it (pre) or after it (post)."""

    def __init__(self, sizes: Sizes, residual_dropout: float, causal: bool, epsilon: float, norm: Norm) -> None:
        super().__init__()
        self.post = norm == "post"
        self.norm_attention = nn.LayerNorm(sizes.width, eps=epsilon)
        self.attention = SelfAttention(
            sizes.width, sizes.heads, dropout=sizes.attention_dropout, output_dropout=residual_dropout, causal=causal
        )
        self.norm_mlp = nn.LayerNorm(sizes.width, eps=epsilon)
        self.mlp = mlp(sizes, residual_dropout)

    def forward(self, x_ND: Tensor, packing: Packing, at_M: Tensor | None = None) -> Tensor:
        mixed = self.attention(x_ND if self.post else self.norm_attention(x_ND), packing, at_M)
        x = (x_ND if at_M is None else take(x_ND, at_M)) + mixed
        if self.post:
            x = self.norm_attention(x)
            return self.norm_mlp(x + self.mlp(x))
        return x + self.mlp(self.norm_mlp(x))


class Transformer(nn.Module):
    """Item vectors in, context states out: ``x_ND -> h_ND``, or ``h_MD`` at positions ``at_M`` only.

    ``positions`` is the longest sequence (0: no position table); ``residual_dropout`` is that of the outputs of
    attention and MLP, as in GPT-2; ``block`` makes a block. Item vectors are multiplied by ``scale`` before position
    embeddings are added.
    """

    blocks: Sequence[Block]

    def __init__(
        self,
        sizes: Sizes,
        positions: int,
        *,
        scale: float = 1.0,
        residual_dropout: float = 0.0,
        causal: bool = True,
        epsilon: float = 1e-5,
        norm: Norm = "pre",
        block: Callable[..., Block] = Block,
    ) -> None:
        super().__init__()
        self.post, self.scale = norm == "post", scale
        self.position = nn.Embedding(positions, sizes.width) if positions else None
        self.dropout = Dropout(sizes.dropout)
        blocks = (block(sizes, residual_dropout, causal, epsilon, norm) for _ in range(sizes.layers))
        self.blocks = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(sizes.width, eps=epsilon)

    def forward(self, x_ND: Tensor, packing: Packing, at_M: Tensor | None = None) -> Tensor:
        """``at_M`` has no repetition; the last block computes only what the states at ``at_M`` need."""
        h = x_ND if self.scale == 1 else x_ND * self.scale
        h = h if self.position is None else h + self.position(packing.position_N)
        h = self.dropout(self.norm(h) if self.post else h)
        final = len(self.blocks) - 1
        for depth, block in enumerate(self.blocks):
            h = block(h, packing, at_M if depth == final else None)
        return h if self.post else self.norm(h)


def initialise(module: nn.Module, *, std: float = 0.02) -> None:
    """GPT-2's initialisation: normal weights, zero biases, identity norms; but GPT-2 divides the projections into the
    residual stream by sqrt(2 layers)."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            torch.nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            torch.nn.init.zeros_(part.bias)

"""BSARec: self-attention mixed with a frequency filter (Shin et al., AAAI 2024, arXiv 2312.10325).

A block of SASRec whose attention is mixed with a filter that keeps the low frequencies of a sequence and scales the
rest::

    low = the C lowest frequencies of x     (discrete Fourier transform over the L places of a row; equation 6)
    F(x) = low + beta^2 (x - low)           (one beta per column; equation 5)
    S = alpha LN(x + F(x)) + (1 - alpha) LN(x + attention(x))         (equation 4)
    h = LN(S + MLP(S))

Without the transform: low is a circular convolution of x with the kernel ``k[d] = (1/L) sum over |f| < C of
exp(2 pi i f d / L)``, so the filter is one product with the matrix ``k[t - s]``.

The trap: the filter reads the whole row, so the state at an item depends on later items. The authors have one row per
target. Here the matrix is lower triangular by default (``causal``): the filter at place t is that of a row that ends at
t, for all targets in one pass. At the last place of a row both are equal in the first block; in later blocks the
authors' other places have read the whole row. ``causal = false`` is the authors' filter, with ``train.windows = each``.

Deviations from the authors' code: empty places of a short row are zero in the filter, where theirs hold vectors of the
positions; positions count from the first item, not from the left end of a padded row. Their setting c = 5 is C = 3.
Item embeddings are multiplied by sqrt(D) at the input, as SASRec's are.

Legend: B histories, N packed items, M positions with a target, T longest history, L maximum length, D width.
"""

import math
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genrec_cli.config import Count, Fraction, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.item_model import ItemModel
from genrec_cli.models.sasrec import SasRecConfig
from genrec_cli.nn.dropout import Dropout
from genrec_cli.nn.packing import Packing, concatenate, take
from genrec_cli.nn.transformer import Block, Norm, Sizes, Transformer, initialise


class BsaRecConfig(SasRecConfig):
    """SASRec's Transformer, and the filter."""

    alpha: Fraction = 0.7
    """Weight of the filter; attention has 1 - alpha."""
    cutoff: Count = 3
    """C, the number of lowest frequencies that pass unscaled; 1 is the mean alone."""
    causal: bool = True
    """Whether the filter reads earlier items alone; false, the authors' filter, needs train.windows = each."""
    norm: Norm = "post"
    """LayerNorm before filter, attention and MLP (pre), or after each residual sum (post, the paper's)."""


class FrequencyFilter(nn.Module):
    """``low + beta^2 (x - low)``, ``x_ND -> x_ND``, for rows of at most ``length`` items."""

    weight_LL: Tensor

    def __init__(self, width: int, length: int, cutoff: int, *, causal: bool) -> None:
        super().__init__()
        passed = (torch.arange(length // 2 + 1) < cutoff).float()
        kernel_L, step_L = torch.fft.irfft(passed, n=length), torch.arange(length)
        weight_LL = kernel_L[(step_L[:, None] - step_L).abs()]
        self.register_buffer("weight_LL", weight_LL.tril() if causal else weight_LL, persistent=False)
        self.causal, self.beta_D = causal, nn.Parameter(torch.randn(width))

    def forward(self, x_ND: Tensor, packing: Packing) -> Tensor:
        low = []
        for grid in packing.parts:
            x_BTD, longest = grid.pad(x_ND), grid.longest
            if not (self.causal or grid.full):
                x_BTD = x_BTD.masked_fill(~grid.real_BT()[..., None], 0.0)
            low.append(grid.pack(self.weight_LL[:longest, :longest] @ x_BTD))
        low_ND = concatenate(low)
        return low_ND + self.beta_D**2 * (x_ND - low_ND)


class FilterBlock(Block):
    """A block with the filter beside attention, each with a LayerNorm of its own. Attention is causal in both forms, as
    in the authors' code; ``causal`` is that of the filter."""

    def __init__(
        self, sizes: Sizes, residual_dropout: float, causal: bool, epsilon: float, norm: Norm, *, length: int
    ) -> None:
        super().__init__(sizes, residual_dropout, True, epsilon, norm)
        self.alpha = sizes.alpha
        self.norm_filter = nn.LayerNorm(sizes.width, eps=epsilon)
        self.filter = FrequencyFilter(sizes.width, length, sizes.cutoff, causal=causal)
        self.filter_dropout = Dropout(residual_dropout)

    def forward(self, x_ND: Tensor, packing: Packing, at_M: Tensor | None = None) -> Tensor:
        to_filter, to_attention = (x_ND, x_ND) if self.post else (self.norm_filter(x_ND), self.norm_attention(x_ND))
        filtered = self.filter_dropout(self.filter(to_filter, packing))
        attended = self.attention(to_attention, packing, at_M)
        x = x_ND if at_M is None else take(x_ND, at_M)
        filtered = filtered if at_M is None else take(filtered, at_M)
        if self.post:
            filtered, attended = self.norm_filter(x + filtered), self.norm_attention(x + attended)
            x = self.alpha * filtered + (1 - self.alpha) * attended
            return self.norm_mlp(x + self.mlp(x))
        x = x + self.alpha * filtered + (1 - self.alpha) * attended
        return x + self.mlp(self.norm_mlp(x))


class BsaRec(ItemModel):
    """Interface: DotScorer."""

    Config: ClassVar[type[Section]] = BsaRecConfig
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"train": {"lr": 1e-3, "warmup_steps": 200, "weight_decay": 0.01}}

    def __init__(self, config: BsaRecConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.causal = config.causal
        options: dict[str, Any] = {"causal": config.causal, "norm": config.norm}
        options |= {"block": partial(FilterBlock, length=max_length), "residual_dropout": config.dropout}
        self.backbone = Transformer(config, max_length, scale=math.sqrt(config.width), **options)
        initialise(self)

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        return self.backbone(self.item(batch.item_N - 1), batch.packing, at_M)

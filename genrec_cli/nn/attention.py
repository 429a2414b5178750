"""Multi-head self-attention over packed sequences (GPT-2's layout: one projection to q, k, v).

The linear layers see N packed tokens. Only the attention product itself is laid out as grids of B x T,
padded to their own longest sequence. Padding stands on the right, so under a causal mask a real query never
sees it and no padding mask is needed at all.
"""

import torch
from torch import Tensor, nn

from genrec_cli.nn.attend import attend
from genrec_cli.nn.dropout import Dropout
from genrec_cli.nn.packing import Grid, Packing, take


class SelfAttention(nn.Module):
    """``x_ND -> x_ND``, or ``x_MD`` at the wanted tokens only.

    Args:
        width: D.
        heads: H, must divide D.
        dropout: of attention weights and, apart, of the output.
        causal: whether a token sees only itself and what stands before it.
    """

    def __init__(
        self, width: int, heads: int, *, dropout: float = 0.0, output_dropout: float = 0.0, causal: bool = True
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the number of heads ({heads}) must divide the width ({width})")
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.output_dropout = Dropout(output_dropout)

    def forward(self, x_ND: Tensor, packing: Packing, at_M: Tensor | None = None) -> Tensor:
        qkv_ND = self.qkv(x_ND)
        mixed = [self._mix(qkv_ND, part) for part in packing.parts]
        mixed_ND = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        return self.output_dropout(self.output(mixed_ND if at_M is None else take(mixed_ND, at_M)))

    def _mix(self, qkv_ND: Tensor, grid: Grid) -> Tensor:
        """Attention within each row of one grid, packed."""
        seen_B11T = None if self.causal or grid.full else grid.real_BT()[:, None, None]
        share = self.dropout if self.training else 0.0
        return grid.join(attend(*grid.sides(qkv_ND, self.heads, 3), seen_B11T, dropout_p=share, causal=self.causal))

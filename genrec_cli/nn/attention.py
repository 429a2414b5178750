"""Multi-head self-attention over packed sequences (GPT-2's layout: one projection to q, k, v).

The linear layers see N packed tokens. Only the attention product itself is laid out as grids of B x T,
padded to their own longest sequence. Padding stands on the right, so under a causal mask a real query never
sees it and no padding mask is needed at all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        self.output_dropout = nn.Dropout(output_dropout)

    def forward(self, x_ND: Tensor, packing: Packing, at_M: Tensor | None = None) -> Tensor:
        qkv_ND = self.qkv(x_ND)
        mixed = [part.pack(self._mix(part.pad(qkv_ND), part)) for part in packing.parts]
        mixed_ND = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        return self.output_dropout(self.output(mixed_ND if at_M is None else take(mixed_ND, at_M)))

    def _mix(self, qkv_BTD: Tensor, grid: Grid) -> Tensor:
        """Attention within each row of one grid."""
        q_BHTd, k_BHTd, v_BHTd = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv_BTD.chunk(3, dim=-1)
        )
        seen_B11T = None if self.causal or grid.full else grid.real_BT()[:, None, None]
        mixed_BHTd = F.scaled_dot_product_attention(
            q_BHTd, k_BHTd, v_BHTd, attn_mask=seen_B11T, dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
        )  # fmt: skip
        return mixed_BHTd.transpose(1, 2).flatten(2)

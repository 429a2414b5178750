"""Multi-head self-attention over packed sequences (GPT-2's layout: one projection to q, k, v).

The linear layers see N packed tokens. Only the attention product itself is laid out as B x T, padded to
the batch's own longest sequence. Padding stands on the right, so under a causal mask a real query never
sees it and no padding mask is needed at all.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.nn.packing import Packing


class SelfAttention(nn.Module):
    """``x_ND -> x_ND``; or, asked for the last tokens only, ``x_ND -> x_BD``.

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

    def forward(self, x_ND: Tensor, packing: Packing, *, last_only: bool = False) -> Tensor:
        width = x_ND.shape[-1]
        dropout = self.dropout if self.training else 0.0
        qkv_BTD = packing.pad(self.qkv(x_ND))
        q_BHTd, k_BHTd, v_BHTd = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv_BTD.split(width, dim=-1)
        )
        seen_BT = None
        if not packing.equal and (last_only or not self.causal):
            steps_T = packing.length_B.new_ones(packing.longest).cumsum(0) - 1
            seen_BT = (steps_T < packing.length_B[:, None])[:, None, None, :]
        if last_only:
            index_B = (packing.length_B - 1).view(-1, 1, 1, 1).expand(-1, self.heads, 1, q_BHTd.shape[-1])
            q_BHTd = q_BHTd.gather(2, index_B)
        mixed_BHTd = F.scaled_dot_product_attention(
            q_BHTd, k_BHTd, v_BHTd, attn_mask=seen_BT, dropout_p=dropout, is_causal=self.causal and not last_only
        )
        mixed_BTD = mixed_BHTd.transpose(1, 2).flatten(2)
        mixed = mixed_BTD[:, 0] if last_only else packing.pack(mixed_BTD)
        return self.output_dropout(self.output(mixed))

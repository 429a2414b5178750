"""Multi-head attention, and self-attention over packed sequences (GPT-2's layout: one projection to q, k, v).

Linear layers work on N packed tokens. Only the attention product uses padded grids of B x T. Padding is on the right,
so a real query under a causal mask never sees it and needs no padding mask.

Where only the last item of each history is asked for, as in evaluation, attention reads the states themselves. With
``q . (W_k x + b_k) = (W_k^T q) . x + const`` the H heads are H queries of width D over one history, and their weighted
means of states are projected to values afterwards. So the keys and values of N items are never made.

Legend: B histories, N packed items, M positions, T longest history, H heads, d width of a head, D width.
"""

import torch
from torch import Tensor, nn

from genrec_cli.nn.attend import attend
from genrec_cli.nn.dropout import Dropout
from genrec_cli.nn.packing import Packing, by_head, concatenate, take


class MultiHead(nn.Module):
    """What all attention layers share: H heads, which must divide the inner width, and the dropout of their weights."""

    scale: float | None = None
    """Factor of the logits; None: ``d ** -0.5``."""

    def __init__(self, inner: int, heads: int, dropout: float) -> None:
        super().__init__()
        if inner % heads:
            raise ValueError(f"the number of heads ({heads}) must divide the width ({inner})")
        self.heads, self.dropout = heads, dropout

    def split(self, x_BLD: Tensor) -> Tensor:
        """``x_BHLd``: the width in equal parts, one per head."""
        return by_head(x_BLD, self.heads)

    def join(self, mixed_BHLd: Tensor) -> Tensor:
        """``mixed_BLD``: the parts of all heads side by side."""
        return mixed_BHLd.transpose(1, 2).flatten(2)

    def mix(
        self, q_BHLd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, mask: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """``mixed_BHLd``: the attention product; see :func:`attend` for ``mask`` and ``causal``."""
        dropout_p = self.dropout if self.training else 0.0
        return attend(q_BHLd, k_BHTd, v_BHTd, mask, dropout_p=dropout_p, causal=causal, scale=self.scale)


class SelfAttention(MultiHead):
    """``x_ND -> x_ND``, or ``x_MD`` at positions ``at_M`` only; ``dropout`` is that of the attention weights."""

    def __init__(
        self, width: int, heads: int, *, dropout: float = 0.0, output_dropout: float = 0.0, causal: bool = True
    ) -> None:
        super().__init__(width, heads, dropout)
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.output_dropout = Dropout(output_dropout)

    def forward(self, x_ND: Tensor, packing: Packing, at_M: Tensor | None = None) -> Tensor:
        if at_M is packing.last_B and not self.training:
            return self.output(self._at_last(x_ND, packing))
        qkv_ND, mixed = self.qkv(x_ND), []
        for grid in packing.parts:
            q_BHTd, k_BHTd, v_BHTd = grid.sides(qkv_ND, self.heads, 3)
            mask = None if self.causal else grid.padding_mask()
            mixed.append(grid.join(self.mix(q_BHTd, k_BHTd, v_BHTd, mask, causal=self.causal)))
        mixed_ND = concatenate(mixed)
        return self.output_dropout(self.output(mixed_ND if at_M is None else take(mixed_ND, at_M)))

    def _at_last(self, x_ND: Tensor, packing: Packing) -> Tensor:
        """``mixed_BD`` at the last item of each history, which sees all of it."""
        w_q_HdD, w_k_HdD, w_v_HdD = self.qkv.weight.unflatten(0, (3, self.heads, -1)).unbind()
        b_q_H1d, _, b_v_H1d = self.qkv.bias.unflatten(0, (3, self.heads, 1, -1)).unbind()
        last_BD, place_B1 = x_ND[packing.last_B], packing.position_N[packing.last_B][:, None]
        q_HBd = last_BD @ w_q_HdD.transpose(1, 2) + b_q_H1d
        query_BHD, scale, mixed, first = (q_HBd @ w_k_HdD).transpose(0, 1), q_HBd.shape[-1] ** -0.5, [], 0
        for grid in packing.parts:
            x_BTD, rows = grid.pad(x_ND), slice(first, first + grid.length_B.shape[0])
            seen_BT = torch.arange(grid.longest, device=x_ND.device) <= place_B1[rows]
            x_B1TD, first = x_BTD[:, None], rows.stop
            mixed.append(attend(query_BHD[rows, None], x_B1TD, x_B1TD, seen_BT[:, None, None], scale=scale)[:, 0])
        return (concatenate(mixed).transpose(0, 1) @ w_v_HdD.transpose(1, 2) + b_v_H1d).transpose(0, 1).flatten(1)

"""A gated recurrent unit over packed histories, with its gradient written out.

The equations are those of ``torch.nn.GRU`` (Cho et al., EMNLP 2014, with a bias inside the reset gate)::

    r, z = sigmoid(i_r + s_r), sigmoid(i_z + s_z)    n = tanh(i_n + r * s_n)    h_t = n + z * (h_{t-1} - n)

where ``i = W x_t + b`` and ``s = U h_{t-1} + c``. A step has only the histories that are long enough, and the gradients
of U and c are one product over all items. Autograd would make one for each step, and pass over U to add it.

Legend: N packed items, B histories, b histories of a step, H width of a state, G = 3 H gates (r, z, n).
"""

from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.nn.packing import Packing, take


def packed_gru(gru: nn.GRU, x_ND: Tensor, packing: Packing) -> Tensor:
    """``h_NH``, the states of the last layer, in float32. The sizes of the steps are read on the host."""
    place_B = packing.length_B.argsort(descending=True, stable=True).argsort()  # the longest history comes first
    order_N = (packing.position_N * packing.sequences + place_B[packing.sequence_N]).argsort()
    sizes = packing.position_N.bincount().tolist()
    with torch.autocast(x_ND.device.type, enabled=False):
        h_ND = take(x_ND.float(), order_N)
        for w_GD, u_GH, b_G, c_G in gru.all_weights:
            h_ND = _Recurrence.apply(F.linear(h_ND, w_GD, b_G), u_GH, c_G, sizes)
        return take(h_ND, order_N.argsort())


class _Recurrence(torch.autograd.Function):
    """``i_NG, U_GH, c_G -> h_NH``; items are ordered by their place in the history, and ``sizes`` counts each place."""

    @staticmethod
    def forward(ctx: Any, i_NG: Tensor, u_GH: Tensor, c_G: Tensor, sizes: list[int]) -> Tensor:
        width = u_GH.shape[1]
        gate_NG, candidate_NH = torch.empty_like(i_NG), i_NG.new_empty(len(i_NG), width)
        before_NH, h_NH = torch.empty_like(candidate_NH), torch.empty_like(candidate_NH)
        h_bH, u_HG = i_NG.new_zeros(sizes[0], width), u_GH.t()
        for end, size in zip(accumulate(sizes), sizes, strict=True):
            step = slice(end - size, end)
            before_bH, i_bG, gate_bG = before_NH[step].copy_(h_bH[:size]), i_NG[step], gate_NG[step]
            s_bG = torch.addmm(c_G, before_bH, u_HG)
            torch.add(i_bG, s_bG, out=gate_bG)[:, : 2 * width].sigmoid_()
            candidate_bH, (r_bH, z_bH, n_bH) = candidate_NH[step].copy_(s_bG[:, 2 * width :]), gate_bG.chunk(3, 1)
            torch.addcmul(i_bG[:, 2 * width :], r_bH, candidate_bH, out=n_bH).tanh_()
            h_bH = torch.lerp(n_bH, before_bH, z_bH, out=h_NH[step])
        ctx.save_for_backward(gate_NG, candidate_NH, before_NH, u_GH)
        ctx.sizes = sizes
        return h_NH

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_NH: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        gate_NG, candidate_NH, before_NH, u_GH = ctx.saved_tensors
        r_NH, z_NH, n_NH = gate_NG.chunk(3, 1)
        # What a state's gradient is multiplied by does not depend on later steps.
        to_n_NH = (1 - z_NH).mul_(1 - n_NH.square())
        to_z_NH = (before_NH - n_NH).mul_(z_NH).mul_(1 - z_NH)
        to_r_NH = (to_n_NH * candidate_NH).mul_(r_NH).mul_(1 - r_NH)
        to_NG, to_s_NH = torch.cat([to_r_NH, to_z_NH, to_n_NH * r_NH], 1), z_NH
        g_NH, s_NG, end = g_NH.clone(), torch.empty_like(gate_NG), len(g_NH)
        for size, earlier in zip(reversed(ctx.sizes), [*reversed(ctx.sizes[:-1]), 0], strict=True):
            step, end = slice(end - size, end), end - size
            g_bH, s_bG = g_NH[step], s_NG[step]
            torch.mul(to_NG[step].unflatten(1, (3, -1)), g_bH[:, None], out=s_bG.unflatten(1, (3, -1)))
            if earlier:
                begin = end - earlier
                g_NH[begin : begin + size].addcmul_(g_bH, to_s_NH[step]).addmm_(s_bG, u_GH)
        i_NG = torch.cat([s_NG[:, : 2 * u_GH.shape[1]], to_n_NH * g_NH], 1)
        return i_NG, s_NG.t() @ before_NH, s_NG.sum(0), None

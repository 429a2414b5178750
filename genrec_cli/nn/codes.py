"""Semantic IDs inside a network: embedding of codes, K heads, cosine classifier (MHL, appendix B).

Legend: N packed items, K digits, V codewords, D width.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CodeEmbedding(nn.Module):
    """``H = scale * mean over k of E[w^k]`` (MHL, equations 10 and 11, and RPG, section 3.2, with a scale of 1).

    Row ``k * V + code`` of the table is E^k's row of that code; ``shared``: all digits use row ``code``. Then follow
    ``extra`` special tokens from row ``free`` on. ``padded``: negative codes are padding, ignored by the mean, and map
    to the last row. ``scale`` None is ``sqrt(K D)``: the mean of K rows has 1/sqrt(K) of a row's size, and a
    Transformer's input is sqrt(D) times its embedding (Vaswani et al. 2017, section 3.4).
    """

    offset_K: Tensor

    def __init__(
        self,
        digits: int,
        codewords: int,
        width: int,
        *,
        extra: int = 0,
        shared: bool = False,
        padded: bool = False,
        scale: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.digits, self.codewords, self.shared = digits, codewords, shared
        self.scale = math.sqrt(digits * width) if scale is None else scale
        self.free, self.extra = codewords if shared else digits * codewords, extra
        self.padding = self.free + extra if padded else None
        self.table = nn.Embedding(self.free + extra + padded, width)
        self.register_buffer("offset_K", torch.arange(digits) * (0 if shared else codewords), persistent=False)

    def tokens(self, codes_NK: Tensor) -> Tensor:
        """Rows of the table of codes, ``token_NK``."""
        token_NK = codes_NK + self.offset_K
        return token_NK if self.padding is None else token_NK.masked_fill(codes_NK < 0, self.padding)

    def special(self, token_NK: Tensor) -> Tensor:
        """Which tokens are special ones, such as masks."""
        return (token_NK >= self.free) & (token_NK < self.free + self.extra)

    def forward(self, token_NK: Tensor) -> Tensor:
        pooled_ND = F.embedding_bag(token_NK, self.table.weight, mode="mean", padding_idx=self.padding)
        return pooled_ND if self.scale == 1 else pooled_ND * self.scale

    def vectors(self) -> Tensor:
        """``E_KVD``, or ``E_VD`` if it is shared: a view of the table."""
        table = self.table.weight
        codes = table if len(table) == self.free else table[: self.free]  # the gradient of a slice is a copy
        return codes if self.shared else codes.view(self.digits, self.codewords, -1)


class CodeHeads(nn.Module):
    """K residual heads ``g_k(h) = h + SiLU(W_k h + b_k)`` as one matrix product; W and b start at zero."""

    def __init__(self, digits: int, width: int) -> None:
        super().__init__()
        self.digits, self.linear = digits, nn.Linear(width, digits * width)

    def reset(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, h_ND: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """``state_KND``, for all K digits or for those from ``first`` to before ``last``."""
        weight: Tensor = self.linear.weight
        bias: Tensor = self.linear.bias
        width = h_ND.shape[-1]
        if first or last is not None:
            rows = slice(first * width, None if last is None else last * width)
            weight, bias = weight[rows], bias[rows]
        return (h_ND[:, None] + F.silu(F.linear(h_ND, weight, bias)).unflatten(-1, (-1, width))).transpose(0, 1)

    def weights(self) -> tuple[Tensor, Tensor]:
        """``weight_KDD`` and ``bias_K1D``, for :func:`residual_heads`."""
        return self.linear.weight.unflatten(0, (self.digits, -1)), self.linear.bias.unflatten(0, (self.digits, 1, -1))


def residual_heads(weight_kDD: Tensor, bias_k1D: Tensor, h_kPD: Tensor) -> Tensor:
    """The heads of k digits, each applied to its P states: ``state_kPD``."""
    return h_kPD + F.silu(torch.baddbmm(bias_k1D, h_kPD, weight_kDD.transpose(1, 2)))


class _Cosine(torch.autograd.Function):
    """``cos(state, vector) / temperature`` of all pairs per digit, with an explicit gradient.

    The logits are divided by the norms after the product. The gradient of ``cos(a, b)`` is ``(b / |b| - cos(a, b) a /
    |a|) / |a|``: one product and one multiple of ``a``. Autograd would make ten more passes over arrays of K x V x D
    and K x N x D, and save copies of them.
    """

    @staticmethod
    def forward(ctx: Any, state_KND: Tensor, vectors_KVD: Tensor, temperature: float) -> Tensor:
        kind = state_KND.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else state_KND.dtype
        state_KND, low_KVD = state_KND.to(low), vectors_KVD.to(low)
        length_KN1, length_K1V = _length(state_KND)[..., None], _length(low_KVD)[:, None]
        logit_KNV = torch.bmm(state_KND, low_KVD.transpose(1, 2)).float()
        logit_KNV.mul_((length_KN1 * temperature).reciprocal_()).mul_(length_K1V.reciprocal())
        ctx.save_for_backward(state_KND, low_KVD, logit_KNV, length_KN1, length_K1V)
        ctx.temperature = temperature
        return logit_KNV

    @staticmethod
    def backward(ctx: Any, g_KNV: Tensor) -> tuple[Tensor, Tensor, None]:
        state_KND, low_KVD, logit_KNV, length_KN1, length_K1V = ctx.saved_tensors
        along_KNV = g_KNV * logit_KNV
        along_KN1 = along_KNV.sum(2, keepdim=True) / length_KN1.square()
        along_KV1 = (along_KNV.sum(1, keepdim=True) / length_K1V.square()).transpose(1, 2)
        g_KNV = g_KNV * (length_KN1 * ctx.temperature).reciprocal_()
        g_KNV = g_KNV.mul_(length_K1V.reciprocal()).to(state_KND.dtype)
        state = torch.bmm(g_KNV, low_KVD).float().addcmul_(state_KND, along_KN1, value=-1)
        vectors = torch.bmm(g_KNV.transpose(1, 2), state_KND).float().addcmul_(low_KVD, along_KV1, value=-1)
        return state, vectors, None


def _length(x_XYD: Tensor) -> Tensor:
    """Euclidean norms in fp32, at least 1e-12."""
    return torch.linalg.vector_norm(x_XYD, dim=-1, dtype=torch.float32).clamp_min_(1e-12)


def cosine_logits(state_KND: Tensor, vectors_KVD: Tensor, temperature: float) -> Tensor:
    """``logit_KNV = cos(state^k, E^k_v) / temperature`` in fp32 (MHL, equations 14 and 15), or with a shared
    ``E_VD``."""
    if vectors_KVD.dim() == 3:
        return _Cosine.apply(state_KND, vectors_KVD, temperature)
    logit_1XV = _Cosine.apply(state_KND.flatten(0, 1)[None], vectors_KVD[None], temperature)
    return logit_1XV[0].unflatten(0, state_KND.shape[:2])

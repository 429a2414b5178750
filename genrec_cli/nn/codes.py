"""Semantic IDs inside a network: embedding of codes, K heads, cosine classifier (MHL, appendix B).

Legend: N packed items, K digits, V codewords, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CodeEmbedding(nn.Module):
    """``H = mean over k of E[w^k]`` (MHL, equations 10 and 11; RPG, section 3.2).

    Row ``k * V + code`` of the table is E^k's row of that code. Rows from ``free`` = K * V on are free for a
    model's own tokens (mask ids).

    Args:
        extra: how many free rows.
        shared: one E for all digits; its row is ``code``, and ``free`` is V.
        padded: some codes are negative, which stands for none: the mean is over the others. A last row, never
            read, takes their place.
    """

    def __init__(
        self, digits: int, codewords: int, width: int, *, extra: int = 0, shared: bool = False, padded: bool = False
    ) -> None:
        super().__init__()
        self.digits, self.codewords, self.shared = digits, codewords, shared
        self.free = codewords if shared else digits * codewords
        self.padding = self.free + extra if padded else None
        self.table = nn.Embedding(self.free + extra + padded, width)
        self.register_buffer("offset_K", torch.arange(digits) * (0 if shared else codewords), persistent=False)

    def tokens(self, codes_NK: Tensor) -> Tensor:
        """Codes to rows of the table, ``token_NK``."""
        token_NK = codes_NK + self.offset_K
        return token_NK if self.padding is None else token_NK.masked_fill(codes_NK < 0, self.padding)

    def forward(self, token_NK: Tensor) -> Tensor:
        """Rows of the table, averaged over the digits: ``x_ND``."""
        return F.embedding_bag(token_NK, self.table.weight, mode="mean", padding_idx=self.padding)

    def vectors(self) -> Tensor:
        """``E_KVD``, or ``E_VD`` where it is shared: a view of the table."""
        codes = self.table.weight[: self.free]
        return codes if self.shared else codes.view(self.digits, self.codewords, -1)


class CodeHeads(nn.Module):
    """K residual heads ``g_k(h) = h + SiLU(W_k h + b_k)`` as one matrix product; W and b start at zero."""

    def __init__(self, digits: int, width: int) -> None:
        super().__init__()
        self.digits = digits
        self.linear = nn.Linear(width, digits * width)

    def reset(self) -> None:
        """Start every head as the identity."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, h_ND: Tensor) -> Tensor:
        """All K states of each position: ``state_KND``."""
        return (h_ND[:, None] + F.silu(self.linear(h_ND)).unflatten(-1, (self.digits, -1))).transpose(0, 1)

    def grouped(self, h_KPD: Tensor) -> Tensor:
        """Head k on its own P positions only: ``state_KPD``. The work of K * P pairs, not of all."""
        width = h_KPD.shape[-1]
        weight_KDD = self.linear.weight.view(self.digits, width, width)
        bias_K1D = self.linear.bias.view(self.digits, 1, width)
        return h_KPD + F.silu(torch.baddbmm(bias_K1D, h_KPD, weight_KDD.transpose(1, 2)))


def cosine_logits(state_KND: Tensor, vectors_KVD: Tensor, temperature: float) -> Tensor:
    """``cos(state^k, E^k_v) / temperature`` as ``logit_KNV`` (MHL, equations 14 and 15).

    ``E_VD`` in place of ``E_KVD`` is shared by all digits.
    The states are normalised after the product, on V columns rather than on D: the same number, less work.
    """
    unit_KVD = F.normalize(vectors_KVD, dim=-1)
    scale_KN = state_KND.float().norm(dim=-1).clamp_min(1e-12).reciprocal() / temperature
    product = torch.matmul if unit_KVD.dim() == 2 else torch.bmm
    logit_KNV = product(state_KND, unit_KVD.to(state_KND.dtype).transpose(-1, -2))
    return logit_KNV.float() * scale_KN[..., None]

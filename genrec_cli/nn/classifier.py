"""States to codes: residual heads, cosine classifier, cross-entropy and entropy (MHL, appendix B, equations 1, 2, 4).

Losses are computed at the requested pairs (position, digit) only. Large losses are chunked over digits, so that the
logits of a chunk fit into a cache.

Legend: N positions, K digits, k digits of a chunk, P pairs per digit, V codewords, D width.
"""

from collections.abc import Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.nn.chunks import AT_ONCE, CHUNK, even_chunks, limit, sum_over_chunks
from genrec_cli.nn.codes import CodeHeads, cosine_logits, residual_heads
from genrec_cli.nn.packing import positions


class CodeClassifier:
    """P^k(code | state) by cosine similarity with ``E_KVD``, or ``E_VD`` if all digits share it."""

    def __init__(self, heads: CodeHeads, vectors: Tensor, temperature: float) -> None:
        self.heads, self.vectors, self.temperature = heads, vectors, temperature

    def logits(self, h_ND: Tensor) -> Tensor:
        """``logit_KNV``"""
        return cosine_logits(self.heads(h_ND), self.vectors, self.temperature)

    def loss(self, h_ND: Tensor, code_NK: Tensor) -> Tensor:
        """``-log P^k(code)``, summed over positions and digits. No host-device synchronisation: padding rows, with code
        -1, are computed and ignored."""
        positions, digits = code_NK.shape
        chunks = self._chunks([positions] * digits, h_ND.device)
        if len(chunks) == 1:
            return _cross_entropy(self.logits(h_ND), code_NK.t())
        return self._total(h_ND, None, code_NK.t(), chunks, [positions] * len(chunks))

    def loss_at(self, h_ND: Tensor, code_NK: Tensor, mask_NK: Tensor) -> Tensor:
        """``-log P^k(code)``, summed over the pairs where ``mask_NK`` is true; no other pair is computed."""
        position_X, count_K = mask_NK.t().nonzero()[:, 1], mask_NK.sum(0)  # sorted by digit
        place_X, digit_X = positions(count_K, len(position_X))
        counts = count_K.tolist()
        at_KP = position_X.new_zeros(len(counts), max(round_width(max(counts)), 1))
        at_KP[digit_X, place_X] = position_X
        real_KP = torch.arange(at_KP.shape[1], device=h_ND.device) < count_K[:, None]
        code_KP = code_NK.t().gather(1, at_KP).masked_fill(~real_KP, -1)
        chunks, remaining = self._chunks(counts, h_ND.device), iter(counts)
        widths = [round_width(max(islice(remaining, size))) for size in chunks]
        return self._total(h_ND, at_KP, code_KP, chunks, widths)

    @torch.no_grad()
    def entropies(self, h_ND: Tensor) -> Tensor:
        """``entropy_KN`` in nats, without gradient."""
        entropy_KN = h_ND.new_empty(self.heads.digits, len(h_ND), dtype=torch.float32)
        chunk = max(limit(CHUNK, h_ND.device) // 2 // max(len(h_ND) * self.vectors.shape[-2], 1), 1)
        for first in range(0, self.heads.digits, chunk):
            vectors = self.vectors if self.vectors.dim() == 2 else self.vectors[first : first + chunk]
            logit_kNV = cosine_logits(self.heads(h_ND, first, first + chunk), vectors, self.temperature)
            entropy_KN[first : first + chunk] = entropy(logit_kNV.log_softmax(-1))
        return entropy_KN

    def _chunks(self, counts: Sequence[int], device: torch.device) -> list[int]:
        codewords = self.vectors.shape[-2]
        large = sum(counts) * codewords > limit(AT_ONCE, device)
        return even_chunks(counts, max_pairs=limit(CHUNK, device) // codewords if large else None)

    def _total(
        self, h_ND: Tensor, at_KP: Tensor | None, code_KP: Tensor, chunks: Sequence[int], widths: Sequence[int]
    ) -> Tensor:
        """The loss at positions ``at_KP`` (None: all positions), padded to ``widths`` pairs per digit of a chunk."""
        at = None if at_KP is None else at_KP.split(list(chunks))
        code = code_KP.split(list(chunks))

        def loss(chunk: int, shared: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
            h_ND, vectors, weight_kDD, bias_k1D = *shared, *parts
            width = widths[chunk]
            if not width:
                return h_ND.new_zeros((), dtype=torch.float32)
            # A look-up, not an index: only its gradient sums repeated positions in a fixed order.
            row_PD = h_ND if at is None else F.embedding(at[chunk][:, :width], h_ND)
            row_kPD = row_PD.expand(len(weight_kDD), -1, -1)
            logit_kPV = cosine_logits(residual_heads(weight_kDD, bias_k1D, row_kPD), vectors, self.temperature)
            return _cross_entropy(logit_kPV, code[chunk][:, :width])

        tensors = [h_ND, self.vectors, *self.heads.weights()]
        shared_count = 2 if self.vectors.dim() == 2 else 1
        return sum_over_chunks(loss, chunks, tensors[:shared_count], tensors[shared_count:])


def round_width(width: int) -> int:
    """Bucketing of widths, 16 sizes per octave: oneDNN caches about a megabyte for each new shape of a product."""
    step = 1 << max(width.bit_length() - 5, 0)
    return -(-width // step) * step


def entropy(logp_KNV: Tensor) -> Tensor:
    """Shannon entropy in nats of each distribution, ``entropy_KN`` (equation 4)."""
    return logp_KNV.exp().mul_(logp_KNV).sum(-1).neg_()


def _cross_entropy(logit_kPV: Tensor, code_kP: Tensor) -> Tensor:
    logp_kPV = logit_kPV.log_softmax(-1)
    return F.nll_loss(logp_kPV.flatten(0, 1), code_kP.reshape(-1), ignore_index=-1, reduction="sum")

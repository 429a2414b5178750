"""States to codes: residual heads, cosine classifier, cross-entropy and entropy (MHL, appendix B, equations 1, 2, 4).

Losses are computed where they are asked for and nowhere else. Where there is much to do, digits go in chunks whose
logits fit into a cache: 32 tokens of 1,300 positions have 690 MB of logits over 4,096 words, and a loss and its
gradient hold several such arrays.

Legend: N positions, K digits, k digits of a chunk, P pairs of a digit, V codewords, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.nn.chunks import even_chunks, sum_over_chunks
from genrec_cli.nn.codes import CodeHeads, cosine_logits, residual_heads

AT_ONCE = {"cpu": 3 << 20, "cuda": 1 << 27}
"""Logits of a step up to which chunks gain nothing."""
CHUNK = {"cpu": 3 << 19, "cuda": 1 << 26}
"""Logits of a chunk above that, if it has more than one digit. On a CPU: what its second-level cache holds."""


class CodeClassifier:
    """P^k(code | state).

    Args:
        vectors: ``E_KVD``, or ``E_VD`` if the digits share it.
        temperature: of the cosine classifier.
    """

    def __init__(self, heads: CodeHeads, vectors: Tensor, temperature: float) -> None:
        self.heads, self.vectors, self.temperature = heads, vectors, temperature

    def logits(self, h_ND: Tensor) -> Tensor:
        """``logit_KNV``"""
        return cosine_logits(self.heads(h_ND), self.vectors, self.temperature)

    def loss(self, h_ND: Tensor, code_NK: Tensor) -> Tensor:
        """``-log P^k(code)``, summed over all positions and digits.

        Args:
            code_NK: -1 gives no loss, but is computed, so that nothing synchronises with the device.
        """
        positions, digits = code_NK.shape
        chunks = self._chunks([positions] * digits, h_ND.device)
        if len(chunks) == 1:
            return _negative_log(self.logits(h_ND), code_NK.t())
        return self._total(h_ND, None, code_NK.t(), chunks, [positions] * len(chunks))

    def loss_at(self, h_ND: Tensor, code_NK: Tensor, mask_NK: Tensor) -> Tensor:
        """``-log P^k(code)``, summed over the pairs where ``mask_NK`` is true; no other is computed."""
        digit_X, position_X = mask_NK.t().nonzero(as_tuple=True)  # sorted by digit
        number_K = mask_NK.sum(0)
        place_X = torch.arange(len(digit_X), device=h_ND.device) - (number_K.cumsum(0) - number_K)[digit_X]
        number = number_K.tolist()
        at_KP = position_X.new_zeros(len(number), max(round_width(max(number)), 1))
        at_KP[digit_X, place_X] = position_X
        real_KP = torch.arange(at_KP.shape[1], device=h_ND.device) < number_K[:, None]
        code_KP = code_NK.t().gather(1, at_KP).masked_fill(~real_KP, -1)
        chunks = self._chunks(number, h_ND.device)
        widest: list[int] = []
        first = 0
        for size in chunks:
            widest.append(round_width(max(number[first : first + size])))
            first += size
        return self._total(h_ND, at_KP, code_KP, chunks, widest)

    @torch.no_grad()
    def entropies(self, h_ND: Tensor) -> Tensor:
        """``entropy_KN`` in nats, without gradient."""
        entropy_KN = h_ND.new_empty(self.heads.digits, len(h_ND), dtype=torch.float32)
        chunk = max(_limit(CHUNK, h_ND.device) // 2 // max(len(h_ND) * self.vectors.shape[-2], 1), 1)
        for first in range(0, self.heads.digits, chunk):
            own = self.vectors if self.vectors.dim() == 2 else self.vectors[first : first + chunk]
            logit_kNV = cosine_logits(self.heads(h_ND, first, first + chunk), own, self.temperature)
            entropy_KN[first : first + chunk] = entropy(logit_kNV.log_softmax(-1))
        return entropy_KN

    def _chunks(self, number: Sequence[int], device: torch.device) -> list[int]:
        codewords = self.vectors.shape[-2]
        much = sum(number) * codewords > _limit(AT_ONCE, device)
        return even_chunks(number, most=_limit(CHUNK, device) // codewords if much else None)

    def _total(
        self, h_ND: Tensor, at_KP: Tensor | None, code_KP: Tensor, chunks: Sequence[int], widest: Sequence[int]
    ) -> Tensor:
        at = [None] * len(chunks) if at_KP is None else at_KP.split(list(chunks))
        code = code_KP.split(list(chunks))

        def loss(chunk: int, shared: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
            """Of one chunk, from what all digits share and its part of what they do not."""
            wide, at_kP = widest[chunk], at[chunk]
            h_ND, vectors, weight_kDD, bias_k1D = *shared, *parts
            if not wide:
                return h_ND.new_zeros((), dtype=torch.float32)
            # A look-up, not an index: only its gradient adds up repeated positions in a fixed order.
            row_PD = h_ND if at_kP is None else F.embedding(at_kP[:, :wide], h_ND)
            row_kPD = row_PD.expand(len(weight_kDD), -1, -1)
            logit_kPV = cosine_logits(residual_heads(weight_kDD, bias_k1D, row_kPD), vectors, self.temperature)
            return _negative_log(logit_kPV, code[chunk][:, :wide])

        own = [self.vectors, *self.heads.weights()]
        number = 2 if self.vectors.dim() == 2 else 1
        return sum_over_chunks(loss, chunks, [h_ND, *own][:number], [h_ND, *own][number:])


def round_width(number: int) -> int:
    """The next of sixteen numbers an octave: oneDNN keeps a megabyte for each shape of product that it has met."""
    step = 1 << max(number.bit_length() - 5, 0)
    return -(-number // step) * step


def entropy(logp_KNV: Tensor) -> Tensor:
    """Shannon entropy in nats of each distribution, ``entropy_KN`` (equation 4)."""
    return logp_KNV.exp().mul_(logp_KNV).sum(-1).neg_()


def _negative_log(logit_kPV: Tensor, code_kP: Tensor) -> Tensor:
    logp_kPV = logit_kPV.log_softmax(-1)
    return F.nll_loss(logp_kPV.flatten(0, 1), code_kP.reshape(-1), ignore_index=-1, reduction="sum")


def _limit(table: dict[str, int], device: torch.device) -> int:
    return table.get(device.type, table["cuda"])

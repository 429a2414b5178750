"""MHL: masked history learning (Wei et al., ACL 2026, arXiv 2509.23649).

RPG's model that, beside the next item, reconstructs hidden codes of the history: equations (1) to (4).
Which codes are hidden is the curriculum's choice; the model calls ``choose`` with the entropies of its own
clean pass. A masked code (t, k) is replaced by the vocabulary's own token of that place (appendix A).

Legend: N packed items, M positions with a target, K digits, V codewords, D width, P pairs a digit.

Readings where the paper is silent or contradicts itself, each an option:

* ``next_on``: "masked" as printed (both losses from the masked history; entropies, where the policy needs
  them, from a clean pass without gradient); "clean" is ours: the clean pass gives the next-item loss and, its
  logits detached, the entropies for free; the masked pass reconstructs only.
* ``next_targets``: equation (1) writes the last position only; RPG's training, which the paper builds on,
  learns every position.
* ``entropy_source``: "printed" takes h_t for the uncertainty of item t; a next-item model's h_t describes item
  t + 1, so "predictive" takes h_{t-1} (the first item takes its history's mean).

Reconstruction heads run at masked (t, k) pairs only. Recipes: beauty-mhl, toys-mhl, sports-mhl.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.config import NonNegative, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.models.base import Choose
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.nn.codes import cosine_logits, split_digits
from genrec_cli.nn.losses import Loss, code_likelihood
from genrec_cli.nn.packing import take

DIGITS_AT_ONCE = 4
"""Of the pass that only measures entropies, on a processor: what it makes of them stays in the cache."""


class MhlConfig(RpgConfig):
    """RPG's settings and what masked history learning adds."""

    next_on: Literal["masked", "clean"] = "masked"
    """Which pass gives the next-item loss; masked: as printed."""
    next_targets: Literal["all", "last"] = "all"
    """Positions that learn their next item."""
    next_weight: Positive = 1.0
    """lambda_1 of equation (3)."""
    mask_weight: NonNegative = 1.0
    """lambda_2 of equation (3)."""
    entropy_source: Literal["printed", "predictive"] = "printed"
    """State whose entropy stands for item t: h_t (printed) or h_{t-1}."""


class Mhl(Rpg):
    """Face: CodeScorer. At inference it is RPG."""

    Config: ClassVar[type[Section]] = MhlConfig
    masks: ClassVar[bool] = True
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"curriculum": {"preset": "r-e-inf"}}
    config: MhlConfig

    def extra_tokens(self, max_length: int) -> int:
        """One mask token for each (position, digit): V_mask of appendix A."""
        return self.digits * max_length

    def losses(self, batch: Batch, choose: Choose | None = None) -> dict[str, Loss]:
        learn_M = batch.packing.last_B if self.config.next_targets == "last" else batch.learn_M
        clean_NK = self.tokens(batch)
        if choose is None:
            return {"next": self._next(self._logp(self.states(clean_NK, batch, learn_M)), batch, learn_M)}
        if self.config.next_on == "clean":
            logp_KMV, entropy_NK = self._clean_pass(clean_NK, batch, learn_M, entropies=choose.needs_entropy)
            mask_NK = self._mask(choose, entropy_NK, batch)
            masked_ND = self.states(self.hide(clean_NK, mask_NK, batch), batch)
        else:
            entropy_NK = self.entropies(clean_NK, batch) if choose.needs_entropy else None
            mask_NK = self._mask(choose, entropy_NK, batch)
            masked_ND = self.states(self.hide(clean_NK, mask_NK, batch), batch)
            logp_KMV = self._logp(take(masked_ND, learn_M))
        return {
            "next": self._next(logp_KMV, batch, learn_M),
            "mask": self._reconstruction(masked_ND, mask_NK, batch),
            "masked_share": self._share(mask_NK, batch),
        }

    def _clean_pass(
        self, clean_NK: Tensor, batch: Batch, learn_M: Tensor, *, entropies: bool
    ) -> tuple[Tensor, Tensor | None]:
        """``logp_KMV`` at the targets from the clean history and, if wanted, the entropies everywhere."""
        if not entropies:
            return self._logp(self.states(clean_NK, batch, learn_M)), None
        h_ND = self.states(clean_NK, batch)
        logp_KMV = self._logp(take(h_ND, learn_M))  # once, for the loss and for the entropies
        return logp_KMV, self._entropies(h_ND, batch, logp_KMV, learn_M)

    def _mask(self, choose: Choose, entropy_NK: Tensor | None, batch: Batch) -> Tensor:
        """The curriculum's choice, among the codes that are there."""
        if not self.padded:
            return choose(entropy_NK, batch, self.digits)
        return choose(entropy_NK, batch, self.digits, real_NK=self.real(batch))

    def _share(self, mask_NK: Tensor, batch: Batch) -> Loss:
        """The share of codes really masked, for the log."""
        hidden, real_NK = mask_NK.sum(), self.real(batch)
        all_of_them = torch.full_like(hidden, mask_NK.numel()) if real_NK is None else real_NK.sum()
        return Loss(hidden, all_of_them, weight=0.0)

    def hide(self, token_NK: Tensor, mask_NK: Tensor, batch: Batch) -> Tensor:
        """Masked codes replaced by the mask token of their position and digit (equation 9)."""
        digit_K = torch.arange(self.digits, device=token_NK.device)
        place_NK = self.codes.free + batch.packing.position_N[:, None] * self.digits + digit_K
        return torch.where(mask_NK, place_NK, token_NK)

    def _logp(self, h_MD: Tensor) -> Tensor:
        """``logp_KMV`` at the given states."""
        return self.logits(h_MD).log_softmax(-1)

    def _next(self, logp_KMV: Tensor, batch: Batch, learn_M: Tensor) -> Loss:
        target_MK = self.target_codes(batch, learn_M)
        loss = code_likelihood(logp_KMV, target_MK, padded=self.padded or batch.rounded)
        return loss._replace(weight=self.config.next_weight)

    def _reconstruction(self, h_ND: Tensor, mask_NK: Tensor, batch: Batch) -> Loss:
        """``-log P^k(w_t^k | h_t)`` at masked pairs (equation 2), heads computed at those pairs alone."""
        digit_X, item_X = mask_NK.t().nonzero(as_tuple=True)  # sorted by digit
        number_K = mask_NK.sum(0)
        place_X = torch.arange(len(digit_X), device=h_ND.device) - (number_K.cumsum(0) - number_K)[digit_X]
        number = number_K.tolist()
        at_KP = item_X.new_zeros(self.digits, max(*number, 1))
        at_KP[digit_X, place_X] = item_X
        real_KP = torch.arange(at_KP.shape[1], device=h_ND.device) < number_K[:, None]
        codes_KP = self.codes_of(batch.item_N).t().gather(1, at_KP).masked_fill(~real_KP, -1)
        runs = even_runs(number)
        vectors = self.codes.vectors()
        vectors_of_runs = split_digits(vectors, runs) if vectors.dim() == 3 else [vectors] * len(runs)
        parts = zip(at_KP.split(runs), codes_KP.split(runs), self.heads.split(runs), vectors_of_runs, strict=True)
        total, first = h_ND.new_zeros((), dtype=torch.float32), 0
        for size, (at_kP, codes_kP, heads, vectors_kVD) in zip(runs, parts, strict=True):
            widest, first = max(number[first : first + size]), first + size
            if widest:
                # A look-up, not an index: only its gradient adds up repeated positions in a fixed order.
                state_kPD = heads(F.embedding(at_kP[:, :widest], h_ND))
                logit_kPV = cosine_logits(state_kPD, vectors_kVD, self.config.temperature)
                target_X = codes_kP[:, :widest].flatten()
                total = total + F.cross_entropy(logit_kPV.flatten(0, 1), target_X, ignore_index=-1, reduction="sum")
        return Loss(total, number_K.sum().to(total.dtype), weight=self.config.mask_weight)

    # ---- entropies (equation 4) ----------------------------------------------------------------

    @torch.no_grad()
    def entropies(self, clean_NK: Tensor, batch: Batch) -> Tensor:
        """``entropy_NK`` in nats, from a pass of its own over the clean history, without gradient."""
        h_ND, vectors = self.states(clean_NK, batch), self.codes.vectors()
        run = self.digits if h_ND.is_cuda else DIGITS_AT_ONCE
        parts = []
        for first in range(0, self.digits, run):
            own = vectors if vectors.dim() == 2 else vectors[first : first + run]
            logit_kNV = cosine_logits(self.heads(h_ND, first, first + run), own, self.config.temperature)
            parts.append(entropy(logit_kNV.log_softmax(-1)))
        return self._source(torch.cat(parts, 1), batch)

    @torch.no_grad()
    def _entropies(self, h_ND: Tensor, batch: Batch, logp_KMV: Tensor, learn_M: Tensor) -> Tensor:
        """From log-probabilities that are there already; only positions without a target cost anything."""
        rest_N = torch.ones(len(h_ND), dtype=torch.bool, device=h_ND.device)
        rest_N[learn_M] = False
        entropy_NK = logp_KMV.new_empty(len(h_ND), self.digits)
        entropy_NK[learn_M] = entropy(logp_KMV)
        if len(learn_M) < len(h_ND):
            entropy_NK[rest_N] = entropy(self._logp(h_ND[rest_N]))
        return self._source(entropy_NK, batch)

    def _source(self, entropy_NK: Tensor, batch: Batch) -> Tensor:
        if self.config.entropy_source == "predictive":
            entropy_NK = self._predictive(entropy_NK, batch)
        if (real_NK := self.real(batch)) is None:
            return entropy_NK
        # Padding takes the mean of its item's real codes, so that a mean over digits is theirs.
        mean_N = torch.where(real_NK, entropy_NK, 0.0).sum(-1) / real_NK.sum(-1)
        return torch.where(real_NK, entropy_NK, mean_N[:, None])

    def _predictive(self, entropy_NK: Tensor, batch: Batch) -> Tensor:
        packing = batch.packing
        total_BK = entropy_NK.new_zeros(packing.sequences, self.digits).index_add_(0, packing.sequence_N, entropy_NK)
        mean_BK = total_BK / packing.length_B[:, None]
        first_N1 = (packing.position_N == 0)[:, None]
        return torch.where(first_N1, mean_BK[packing.sequence_N], entropy_NK.roll(1, 0))


def entropy(logp_KNV: Tensor) -> Tensor:
    """Shannon entropy in nats of each distribution, ``entropy_NK`` (equation 4)."""
    return logp_KNV.exp().mul_(logp_KNV).sum(-1).neg_().t()


def even_runs(number: Sequence[int]) -> list[int]:
    """Lengths of runs of neighbouring digits whose numbers of pairs are about equal.

    A run is one matrix product, as wide as its widest digit; at most a quarter of it is empty. Entropy singles out
    digits, and one run for all of them would be as wide as the favourite.
    """
    runs: list[int] = []
    pairs = widest = 0
    for count in number:
        pairs, widest = pairs + count, max(widest, count)
        if runs and 0.75 * (runs[-1] + 1) * widest <= pairs:
            runs[-1] += 1
        else:
            runs.append(1)
            pairs = widest = count
    return runs

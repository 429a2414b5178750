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
  learns every position. "last" needs rows of one target (``train.windows = "each"``).
* ``entropy_source``: "printed" takes h_t for the uncertainty of item t; a next-item model's h_t describes item
  t + 1, so "predictive" takes h_{t-1} (the first item takes its history's mean).

One more reading, without an option: Algorithm 1 says only that entropies come without gradient. Here their pass is one
of training, with dropout on, so the masks follow a sample of how unsure the model is, another one in each step; the
entropies of the log, the figures and case studies are those of the same weights without dropout.

Reconstruction heads run at masked (t, k) pairs only. Recipes: beauty-mhl, toys-mhl, sports-mhl.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genrec_cli.config import NonNegative, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Choose
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.nn.losses import Loss
from genrec_cli.nn.packing import take


class MhlConfig(RpgConfig):
    """RPG's settings and what masked history learning adds."""

    next_on: Literal["masked", "clean"] = "masked"
    """Which pass gives the next-item loss; masked: as printed."""
    next_targets: Literal["all", "last"] = "all"
    """Positions that learn their next item; last needs train.windows = "each"."""
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

    def __init__(self, config: MhlConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        # Over the many words of text, reconstruction at all positions costs more than its launches.
        self.static = not self.padded

    def extra_tokens(self, max_length: int) -> int:
        """One mask token for each (position, digit): V_mask of appendix A."""
        return self.digits * max_length

    def losses(self, batch: Batch, choose: Choose | None = None) -> dict[str, Loss]:
        learn_M = batch.packing.last_B if self.config.next_targets == "last" else batch.learn_M
        clean_NK = self.tokens(batch)
        if choose is None:
            return {"next": self._weighed(self.next_loss(self.states(clean_NK, batch, learn_M), batch, learn_M))}
        if self.config.next_on == "clean":
            next_, entropy_NK = self._clean_pass(clean_NK, batch, learn_M, entropies=choose.needs_entropy)
            mask_NK = self._mask(choose, entropy_NK, batch)
            masked_ND = self.states(self.hide(clean_NK, mask_NK, batch), batch)
        else:
            entropy_NK = self.entropies(clean_NK, batch) if choose.needs_entropy else None
            mask_NK = self._mask(choose, entropy_NK, batch)
            masked_ND = self.states(self.hide(clean_NK, mask_NK, batch), batch)
            next_ = self.next_loss(take(masked_ND, learn_M), batch, learn_M)
        return {
            "next": self._weighed(next_),
            "mask": self._reconstruction(masked_ND, mask_NK, batch),
            "masked_share": self._share(mask_NK, batch),
        }

    def _clean_pass(
        self, clean_NK: Tensor, batch: Batch, learn_M: Tensor, *, entropies: bool
    ) -> tuple[Loss, Tensor | None]:
        """The loss at the targets from the clean history and, if wanted, the entropies everywhere."""
        if not entropies:
            return self.next_loss(self.states(clean_NK, batch, learn_M), batch, learn_M), None
        h_ND = self.states(clean_NK, batch)
        entropy_KM = h_ND.new_empty(self.digits, len(learn_M), dtype=torch.float32)
        loss = self.next_loss(take(h_ND, learn_M), batch, learn_M, entropy_KM=entropy_KM)
        return loss, self._entropies(h_ND, batch, entropy_KM, learn_M)

    def _mask(self, choose: Choose, entropy_NK: Tensor | None, batch: Batch) -> Tensor:
        """The curriculum's choice, among the codes that are there."""
        real_NK = self.real(batch)
        if real_NK is None:
            return choose(entropy_NK, batch, self.digits)
        return choose(entropy_NK, batch, self.digits, real_NK=real_NK)

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

    def _weighed(self, loss: Loss) -> Loss:
        return loss._replace(weight=self.config.next_weight)

    def _reconstruction(self, h_ND: Tensor, mask_NK: Tensor, batch: Batch) -> Loss:
        """``-log P^k(w_t^k | h_t)`` at masked pairs (equation 2), heads computed at those pairs alone; or at all, where
        the step is recorded and may not ask how many pairs there are."""
        code_NK = self.codes_of(batch.item_N)
        if batch.rounded:
            total = self.classifier.loss(h_ND, code_NK.masked_fill(~mask_NK, -1))
        else:
            total = self.classifier.loss_at(h_ND, code_NK, mask_NK)
        return Loss(total, mask_NK.sum().to(total.dtype), weight=self.config.mask_weight)

    # ---- entropies (equation 4) ----------------------------------------------------------------

    @torch.no_grad()
    def entropies(self, clean_NK: Tensor, batch: Batch) -> Tensor:
        """``entropy_NK`` in nats, from a pass of its own over the clean history, without gradient."""
        entropy_NK = self.classifier.entropies(self.states(clean_NK, batch)).t()
        # Older torch (2.6) would give the next pass the weights that were cast here, which know of no gradient.
        torch.clear_autocast_cache()
        return self._source(entropy_NK, batch)

    @torch.no_grad()
    def _entropies(self, h_ND: Tensor, batch: Batch, entropy_KM: Tensor, learn_M: Tensor) -> Tensor:
        """From those that the loss has given; only positions without a target cost anything."""
        if batch.rounded:  # the rest cannot be picked out without asking how many they are
            return self._source(self.classifier.entropies(h_ND).t(), batch)
        entropy_NK = entropy_KM.new_empty(len(h_ND), self.digits)
        entropy_NK[learn_M] = entropy_KM.t()
        if len(learn_M) < len(h_ND):
            rest_N = torch.ones(len(h_ND), dtype=torch.bool, device=h_ND.device)
            rest_N[learn_M] = False
            entropy_NK[rest_N] = self.classifier.entropies(h_ND[rest_N]).t()
        return self._source(entropy_NK, batch)

    def _source(self, entropy_NK: Tensor, batch: Batch) -> Tensor:
        if self.config.entropy_source == "predictive":
            entropy_NK = self._predictive(entropy_NK, batch)
        if (real_NK := self.real(batch)) is None:
            return entropy_NK
        # Padding takes the mean of its item's real codes, so that a mean over digits is theirs.
        mean_N = torch.where(real_NK, entropy_NK, 0.0).sum(-1) / real_NK.sum(-1).clamp_min(1)
        return torch.where(real_NK, entropy_NK, mean_N[:, None])

    def _predictive(self, entropy_NK: Tensor, batch: Batch) -> Tensor:
        packing = batch.packing
        total_BK = entropy_NK.new_zeros(packing.sequences, self.digits).index_add_(0, packing.sequence_N, entropy_NK)
        mean_BK = total_BK / packing.length_B[:, None]
        first_N1 = (packing.position_N == 0)[:, None]
        return torch.where(first_N1, mean_BK[packing.sequence_N], entropy_NK.roll(1, 0))

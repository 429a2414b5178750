"""MHL: masked history learning (Wei et al., ACL 2026, arXiv 2509.23649).

RPG that also reconstructs masked codes of the history: equations (1) to (4). The curriculum draws the masks; its
entropy policies use :meth:`Mhl.entropies`, one more pass over the unmasked history. A masked code (t, k) is replaced by
the mask token of its position and digit (appendix A).

Legend: N packed items, M positions with a target, K digits, V codewords, D width.

Readings where the paper is silent or contradicts itself, each an option:

* ``next_on``: "masked" as printed (both losses from the masked history); "clean" is ours: the next-item loss comes from
  a second pass over the unmasked history.
* ``next_targets``: equation (1) has the last position only; RPG's training, which the paper builds on, learns every
  position. "last" needs rows of one target (``train.windows = "each"``).
* ``entropy_source``: "printed" takes the entropy at h_t for item t; a next-item model's h_t describes item t + 1, so
  "predictive" takes h_{t-1} (the first item: the mean of its history).
* ``next_masked``: with both losses on the masked history, a masked code (t, k) has one distribution and two targets,
  its own code and that of item t + 1. False (ours) drops these pairs from the next-item loss.
* ``entropy_mode``: "train" has dropout in the pass of the entropies, "eval" has none; the paper does not say.
* ``entropy_relative`` (ours): minus the batch mean of its position and digit, since the raw entropy prefers early
  positions and digits that are hard to predict everywhere.

Entropies have no gradient (Algorithm 1); those of the log, the figures and the case studies have no dropout. Recipes:
beauty-mhl, toys-mhl, sports-mhl.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genrec_cli.config import NonNegative, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Masking, targets
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.nn.losses import Loss
from genrec_cli.nn.packing import take


class MhlConfig(RpgConfig):
    """RPG's settings and those of masked history learning."""

    next_on: Literal["masked", "clean"] = "masked"
    """Pass that has the next-item loss: that with masks, as the paper prints it, or one without masks."""
    next_targets: Literal["all", "last"] = "all"
    """Positions that learn their next item; last needs train.windows = "each"."""
    next_weight: Positive = 1.0
    """lambda_1 of equation (3)."""
    mask_weight: NonNegative = 1.0
    """lambda_2 of equation (3)."""
    entropy_source: Literal["printed", "predictive"] = "printed"
    """The state whose entropy is that of item t: h_t (printed) or h_{t-1} (predictive)."""
    next_masked: bool = True
    """Whether masked codes have a next-item loss (next_on = masked)."""
    entropy_mode: Literal["train", "eval"] = "train"
    """Mode of the pass that gives entropies for masks; eval: without dropout."""
    entropy_relative: bool = False
    """Whether entropies for masks are relative to the mean of their position and digit."""


class Mhl(Rpg):
    """Interface: that of RPG, whose inference it has."""

    Config: ClassVar[type[Section]] = MhlConfig
    masking: ClassVar[Masking] = "entropy"
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"curriculum": {"preset": "r-e-inf"}}
    config: MhlConfig

    @classmethod
    def check(cls, config: MhlConfig, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if config.next_targets == "last" and train.windows != "each":
            problem = f"model.next_targets = last needs rows of one target, not train.windows = {train.windows}."
            raise ConfigError(problem, hint="--set train.windows=each    makes a row per target")

    def extra_tokens(self, max_length: int) -> int:
        """One mask token for each (position, digit): V_mask of appendix A."""
        return self.digits * max_length

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        at_M, clean_NK, losses = self._next_at(batch), self.tokens(batch), {}
        if mask is not None:
            masked_ND, masked = self.states(self.apply_mask(clean_NK, mask, batch), batch), mask.sum()
            # -log P^k(w_t^k | h_t) (equation 2), computed at masked pairs only
            total = self.classifier.loss_at(masked_ND, self.codes_of(batch.item_N), mask)
            losses["mask"] = Loss(total, masked.to(total.dtype), weight=self.config.mask_weight)
            losses["masked_fraction"] = Loss(masked, self.maskable(batch).sum(), weight=0.0)  # for the log
        if mask is None or self.config.next_on == "clean":
            h_MD = self.states(clean_NK, batch, at_M)
        else:
            h_MD = take(masked_ND, at_M)
        next_loss = self.next_loss(h_MD, self._next_codes(batch, at_M, mask))
        next_loss = next_loss._replace(weight=self.config.next_weight)
        return {"next": next_loss} | self.option_losses(h_MD, batch, at_M) | losses

    def counts(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Tensor]:
        at_M = self._next_at(batch)
        counts = {"next": (self._next_codes(batch, at_M, mask) >= 0).sum()} | self.option_counts(batch, at_M)
        return counts if mask is None or not self.config.mask_weight else counts | {"mask": mask.sum()}

    def _next_at(self, batch: Batch) -> Tensor:
        return batch.packing.last_B if self.config.next_targets == "last" else targets(batch)[0]

    def _next_codes(self, batch: Batch, at_M: Tensor, mask_NK: Tensor | None) -> Tensor:
        """``target_MK`` of the next-item loss; -1 where there is none."""
        target_MK = self.target_codes(batch, at_M)
        if mask_NK is None or self.config.next_masked or self.config.next_on == "clean":
            return target_MK
        return target_MK.masked_fill(mask_NK[at_M], -1)

    def apply_mask(self, token_NK: Tensor, mask_NK: Tensor, batch: Batch) -> Tensor:
        """``token_NK`` with mask tokens at the masked codes (equation 9)."""
        digit_K = torch.arange(self.digits, device=token_NK.device)
        place_NK = self.codes.free + batch.packing.position_N[:, None] * self.digits + digit_K
        return torch.where(mask_NK, place_NK, token_NK)

    def reconstruct(self, batch: Batch, mask_NK: Tensor, at_M: Tensor) -> Tensor:
        """``logp_MKV`` of all codes at packed positions, where the codes ``mask_NK`` of the history are masked."""
        h_MD = self.states(self.apply_mask(self.tokens(batch), mask_NK, batch), batch, at_M)
        return self.logits(h_MD).log_softmax(-1).transpose(0, 1)

    @torch.no_grad()
    def entropies(self, batch: Batch) -> Tensor:
        """``entropy_NK`` in nats of the unmasked history (equation 4), without gradient."""
        training = self.training
        self.train(training and self.config.entropy_mode == "train")
        entropy_NK = self.classifier.entropies(self.states(self.tokens(batch), batch)).t()
        self.train(training)
        # torch 2.6 would reuse the weights that were cast here without gradient in the next pass.
        torch.clear_autocast_cache()
        packing, real_NK = batch.packing, self.maskable(batch)
        if self.config.entropy_source == "predictive":
            mean_BK = _means(entropy_NK, packing.sequence_N, packing.sequences, real_NK)
            first_N1 = (packing.position_N == 0)[:, None]
            entropy_NK = torch.where(first_N1, mean_BK[packing.sequence_N], entropy_NK.roll(1, 0))
        if training and self.config.entropy_relative:
            mean_TK = _means(entropy_NK, packing.position_N, packing.grid.longest, real_NK)
            entropy_NK = entropy_NK - mean_TK[packing.position_N]
        if not self.padded:
            return entropy_NK
        # Padding has the mean of its item's real codes, so that a mean over digits is that of the real codes.
        mean_N = torch.where(real_NK, entropy_NK, 0.0).sum(-1) / real_NK.sum(-1).clamp_min(1)
        return torch.where(real_NK, entropy_NK, mean_N[:, None])


def _means(x_NK: Tensor, group_N: Tensor, groups: int, real_NK: Tensor) -> Tensor:
    """``mean_GK`` of each group of rows and each digit, over the real codes."""
    total_GK = x_NK.new_zeros(groups, x_NK.shape[1]).index_add_(0, group_N, torch.where(real_NK, x_NK, 0.0))
    count_GK = x_NK.new_zeros(groups, x_NK.shape[1]).index_add_(0, group_N, real_NK.to(x_NK.dtype))
    return total_GK / count_GK.clamp_min(1)

"""MHL: masked history learning (Wei et al., ACL 2026, arXiv 2509.23649).

RPG's model that also reconstructs masked codes of the history: equations (1) to (4). The curriculum chooses which
codes are masked; an entropy policy asks :meth:`Mhl.entropies`, a pass of its own over the unmasked history. A masked
code (t, k) is replaced by the vocabulary's own token of that place (appendix A).

Legend: N packed items, M positions with a target, K digits, V codewords, D width.

Readings where the paper is silent or contradicts itself, each an option:

* ``next_on``: "masked" as printed (both losses from the masked history); "clean" is ours: the next-item loss comes
  from a second pass over the unmasked history, and the masked pass only reconstructs.
* ``next_targets``: equation (1) writes the last position only; RPG's training, which the paper builds on,
  learns every position. "last" needs rows of one target (``train.windows = "each"``).
* ``entropy_source``: "printed" takes h_t for the uncertainty of item t; a next-item model's h_t describes item
  t + 1, so "predictive" takes h_{t-1} (the first item takes its history's mean).

One more reading, without an option: Algorithm 1 says only that entropies come without gradient. In training their pass
has dropout on, so each step's masks follow another sample of the uncertainty; the entropies of the log, the figures
and case studies are those of the same weights without dropout.

Recipes: beauty-mhl, toys-mhl, sports-mhl.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genrec_cli.config import NonNegative, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Masking
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
    """Interface: CodeScorer. At inference it is RPG."""

    Config: ClassVar[type[Section]] = MhlConfig
    masking: ClassVar[Masking] = "entropy"
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"curriculum": {"preset": "r-e-inf"}}
    config: MhlConfig

    @classmethod
    def check(cls, config: MhlConfig, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if config.next_targets == "last" and train.windows != "each":
            raise ConfigError(
                f"model.next_targets = last needs rows of one target; train.windows = {train.windows} gives more.",
                hint="--set train.windows=each    gives every target a row",
            )

    def extra_tokens(self, max_length: int) -> int:
        """One mask token for each (position, digit): V_mask of appendix A."""
        return self.digits * max_length

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        at_M = self._next_at(batch)
        clean_NK = self.tokens(batch)
        if mask is None:
            return {"next": self._weighed(self.next_loss(self.states(clean_NK, batch, at_M), batch, at_M))}
        masked_ND = self.states(self.hide(clean_NK, mask, batch), batch)
        if self.config.next_on == "clean":
            next_ = self.next_loss(self.states(clean_NK, batch, at_M), batch, at_M)
        else:
            next_ = self.next_loss(take(masked_ND, at_M), batch, at_M)
        masked = mask.sum()
        # Heads run at masked pairs alone: -log P^k(w_t^k | h_t) (equation 2).
        total = self.classifier.loss_at(masked_ND, self.codes_of(batch.item_N), mask)
        return {
            "next": self._weighed(next_),
            "mask": Loss(total, masked.to(total.dtype), weight=self.config.mask_weight),
            "masked_fraction": Loss(masked, self.maskable(batch).sum(), weight=0.0),  # for the log
        }

    def counts(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Tensor]:
        found = {"next": (self.target_codes(batch, self._next_at(batch)) >= 0).sum()}
        return found if mask is None else found | {"mask": mask.sum()}

    def _next_at(self, batch: Batch) -> Tensor:
        return batch.packing.last_B if self.config.next_targets == "last" else batch.learn_M

    def hide(self, token_NK: Tensor, mask_NK: Tensor, batch: Batch) -> Tensor:
        """Masked codes replaced by the mask token of their position and digit (equation 9)."""
        digit_K = torch.arange(self.digits, device=token_NK.device)
        place_NK = self.codes.free + batch.packing.position_N[:, None] * self.digits + digit_K
        return torch.where(mask_NK, place_NK, token_NK)

    def _weighed(self, loss: Loss) -> Loss:
        return loss._replace(weight=self.config.next_weight)

    # ---- entropies (equation 4) ----------------------------------------------------------------

    @torch.no_grad()
    def entropies(self, batch: Batch) -> Tensor:
        """``entropy_NK`` in nats of the unmasked history; a pass of its own, without gradient."""
        entropy_NK = self.classifier.entropies(self.states(self.tokens(batch), batch)).t()
        # Older torch (2.6) would reuse weights that were cast here, without gradient, in the next pass.
        torch.clear_autocast_cache()
        if self.config.entropy_source == "predictive":
            entropy_NK = self._predictive(entropy_NK, batch)
        if not self.padded:
            return entropy_NK
        # Padding takes the mean of its item's real codes, so that a mean over digits is theirs.
        real_NK = self.maskable(batch)
        mean_N = torch.where(real_NK, entropy_NK, 0.0).sum(-1) / real_NK.sum(-1).clamp_min(1)
        return torch.where(real_NK, entropy_NK, mean_N[:, None])

    def _predictive(self, entropy_NK: Tensor, batch: Batch) -> Tensor:
        packing = batch.packing
        total_BK = entropy_NK.new_zeros(packing.sequences, self.digits).index_add_(0, packing.sequence_N, entropy_NK)
        mean_BK = total_BK / packing.length_B[:, None]
        first_N1 = (packing.position_N == 0)[:, None]
        return torch.where(first_N1, mean_BK[packing.sequence_N], entropy_NK.roll(1, 0))

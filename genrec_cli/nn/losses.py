"""Losses as sum and count."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(NamedTuple):
    """A loss as sum and count: the engine divides by the count of the whole global batch, since means of
    parts of unequal size average to a wrong gradient."""

    sum: Tensor
    count: Tensor
    weight: float = 1.0
    """lambda in the total; 0 marks a statistic that is only logged."""


def loss_of(total: Tensor, count: int) -> Loss:
    """A loss whose count is known to the host."""
    return Loss(total, torch.full((), float(count), device=total.device))


def code_cross_entropy(logit_KMV: Tensor, codes_MK: Tensor, *, smoothing: float = 0.0) -> Loss:
    """``-log P^k(w^k)`` summed over positions and digits, and their number (MHL, equation 1).

    Codes of -1 give no loss and do not count. ``smoothing`` spreads that fraction of each target evenly over the V
    codewords.
    """
    logp_KMV = logit_KMV.log_softmax(-1)
    total = F.nll_loss(logp_KMV.flatten(0, 1), codes_MK.t().reshape(-1), ignore_index=-1, reduction="sum")
    if smoothing:
        even = -torch.where(codes_MK.t() >= 0, logp_KMV.mean(-1), 0.0).sum()
        total = (1 - smoothing) * total + smoothing * even
    return Loss(total, (codes_MK >= 0).sum().to(total.dtype))


def item_cross_entropy(score_MI: Tensor, column_M: Tensor) -> Loss:
    """Softmax cross-entropy over the whole catalogue; ``column_M`` counts items from 0, and -1 is none."""
    total = F.cross_entropy(score_MI.float(), column_M, ignore_index=-1, reduction="sum")
    return Loss(total, (column_M >= 0).sum().to(total.dtype))


def binary_cross_entropy(positive_M: Tensor, negative_MS: Tensor) -> Loss:
    """SASRec's loss (Kang and McAuley 2018, section III-E): the target against S sampled items; -inf is none."""
    total = F.softplus(-positive_M.float()).sum() + F.softplus(negative_MS.float()).mean(-1).sum()
    return loss_of(total, positive_M.numel())


def generalised_bce(positive_M: Tensor, negative_MS: Tensor, *, items: int, t: float) -> Loss:
    """gBCE (Petrov and Macdonald, RecSys 2023, equations 12 and 13): the target's probability to the power beta, which
    corrects for the sampling of negatives. alpha is the fraction of items that is sampled."""
    alpha = min(negative_MS.shape[1] / max(items - 1, 1), 1.0)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    total = beta * F.softplus(-positive_M.float()).sum() + F.softplus(negative_MS.float()).sum()
    return loss_of(total / (negative_MS.shape[1] + 1), positive_M.numel())


def bpr(positive_M: Tensor, negative_MS: Tensor) -> Loss:
    """Bayesian personalised ranking (Rendle et al., UAI 2009): ``-log sigmoid(positive - negative)``; -inf is none."""
    total = F.softplus(negative_MS.float() - positive_M.float()[:, None]).mean(-1).sum()
    return loss_of(total, positive_M.numel())


def sampled_cross_entropy(positive_M: Tensor, negative_MS: Tensor) -> Loss:
    """Softmax cross-entropy of the target among itself and S sampled items; -inf is none."""
    score = torch.cat([positive_M[:, None], negative_MS], dim=1).float()
    target = torch.zeros(len(score), dtype=torch.long, device=score.device)
    return loss_of(F.cross_entropy(score, target, reduction="sum"), len(score))

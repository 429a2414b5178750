"""Losses as a sum and a count."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(NamedTuple):
    """A loss as a sum and a count. The engine divides by the count of the global batch: an average of the means of
    parts of unequal size has a wrong gradient."""

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    weight: float = 1.0
    """lambda in the total; 0: a statistic for the log."""


def loss_of(total: Tensor, count: int) -> Loss:
    """A loss with a count from the host."""
    return Loss(total, torch.full((), float(count), device=total.device))


def code_cross_entropy(logit_KMV: Tensor, codes_MK: Tensor, *, smoothing: float = 0.0) -> Loss:
    """``-log P^k(w^k)`` summed over positions and digits, with label smoothing (MHL, equation 1); -1 is ignored."""
    logp_KMV = logit_KMV.log_softmax(-1)
    total = F.nll_loss(logp_KMV.flatten(0, 1), codes_MK.t().reshape(-1), ignore_index=-1, reduction="sum")
    if smoothing:
        even = -torch.where(codes_MK.t() >= 0, logp_KMV.mean(-1), 0.0).sum()
        total = (1 - smoothing) * total + smoothing * even
    return Loss(total, (codes_MK >= 0).sum().to(total.dtype))


def binary_cross_entropy(positive_M: Tensor, negative_MS: Tensor) -> Loss:
    """SASRec's loss (Kang and McAuley 2018, section III-E) with S negatives; a negative score of -inf is ignored."""
    total = F.softplus(-positive_M.float()).sum() + F.softplus(negative_MS.float()).mean(-1).sum()
    return loss_of(total, positive_M.numel())


def generalised_bce(positive_M: Tensor, negative_MS: Tensor, *, items: int, t: float) -> Loss:
    """gBCE (Petrov and Macdonald, RecSys 2023, equations 12 and 13): the positive probability to the power beta
    corrects for negative sampling. alpha is the sampled fraction of the items; a negative score of -inf is ignored."""
    alpha = min(negative_MS.shape[1] / max(items - 1, 1), 1.0)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    total = beta * F.softplus(-positive_M.float()).sum() + F.softplus(negative_MS.float()).sum()
    return loss_of(total / (negative_MS.shape[1] + 1), positive_M.numel())


def bpr(positive_M: Tensor, negative_MS: Tensor) -> Loss:
    """Bayesian personalised ranking (Rendle et al., UAI 2009): ``-log sigmoid(positive - negative)``; -inf is
    ignored."""
    total = F.softplus(negative_MS.float() - positive_M.float()[:, None]).mean(-1).sum()
    return loss_of(total, positive_M.numel())


def bpr_max(positive_M: Tensor, negative_MS: Tensor, *, regularisation: float) -> Loss:
    """BPR-max (Hidasi and Karatzoglou, CIKM 2018, section 3.3): ``-log sum_s p_s sigmoid(positive - negative_s)`` plus
    ``regularisation * sum_s p_s negative_s^2``, p the softmax over the S negatives; -inf is ignored."""
    negative_MS = negative_MS.float()
    real_MS = negative_MS > -torch.inf
    negative_MS = negative_MS.masked_fill(~real_MS, -1e4)
    logp_MS = negative_MS.log_softmax(-1)
    better_M = (logp_MS + F.logsigmoid(positive_M.float()[:, None] - negative_MS)).logsumexp(-1)
    penalty_M = (logp_MS.exp() * negative_MS.square()).masked_fill(~real_MS, 0.0).sum(-1)
    return loss_of((regularisation * penalty_M - better_M).sum(), positive_M.numel())


def sampled_cross_entropy(positive_M: Tensor, negative_MS: Tensor, *, items: int) -> Loss:
    """Softmax cross-entropy over the target and S negatives, uniform draws of the items; a negative score of -inf is
    ignored. Each negative counts items / S times, so that their sum is an estimate of that over the whole catalogue
    (Bengio and Senecal, IEEE TNN 2008)."""
    weight = math.log(items / negative_MS.shape[1])
    score = torch.cat([positive_M[:, None], negative_MS + weight], dim=1).float()
    target = torch.zeros(len(score), dtype=torch.long, device=score.device)
    return loss_of(F.cross_entropy(score, target, reduction="sum"), len(score))

"""Scores a model on held-out targets: what training validates with and ``evaluate`` reports."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import EvalBatch
from genrec_cli.decoders.exhaustive import Exhaustive, exclude_seen
from genrec_cli.engine import metrics
from genrec_cli.models.base import Model


@dataclass(frozen=True)
class Outcome:
    """Every user's target rank and list, in the order of the batches."""

    user: np.ndarray
    """Row of the user table."""
    target: np.ndarray
    """Item id of the target."""
    above: np.ndarray
    ties: np.ndarray
    code_above: np.ndarray
    code_ties: np.ndarray
    loss: np.ndarray
    """``-log p`` of the target; the mean over digits for a model of codes."""
    item: np.ndarray
    """Best items, best first (users x k)."""
    score: np.ndarray

    def means(self, cutoffs: list[int], *, level: str = "item") -> dict[str, float]:
        """Metrics averaged over users; level "code" counts items with equal codes as one."""
        pair = (self.above, self.ties) if level == "item" else (self.code_above, self.code_ties)
        return {name: float(value.mean()) for name, value in metrics.table(*pair, cutoffs).items()}


@torch.inference_mode()
def evaluate(
    model: Model,
    catalog: Catalog,
    batches: Iterable[EvalBatch],
    device: torch.device,
    *,
    k: int = 0,
    exclude: bool = False,
    tick: Callable[[int], object] = lambda users: None,
) -> Outcome:
    """Score every batch exactly over the whole catalogue.

    Args:
        catalog: on the device.
        k: length of the lists to keep; 0 keeps none.
        exclude: leave the user's own history out of the ranking.
        tick: told the number of users done after each batch.
    """
    decoder = Exhaustive(catalog)
    was_training = model.training
    model.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    for known in batches:
        batch, target = known.batch.to(device), known.target_B.to(device, non_blocking=True)
        score = decoder.scores(model, batch).float()
        loss = decoder.target_loss(model, score, target)
        if exclude:
            score = exclude_seen(score, batch)
        top = decoder.top(score, k)
        parts.append((batch.user_B, target, *decoder.rank(score, target), loss, *top))
        tick(len(target))
    model.train(was_training)
    if not parts:
        raise ValueError("no user has a target in this split")
    return Outcome(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))


@torch.inference_mode()
def recommend(
    model: Model,
    catalog: Catalog,
    batches: Iterable[EvalBatch],
    device: torch.device,
    *,
    k: int,
    exclude: bool = False,
    tick: Callable[[int], object] = lambda users: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What comes next: rows of the user table, ``item_Uk`` (0: none) and ``score_Uk``, in table order."""
    decoder = Exhaustive(catalog)
    parts = []
    for known in batches:
        batch = known.batch.to(device)
        score = decoder.scores(model, batch).float()
        parts.append((batch.user_B, *decoder.top(exclude_seen(score, batch) if exclude else score, k)))
        tick(len(batch.user_B))
    user, item, value = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    order = np.argsort(user, kind="stable")
    return user[order], item[order], value[order]

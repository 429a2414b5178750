"""Scores a model on held-out targets: what training validates with and ``evaluate`` reports."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from genrec_cli.data.sequences import EvalBatch
from genrec_cli.engine import metrics
from genrec_cli.engine.ranking import Ranker
from genrec_cli.ranks import here


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
    figures: dict[str, np.ndarray] = field(default_factory=dict)
    """What the decoder tells of each user beside the list."""

    def by_user(self) -> "Outcome":
        """The same in the order of the user table, so that runs can be laid side by side."""
        order = np.argsort(self.user, kind="stable")
        values = {name: value[order] for name, value in vars(self).items() if name != "figures"}
        return Outcome(**values, figures={name: value[order] for name, value in self.figures.items()})

    def means(self, cutoffs: list[int], *, level: str = "item") -> dict[str, float]:
        """Metrics averaged over users; level "code" counts items with equal codes as one."""
        pair = (self.above, self.ties) if level == "item" else (self.code_above, self.code_ties)
        return {name: float(value.mean()) for name, value in metrics.table(*pair, cutoffs).items()}


def gathered(outcome: Outcome) -> Outcome:
    """The users of all processes in the order of the user table; a process that is not the main one keeps its own."""

    def whole(value: np.ndarray) -> np.ndarray:
        parts = here().gather(value)
        return np.concatenate(parts) if here().main else value

    columns = {name: whole(value) for name, value in vars(outcome).items() if name != "figures"}
    figures = {name: whole(value) for name, value in outcome.figures.items()}
    return Outcome(**columns, figures=figures).by_user()


@torch.inference_mode()
def evaluate(
    ranker: Ranker,
    batches: Iterable[EvalBatch],
    device: torch.device,
    *,
    k: int = 0,
    tick: Callable[[int], object] = lambda users: None,
) -> Outcome:
    """Rank the target of every history.

    Args:
        ranker: its model and catalogue are on the device.
        batches: they say what is left out of the ranking.
        k: length of the lists to keep; 0 keeps none.
        tick: told the number of users done after each batch.
    """
    was_training = ranker.model.training
    ranker.model.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    names: list[str] = []
    for known in batches:
        known = known.to(device)
        target = known.target_B
        found = ranker.rank(known.batch, target, k, hidden=known.seen)
        names = list(found.figures)
        parts.append((known.batch.user_B, target, *found.rank, found.loss_B, *found.top, *found.figures.values()))
        tick(len(target))
    ranker.model.train(was_training)
    if not parts:
        raise ValueError("no user has a target in this split")
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    own = len(columns) - len(names)
    return Outcome(*columns[:own], figures=dict(zip(names, columns[own:], strict=True)))


@torch.inference_mode()
def recommend(
    ranker: Ranker,
    batches: Iterable[EvalBatch],
    device: torch.device,
    *,
    k: int,
    tick: Callable[[int], object] = lambda users: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What comes next: rows of the user table, ``item_Uk`` (0: none) and ``score_Uk``, in table order."""
    parts = []
    for known in batches:
        known = known.to(device)
        parts.append((known.batch.user_B, *ranker.lists(known.batch, k, hidden=known.seen)))
        tick(len(known.target_B))
    user, item, value = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    order = np.argsort(user, kind="stable")
    return user[order], item[order], value[order]

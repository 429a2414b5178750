"""Ranks held-out targets with a model: what training validates with and ``evaluate`` reports."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from genrec_cli.data.sequences import EvalBatch
from genrec_cli.engine import metrics
from genrec_cli.engine.protocols import PROTOCOLS, Protocol
from genrec_cli.engine.ranking import Ranker
from genrec_cli.process_group import current_group
from genrec_cli.searches.excluded import Excluded

Tick = Callable[[int], object]
"""Told the number of users done after each batch."""


class UserRanks(NamedTuple):
    """The rank of every user's target and the user's list under one protocol."""

    above: np.ndarray
    ties: np.ndarray
    code_above: np.ndarray
    code_ties: np.ndarray
    item: np.ndarray
    """Best items, best first (users x k)."""
    score: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found, in the order of the batches."""

    user: np.ndarray
    """Row of the user table, or of the histories that were given."""
    target: np.ndarray
    """Item id of the target."""
    loss: np.ndarray
    """``-log p`` of the target; the mean over digits for a model of codes."""
    ranks: dict[Protocol, UserRanks]
    """By protocol; without "left_out" where the batches exclude nothing."""
    stats: dict[str, np.ndarray]
    """What the search reports per user beside the list."""

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> "Outcome":
        """The same with every array changed."""
        ranks = {protocol: UserRanks(*map(change, found)) for protocol, found in self.ranks.items()}
        stats = {name: change(value) for name, value in self.stats.items()}
        return Outcome(change(self.user), change(self.target), change(self.loss), ranks, stats)

    def by_user(self) -> "Outcome":
        """The same in the order of the user table, so that the users of several runs are paired."""
        order = np.argsort(self.user, kind="stable")
        return self.mapped(lambda value: value[order])

    def means(self, cutoffs: list[int], *, level: str = "item", protocol: Protocol = "kept") -> dict[str, float]:
        """Metrics averaged over users; level "code" counts items with equal codes as one."""
        found = self.ranks[protocol]
        pair = (found.above, found.ties) if level == "item" else (found.code_above, found.code_ties)
        return {name: float(value.mean()) for name, value in metrics.table(*pair, cutoffs).items()}


def gathered(outcome: Outcome) -> Outcome:
    """The users of all processes in the order of the user table; only the main process gets those of the others."""

    def whole(value: np.ndarray) -> np.ndarray:
        parts = current_group().gather(value)
        return np.concatenate(parts) if current_group().main else value

    return outcome.mapped(whole).by_user()


@torch.inference_mode()
def evaluate(
    ranker: Ranker,
    batches: Iterable[EvalBatch],
    device: torch.device,
    *,
    k: int = 0,
    tick: Tick = lambda users: None,
) -> Outcome:
    """Rank the target of every history.

    Args:
        ranker: its model and catalogue are on the device.
        batches: where they name the items that a user has seen, both protocols are measured, else "kept" alone.
        k: length of the lists to keep; 0 keeps none.
    """
    was_training = ranker.model.training
    ranker.model.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    protocols: Sequence[Protocol] = []
    names: list[str] = []
    for known, excluded in _asked(ranker, batches, device, tick):
        found = ranker.rank(known.batch, known.target_B, k, excluded=excluded)
        rankings = [found.kept] if found.left_out is None else [found.kept, found.left_out]
        protocols, names = PROTOCOLS[: len(rankings)], list(found.stats)
        ranked = [value for ranking in rankings for value in (*ranking.rank, *ranking.top)]
        parts.append((known.row_B, known.target_B, found.loss_B, *ranked, *found.stats.values()))
    ranker.model.train(was_training)
    if not parts:
        raise ValueError("no user has a target in this split")
    user, target, loss, *columns = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    width = len(UserRanks._fields)
    ranks = {protocol: UserRanks(*columns[n * width : (n + 1) * width]) for n, protocol in enumerate(protocols)}
    stats = dict(zip(names, columns[len(protocols) * width :], strict=True))
    return Outcome(user, target, loss, ranks, stats)


@torch.inference_mode()
def recommend(
    ranker: Ranker, batches: Iterable[EvalBatch], device: torch.device, *, k: int, tick: Tick = lambda users: None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What comes next: rows of the user table, ``item_Uk`` (0: none) and ``score_Uk``, in table order."""
    parts = [
        (known.row_B, *ranker.lists(known.batch, k, excluded=excluded))
        for known, excluded in _asked(ranker, batches, device, tick)
    ]
    user, item, value = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    order = np.argsort(user, kind="stable")
    return user[order], item[order], value[order]


def _asked(
    ranker: Ranker, batches: Iterable[EvalBatch], device: torch.device, tick: Tick
) -> Iterator[tuple[EvalBatch, Excluded | None]]:
    """The batches on the device, with what each excludes."""
    ranker.begin()
    for known in batches:
        known = known.to(device)
        yield known, None if known.seen is None else Excluded(*known.seen)
        tick(len(known.target_B))

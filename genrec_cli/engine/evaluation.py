"""Ranks held-out targets with a model, for validation during training and for ``evaluate``."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from genrec_cli.data.sequences import EvalBatch
from genrec_cli.engine import metrics
from genrec_cli.engine.core_per_batch import core_per_batch
from genrec_cli.engine.protocols import PROTOCOLS, Protocol
from genrec_cli.engine.ranking import ListMaker, Ranker
from genrec_cli.process_group import current_group
from genrec_cli.searches.base import TopK
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.rank import Ranked

Result = TypeVar("Result")
Tick = Callable[[int], object]
"""Called with the number of users after each batch."""


class UserRanks(NamedTuple):
    """Per user, under one protocol: the rank of the target (see ``metrics``) and the k best items, best first."""

    above: np.ndarray
    ties: np.ndarray
    code_above: np.ndarray
    code_ties: np.ndarray
    item: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """The result of an evaluation, in the order of the batches.

    ``user`` is the row of the histories, ``target`` the item id. ``loss`` is ``-log p`` of the target (the mean over
    digits for a model of codes). ``ranks`` lack the protocol "left_out" where the batches exclude nothing. ``stats``
    are what the search reports per user beside the list.
    """

    user: np.ndarray
    target: np.ndarray
    loss: np.ndarray
    ranks: dict[Protocol, UserRanks]
    stats: dict[str, np.ndarray]

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> "Outcome":
        """The outcome with every array changed."""
        ranks = {protocol: UserRanks(*map(change, values)) for protocol, values in self.ranks.items()}
        stats = {name: change(value) for name, value in self.stats.items()}
        return Outcome(change(self.user), change(self.target), change(self.loss), ranks, stats)

    def by_user(self) -> "Outcome":
        """The outcome in the order of the user table, so that the users of several runs are paired."""
        order = np.argsort(self.user, kind="stable")
        return self.mapped(lambda value: value[order])

    def means(self, cutoffs: list[int], *, level: str = "item", protocol: Protocol = "kept") -> dict[str, float]:
        """Metrics averaged over users; level "code" counts items with equal codes as one."""
        ranks = self.ranks[protocol]
        pair = (ranks.above, ranks.ties) if level == "item" else (ranks.code_above, ranks.code_ties)
        return {name: float(value.mean()) for name, value in metrics.table(*pair, cutoffs).items()}


def gathered(outcome: Outcome) -> Outcome:
    """The users of all processes by row; only the main process gets those of the others."""

    def gather(value: np.ndarray) -> np.ndarray:
        parts = current_group().gather(value)
        return np.concatenate(parts) if current_group().main else value

    return outcome.mapped(gather).by_user()


@torch.inference_mode()
def evaluate(
    ranker: Ranker, batches: Iterable[EvalBatch], device: torch.device, *, k: int = 0, tick: Tick = lambda users: None
) -> Outcome:
    """Rank the target of every history.

    Args:
        ranker: its model and catalogue are on the device.
        batches: where they name seen items, both protocols are measured, else "kept" alone.
        k: length of the lists to keep; 0 keeps none.

    Raises:
        ValueError: there is no batch.
    """
    was_training = ranker.model.training
    ranker.model.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    protocols: Sequence[Protocol] = []
    names: list[str] = []

    def rank(known: EvalBatch, excluded: Excluded | None) -> Ranked:
        return ranker.rank(known.batch, known.target_B, k, excluded=excluded)

    for known, ranked in _results(ranker, rank, batches, device, tick):
        rankings = [ranked.kept] if ranked.left_out is None else [ranked.kept, ranked.left_out]
        protocols, names = PROTOCOLS[: len(rankings)], list(ranked.stats)
        columns = [value for ranking in rankings for value in (*ranking.rank, *ranking.top)]
        parts.append((known.row_B, known.target_B, ranked.loss_B, *columns, *ranked.stats.values()))
    ranker.model.train(was_training)
    if not parts:
        raise ValueError("no user has a target in this split")
    user, target, loss, *rest = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    width = len(UserRanks._fields)
    ranks = {protocol: UserRanks(*rest[n * width : (n + 1) * width]) for n, protocol in enumerate(protocols)}
    return Outcome(user, target, loss, ranks, dict(zip(names, rest[len(protocols) * width :], strict=True)))


@torch.inference_mode()
def recommend(
    ranker: ListMaker, batches: Iterable[EvalBatch], device: torch.device, *, k: int, tick: Tick = lambda users: None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best next items: rows of the histories (ascending), ``item_Uk`` (0: none) and ``score_Uk``."""

    def lists(known: EvalBatch, excluded: Excluded | None) -> TopK:
        return ranker.lists(known.batch, k, excluded=excluded)

    parts = [(known.row_B, *top) for known, top in _results(ranker, lists, batches, device, tick)]
    user, item, value = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    order = np.argsort(user, kind="stable")
    return user[order], item[order], value[order]


def _results(
    ranker: ListMaker,
    work: Callable[[EvalBatch, Excluded | None], Result],
    batches: Iterable[EvalBatch],
    device: torch.device,
    tick: Tick,
) -> Iterator[tuple[EvalBatch, Result]]:
    """The batches on the device, each with the result of ``work`` on it and its excluded items."""
    ranker.begin()

    def one(known: EvalBatch) -> tuple[EvalBatch, Result]:
        known = known.to(device)
        return known, work(known, None if known.seen is None else Excluded(*known.seen))

    for known, result in core_per_batch(one, batches, device):
        yield known, result
        tick(len(known.target_B))

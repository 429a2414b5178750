"""Lists for histories of several requests in one batch.

Requests that differ in k are one batch with the largest k. Candidates are taken out of longer lists, so requests with
different candidates are one batch as well. A list that is too short is made again eight times as long, up to the whole
catalogue, or up to what the search can list. An exact search stays exact.

Legend: U histories, k length of a list, R items and row 0 for padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from genrec_cli.data.sequences import Histories
from genrec_cli.engine.ranking import Ranker
from genrec_cli.searches.excluded import Excluded
from genrec_cli.stages.trained import Run

GROWTH = 8
"""How much longer a list gets that holds too few candidates."""


@dataclass(frozen=True, eq=False)
class Job:
    """One list to make."""

    k: int
    exclude_seen: bool
    history: np.ndarray | None = None
    """Item ids, oldest first; None for a known user."""
    user: int = -1
    """Row of a known user."""
    allowed_R: np.ndarray | None = None
    """Whether each item may be listed; None: all may."""


TopList = tuple[np.ndarray, np.ndarray]
"""Item ids and scores, best first."""


class ListMaker:
    """Makes lists with a run and its ranker, in one thread at a time."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ranker: Ranker = run.ranker()
        with torch.inference_mode():
            self.ranker.begin()
        self.longest: int = min(run.search.longest(run.settings) or run.catalog.items, run.catalog.items)
        """The longest list that can be made."""

    def lists(self, jobs: Sequence[Job]) -> list[TopList]:
        """The list of each job."""
        made: dict[int, TopList] = {}
        order = sorted(range(len(jobs)), key=lambda place: _kind(jobs[place]))
        for _, places in groupby(order, key=lambda place: _kind(jobs[place])):
            waiting, pool = list(places), 0
            while waiting:
                wanted = max(jobs[place].k for place in waiting)
                pool = min(max(wanted, pool * GROWTH), self.longest)
                lists = self._pools([jobs[place] for place in waiting], pool)
                made |= dict(zip(waiting, lists, strict=True))
                if pool == self.longest:
                    break
                waiting = [place for place in waiting if len(made[place][0]) < self._possible(jobs[place])]
        return [made[place] for place in range(len(jobs))]

    @torch.inference_mode()
    def _pools(self, jobs: Sequence[Job], pool: int) -> list[TopList]:
        """What jobs of one kind may list of the ``pool`` best items, at most k."""
        histories, row_J = self.run.histories, np.array([job.user for job in jobs])
        if new := [job.history for job in jobs if job.history is not None]:
            histories, row_J = Histories.of_unknown_users(new), np.arange(len(new))
        row_U = np.unique(row_J)  # a user may be asked for twice
        length_U = np.asarray(histories.length[row_U]).astype(np.int64)
        made: dict[int, TopList] = {}
        for known in self.run.batches(row_U, length_U, histories=histories, exclude_seen=jobs[0].exclude_seen):
            known = known.to(self.run.device)
            excluded = None if known.seen is None else Excluded(*known.seen)
            top = self.ranker.lists(known.batch, pool, excluded=excluded)
            lists = zip(top.item_Bk.cpu().numpy(), top.score_Bk.cpu().numpy(), strict=True)
            made |= dict(zip(known.row_B.tolist(), lists, strict=True))
        return [_taken(job, *made[row]) for job, row in zip(jobs, row_J.tolist(), strict=True)]

    def _possible(self, job: Job) -> int:
        """Length of the full list; 0 for jobs whose list needs no second try."""
        if job.allowed_R is None:
            return 0
        allowed_R = job.allowed_R.copy()
        allowed_R[0] = False
        if job.exclude_seen:
            known = self.run.histories
            first = 0 if job.history is not None else int(known.offset[job.user])
            item_T = known.item[first : first + int(known.length[job.user])] if job.history is None else job.history
            allowed_R[item_T] = False
        return min(job.k, int(allowed_R.sum()))


def _kind(job: Job) -> tuple[bool, bool]:
    """Jobs of one kind are one batch."""
    return job.history is None, job.exclude_seen


def _taken(job: Job, item_k: np.ndarray, score_k: np.ndarray) -> TopList:
    keep_k = item_k > 0
    if job.allowed_R is not None:
        keep_k &= job.allowed_R[item_k]
    return item_k[keep_k][: job.k], score_k[keep_k][: job.k]

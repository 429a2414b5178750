"""What a list depends on: its ranks without each item of the history (leave one out), by any model and search.

The lists of the history and of the T shorter histories are one batch. An earlier item never takes the free place, as in
``engine/explain.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrec_cli.serve.lists import Job, TopList
from genrec_cli.serve.schema import MAX_EXPLAINED
from genrec_cli.serve.served import ServedRun

DEPTH = 100
"""Places of the lists in which a recommendation is looked for."""


@dataclass(frozen=True)
class Dropped:
    """The jobs of an explanation, and how their lists are read. ``first``: the first item that is left out."""

    history: np.ndarray
    first: int
    depth: int
    jobs: list[Job]

    @classmethod
    def plan(cls, served: ServedRun, history: np.ndarray, k: int, *, exclude_seen: bool) -> "Dropped":
        """The list of the whole history, and those without each of its last items."""
        allowed_R = None
        if exclude_seen:  # the item that is left out was seen, too
            allowed_R = np.ones(served.items + 1, dtype=bool)
            allowed_R[history] = False
        read = history[-served.run.max_length :]
        first = max(len(read) - MAX_EXPLAINED, 0)
        depth = min(max(DEPTH, k), served.maker.longest)
        jobs = [Job(k, exclude_seen, history)]
        if len(read) > 1:
            shorter = (np.delete(read, t) for t in range(first, len(read)))
            jobs += [Job(depth, False, items, allowed_R=allowed_R) for items in shorter]
        return cls(read, first, depth, jobs)

    def ranks(self, lists: Sequence[TopList]) -> list[list[int | None]]:
        """For each recommendation, its rank from 1 without each read item; None: beyond the depth.

        Items that are not left out have the rank in the whole list, and so has the only item of a history.
        """
        (whole, _), *shorter = lists
        places = [{int(item): place for place, item in enumerate(items, 1)} for items, _ in shorter]
        kept = len(self.history) - len(places)
        ranks: list[list[int | None]] = []
        for rank, item in enumerate(whole.astype(int).tolist(), 1):
            unchanged: list[int | None] = [rank] * kept
            ranks.append(unchanged + [place.get(item) for place in places])
        return ranks

"""A finished run that recommends from Python; ``genrec.load(run)`` makes it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from genrec_cli import console
from genrec_cli.calls import Frame, alike, calling, file_of, frames_as_files, histories_of
from genrec_cli.errors import UsageError
from genrec_cli.stages import recommend as recommending
from genrec_cli.stages.audience import Fallback
from genrec_cli.stages.trained import Run

Histories = Mapping[str, Sequence[Any]] | Sequence[Sequence[Any]] | Frame | str | os.PathLike[str]
"""Raw item ids, oldest first: per user (a mapping), in a list, or a frame or file as ``recommend --history`` reads."""


class Loaded:
    """A finished run that recommends; ``trained`` has its parts (``stages/trained.py``)."""

    def __init__(self, trained: Run) -> None:
        self.trained = trained

    def recommend(
        self,
        histories: Histories | None = None,
        *,
        users: Sequence[Any] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Sequence[Any] | Frame | str | os.PathLike[str] | None = None,
        where: str | None = None,
        fallback: Fallback = "skip",
        diversity: float = 0.0,
        verbose: bool = False,
    ) -> Frame:
        """Lists as a frame: user, rank, item, title, score.

        Args:
            histories: new histories; None: the users of the data, all or ``users``. The answer to a frame is a frame
                of the same library, otherwise of polars.
            candidates: raw ids of the only items that may be recommended: a list, a file, or a frame with the column
                ``item``, whose other columns ``where`` can read.
        """
        if histories is not None and users is not None:
            raise UsageError("histories and users exclude each other.")
        if isinstance(candidates, (list, tuple, set)):
            candidates = pl.DataFrame({"item": [str(item) for item in candidates]})
        with calling(verbose), frames_as_files() as folder:
            request = recommending.Request(
                k=k,
                users=None if users is None else [str(user) for user in users],
                histories=None if histories is None else histories_of(histories, folder),
                exclude_seen=exclude_seen,
                candidates=None if candidates is None else file_of(candidates, folder, "candidates"),
                where=where,
                fallback=fallback,
                diversity=diversity,
            )
            lists = recommending.recommend(self.trained, request, bar=console.user_bar("recommending"))
            return alike(histories, pl.DataFrame(lists.columns))

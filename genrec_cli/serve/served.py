"""A run that is served: its lists, and look-ups by raw id, title, codes and text vectors.

Legend: I items, R items and row 0 for padding, K digits, D width of text vectors.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np
import polars as pl
import torch
from torch import Tensor

from genrec_cli.data.codes_table import NO_CODE
from genrec_cli.data.expression import matches
from genrec_cli.data.vectors import read_vectors
from genrec_cli.engine.explain import one_history
from genrec_cli.errors import DataError, UsageError
from genrec_cli.models.mhl import Mhl
from genrec_cli.searches.diversity import unit_vectors
from genrec_cli.serve.lists import ListMaker
from genrec_cli.serve.schema import RunFacts
from genrec_cli.stages.candidates import item_columns
from genrec_cli.stages.trained import Run

MAX_NAMED = 10
"""Unknown names that an error lists."""
CONDITIONS = 32
"""Conditions whose items are kept."""


class UnknownNames(DataError, exit_code=3):
    """Names that are not in the data."""

    def __init__(self, kind: str, names: Sequence[str], example: str) -> None:
        shown = ", ".join(f"'{name}'" for name in names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
        super().__init__(f"Not in the data: {kind} {shown}.", hint=f"For example: '{example}'")
        self.names = list(names[:MAX_NAMED])


class ServedRun:
    """A loaded run. All of its parts are opened here, so that the first request is as fast as the others."""

    def __init__(self, run: Run) -> None:
        self.run, self.names, self.items = run, run.names, run.catalog.items
        self.maker = ListMaker(run)
        self.train_count_I = run.catalog.train_count_I.cpu().numpy()
        self.item_of = {raw: number for number, raw in enumerate(self.names.item, 1)}
        self.row_of = {raw: row for row, raw in enumerate(self.names.user)}
        titles = [title or raw for title, raw in zip(self.names.title, self.names.item, strict=True)]
        self._text_I = pl.Series(titles, dtype=pl.String).str.to_lowercase()
        self._user_U = pl.Series(self.names.user, dtype=pl.String)
        codes_IK = run.catalog.codes_IK
        self.codes_IK: Tensor | None = None if codes_IK is None or run.catalog.shared else codes_IK.cpu()
        self.unit_ID = _unit_vectors(run)
        self.fulfilling = lru_cache(CONDITIONS)(self._fulfilling)

    def facts(self) -> RunFacts:
        """Name, sizes and abilities of the run, for clients."""
        digits, codewords = self.run.catalog.digits, self.run.catalog.codewords
        return RunFacts(
            name=self.run.name,
            label=self.run.label or self.run.name,
            model=self.run.model_name,
            max_length=self.run.max_length,
            digits=digits,
            codewords=codewords if digits else 0,
            explains_entropy=isinstance(self.run.model, Mhl),
        )

    def ids(self, raw_ids: Sequence[str]) -> np.ndarray:
        """Item ids. Raises UnknownNames, with all unknown items."""
        if unknown := [raw for raw in dict.fromkeys(raw_ids) if raw not in self.item_of]:
            raise UnknownNames("the items" if len(unknown) > 1 else "the item", unknown, self.names.item[0])
        return np.array([self.item_of[raw] for raw in raw_ids], dtype="uint32")

    def user_rows(self, raw_ids: Sequence[str]) -> list[int]:
        """Rows of the user table. Raises UnknownNames, with all unknown users."""
        if unknown := [raw for raw in dict.fromkeys(raw_ids) if raw not in self.row_of]:
            raise UnknownNames("the users" if len(unknown) > 1 else "the user", unknown, (self.names.user or ["?"])[0])
        return [self.row_of[raw] for raw in raw_ids]

    def user_history(self, row: int) -> np.ndarray:
        """All items of a known user."""
        start, length = int(self.run.histories.offset[row]), int(self.run.histories.length[row])
        return np.asarray(self.run.histories.item[start : start + length])

    def refuse_histories(self) -> None:
        """Raise UsageError if the model cannot read histories of items alone."""
        if "times" in self.run.needs:
            raise UsageError(f"The model '{self.run.model_name}' reads times, which histories of items do not have.")

    def refuse_longer(self, k: int) -> None:
        """Raise UsageError for lists that are longer than those of the search."""
        self.run.refuse_longer(f"k = {k}", min(k, self.items), hint=f"k = {self.maker.longest}")

    def only(self, raw_ids: Sequence[str] | None, where: str | None) -> np.ndarray | None:
        """``allowed_R`` of candidates that fulfil a condition; None if all items may be recommended."""
        if raw_ids is None and where is None:
            return None
        allowed_R = np.zeros(self.items + 1, dtype=bool)
        allowed_R[self.ids(raw_ids) if raw_ids is not None else slice(1, None)] = True
        return allowed_R if where is None else allowed_R & self.fulfilling(where)

    def _fulfilling(self, where: str) -> np.ndarray:
        return np.pad(matches(self._columns, where, option="where").to_numpy(), (1, 0))

    @cached_property
    def _columns(self) -> pl.DataFrame:
        return item_columns(self.run.data).drop("row")

    def search(self, text: str, limit: int) -> list[int]:
        """Item ids whose title, or raw id if there is no title, holds all words of a text, popular items first."""
        found = pl.Series(np.ones(self.items, dtype=bool))
        for word in text.lower().split():
            found &= self._text_I.str.contains(word, literal=True)
        rows = found.arg_true().to_numpy()
        best = rows[np.argsort(-self.train_count_I[rows].astype(np.int64), kind="stable")[:limit]] + 1
        exact = [self.item_of[text]] if text in self.item_of else []
        return list(dict.fromkeys([*exact, *best.tolist()]))[:limit]

    def search_users(self, text: str, limit: int) -> list[int]:
        """Rows of users whose raw id begins with a text."""
        return self._user_U.str.starts_with(text).arg_true().head(limit).to_list()

    def by_codes(self, item: int, limit: int) -> list[tuple[int, int]]:
        """Items that share digits with an item, and how many; among equals, popular items first."""
        assert self.codes_IK is not None
        own_K = self.codes_IK[item - 1]
        shared_I = ((self.codes_IK == own_K) & (own_K != NO_CODE)).sum(1).numpy()
        shared_I[item - 1] = 0
        order_I = np.lexsort((-self.train_count_I, -shared_I))[:limit]
        return [(int(row) + 1, int(shared_I[row])) for row in order_I if shared_I[row]]

    def by_text(self, item: int, limit: int) -> list[tuple[int, float]]:
        """Items of similar text, with the cosine."""
        assert self.unit_ID is not None
        cosine_I = self.unit_ID @ self.unit_ID[item - 1]
        cosine_I[item - 1] = -np.inf
        best = np.argpartition(-cosine_I, min(limit, self.items - 1))[:limit]
        order = best[np.argsort(-cosine_I[best], kind="stable")]
        return [(int(row) + 1, float(cosine_I[row])) for row in order if np.isfinite(cosine_I[row])]

    def codes_of(self, item: int) -> list[int]:
        """The codes of an item."""
        assert self.codes_IK is not None
        return [int(code) for code in self.codes_IK[item - 1] if code != NO_CODE]

    @torch.inference_mode()
    def entropies(self, history: Iterable[int]) -> list[list[float]] | None:
        """The entropy of each digit of each item, in nats; None if the model has none (MHL, equation 4)."""
        if not isinstance(self.run.model, Mhl):
            return None
        item_T = torch.tensor(list(history), dtype=torch.int64, device=self.run.device)
        return self.run.model.entropies(one_history(item_T)).tolist()


def _unit_vectors(run: Run) -> np.ndarray | None:
    """Text vectors of length 1, of the run or of its codes; None if neither was made from vectors."""
    source = run.own_vectors
    if source is None:
        return None
    return unit_vectors(torch.from_numpy(read_vectors(source.path)))[1:].numpy()

"""The search contract: a trained model and a batch of histories in, the best k items per history out.

The exhaustive search is exact; ``evaluate`` measures every other search against it.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field
from torch import Tensor

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog

Beams = Annotated[int, Field(ge=1, le=10_000)]
"""Candidates that a search keeps per user. Time and memory are proportional to it."""


class TopK(NamedTuple):
    """The result of a search."""

    item_Bk: Tensor
    """Item ids, best first; 0 after the last item."""
    score_Bk: Tensor
    """Their scores; -inf after the last item."""


class Search(ABC):
    """What every search declares."""

    Config: ClassVar[type[Section]]
    """The ``[search]`` section."""
    interface: ClassVar[Any]
    """The scorer interface that the model needs, for example CodeScorer; a tuple: one of several."""
    suffix: ClassVar[str]
    """Added to the label of an evaluation by this search."""
    exact: ClassVar[bool] = False
    """Whether every item is scored, so that every target has a rank."""
    shared_codes: ClassVar[bool] = False
    """Whether it supports codes that mean the same in every digit (text)."""

    @staticmethod
    def longest(config: Any) -> int | None:
        """The longest list under these settings; None: no limit."""
        return None


class ListSearch(Search):
    """A search that lists some items and ranks no others. ValueError for codes that it does not support."""

    whole_codes: ClassVar[bool] = True
    """Whether a list holds all items of a code together, so that equal codes count as ties."""

    def __init__(self, model: Any, catalog: Catalog, config: Any) -> None:
        if catalog.shared or catalog.padded:
            raise ValueError(
                f"{type(self).__name__} compares items digit by digit, which means nothing for text or fewer codes"
            )
        self.model, self.config = model, config

    @staticmethod
    def longest(config: Any) -> int:
        """The number of beams: each of them becomes at least one item."""
        return config.beams

    def decode(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The best items per history, k places or more, and stats per user such as ``visited``."""
        if k > self.config.beams:
            raise ValueError(f"a list of {k} items needs at least {k} beams, not {self.config.beams}")
        return self.search(batch, k)

    @abstractmethod
    def search(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """:meth:`decode` of a subclass."""

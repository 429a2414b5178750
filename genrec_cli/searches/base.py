"""What a search is: a trained model and a batch of histories in, the best k items per history out.

The exhaustive search is exact and the reference: ``evaluate`` measures every other search against it. The class of a
search says what it can do, so that no command has to know the searches by name.
"""

from typing import Annotated, Any, ClassVar, NamedTuple, Protocol

from pydantic import Field
from torch import Tensor

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog

Beams = Annotated[int, Field(ge=1, le=10_000)]
"""How many candidates a search keeps per user. Time and memory grow with it."""


class TopK(NamedTuple):
    """The answer of a search."""

    item_Bk: Tensor
    """Item ids, best first; 0 where there is no further item."""
    score_Bk: Tensor
    """Their scores, -inf where there is no item."""


class Search(Protocol):
    """What every search declares."""

    Config: ClassVar[type[Section]]
    """The ``[search]`` section."""
    exact: ClassVar[bool]
    """Whether every item is scored, so that every target has a rank."""
    interface: ClassVar[Any]
    """The scorer interface of the model, for example CodeScorer; one of several if it is a tuple."""
    suffix: ClassVar[str]
    """Added to the label of an evaluation by this search."""
    shared_codes: ClassVar[bool]
    """Whether it works on codes that mean the same in every digit (text)."""

    @staticmethod
    def longest(config: Any) -> int | None:
        """The longest list that these settings can give; None: there is no limit."""
        ...


class ListSearch:
    """Base class of the searches that list some items and rank no others.

    It is built once for a trained model, then asked batch by batch.

    Args:
        catalog: on the model's device.

    Raises:
        ValueError: for codes that it cannot search.
    """

    Config: ClassVar[type[Section]]
    interface: ClassVar[Any]
    suffix: ClassVar[str]
    exact: ClassVar[bool] = False
    shared_codes: ClassVar[bool] = False
    whole_codes: ClassVar[bool] = True
    """Whether a list holds all items of a code together, so that equal codes can be counted as ties."""

    def __init__(self, model: Any, catalog: Catalog, config: Any) -> None:
        if catalog.shared or catalog.padded:
            name = type(self).__name__
            raise ValueError(f"{name} compares items digit by digit, which means nothing for text or for fewer codes")
        self.model, self.config = model, config

    @staticmethod
    def longest(config: Any) -> int:
        """The number of beams: each of them becomes one item at least."""
        return config.beams

    def decode(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The best items found for each history, k places or more, and stats per user such as ``visited``.

        Raises:
            ValueError: if k exceeds the number of beams.
        """
        if k > self.config.beams:
            raise ValueError(f"a list of {k} items needs at least {k} beams, not {self.config.beams}")
        return self.search(batch, k)

    def search(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """:meth:`decode` of a subclass."""
        raise NotImplementedError

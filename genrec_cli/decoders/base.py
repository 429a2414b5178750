"""What a decoder is: a face of a model in, the best k items out.

The exhaustive decoder is exact and the reference; ``evaluate`` measures every other one against it.
"""

from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog


class TopK(NamedTuple):
    """A decoder's answer."""

    item_Bk: Tensor
    """Item ids, best first; 0 where there is no further item."""
    score_Bk: Tensor
    """Their scores, -inf where there is no item."""


class Decoder(Protocol):
    """An approximate decoder. It is built once for a trained model, then asked batch by batch."""

    Config: ClassVar[type[Section]]
    """The ``[decoder]`` section."""
    exact: ClassVar[bool]
    whole_codes: ClassVar[bool]
    """Whether a list names all items of a code together, so that equal codes can be counted as the tie they are."""
    face: ClassVar[Any]
    """What the model must be, for example CodeScorer; one of several if it is a tuple."""

    def __init__(self, model: Any, catalog: Catalog, config: Any) -> None: ...

    @staticmethod
    def longest(config: Any) -> int:
        """The longest list that these settings can give."""
        ...

    def decode(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The k best items found (k at most ``longest``), and figures of each user such as ``visited``."""
        ...

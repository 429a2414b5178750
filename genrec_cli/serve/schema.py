"""What requests may hold and what answers hold. OpenAPI is made from these classes."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_BODY = 1 << 20
"""Bytes of a request."""
MAX_HISTORIES = 256
"""Histories, or users, of a request."""
MAX_ITEMS = 1_000
"""Items of a history."""
MAX_CANDIDATES = 10_000
MAX_K = 1_000
MAX_FOUND = 100
"""Results of a look-up."""
MAX_EXPLAINED = 50
"""Recommendations that are explained, and last items of a history that are left out in turn."""

RawId = Annotated[str, Field(min_length=1, max_length=256)]
History = Annotated[list[RawId], Field(min_length=1, max_length=MAX_ITEMS)]
RunName = Annotated[RawId | None, Field(description="Name or label of a run. Default: the first one.")]


class Asked(BaseModel):
    """A body of a request: no unknown field, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class RecommendBody(Asked):
    """For whom to recommend, and what. Give ``histories`` or ``users``."""

    histories: Annotated[list[History], Field(min_length=1, max_length=MAX_HISTORIES)] | None = None
    """Histories of raw item ids, the oldest item first."""
    users: Annotated[list[RawId], Field(min_length=1, max_length=MAX_HISTORIES)] | None = None
    """Raw ids of known users, in place of histories."""
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    """Items per list."""
    exclude_seen: bool = True
    """Leave out the items of the history."""
    candidates: Annotated[list[RawId], Field(min_length=1, max_length=MAX_CANDIDATES)] | None = None
    """Recommend only these items."""
    where: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """Recommend only items that fulfil this condition in SQL over the columns of the item table."""
    run: RunName = None


class ExplainBody(Asked):
    """A history whose list is explained."""

    history: History
    """Raw item ids, the oldest item first."""
    k: Annotated[int, Field(ge=1, le=MAX_EXPLAINED)] = 10
    """Items of the list."""
    exclude_seen: bool = True
    """Leave out the items of the history."""
    run: RunName = None


class Item(BaseModel):
    """An item of the catalogue."""

    item: str
    title: str | None


class Found(Item):
    """An item with its count of training interactions."""

    train_count: int


class Listed(Item):
    """An item of a list, with its score by the search; higher is better."""

    score: float


class Recommended(BaseModel):
    """One list per history or user, in the order of the request."""

    run: str
    lists: list[list[Listed]]


class Weighed(Listed):
    """A recommendation, and its rank after the history without each item of it (null: beyond ``depth``)."""

    rank: int
    without: list[int | None]


class Read(Item):
    """An item of the history. ``entropy``: of each digit, in nats (null: the model has none)."""

    entropy: list[float] | None


class Explained(BaseModel):
    """A list and what it depends on. ``history`` holds the last items, which the model reads."""

    run: str
    history: list[Read]
    recommendations: list[Weighed]
    depth: int


class SharedDigits(Item):
    """An item that shares digits with another one. ``shared``: how many."""

    codes: list[int]
    shared: int


class Alike(Item):
    """An item with the cosine similarity of its text vector."""

    similarity: float


class Similar(Item):
    """Neighbours of an item (null: the run has no codes, or no text vectors)."""

    run: str
    codes: list[int] | None
    by_codes: list[SharedDigits] | None
    by_text: list[Alike] | None


class RunFacts(BaseModel):
    """A run that is served."""

    name: str
    label: str
    model: str
    max_length: int
    digits: int
    codewords: int
    explains_entropy: bool


class Health(BaseModel):
    """The service and its runs."""

    status: str
    runs: list[RunFacts]
    items: int
    users: int


class Problem(BaseModel):
    """Why a request was refused. ``unknown``: names that are not in the data, at most ten."""

    error: str
    hint: str | None = None
    unknown: list[str] | None = None

"""A generated shop with planted structure and a label on every interaction.

The plan: a user enters a *scenario* (the latent intent, such as photography) at an item drawn by popularity, mostly in
its first role, and continues role by role (camera body, tripod, bag, ...): with probability ``LOYALTY`` with the same
product line, otherwise with a substitute of the next role. After the last role, or with probability ``switch``,
another scenario begins. Two kinds of interactions do not follow the plan:

* with probability ``noise`` an interaction is drawn by popularity from the whole shop, and the plan does not change;
* any other interaction follows the plan with probability ``order``, and otherwise jumps to an item drawn by
  popularity, from which the plan continues.

Items are editions of products (``sources/shop.py``): each month some products get a new edition, which is the item that
is sold from then on. Nobody has bought a new edition yet, so only its text relates it to the history of a user: the
brand and the series, the role, and the month of its launch. ``text`` sets how many editions there are.

At order 1 the history determines the next item up to these draws. At order 0 all interactions are independent draws by
popularity: no model beats popularity without the items of the history, since no user takes an item twice.

The files have the layout and the reader of Amazon Reviews 2014, with ``labels.parquet`` beside them. The same
configuration gives the same bytes.
"""

import gzip
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import polars as pl
from pydantic import Field

from genrec_cli.config import Section, Seed
from genrec_cli.errors import ConfigError
from genrec_cli.sources.amazon import read_amazon
from genrec_cli.sources.base import BadRows, Source, Tables
from genrec_cli.sources.row_filter import RowFilter
from genrec_cli.sources.shop import (
    DAY,
    EDITIONS,
    EPOCH,
    INTENTS,
    Editions,
    Shop,
    build_editions,
    build_shop,
    draw,
    meta_lines,
    words,
)

REVIEWS = "reviews_Synthetic_5.json.gz"
META = "meta_Synthetic.json.gz"
LABELS = "labels.parquet"

SHORTEST = 5
"""Interactions of the shortest history, as in a 5-core."""
LOYALTY = 0.75
"""Probability that a step of the plan stays in its product line."""
SAME_DAY = 0.4
"""Fraction of interactions on the day of the previous one; real logs have many ties in time."""
STARS = (0.05, 0.05, 0.1, 0.25, 0.55)
"""Fractions of the ratings 1 to 5; they carry no signal."""
REVIEW = {
    "user": '{"reviewerID": "',
    "item": '", "asin": "',
    "stars": '", "overall": ',
    "time": '.0, "unixReviewTime": ',
}
"""The text before each value of a review; the ids need no escaping."""
BLOCK = 50_000
"""Users generated, or lines written, at a time."""


class Config(Section):
    """Settings of the synthetic shop."""

    name: Literal["synthetic"] = "synthetic"
    """Name of the source."""
    users: int = Field(3_000, ge=1, le=10_000_000)
    """Number of users."""
    items: int = Field(2_000, ge=40, le=1_000_000)
    """Number of items in the catalog."""
    mean_length: float = Field(9.0, ge=SHORTEST)
    """Mean length of a history; the shortest is 5 and the tail geometric."""
    noise: float = Field(0.1, ge=0, le=1)
    """Fraction of interactions that are random, drawn by popularity."""
    order: float = Field(1.0, ge=0, le=1)
    """How far the next item follows the planted order: 1 always, 0 never (independent draws)."""
    text: float = Field(0.5, ge=0, le=1)
    """How much texts decide. 0: every item is sold during the whole log, so behaviour tells everything. 1: new editions
    replace each product eleven times on average, and only the text of an edition says which product it continues."""
    intents: int = Field(INTENTS, ge=1, le=INTENTS)
    """Number of latent intents (scenarios)."""
    switch: float = Field(0.15, ge=0, le=1)
    """Probability of leaving an intent for another before its last role."""
    popularity: float = Field(1.0, ge=0, le=3)
    """Exponent of the Zipf law of item popularity; 0 makes all items equally popular."""
    days: int = Field(1_500, ge=1, le=20_000)
    """Length of the log in days."""
    seed: Seed = 0
    """Seed of everything random."""


class Synthetic(Source):
    """The source ``synthetic``, which generates its files."""

    Config: TypeAlias = Config

    def __init__(self, config: "Config") -> None:
        """Raises :class:`ConfigError` if the catalog is too small for the intents or for the histories."""
        roles = sum(len(scenario.roles) for scenario in words()[0][: config.intents])
        needed = max(roles, int(np.ceil(8 * config.mean_length)))
        self.products = max(needed, round(config.items / (1 + config.text * (EDITIONS - 1))))
        if config.items < needed:
            raise ConfigError(
                f"source.items: {config.items} items are too few for the {roles} roles of {config.intents} "
                f"intents and for histories of {config.mean_length:g} different items.",
                hint=f"--set source.items={needed}    or lower source.intents or source.mean_length",
            )
        self.config = config

    def generate(self, folder: Path, progress: Callable[[float], None]) -> None:
        """Write reviews, metadata and labels into ``folder``; ``progress`` gets the fraction done."""
        # Separate generators: the shop does not depend on the count of users.
        shop_rng, words_rng, log_rng = np.random.default_rng(self.config.seed).spawn(3)
        shop = build_shop(self.products, self.config.intents, self.config.popularity, shop_rng)
        editions = build_editions(self.products, self.config.items, self.config.days, shop_rng)
        _write(folder / META, meta_lines(shop, editions, words_rng))
        log = _sample_log(shop, self.config, log_rng, lambda done: progress(0.6 * done))
        _write(folder / REVIEWS, _review_lines(_names(editions, log), log, lambda done: progress(0.6 + 0.35 * done)))
        _labels(shop, log, _names(editions, log)).write_parquet(folder / LABELS, compression="zstd")
        progress(1.0)

    def read(self, raw: Path, bad: BadRows, rows: RowFilter | None = None) -> Tables:
        """Parse the files with the reader of Amazon 2014."""
        return read_amazon(raw, bad, rows)


class Log(NamedTuple):
    """All N interactions in file order: by day, then user, then position in the history."""

    user_N: np.ndarray
    product_N: np.ndarray
    day_N: np.ndarray
    stars_N: np.ndarray
    transition_N: np.ndarray
    noise_N: np.ndarray


def _sample_log(shop: Shop, config: Config, rng: np.random.Generator, progress: Callable[[float], None]) -> Log:
    """Generate the histories, a block of users at a time, and sort the rows by day."""
    longest = shop.intent_I.size // 4  # so that drawing a new item needs few attempts
    extra = rng.geometric(1 / (config.mean_length - SHORTEST + 1), config.users) - 1
    length_U = np.minimum(SHORTEST + extra, longest)
    walks = []
    for first in range(0, config.users, BLOCK):
        length_B = length_U[first : first + BLOCK]
        item_BT, transition_BT, noise_BT = _walk(shop, config, length_B, rng)
        filled_BT = item_BT >= 0
        day_N = _days(filled_BT, config.days, rng)[filled_BT]
        user_N = np.repeat(np.arange(first, first + length_B.size), length_B)
        walks.append((user_N, item_BT[filled_BT], day_N, transition_BT[filled_BT], noise_BT[filled_BT]))
        progress((first + length_B.size) / config.users)
    user_N, item_N, day_N, transition_N, noise_N = (np.concatenate(column) for column in zip(*walks, strict=True))
    order = np.argsort(day_N, kind="stable")
    stars_N = rng.choice(np.arange(1, 6), order.size, p=STARS)
    return Log(user_N[order], item_N[order], day_N[order], stars_N, transition_N[order], noise_N[order])


def _walk(
    shop: Shop, config: Config, length_B: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``item_BT`` (-1 after the end), ``transition_BT`` and ``noise_BT`` of a block of users, position by position."""
    shape = (length_B.size, int(length_B.max()))
    item_BT = np.full(shape, -1, np.int32)
    transition_BT, noise_BT = np.zeros(shape, bool), np.zeros(shape, bool)
    at_B = np.full(length_B.size, -1)  # position in the plan: the last item that was not noise
    for t in range(shape[1]):
        users = np.flatnonzero(length_B > t)
        taken, at = item_BT[users, :t], at_B[users]
        intent = np.where(at >= 0, shop.intent_I[at], -1)
        noise = rng.random(users.size) < config.noise
        planned = ~noise & (rng.random(users.size) < config.order)
        stays = planned & (at >= 0) & (rng.random(users.size) >= config.switch)
        item = np.full(users.size, -1)
        rows = np.flatnonzero(stays)
        step = _next_role(shop, at[rows], rng)
        fresh = (step >= 0) & ~(taken[rows] == step[:, None]).any(1)
        item[rows[fresh]] = step[fresh]
        rows = np.flatnonzero(planned & (item < 0))
        item[rows] = _draw_new(shop, shop.entry, taken[rows], intent[rows] if config.intents > 1 else None, rng)
        rows = np.flatnonzero(~planned)
        item[rows] = _draw_new(shop, shop.popular, taken[rows], None, rng)
        item_BT[users, t], noise_BT[users, t] = item, noise
        transition_BT[users, t] = ~noise & (shop.intent_I[item] != intent)
        at_B[users] = np.where(noise, at, item)
    return item_BT, transition_BT, noise_BT


def _next_role(shop: Shop, at_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The step of the plan from each item: its successor, or a substitute of it; -1 after the last role."""
    low_N, high_N = shop.next_IE[at_N].T
    substitute_N = draw(shop.popular, low_N, np.maximum(high_N, low_N + 1), rng)
    loyal_N = (rng.random(at_N.size) < LOYALTY) & (shop.successor_I[at_N] >= 0)
    return np.where(high_N > low_N, np.where(loyal_N, shop.successor_I[at_N], substitute_N), -1)


def _draw_new(
    shop: Shop, edges: np.ndarray, taken_NT: np.ndarray, avoid_N: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Draw an item per row that is not in ``taken_NT``, and not of the intent ``avoid_N`` if given."""
    item_N = np.empty(len(taken_NT), np.int64)
    left = np.arange(len(taken_NT))
    while left.size:
        item = draw(edges, np.zeros(left.size, np.int64), np.full(left.size, edges.size - 1), rng)
        refused = (taken_NT[left] == item[:, None]).any(1)
        if avoid_N is not None:
            refused |= shop.intent_I[item] == avoid_N[left]
        item_N[left] = item
        left = left[refused]
    return item_N


def _days(filled_BT: np.ndarray, days: int, rng: np.random.Generator) -> np.ndarray:
    """A day per position, ascending and independent of the items: the gaps are 0 or exponential."""
    gap_BT = rng.exponential(size=filled_BT.shape) * (rng.random(filled_BT.shape) >= SAME_DAY) * filled_BT
    since_BT = np.cumsum(gap_BT, axis=1)
    start_B, stay_B = rng.random((2, len(filled_BT)))
    fraction_BT = since_BT / np.maximum(since_BT[:, -1:], 1e-9)
    at_BT = start_B[:, None] + (1 - start_B[:, None]) * stay_B[:, None] * fraction_BT
    return np.minimum(at_BT * days, days - 1).astype(np.int64)


def _names(editions: Editions, log: Log) -> pl.DataFrame:
    """Raw ids of user and item for each row."""
    item_N = editions.on_sale(log.product_N, log.day_N)
    user = pl.Series("user", log.user_N + 1).cast(pl.String).str.zfill(7)
    return pl.DataFrame({"user": "U" + user, "item": pl.Series("item", editions.asin_I).gather(item_N)})


def _review_lines(names: pl.DataFrame, log: Log, progress: Callable[[float], None]) -> Iterator[bytes]:
    """The reviews as JSON lines, :data:`BLOCK` lines at a time."""
    names = names.with_columns(stars=pl.Series(log.stars_N), time=pl.Series(EPOCH + DAY * log.day_N))
    for first, piece in zip(range(0, names.height, BLOCK), names.iter_slices(BLOCK), strict=True):
        values = (part for name, before in REVIEW.items() for part in (pl.lit(before), name))
        lines = piece.select(pl.concat_str(*values, pl.lit("}\n")))
        yield "".join(lines.to_series().to_list()).encode()
        progress((first + piece.height) / names.height)


def _labels(shop: Shop, log: Log, names: pl.DataFrame) -> pl.DataFrame:
    """The labels of all rows. Intent and role are those of the item, also where the row is noise."""
    scenarios, _ = words()
    roles = [(scenario.name, role.name) for scenario in scenarios for role in scenario.roles]
    first_role = np.cumsum([0] + [len(scenario.roles) for scenario in scenarios])
    role_N = (first_role[shop.intent_I] + shop.role_I)[log.product_N]
    return names.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("row"),
        "user",
        "item",
        intent=pl.Series([intent for intent, _ in roles]).gather(role_N),
        role=pl.Series([role for _, role in roles]).gather(role_N),
        transition=pl.Series(log.transition_N),
        noise=pl.Series(log.noise_N),
    )


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    """Write gzip without file name and time in its header: equal content gives equal bytes."""
    with path.open("wb") as stream, gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed:
        for piece in pieces:
            packed.write(piece)

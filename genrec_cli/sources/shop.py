"""The synthetic shop: its products, their planted successors, their popularity, their editions and their metadata.

A product line is one brand and series with one product per role of its scenario. Products of a role are substitutes,
those of a scenario are complements. The planted successor of a product is the product of its line for the next role.

Each product is sold as one or several *editions*, one after the other. An edition is an item: a new raw id, and a title
with the month of its launch. Only texts say that two items are editions of one product, and which of them were sold at
the same time. With one edition per product, an item is a product.
"""

import html
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

WORDS = Path(__file__).with_name("shop.toml")
"""Names of product lines, and scenarios with their roles."""
INTENTS = 20
"""Scenarios in :data:`WORDS`."""

EDITIONS = 12
"""Mean count of editions per product at ``text = 1``."""
MONTH = 30
"""Days; new items appear on the first day of a month."""
EPOCH = 1_262_304_000
"""First day of the log: 2010-01-01 in Unix seconds."""
DAY = 86_400
ENTRY_DECAY = 3.0
"""Entering a scenario at a role is this many times less likely than at the role before it."""
HEAD = 0.1
"""Flattens the head of the Zipf law: weight of rank r of I items = (r + HEAD * I) ** -popularity. With the plain law
the same few items would be in every history."""
MISSING = {"brand": 0.15, "price": 0.2, "description": 0.1}
"""Fraction of items whose metadata lack the field."""
BRAND_TIERS = (0.7, 0.85, 1.0, 1.25, 1.6)
"""Prices of the brands of a scenario, from cheap to expensive, relative to the middle price."""


class Role(NamedTuple):
    """A step of a scenario: name, noun of the product, category, middle price, variants."""

    name: str
    noun: str
    category: str
    price: float
    variants: list[str]


class Scenario(NamedTuple):
    """A latent intent: a purpose of buying, role after role."""

    name: str
    department: str
    purpose: str
    brands: list[str]
    roles: list[Role]


@cache
def words() -> tuple[list[Scenario], list[str]]:
    """The scenarios, and the names of product lines."""
    read = tomllib.loads(WORDS.read_text(encoding="utf-8"))
    scenarios = [Scenario(**{**table, "roles": [Role(*role) for role in table["roles"]]}) for table in read["scenario"]]
    return scenarios, read["series"]


class Shop(NamedTuple):
    """The products by intent, then role, then product line. The products of one role are a shelf."""

    intent_I: np.ndarray
    role_I: np.ndarray
    line_I: np.ndarray
    successor_I: np.ndarray
    """Product of the next role in the same line; -1 if there is none."""
    next_IE: np.ndarray
    """Begin and end of the shelf of the next role; equal after the last role."""
    popular: np.ndarray
    """Cumulative popularity for :func:`draw`, I + 1 edges."""
    entry: np.ndarray
    """The same for entering a scenario."""


class Editions(NamedTuple):
    """The items of the catalogue: edition e of product p is item ``p + e * P``."""

    launch_EP: np.ndarray
    """Day on which each edition replaces the one before; 0 for the first, beyond the log where there is none."""
    number_I: np.ndarray
    """Number in the raw id: a permutation, so that ids hold no information."""

    @property
    def asin_I(self) -> np.ndarray:
        """The raw ids."""
        return np.array([f"B00S{number:06d}" for number in self.number_I.tolist()])

    def on_sale(self, product_N: np.ndarray, day_N: np.ndarray) -> np.ndarray:
        """The item that is sold as each product on each day."""
        edition_N = np.zeros(product_N.size, np.int64)
        for launch_P in self.launch_EP[1:]:
            edition_N += launch_P[product_N] <= day_N
        return product_N + edition_N * self.launch_EP.shape[1]


def build_editions(products: int, items: int, days: int, rng: np.random.Generator) -> Editions:
    """Distribute the items over the products, and launch the editions of a product at equal intervals."""
    number_I = rng.permutation(items)
    edition_EP = np.arange(-(-items // products))[:, None]
    count_P = (items - 1 - np.arange(products)) // products + 1
    if len(edition_EP) == 1:
        return Editions(np.zeros((1, products), np.int64), number_I)
    phase_P = rng.random(products)  # so that some product is replaced every month, to the end of the log
    month_EP = np.ceil((edition_EP - phase_P) / np.maximum(count_P - 1, 1) * days / MONTH)
    launch_EP = np.where(edition_EP == 0, 0, month_EP * MONTH).astype(np.int64)
    return Editions(np.where(edition_EP < count_P, launch_EP, np.iinfo(np.int64).max), number_I)


def build_shop(items: int, intents: int, popularity: float, rng: np.random.Generator) -> Shop:
    """Fill the shelves line by line up to the count of products (``items``), and link each one to its successor.

    ``items`` must be at least the number of roles of the first ``intents`` scenarios.
    """
    scenarios = words()[0][:intents]
    slots = np.array([(intent, role) for intent, s in enumerate(scenarios) for role in range(len(s.roles))])
    line_I, slot_I = np.divmod(np.arange(items), len(slots))
    shelf_order = np.lexsort((line_I, slot_I))
    line_I, slot_I = line_I[shelf_order], slot_I[shelf_order]
    intent_I, role_I = slots[slot_I].T
    goes_on_S = np.append(slots[1:, 0] == slots[:-1, 0], False)
    edge_S = np.searchsorted(slot_I, np.arange(len(slots) + 1))
    shelf_IE = np.stack([edge_S[slot_I + 1], edge_S[np.minimum(slot_I + 2, len(slots))]], 1)
    next_IE = np.where(goes_on_S[slot_I, None], shelf_IE, 0)
    # A shelf holds its lines 0, 1, 2, ... in order, so a line has the same place on every shelf.
    same_line_I = next_IE[:, 0] + line_I
    successor_I = np.where(same_line_I < next_IE[:, 1], same_line_I, -1)
    # All items of a line have similar popularity, so that histories along lines keep the skew.
    line_rank = rng.permutation(intents * (line_I.max() + 1))
    rank_I = np.empty(items)
    rank_I[np.lexsort((role_I, line_rank[line_I * intents + intent_I]))] = np.arange(items)
    weight_I = (rank_I + HEAD * items) ** -popularity
    popular, entry = (np.concatenate([[0.0], np.cumsum(w)]) for w in (weight_I, weight_I * ENTRY_DECAY**-role_I))
    return Shop(intent_I, role_I, line_I, successor_I, next_IE, popular, entry)


def draw(edges: np.ndarray, low_N: np.ndarray, high_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw from the items ``low <= item < high`` with probability proportional to their weights."""
    point_N = edges[low_N] + rng.random(low_N.size) * (edges[high_N] - edges[low_N])
    return np.clip(np.searchsorted(edges, point_N, side="right") - 1, low_N, high_N - 1)


def meta_lines(shop: Shop, editions: Editions, rng: np.random.Generator) -> Iterator[bytes]:
    """One Python literal per item, by raw id, with missing fields and HTML entities like real metadata."""
    count, products = editions.number_I.size, shop.intent_I.size
    style_I, variant_I, partner_I = rng.integers(0, 1 << 30, (3, count)).tolist()
    spread_I = np.exp(rng.normal(0, 0.15, count)).tolist()
    lacks_FI = rng.random((len(MISSING), count)) < np.array(list(MISSING.values()))[:, None]
    lacks_I = [{f for f, lacks in zip(MISSING, row, strict=True) if lacks} for row in lacks_FI.T.tolist()]
    asin_I, product_I = editions.asin_I.tolist(), np.arange(count) % products
    intent_I, role_I, line_I = (a[product_I].tolist() for a in (shop.intent_I, shop.role_I, shop.line_I))
    launch_I = editions.launch_EP.ravel()[:count].tolist() if len(editions.launch_EP) > 1 else None
    for i in np.argsort(editions.number_I).tolist():
        scenario = words()[0][intent_I[i]]
        role = scenario.roles[role_I[i]]
        others = [other for other in scenario.roles if other is not role]
        tier = line_I[i] % len(scenario.brands)
        brand, series = scenario.brands[tier], _series(intent_I[i], line_I[i])
        variant = role.variants[variant_I[i] % len(role.variants)]
        title = (
            f"{brand} {series} {role.noun}, {variant}",
            f"{brand} {series} {role.noun} ({variant})",
            f"{brand} {role.noun} {series} - {variant}",
        )[style_I[i] % 3] + (f", {_month(launch_I[i])}" if launch_I else "")
        description = (
            f"{role.noun} made for {scenario.purpose}. Part of the {series} line by {brand}. "
            f"Goes well with our {others[partner_I[i] % len(others)].noun}."
        )
        fields = {
            "asin": asin_I[i],
            "title": _escape(title),
            "price": round(max(2, round(role.price * BRAND_TIERS[tier] * spread_I[i])) - 0.01, 2),
            "brand": _escape(brand),
            "categories": [[scenario.department, scenario.name.title(), role.category]],
            "description": _escape(description),
        }
        kept = {name: value for name, value in fields.items() if name not in lacks_I[i]}
        yield f"{kept!r}\n".encode()


def _series(intent: int, line: int) -> str:
    """The name of a product line, unique within its brand."""
    scenarios, series = words()
    round_, tier = divmod(line, len(scenarios[intent].brands))
    generation, place = divmod(round_, len(series))
    name = series[(place + 5 * tier + 3 * intent) % len(series)]
    return f"{name} {generation + 1}" if generation else name


def _month(day: int) -> str:
    """The month of a day of the log, for example May 2012."""
    date = datetime.fromtimestamp(EPOCH + DAY * (day + MONTH // 2), UTC)
    return f"{date:%B} {date.year}"


def _escape(text: str) -> str:
    """HTML entities as in the original files."""
    return html.escape(text).replace("&#x27;", "&#39;")

"""The synthetic shop: same dials, same bytes; labels that tell the truth; dials that do what they say."""

import ast
import gzip
import hashlib
import html
import json
import re
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import whole

from genrec_cli.config import validate
from genrec_cli.errors import ConfigError
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.shop import INTENTS, words
from genrec_cli.sources.synthetic import DAY, EPOCH, LABELS, META, REVIEWS, Config, Synthetic

SCENARIOS = words()[0]
NEXT_ROLE = {
    (scenario.name, role.name): following.name
    for scenario in SCENARIOS
    for role, following in zip(scenario.roles, scenario.roles[1:], strict=False)
}


def make(folder: Path, **dials) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Synthetic(validate(Config, "source", dials)).generate(folder, lambda share: None)
    return folder


def labels(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / LABELS)


def json_lines(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def literals(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [ast.literal_eval(line) for line in stream]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def default(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="module")
def behaviour(tmp_path_factory) -> Path:
    """The shop without editions: behaviour tells everything."""
    return make(tmp_path_factory.mktemp("behaviour"), text=0.0, items=800)


# ---- files ---------------------------------------------------------------------------------------------


def test_same_dials_same_bytes_and_another_seed_another_log(tmp_path):
    first, again = make(tmp_path / "a", users=300), make(tmp_path / "b", users=300)
    other = make(tmp_path / "c", users=300, seed=1)
    assert digests(first) == digests(again)
    assert set(digests(first)) == {REVIEWS, META, LABELS}
    assert not set(digests(first).values()) & set(digests(other).values())


def test_more_users_leave_the_shop_as_it_is(tmp_path):
    small, large = make(tmp_path / "a", users=50), make(tmp_path / "b", users=80)
    assert digests(small)[META] == digests(large)[META]


def test_reviews_have_the_raw_layout_and_labels_match_them_row_by_row(default):
    reviews, label = json_lines(default / REVIEWS), labels(default)
    assert label.columns == ["row", "user", "item", "intent", "role", "transition", "noise"]
    assert set(reviews[0]) == {"reviewerID", "asin", "overall", "unixReviewTime"}
    assert label["row"].to_list() == list(range(len(reviews)))
    assert label["user"].to_list() == [r["reviewerID"] for r in reviews]
    assert label["item"].to_list() == [r["asin"] for r in reviews]
    times = np.array([r["unixReviewTime"] for r in reviews])
    assert (times % DAY == 0).all()
    assert (np.diff(times) >= 0).all()
    assert times.min() >= EPOCH and times.max() < EPOCH + 1_500 * DAY


def test_histories_are_long_enough_without_repeats_and_share_days(default):
    users = labels(default).group_by("user").agg(pl.len(), pl.col("item").n_unique().alias("different"))
    assert users.height == 3_000
    assert users["len"].min() >= 5
    assert (users["len"] == users["different"]).all()
    assert users["len"].mean() == pytest.approx(9, abs=0.3)
    days = pl.DataFrame(json_lines(default / REVIEWS)).group_by("reviewerID").agg(pl.col("unixReviewTime"))
    tied = days.select(pl.col("unixReviewTime").list.diff(null_behavior="drop").explode().eq(0).mean()).item()
    assert 0.3 < tied < 0.6


def test_metadata_are_literals_with_the_gaps_and_entities_of_real_ones(default):
    items = literals(default / META)
    assert len({item["asin"] for item in items}) == len(items) == Config().items
    assert set(labels(default)["item"]) <= {item["asin"] for item in items}
    for field, share in {"brand": 0.15, "price": 0.2, "description": 0.1}.items():
        assert np.mean([field not in item for item in items]) == pytest.approx(share, abs=0.05)
    assert any("&amp;" in item["title"] for item in items)
    assert any("&quot;" in item["title"] for item in items)
    for item in items:
        assert isinstance(item.get("price", 1.0), float) and item.get("price", 1.0) > 0
        assert len(item["categories"][0]) == 3


def test_titles_are_unique_and_name_brand_and_product(default):
    titles = [html.unescape(item["title"]) for item in literals(default / META)]
    nouns = {role.noun for scenario in SCENARIOS for role in scenario.roles}
    brands = {brand for scenario in SCENARIOS for brand in scenario.brands}
    assert len(set(titles)) == len(titles)
    for title in titles:
        assert any(noun in title for noun in nouns), title
        assert any(title.startswith(brand) for brand in brands), title


def test_titles_stay_unique_when_the_names_of_lines_run_out(tmp_path):
    titles = [item["title"] for item in literals(make(tmp_path, users=5, items=2_000, intents=1) / META)]
    assert len(set(titles)) == len(titles) == 2_000


def test_words_make_varied_scenarios_whose_brands_and_products_are_their_own():
    assert len(SCENARIOS) == INTENTS >= 16
    assert all(5 <= len(scenario.roles) <= 8 for scenario in SCENARIOS)
    for scenario in SCENARIOS:
        assert len({role.name for role in scenario.roles}) == len(scenario.roles)
    brands = [brand for scenario in SCENARIOS for brand in scenario.brands]
    products = [role.noun for scenario in SCENARIOS for role in scenario.roles]
    assert max(Counter(brands).values()) == max(Counter(products).values()) == 1


def test_most_items_have_five_interactions_without_editions(behaviour):
    counts = labels(behaviour)["item"].value_counts()["count"]
    assert (counts >= 5).sum() >= 0.97 * 800


def test_the_reader_of_amazon_2014_reads_it_without_a_bad_line(default):
    bad = BadRows()
    interactions, items = Synthetic(Config()).read(default, bad)
    found = whole(interactions).sort("row")
    assert bad.count == 0
    assert found["user"].to_list() == labels(default)["user"].to_list()
    assert found["item"].to_list() == labels(default)["item"].to_list()
    read = items.collect()
    written = {item["asin"]: item for item in literals(default / META)}
    assert set(read["raw_id"]) == set(written)
    assert {"title", "brand", "price", "categories", "description"} <= set(read.columns)
    # Entities are left to preprocess.
    for raw_id, brand in read.select("raw_id", "brand").rows():
        assert brand == written[raw_id].get("brand")


# ---- dials ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_noise_is_the_share_of_noise(tmp_path, noise):
    label = labels(make(tmp_path, users=800, noise=noise))
    assert label["noise"].mean() == pytest.approx(noise, abs=0.02)
    assert not (label["noise"] & label["transition"]).any()


def test_intents_limit_the_scenarios(tmp_path):
    label = labels(make(tmp_path, users=100, intents=3))
    assert set(label["intent"]) == {scenario.name for scenario in SCENARIOS[:3]}


def test_a_single_intent_and_always_switching_still_work(tmp_path):
    assert not labels(make(tmp_path / "a", users=50, intents=1, order=1.0)).is_empty()
    always = plan(labels(make(tmp_path / "b", users=200, switch=1.0)))
    assert always["transition"].all()


def plan(label: pl.DataFrame) -> pl.DataFrame:
    """Rows that are not noise, each with intent and role of the one before it by the same user."""
    kept = label.filter(~pl.col("noise")).sort("user", "row", maintain_order=True)
    before = [pl.col(name).shift().over("user").alias(f"last_{name}") for name in ("intent", "role")]
    return kept.with_columns(before)


def follows(label: pl.DataFrame) -> float:
    """Share of the rows inside an intent that are of the role after the one before."""
    steps = plan(label).filter(~pl.col("transition"), pl.col("last_role").is_not_null())
    rows = steps.select("last_intent", "last_role", "role").rows()
    return sum(NEXT_ROLE.get((intent, before)) == role for intent, before, role in rows) / len(rows)


def test_transitions_are_exactly_the_changes_of_intent_outside_noise(default):
    rows = plan(labels(default))
    changed = rows["intent"].ne_missing(rows["last_intent"])
    assert (rows["transition"] == changed).all()
    assert 0.2 < rows["transition"].mean() < 0.4


def test_order_decides_how_often_the_next_role_follows(tmp_path, default):
    assert follows(labels(default)) == 1.0
    shares = [follows(labels(make(tmp_path / f"{o}", users=2_000, order=o))) for o in (0.0, 0.5)]
    assert shares[0] < 0.2 < shares[1] < 1.0


def test_popularity_is_the_skew(tmp_path):
    shares = []
    for exponent in (0.0, 1.0, 2.0):
        label = labels(make(tmp_path / f"{exponent}", users=2_000, items=800, text=0.0, popularity=exponent, order=0.0))
        counts = label["item"].value_counts()["count"].sort(descending=True)
        shares.append(counts.head(80).sum() / counts.sum())
    assert shares[0] < 0.16 < 0.25 < shares[1] < 0.35 < shares[2]


def recall_at_10(label: pl.DataFrame, most: int | None = None) -> dict[str, float]:
    """Recall@10 of each user's last item, fitted on all others: popularity, and counted successions.

    ``most``: only last items with at most this count of earlier interactions.
    """
    label = label.sort("user", "row").with_columns(pl.col("item").cast(pl.Categorical).to_physical())
    user, item = label["user"].to_numpy(), label["item"].to_numpy().astype(np.int64)
    last, first = np.append(user[1:] != user[:-1], True), np.append(True, user[1:] != user[:-1])
    items = int(item.max()) + 1
    popular = np.bincount(item[~last], minlength=items) / len(item)
    follows = np.zeros((items, items))
    later = np.flatnonzero(~last & ~first)
    np.add.at(follows, (item[later - 1], item[later]), 1)
    count = np.bincount(item[~last], minlength=items)
    at = np.flatnonzero(last if most is None else last & (count[item] <= most))

    def recall(score_BI: np.ndarray) -> float:
        target_B1 = np.take_along_axis(score_BI, item[at][:, None], 1)
        return float(((score_BI > target_B1).sum(1) < 10).mean())

    return {
        "popular": recall(np.broadcast_to(popular, (len(at), items))),
        "successions": recall(follows[item[at - 1]] + popular),
    }


def test_at_order_1_the_last_item_tells_the_next(behaviour):
    recall = recall_at_10(labels(behaviour))
    assert recall["successions"] > 5 * recall["popular"]
    assert recall["popular"] < 0.1


def test_at_order_0_the_last_item_tells_nothing(tmp_path):
    label = labels(make(tmp_path, users=6_000, items=800, text=0.0, order=0.0))
    recall = recall_at_10(label)
    assert recall["successions"] <= recall["popular"]
    # Sharper, without a model: the intents of neighbours coincide as often as those of any two rows.
    rows = label.sort("user", "row").with_columns(last=pl.col("intent").shift().over("user"))
    pairs = rows.filter(pl.col("last").is_not_null())
    together = (pairs["intent"] == pairs["last"]).mean()
    by_chance = (label["intent"].value_counts()["count"] / label.height).pow(2).sum()
    assert together == pytest.approx(by_chance, abs=0.006)


PINNED = {LABELS: "d036c6942b8c", META: "f0c0d470dccd", REVIEWS: "7267f7617e52"}
"""First digits of the SHA-256 of the default files before there were editions."""


def test_without_editions_the_files_are_those_of_a_shop_of_behaviour(behaviour):
    assert digests(behaviour)[META][:12] == PINNED[META]


def test_an_edition_is_sold_from_its_launch_to_the_next(tmp_path):
    folder = make(tmp_path, users=2_000, items=2_000, text=0.5)
    sold = (
        pl.DataFrame(json_lines(folder / REVIEWS))
        .group_by("asin")
        .agg(first=pl.col("unixReviewTime").min(), last=pl.col("unixReviewTime").max())
    )
    titles = {item["asin"]: html.unescape(item["title"]) for item in literals(folder / META)}
    launched = {asin: datetime.strptime(title.rpartition(", ")[2], "%B %Y") for asin, title in titles.items()}
    product = {asin: re.sub(r"[,(-].*", "", title) for asin, title in titles.items()}
    first = dict(sold.select("asin", "first").iter_rows())
    later = [asin for asin in first if launched[asin] > datetime(2010, 2, 1)]
    assert len(later) > 500
    for asin in later:  # the month of a title is that of the middle of the first 30 days on sale
        assert first[asin] >= (launched[asin].replace(tzinfo=UTC) - timedelta(days=31)).timestamp()
    editions = Counter(product.values())
    assert max(editions.values()) >= 5
    assert len({launch for launch in launched.values()}) > 40  # new items every month of about 50


@pytest.mark.parametrize("text, products", [(0.0, 1_200), (0.5, 185), (1.0, 130)])
def test_text_sets_the_count_of_products(text, products):
    assert Synthetic(validate(Config, "source", {"items": 1_200, "text": text})).products == products


def test_a_count_of_successions_loses_on_cold_items_where_texts_decide(tmp_path):
    behaviour, texts = (labels(make(tmp_path / f"{text}", items=2_000, text=text)) for text in (0.0, 0.5))
    assert follows(texts) == 1.0
    known, cold = recall_at_10(texts)["successions"], recall_at_10(texts, 3)["successions"]
    assert cold < known - 0.1
    assert cold < recall_at_10(behaviour, 3)["successions"] - 0.05


def test_a_catalog_too_small_says_what_to_set():
    with pytest.raises(ConfigError, match=r"source\.items: 100 items are too few") as caught:
        Synthetic(Config(items=100))
    assert "source.items=130" in caught.value.hint
    with pytest.raises(ConfigError, match=r"source\.order"):
        validate(Config, "source", {"order": 1.5})


def test_progress_rises_to_one(tmp_path):
    seen: list[float] = []
    Synthetic(Config(users=100)).generate(tmp_path, seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_a_small_shop_takes_no_time(tmp_path):
    started = time.perf_counter()
    make(tmp_path, users=200)
    assert time.perf_counter() - started < 2


def test_the_most_lopsided_dials_still_give_full_histories_without_repeats(tmp_path):
    label = labels(make(tmp_path, users=300, items=104, intents=2, mean_length=13.0, switch=1.0, popularity=3.0))
    users = label.group_by("user").agg(pl.len(), pl.col("item").n_unique().alias("different"))
    assert (users["len"] == users["different"]).all()
    assert users["len"].is_between(5, 104 // 4).all()

"""Beyond accuracy, against loops; and in the result of an evaluation."""

import math
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli.data.sequences import Histories
from genrec_cli.data.vectors import read_vectors
from genrec_cli.engine.beyond import ListValues, consumed_popularity, diversity, gini
from genrec_cli.testing import make_histories

RANDOM = np.random.default_rng(0)
COUNT_I = np.array([5, 0, 9, 1, 1, 0, 20])
VEC_IE = RANDOM.normal(size=(7, 3)).astype("float32")
VEC_IE[3] = 0
ITEM_UK = np.array([[1, 2, 3], [3, 7, 0], [4, 0, 0], [0, 0, 0], [7, 3, 1]])
CONSUMED_U = np.array([3.0, 4.0, 5.0, 6.0, 7.0])


def slow(item_Uk: np.ndarray) -> dict[str, float]:
    lists = [[int(item) for item in row if item] for row in item_Uk]
    flat = [item for row in lists for item in row]
    count = [flat.count(item) for item in range(1, 8)]
    total = COUNT_I.sum() + 7

    def mean(value):
        return float(np.mean([sum(value(i) for i in row) / max(len(row), 1) for row in lists]))

    unit = [v / np.linalg.norm(v) if v.any() else None for v in VEC_IE]
    pairs = [
        [1 - float(unit[a - 1] @ unit[b - 1]) for a, b in combinations(row, 2) if a != 4 and b != 4] for row in lists
    ]
    popularity = mean(lambda i: COUNT_I[i - 1])
    rows = [int(np.flatnonzero((row == ITEM_UK).all(1))[0]) for row in item_Uk]
    found = {
        "Coverage": len(set(flat)) / 7,
        "Gini": sum(abs(a - b) for a in count for b in count) / (2 * 7 * sum(count)),
        "Popularity": popularity,
        "PopularityLift": popularity / CONSUMED_U[rows].mean() - 1,
        "Novelty": mean(lambda i: -math.log2((COUNT_I[i - 1] + 1) / total)),
        "Cold": mean(lambda i: float(COUNT_I[i - 1] == 0)),
    }
    if any(pairs):
        found["Diversity"] = float(np.mean([np.mean(p) for p in pairs if p]))
    return found


@pytest.mark.parametrize("users", [1, 2, 1000])
@pytest.mark.parametrize("rows", [None, [0, 1], [2], [4]])
def test_the_means_are_those_of_loops(users, rows, monkeypatch):
    monkeypatch.setattr("genrec_cli.engine.beyond.USERS", users)
    values = ListValues(ITEM_UK, COUNT_I, CONSUMED_U, VEC_IE)
    chosen = None if rows is None else np.array(rows)
    assert values.means(chosen) == pytest.approx(slow(ITEM_UK if chosen is None else ITEM_UK[chosen]), rel=1e-5)


def test_without_vectors_there_is_no_diversity_and_without_lists_no_division():
    assert "Diversity" not in ListValues(ITEM_UK, COUNT_I, CONSUMED_U).means()
    found = ListValues(np.zeros((2, 3), int), COUNT_I, np.zeros(2)).means()
    assert found["Coverage"] == found["Gini"] == found["Popularity"] == 0 and "PopularityLift" not in found


def test_gini_of_equal_counts_is_zero_and_of_one_item_near_one():
    assert gini(np.full(10, 3)) == pytest.approx(0)
    assert gini(np.array([0] * 9 + [5])) == pytest.approx(0.9)
    assert gini(np.zeros(4, int)) == 0


def test_equal_vectors_have_diversity_zero():
    assert diversity(np.array([[1, 2], [2, 1]]), np.ones((2, 3), "float32")) == pytest.approx(np.zeros(2), abs=1e-6)


def test_consumed_popularity_is_that_of_a_loop(monkeypatch):
    monkeypatch.setattr("genrec_cli.engine.beyond.USERS", 3)
    histories, count_I = make_histories([5, 9, 3, 14, 6, 4, 7, 12], 30), RANDOM.integers(0, 50, 30)
    user, at = histories.targets("test")
    found = consumed_popularity(histories, user, at, count_I)
    for value, row, end in zip(found, user, at, strict=True):
        items = histories.item[histories.offset[row] : histories.offset[row] + end]
        assert value == pytest.approx(np.mean([count_I[item - 1] for item in items]))


# ---- evaluate --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("beyond")
    for words in (SMALL_SHOP, ["preprocess"], ["tokenize", "--codebooks", "4", "--codewords", "8"]):
        assert genrec(root, *words).code == 0
    for words in (["popular"], ["rpg", "--epochs", "1", *TINY]):
        assert genrec(root, "train", "--model", *words).path
    return root


def test_an_evaluation_tells_what_its_lists_hold(root):
    answer = genrec(root, "evaluate", "--run", "rpg-s0", "--at", "5,3")
    result = answer.manifest["result"]
    assert "Novelty" in answer.err and "Coverage" in answer.err
    data = next(root.glob("synthetic/data/*"))
    count_I = pq.read_table(data / "items.parquet")["train_count"].to_numpy().astype(int)
    lists, histories = pq.read_table(answer.path / "topk.parquet").to_pydict(), Histories.read(data)
    user, at = histories.targets("test")
    consumed_U = consumed_popularity(histories, user, at, count_I)
    vectors = read_vectors(next(root.glob("synthetic/vectors/*")))
    for protocol in ("kept", "left_out"):
        item_Uk = np.array(lists[f"{protocol}_items"])
        assert item_Uk.shape[1] == 5
        expected = ListValues(item_Uk, count_I, consumed_U, vectors).means()
        assert result["beyond"][protocol] == pytest.approx(expected) and 0 < expected["Diversity"] < 2
    slices = result["slices"]
    for kind in ("length", "cold-start"):
        assert sum(part["users"] for part in slices[kind].values()) == result["users"]
        assert all(0 < part["left_out"]["Coverage"] <= 1 for part in slices[kind].values())


def test_a_run_without_vectors_has_diversity_if_they_are_named(root):
    plain = genrec(root, "evaluate", "--run", "popular-s0").manifest["result"]["beyond"]["kept"]
    vectors = next(root.glob("synthetic/vectors/*")).name
    named = genrec(root, "evaluate", "--run", "popular-s0", "--vectors", vectors).manifest["result"]["beyond"]["kept"]
    assert "Diversity" not in plain and named["Diversity"] > 0
    assert named == plain | {"Diversity": named["Diversity"]}
    assert genrec(root, "evaluate", "--run", "popular-s0", "--vectors", "absent").code == 4

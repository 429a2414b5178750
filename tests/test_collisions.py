"""Collision policies: numbers that fit, codes that differ, the nearest free ones; and the command."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli import registry
from genrec_cli.errors import UsageError
from genrec_cli.tokenizers import collisions
from genrec_cli.tokenizers.collisions import cheapest, numbers, reassign, resolve, with_digit
from genrec_cli.tokenizers.kmeans import squared_distances
from genrec_cli.tokenizers.quality import groups

NAMES = ["opq", "pq", "rkmeans", "rqvae", "random"]


def crowd(items: int = 300, width: int = 8, seed: int = 0) -> np.ndarray:
    """Vectors among which some are equal: 20 without text, and pairs."""
    random = np.random.default_rng(seed)
    vec_ID = random.normal(size=(items, width)).astype(np.float32)
    vec_ID[:20] = 0
    vec_ID[40:60] = vec_ID[60:80]
    return vec_ID


def fitted(name: str, vec_ID: np.ndarray, digits: int, codewords: int):
    kind = registry.load("tokenizer", name)
    quick = {"rqvae": {"hidden": (8,), "latent": 4, "epochs": 3}, "random": {}}.get(name, {})
    tokenizer = kind(kind.Config(codebooks=digits, codewords=codewords, **quick))
    tokenizer.fit(vec_ID, np.ones(len(vec_ID), dtype=bool))
    return tokenizer


def distinct(codes_IK: np.ndarray) -> int:
    return len({tuple(code) for code in codes_IK.tolist()})


# ---- the added digit -----------------------------------------------------------------------------


def test_the_digit_numbers_items_of_a_code_in_their_order() -> None:
    codes_IK = np.array([[1, 2], [0, 0], [1, 2], [1, 2], [2, 1], [0, 0]], dtype=np.uint16)
    found = with_digit(codes_IK, 3)
    assert found.tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 1], [1, 2, 2], [2, 1, 0], [0, 0, 1]]
    assert found.dtype == np.uint16
    with pytest.raises(UsageError, match="3 items share the same codes, and a digit counts to 2") as caught:
        with_digit(codes_IK, 2)
    assert "--codewords 3" in caught.value.hint and "reassign" in caught.value.hint


def test_the_digit_agrees_with_counting() -> None:
    codes_IK = np.random.default_rng(0).integers(3, size=(400, 3), dtype=np.uint16)
    seen: dict[tuple, int] = {}
    for code, digit in zip(map(tuple, codes_IK.tolist()), with_digit(codes_IK, 400)[:, 3].tolist(), strict=True):
        assert digit == seen.get(code, 0)
        seen[code] = digit + 1


# ---- reassignment --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("digits", "codewords"), [(2, 20), (4, 5), (8, 3), (1, 300)])
def test_no_two_items_are_equal_and_it_is_the_same_every_time(name: str, digits: int, codewords: int) -> None:
    vec_ID = crowd()
    tokenizer = fitted(name, vec_ID, digits, codewords)
    before = tokenizer.codes(vec_ID)
    assert distinct(before) < 300
    after = reassign(tokenizer, vec_ID, before, codewords)
    assert distinct(after) == 300 and after.dtype == np.uint16 and after.max() < codewords
    assert np.array_equal(after, reassign(tokenizer, vec_ID, before, codewords))
    kept = {tuple(code) for code in before[(before == after).all(1)].tolist()}
    assert kept == {tuple(code) for code in before.tolist()}, "one item of every code stays"


def test_a_full_house_still_seats_everybody() -> None:
    """256 items for 4^4 codes: the last ones must take whatever is left."""
    vec_ID = crowd(256)
    for name in NAMES:
        tokenizer = fitted(name, vec_ID, 4, 4)
        assert distinct(reassign(tokenizer, vec_ID, tokenizer.codes(vec_ID), 4)) == 256
    with pytest.raises(UsageError, match=r"300 items do not fit into 4\^4 = 256 codes"):
        reassign(tokenizer, crowd(300), tokenizer.codes(crowd(300)), 4)


@pytest.mark.parametrize("name", ["opq", "pq", "rkmeans"])
def test_nobody_would_rather_have_a_code_that_is_free(name: str, monkeypatch) -> None:
    """Against all V^K codes: a free one is never nearer than the one an item moved to; the best fit stays."""
    monkeypatch.setattr(collisions, "FIRST", 256)  # the beam of residual codes holds all codes, so it is exact
    vec_ID = crowd(120)
    tokenizer = fitted(name, vec_ID, 4, 4)
    before = tokenizer.codes(vec_ID)
    after = reassign(tokenizer, vec_ID, before, 4)
    every_CK = np.array(list(product(range(4), repeat=4)), dtype=np.uint16)
    cost_IC = squared_distances(tokenizer.encode(tokenizer.reduced(vec_ID)), tokenizer.reconstruct(every_CK))
    place_I = after.astype(int) @ 4 ** np.arange(3, -1, -1)
    free_C = ~np.isin(np.arange(256), place_I)
    moved = (before != after).any(1)
    assert moved.sum() > 20
    own_I = cost_IC[np.arange(120), place_I]
    assert (own_I[moved] <= cost_IC[moved][:, free_C].min(1) + 1e-5).all()
    assert (tokenizer.codes(vec_ID)[~moved] == after[~moved]).all()
    fit_I = np.square(tokenizer.reduced(vec_ID) - tokenizer.decode(before)).sum(1)
    for group in np.unique(groups(before)):
        members = np.flatnonzero(groups(before) == group)
        assert fit_I[members[~moved[members]]][0] <= fit_I[members].min() + 1e-5


def test_moves_are_those_of_a_slow_twin(monkeypatch) -> None:
    """The same auction, one bid after the other in plain Python."""
    monkeypatch.setattr(collisions, "FIRST", 144)
    vec_ID = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    tokenizer = fitted("pq", vec_ID, 2, 12)
    before = tokenizer.codes(vec_ID)
    after = reassign(tokenizer, vec_ID, before, 12)
    stays = (before == after).all(1)
    taken = {tuple(code) for code in before[stays].tolist()}
    near, cost = tokenizer.nearest(vec_ID, before, 144)
    waiting = {int(item): [tuple(code) for code in near[item].tolist()] for item in np.flatnonzero(~stays)}
    placed: dict[int, tuple] = {}
    while waiting:
        bids: dict[tuple, list] = {}
        for item, wishes in waiting.items():
            place = next(p for p, code in enumerate(wishes) if code not in taken)
            bids.setdefault(wishes[place], []).append((cost[item, place], vec_ID[item].tobytes(), item))
        for code, bidders in bids.items():
            winner = min(bidders, key=lambda bid: (bid[0], bid[2]))[2]
            placed[winner] = code
            taken.add(code)
            del waiting[winner]
    assert len(placed) > 15 and {item: tuple(after[item].tolist()) for item in placed} == placed


def test_items_that_stand_alone_and_single_codes_are_kept() -> None:
    vec_ID = crowd(30)[20:]
    tokenizer = fitted("pq", vec_ID, 4, 8)
    codes_IK = np.arange(40).reshape(10, 4).astype(np.uint16) % 8
    codes_IK[:, 0] = np.arange(10) % 8
    codes_IK[:, 1] = np.arange(10) // 8
    assert reassign(tokenizer, vec_ID, codes_IK, 8) is codes_IK
    assert resolve("none", tokenizer, vec_ID, codes_IK, 8) == (codes_IK, {"collision_policy": "none"})


def test_a_thousand_equal_items_take_few_rounds(monkeypatch) -> None:
    vec_ID = np.concatenate([np.zeros((1000, 8), np.float32), crowd(500)])
    tokenizer = fitted("rkmeans", vec_ID, 4, 16)
    rounds = []
    once = collisions._auction
    monkeypatch.setattr(collisions, "_auction", lambda *a: rounds.append(1) or once(*a))
    assert distinct(reassign(tokenizer, vec_ID, tokenizer.codes(vec_ID), 16)) == 1500
    assert len(rounds) < 20


@pytest.mark.parametrize(("codewords", "digits"), [(2, 64), (256, 8), (3, 40), (7, 5)])
def test_numbers_tell_codes_apart(codewords: int, digits: int) -> None:
    codes_NK = np.random.default_rng(0).integers(codewords, size=(3000, digits))
    codes_NK[-1] = codes_NK[0]
    assert len(np.unique(numbers(codes_NK, codewords))) == distinct(codes_NK)
    last = codes_NK.copy()
    last[:, -1] = (last[:, -1] + 1) % codewords
    assert (numbers(codes_NK, codewords) != numbers(last, codewords)).all()


@pytest.mark.parametrize("many", [1, 3, 9, 20])
def test_cheapest_equals_sorting_even_with_ties(many: int) -> None:
    cost_NC = np.random.default_rng(0).integers(100, size=(50, 9)) + np.arange(9) / 100
    assert np.array_equal(cheapest(cost_NC, many), np.argsort(cost_NC, axis=1, kind="stable")[:, :many])


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("collisions")
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(root, *words).code == 0
    return root


SIZE = ["--tokenizer", "rkmeans", "--codebooks", "3", "--codewords", "6"]


def found(root: Path, *words: str) -> tuple[Path, dict]:
    path = genrec(root, "tokenize", *SIZE, *words).path
    return path, json.loads((path / "quality.json").read_text())


def test_policies_make_codes_of_their_own_and_say_so(root: Path) -> None:
    plain, before = found(root)
    named, _ = found(root, "--collisions", "none")
    assert plain == named, "none is the default: the same key"
    assert json.loads((plain / "manifest.json").read_text())["config"]["tokenizer"]["collisions"] == "none"
    assert before["collision_policy"] == "none" and before["colliding_fraction"] > 0.1
    digit, with_one = found(root, "--collisions", "digit", "--codewords", "12")
    assert digit.name.startswith("rkmeans3x12-digit-") and with_one["codebooks"] == 4
    bare = found(root, "--codewords", "12")[1]
    for figure in ("digits", "least_used_fraction", "mean_entropy", "mutual_information", "neighbours_kept_by_digits"):
        assert with_one[figure] == bare[figure], "what the counter says is no quality of the codebook"
    apart, moved = found(root, "--collisions", "reassign")
    assert apart.name.startswith("rkmeans3x6-reassign-") and moved["codebooks"] == 3
    for quality in (with_one, moved):
        assert quality["colliding_items"] == 0 and quality["colliding_share_before"] > 0
    assert 0 < moved["moved_fraction"] < before["colliding_fraction"] == moved["colliding_share_before"]
    assert moved["reconstruction_error"] > before["reconstruction_error"]
    assert json.loads((apart / "manifest.json").read_text())["config"]["tokenizer"]["collisions"] == "reassign"


def test_refusals(root: Path) -> None:
    two = ["--tokenizer", "rkmeans", "--codebooks", "2", "--codewords", "2"]
    full = genrec(root, "tokenize", *two, "--collisions", "digit")
    assert full.code == 2 and "a digit counts to 2" in full.err and "--codewords" in full.err
    few = ["--tokenizer", "random", "--codebooks", "3", "--codewords", "4"]
    tight = genrec(root, "tokenize", *few, "--collisions", "reassign")
    assert tight.code == 2 and "do not fit into 4^3 = 64 codes" in tight.err
    wrong = genrec(root, "tokenize", *SIZE, "--collisions", "move")
    assert wrong.code == 3 and "tokenizer.collisions" in wrong.err and "reassign" in wrong.err
    text = genrec(root, "tokenize", "--tokenizer", "text", "--collisions", "digit")
    assert text.code == 3 and "tokenizer.collisions: there is no such key" in text.err


def test_models_train_on_the_added_digit_and_a_codebook_serves_another_policy(root: Path) -> None:
    digit, _ = found(root, "--collisions", "digit", "--codewords", "12")
    run = genrec(root, "train", "--model", "rpg", "--codes", digit.name, "--epochs", "1", *TINY)
    assert run.code == 0, run.err
    evaluation = genrec(root, "evaluate", "--run", run.path.name)
    result = evaluation.manifest["result"]
    assert result["metrics"]["kept"] == result["code_metrics"]["kept"], "no two items tie"
    frozen = genrec(root, "tokenize", "--codebook-from", digit.name, "--collisions", "reassign").path
    assert "-frozen" in frozen.name and "reassign" in frozen.name
    same = genrec(root, "tokenize", "--codebook-from", digit.name).path
    assert (same / "codes.parquet").read_bytes() == (digit / "codes.parquet").read_bytes()

"""Codes that know behaviour: joined vectors, what codes predict, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array
from shop import SMALL_SHOP, genrec

from genrec_cli.stages.behaviour import consecutive_pairs
from genrec_cli.tokenizers.behaviour import BehaviourConfig, join
from genrec_cli.tokenizers.predictability import Pairs, gains

TOKENIZE = ["tokenize", "--encoder", "lsa", "--codebooks", "4", "--codewords", "8", "--pca", "16"]


def clusters(items: int = 60, groups: int = 6):
    """Items whose transitions stay within a group; the text of an item is near a direction of its group, the groups in
    another order for texts of even items, so that text and behaviour differ."""
    random = np.random.default_rng(0)
    group_I = np.arange(items) % groups
    vec_ID = 0.1 * random.normal(size=(items, groups)) + np.eye(groups)[group_I]
    same_II = (group_I[:, None] == group_I[None, :]) & ~np.eye(items, dtype=bool)
    return group_I, vec_ID.astype(np.float32), same_II.astype(np.float32) / (items // groups - 1)


def test_items_that_follow_each_other_come_near_and_cold_items_lie_near_their_text_neighbours():
    group_I, vec_ID, weight_II = clusters()
    train_I = np.ones(60, bool)
    train_I[[3, 10]] = False
    weight_II[~train_I] = weight_II[:, ~train_I] = 0
    blank_ID = vec_ID.copy()
    joined = join(vec_ID, csr_array(weight_II), train_I, BehaviourConfig(weight=2.0, width=6), seed=0)
    assert joined.shape == (60, 12) and joined.dtype == np.float32 and np.array_equal(vec_ID, blank_ID)
    np.testing.assert_allclose(np.linalg.norm(joined[:, :6], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(joined[:, 6:], axis=1), 2, atol=1e-4)
    behaviour = joined[:, 6:] @ joined[:, 6:].T
    same_II = group_I[:, None] == group_I[None, :]
    assert behaviour[np.ix_(train_I, train_I)][same_II[np.ix_(train_I, train_I)]].min() > 3.9
    assert behaviour[np.ix_(train_I, train_I)][~same_II[np.ix_(train_I, train_I)]].max() < 0.1
    for cold in (3, 10):
        nearest = np.argsort(-behaviour[cold][train_I])[:8]
        assert (group_I[train_I][nearest] == group_I[cold]).all()
    again = join(vec_ID, csr_array(weight_II), train_I, BehaviourConfig(weight=2.0, width=6), seed=0)
    assert np.array_equal(joined, again)


def test_the_width_is_at_most_the_number_of_items_and_a_catalogue_without_pairs_keeps_its_text():
    vec_ID = np.eye(5, 3, dtype=np.float32)
    joined = join(vec_ID, csr_array((5, 5), dtype=np.float32), np.ones(5, bool), BehaviourConfig(weight=1.0), seed=0)
    assert joined.shape == (5, 8) and np.isfinite(joined).all()
    np.testing.assert_array_equal(joined[:, :3], vec_ID)
    assert not joined[:, 3:].any()


def chain(users: int, codewords: int, noise: float, seed: int = 0) -> tuple[np.ndarray, Pairs]:
    """Items = codes; the next code is the last one + 1, or with the probability ``noise`` a random one."""
    random = np.random.default_rng(seed)
    last_P = random.integers(0, codewords, users * 5)
    next_P = np.where(random.random(users * 5) < noise, random.integers(0, codewords, users * 5), last_P + 1)
    codes_IK = np.arange(codewords, dtype=np.uint16)[:, None]
    return codes_IK, Pairs(np.repeat(np.arange(users), 5), last_P, next_P % codewords)


def test_the_gain_is_the_mutual_information_and_nothing_where_there_is_none():
    codes_IK, pairs = chain(4000, 8, noise=0.5)
    p = np.full(8, 0.5 / 8)
    p[0] += 0.5
    exact = float((p * np.log(p * 8)).sum())
    (gain,) = gains(codes_IK, 8, pairs, seed=0)
    assert gain == pytest.approx(exact, abs=0.03)
    codes_IK, pairs = chain(300, 64, noise=1.0)
    (gain,) = gains(codes_IK, 64, pairs, seed=0)
    assert -0.02 < gain < 0.005, "1,500 pairs in 4,096 cells: a plug-in estimate says more than 0.5"


def test_gains_leave_out_padding_and_are_none_without_pairs():
    codes_IK = np.array([[0, -1], [1, -1]], np.int16)
    pairs = Pairs(np.arange(10), np.zeros(10, np.int64), np.ones(10, np.int64))
    gain_K = gains(codes_IK, 2, pairs, seed=0)
    assert gain_K[0] is not None and gain_K[1] is None
    none = np.zeros(0, np.int64)
    assert gains(codes_IK, 2, Pairs(none, none, none), seed=0) == [None, None]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("behaviour")
    for words in (SMALL_SHOP, ["preprocess", "--k-core", "2"]):
        assert genrec(root, *words).code == 0
    return root


def test_pairs_are_consecutive_training_items(shop, monkeypatch):
    from genrec_cli.data.sequences import Histories

    (folder,) = (shop / "synthetic" / "data").glob("[!.]*/")
    histories, pairs = Histories.read(folder), consecutive_pairs(folder, seed=0)
    expected = [
        (int(a) - 1, int(b) - 1)
        for offset, end in zip(histories.offset, histories.train_end, strict=True)
        for a, b in zip(
            histories.item[offset : offset + end - 1], histories.item[offset + 1 : offset + end], strict=True
        )
    ]
    assert list(zip(pairs.last_P.tolist(), pairs.next_P.tolist(), strict=True)) == expected
    monkeypatch.setattr("genrec_cli.stages.behaviour.MEASURED", 10)
    monkeypatch.setattr("genrec_cli.stages.behaviour.RECENT", 3)
    few = consecutive_pairs(folder, seed=0)
    assert few.user_P.max() < 10 and np.bincount(few.user_P).max() <= 2


@pytest.mark.parametrize("tokenizer", ["opq", "pq", "rkmeans", "rqvae"])
def test_every_tokenizer_of_vectors_takes_the_weight(shop, tokenizer):
    options = [*TOKENIZE, "--tokenizer", tokenizer, "--collisions", "reassign"]
    options += ["--set", "tokenizer.epochs=2"] if tokenizer == "rqvae" else []
    plain = genrec(shop, *options)
    joined = genrec(shop, *options, "--set", "behaviour.weight=1", "--set", "behaviour.width=8")
    assert "behaviour1" in joined.path.name and joined.path != plain.path
    tables = [(answer.path / "codes.parquet").read_bytes() for answer in (plain, joined)]
    assert tables[0] != tables[1]
    again = genrec(shop, *options, "--set", "behaviour.weight=1", "--set", "behaviour.width=8", "--force")
    assert (again.path / "codes.parquet").read_bytes() == tables[1]
    quality = json.loads((joined.path / "quality.json").read_text())
    assert len(quality["digits"]) == 4 and all(np.isfinite(digit["gain"]) for digit in quality["digits"])
    assert quality["mean_gain"] == pytest.approx(np.mean([digit["gain"] for digit in quality["digits"]]))


def test_what_has_no_vectors_or_another_codebook_is_refused(shop):
    weight = ["--set", "behaviour.weight=1"]
    refused = genrec(shop, "tokenize", "--tokenizer", "svd", "--codebooks", "4", "--codewords", "8", *weight)
    assert refused.code == 2 and "reads none" in refused.err
    assert genrec(shop, *TOKENIZE, "--set", "behaviour.weight=-1").code == 3
    made = genrec(shop, *TOKENIZE, *weight).path
    frozen = genrec(shop, "tokenize", "--encoder", "lsa", "--codebook-from", made.name)
    assert (frozen.path / "codes.parquet").read_bytes() == (made / "codes.parquet").read_bytes()
    other = genrec(shop, "tokenize", "--encoder", "lsa", "--codebook-from", made.name, "--set", "behaviour.weight=2")
    assert other.code == 2 and "behaviour.weight is not that of the codebook" in other.err

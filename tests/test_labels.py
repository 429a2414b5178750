"""Planted labels: the AUC, how labels meet histories, the log of a training, and the figure."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_histories
from shop import SMALL_SHOP, TINY, genrec
from sklearn.metrics import roc_auc_score

from genrec_cli.data.histories import ITEM
from genrec_cli.data.labels import FIRST, LABELS, NOISE, PLAN, TRANSITION, Labels, areas, auc
from genrec_cli.engine.entropies import sample
from genrec_cli.errors import DataError
from genrec_cli.report import entropy, labels
from genrec_cli.report.figures import Curve
from genrec_cli.sources import synthetic

# ---- the AUC -------------------------------------------------------------------------------------------


def test_the_auc_is_that_of_scikit_learn_with_ties_and_with_weights():
    random = np.random.default_rng(0)
    score = random.integers(0, 20, 400).astype(float)
    positive = random.random(400) < 0.3
    weight = random.integers(0, 4, 400)
    assert auc(score, positive, ~positive) == pytest.approx(roc_auc_score(positive, score))
    repeated = np.repeat(np.arange(400), weight)
    expected = roc_auc_score(positive[repeated], score[repeated])
    assert auc(score, positive, ~positive, weight) == pytest.approx(expected)
    assert auc(score, np.zeros(400, bool), ~positive) is None


def test_each_label_is_compared_with_items_of_the_plan_alone():
    kind = np.array([FIRST, PLAN, PLAN, NOISE, TRANSITION])
    found = areas(np.array([9.0, 1.0, 3.0, 2.0, 4.0]), kind)
    assert found == {"noise": 0.5, "transition": 1.0}, "neither first items nor the other label are negatives"


# ---- labels and histories ------------------------------------------------------------------------------


def tables(folder: Path, rows: list[tuple[str, str, bool, bool]], users: list[str], items: list[str]) -> Labels:
    """A label file, and the tables of a data artifact with these raw ids."""
    columns = dict(zip(("user", "item", "noise", "transition"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / LABELS)
    pq.write_table(pa.table({"raw_id": users}), folder / "users.parquet")
    pq.write_table(pa.table({"raw_id": items}), folder / "items.parquet")
    return Labels(folder / LABELS, folder)


def labelled(folder: Path, lengths: list[int], edit=lambda rows: rows):
    """Random histories, their labels (in another order and with items that the data lack), and what is expected."""
    random = np.random.default_rng(1)
    item = np.concatenate([random.permutation(30)[:length] + 1 for length in lengths])  # no user has an item twice
    histories = replace(make_histories(lengths, 30), item=item.astype(ITEM))
    users, items = [f"u{n}" for n in range(len(lengths))], [f"i{n}" for n in range(30)]
    rows, kinds = [], {}
    for user, (begin, length) in enumerate(zip(histories.offset, histories.length, strict=True)):
        for item in histories.item[begin : begin + length]:
            noise, transition = random.choice([(False, False), (True, False), (False, True)])
            rows.append((users[user], items[item - 1], bool(noise), bool(transition)))
            kinds[user, int(item)] = NOISE if noise else TRANSITION if transition else PLAN
    rows += [("u0", "gone", True, False), ("stranger", "i3", True, False)]
    random.shuffle(rows)
    return histories, tables(folder, edit(rows), users, items), kinds


def test_labels_meet_the_items_of_packed_histories(tmp_path):
    histories, found, kinds = labelled(tmp_path, [5, 9, 6, 14, 7])
    batches = sample(histories, max_length=6, users=5, seed=0)
    kind_N, at = found.kinds(batches), 0
    for batch in batches:
        packing = batch.packing
        for item, sequence, position in zip(batch.item_N, packing.sequence_N, packing.position_N, strict=True):
            expected = kinds[int(batch.user_B[sequence]), int(item)] if position else FIRST
            assert kind_N[at] == expected
            at += 1
    assert at == len(kind_N) and set(kind_N.tolist()) == {PLAN, NOISE, TRANSITION, FIRST}


@pytest.mark.parametrize("edit", [lambda rows: rows[: len(rows) // 2], lambda rows: rows + rows])
def test_labels_of_other_data_are_refused(tmp_path, edit):
    histories, found, _ = labelled(tmp_path, [5, 9, 6], edit)
    with pytest.raises(DataError, match="one label for each interaction"):
        found.kinds(sample(histories, max_length=6, users=3, seed=0))


def test_a_file_that_holds_no_labels_is_one_error(tmp_path):
    histories, found, _ = labelled(tmp_path, [5, 9, 6])
    batches = sample(histories, max_length=6, users=3, seed=0)
    pq.write_table(pa.table({"user": ["u0"]}), found.path)
    with pytest.raises(DataError, match="cannot be read as labels"):
        found.kinds(batches)
    found.path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as labels"):
        found.kinds(batches)


def test_the_name_of_the_file_is_that_of_the_shop():
    assert LABELS == synthetic.LABELS, "sources load no torch, so the name stands in two files"


# ---- the comparison ------------------------------------------------------------------------------------


def test_masks_are_divided_by_the_label_of_their_item():
    position = np.tile(np.arange(4), 50)
    kind = np.tile([FIRST, PLAN, NOISE, TRANSITION], 50)
    entropy_NK = np.tile([[9.0], [1.0], [2.0], [0.5]], (50, 2)) + np.random.default_rng(0).normal(0, 0.01, (200, 2))
    masked = {"entropy": np.tile([0.0, 0.1, 0.3, 0.0], 50)}
    found = labels.compare(entropy.Survey(kind, position, entropy_NK, masked), kind, seed=0)
    assert found.parts["all items"] == {kind: 0.25 for kind in (NOISE, TRANSITION, FIRST, PLAN)}
    assert found.parts["entropy"] == pytest.approx({NOISE: 0.75, PLAN: 0.25, FIRST: 0, TRANSITION: 0})
    assert vars(found.areas["noise"]) == {"value": 1, "low": 1, "high": 1}
    assert found.areas["transition"].value == 0
    rows = [
        {"epoch": e, "phase": phase, "ratio": 0.1, "entropy/auc_noise": 0.1 * e, "entropy/auc_transition": 0.5}
        for e, phase in enumerate(("random", "random", "entropy"), 1)
    ]
    assert labels.areas_by_phase(rows)[0] == {"phase": "random", "epoch": 2, "noise": 0.2, "transition": 0.5}
    figure = labels.against_labels(found, Curve("a", rows, "NDCG@10"), "t")
    over, bars = figure.axes
    (noise,) = (line for line in over.get_lines() if line.get_label().startswith("noise"))
    assert list(noise.get_ydata()) == pytest.approx([0.1, 0.2, 0.3])
    assert [text.get_text() for text in bars.get_xticklabels()] == ["all codes", "masked in\n'entropy'"]
    assert max(patch.get_y() + patch.get_height() for patch in bars.patches) == pytest.approx(100)


def test_an_interval_holds_the_value_and_is_wider_with_fewer_histories():
    random = np.random.default_rng(0)

    def width(histories: int) -> float:
        kind = np.tile([FIRST, PLAN, NOISE, TRANSITION], histories)
        score = random.normal(0, 1, (len(kind), 1)) + (kind == NOISE)[:, None]
        survey = entropy.Survey(kind, np.tile(np.arange(4), histories), score, {})
        area = labels.compare(survey, kind, seed=0).areas["noise"]
        assert area.low < area.value < area.high
        return area.high - area.low

    assert width(400) < width(40)


# ---- the command ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("labels") / "artifacts"
    short = [*TINY, "--epochs", "3", "--device", "cpu"]
    for words in (
        SMALL_SHOP,
        ["preprocess", "--k-core", "3"],
        ["tokenize", "--codebooks", "4", "--codewords", "16"],
        ["train", *short, "--set", "curriculum.max_epochs=1"],
        ["train", *short, "--curriculum", "inf", "--label", "plain"],
        ["train", *short, "--model", "bert4rec"],
    ):
        assert (answer := genrec(root, *words)).code == 0, answer.err
    return root


def test_a_training_on_a_shop_logs_the_areas(shop):
    log = pl.read_parquet(next((shop / "synthetic" / "runs").glob("mhl-*")) / "log.parquet")
    assert {"entropy/auc_noise", "entropy/auc_transition"} <= set(log.columns)
    assert log["entropy/auc_noise"].is_between(0, 1).all()


def test_figures_with_labels(shop):
    answer = genrec(shop, "figures", "mhl-s0", "plain", "--labels", "--users", "100", "--device", "cpu")
    result = answer.manifest["result"]
    assert {"labels-1.svg", "labels-2.svg", "entropy-2.png"} <= set(result["figures"])
    assert "masked-2.svg" not in result["figures"], "the run has no masks"
    first, second = result["labels"]
    assert [row["codes"] for row in first["parts"]] == ["all items", "random", "entropy"]
    assert [row["codes"] for row in second["parts"]] == ["all items"]
    truth = pl.read_parquet(next((shop / "synthetic" / "raw").glob("*/labels.parquet")))
    assert first["parts"][0]["noise"] == pytest.approx(truth["noise"].mean(), abs=0.03)
    assert [row["phase"] for row in first["by_phase"]] == ["random", "entropy", "inference"]
    assert all(
        sum(value for value in row.values() if value != row["codes"]) == pytest.approx(1) for row in first["parts"]
    )
    assert "AUC of noise" in answer.err and "follows the plan" in answer.err


def test_what_has_no_labels_or_no_entropies_is_said(shop, tmp_path):
    item_model = genrec(shop, "figures", "bert4rec-s0", "--labels")
    assert item_model.code == 2 and "compares entropies" in item_model.err
    assert genrec(shop, "figures", "bert4rec-s0", "--device", "cpu").code == 0, "random masks of items: curves alone"
    root = Path(shutil.copytree(shop, tmp_path / "root"))
    manifest = next((root / "synthetic" / "data").glob("*/manifest.json"))
    content = json.loads(manifest.read_text())
    content["inputs"] = {}
    manifest.write_text(json.dumps(content))
    without = genrec(root, "figures", "mhl-s0", "--labels")
    assert without.code != 0 and "bug" not in without.err

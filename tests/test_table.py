"""The leaderboard: best values, tests against a reference, formats; and compare --sweep."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from shop import SMALL_SHOP, TINY, genrec


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, one of them with two seeds."""
    root = tmp_path_factory.mktemp("table") / "artifacts"
    trainings = [["transitions"], ["popular"], *(["sasrec", "--epochs", "1", *TINY, "--seed", s] for s in "01")]
    for words in (SMALL_SHOP, ["preprocess"], *(["train", "--model", *words] for words in trainings)):
        assert genrec(root, *words).code == 0
    for run in ("transitions-s0", "popular-s0", "sasrec-s0", "sasrec-s1"):
        assert genrec(root, "evaluate", "--run", run).code == 0
    return root


def test_the_rows_are_settings_with_the_best_first(shop):
    facts = json.loads(genrec(shop, "table", "--json").out)
    rows = {row["model"]: row for row in facts["rows"]}
    assert set(rows) == {"transitions", "popular", "sasrec"} and rows["sasrec"]["seeds"] == 2
    values = [row["NDCG@10"] for row in facts["rows"]]
    assert values == sorted(values, reverse=True)
    measured = [
        json.loads((shop / "synthetic" / "eval" / name / "manifest.json").read_text())["result"]["metrics"]
        for name in rows["sasrec"]["evaluations"]
    ]
    assert rows["sasrec"]["NDCG@10, seen left out"] == pytest.approx(
        sum(m["left_out"]["NDCG@10"] for m in measured) / 2
    )
    first, second = (m["kept"]["NDCG@10"] for m in measured)
    assert rows["sasrec"]["deviations"]["NDCG@10"] == pytest.approx(abs(first - second) / 2**0.5)
    assert rows["popular"]["deviations"] == {}, "one seed has no deviation"


def test_two_settings_of_one_label_have_the_names_of_their_runs(shop, tmp_path):
    root = Path(shutil.copytree(shop, tmp_path / "artifacts"))
    other = genrec(root, "train", "--model", "sasrec", "--epochs", "2", *TINY)
    assert genrec(root, "evaluate", "--run", other.path.name).code == 0
    names = {row["model"] for row in json.loads(genrec(root, "table", "--json").out)["rows"]}
    assert other.path.name in names and "sasrec" not in names and len(names) == 4


def test_other_cutoffs_and_searches_do_not_hide_an_evaluation(shop, tmp_path):
    root = Path(shutil.copytree(shop, tmp_path / "artifacts"))
    before = json.loads(genrec(root, "table", "--json").out)["rows"]
    assert genrec(root, "evaluate", "--run", "popular-s0", "--at", "1,50").code == 0
    assert json.loads(genrec(root, "table", "--json").out)["rows"] == before, "the last one that has the metrics"
    warm = ["--init-from", "sasrec-s0", "--seed", "0", "--label", "sasrec-s2"]
    run = genrec(root, "train", "--model", "sasrec", "--epochs", "1", *TINY, *warm).path.name
    assert genrec(root, "evaluate", "--run", run).code == 0
    names = {row["model"] for row in json.loads(genrec(root, "table", "--json").out)["rows"]}
    assert run in names and len(names) == 4, "a warm start is no seed of a cold one"


def test_evaluations_on_other_data_are_counted_and_the_data_named(shop, tmp_path):
    root = Path(shutil.copytree(shop, tmp_path / "artifacts"))
    assert "other data" not in genrec(root, "table").err
    (old,) = (root / "synthetic" / "data").iterdir()
    data = genrec(root, "preprocess", "--k-core", "3").path.name
    run = genrec(root, "train", "--model", "popular", "--data", data).path.name
    assert genrec(root, "evaluate", "--run", run).code == 0
    answer = genrec(root, "table", "--json")
    assert len(json.loads(answer.out)["rows"]) == 1 and f"the table is of {data}," in answer.err
    assert f"4 evaluation(s) on other data are left out: {old.name}" in answer.err


def test_differences_to_the_reference_are_marked_as_compare_finds_them(shop):
    answer = genrec(shop, "table", "--reference", "popular", "--json")
    marked = {row["model"]: set(row["significant"]) for row in json.loads(answer.out)["rows"]}
    assert marked["popular"] == set()
    sides = ["popular-s0", "transitions-s0", "sasrec-s0,sasrec-s1"]
    compared = json.loads(genrec(shop, "compare", *sides, "--json").out)["result"]["rows"]
    low = {(row["run"], row["metric"]) for row in compared if row["p"] is not None and row["p"] < 0.001}
    assert ("transitions-s0", "NDCG@10") in low and "NDCG@10" in marked["transitions"]


@pytest.mark.parametrize(
    ("form", "said"),
    [("markdown", "**"), ("latex", "$\\pm$"), ("csv", "model,seeds,Recall@10"), ("text", "seen left out")],
)
def test_the_formats(shop, form, said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    answer = genrec(shop, "table", "--format", form)
    assert answer.code == 0 and said in answer.out and "transitions" in answer.out
    if form == "csv":
        assert {row["model"] for row in csv.DictReader(io.StringIO(answer.out))} == {"transitions", "popular", "sasrec"}
    if form == "text":
        assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--format", "tex"], 2, "Did you mean 'text'"),
        (["--metrics", "NDCG@7"], 4, "No row has NDCG@7"),
        (["--split", "valid"], 4, "no finished evaluation on the valid split"),
        (["--reference", "populer"], 2, "Did you mean 'popular'"),
    ],
)
def test_a_wrong_table_is_one_clear_error(shop, words, code, said):
    answer = genrec(shop, "table", *words)
    assert answer.code == code and said in answer.err


def test_an_error_is_json_with_json(shop):
    answer = genrec(shop, "table", "--split", "valid", "--json")
    facts = json.loads(answer.out)["error"]
    assert answer.code == 4 == facts["exit"] and facts["kind"] == "InputError"
    assert "no finished evaluation" in facts["message"] and facts["hint"].startswith("genrec evaluate")

"""The functions of Python: the artifacts and errors of the commands, frames in and out, nothing printed."""

import json
import subprocess
import sys
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from shop import genrec as command

import genrec_cli as genrec
from genrec_cli.errors import ConfigError, DataError, UsageError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
TINY = {"model.width": 16, "model.heads": 2, "model.inner": 16, "train.warmup_steps": 2}
LOG = pl.DataFrame(
    [(user, f"i{(user + 3 * step) % 20}", step) for user in range(60) for step in range(6)],
    schema=["user_id", "item_id", "timestamp"],
    orient="row",
)
ITEMS = pl.DataFrame({"item_id": [f"i{n}" for n in range(20)], "title": [f"tent {n % 4} {n}" for n in range(20)]})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small shop with a run that counts and a run that is trained."""
    root = tmp_path_factory.mktemp("api") / "artifacts"
    data = genrec.preprocess(LOG, dataset="shop", items=ITEMS, root=root, k_core=2)
    codes = genrec.tokenize(data, encoder="lsa", codebooks=2, codewords=4)
    counts = genrec.train("transitions", data=data)
    rpg = genrec.train("rpg", codes=codes, curriculum="inf", epochs=1, settings=TINY)
    return {"root": root, "data": data, "codes": codes, "counts": counts, "rpg": rpg}


def test_frames_become_tables(made):
    data = made["data"]
    assert (data.result["users"], data.result["items"]) == (60, 20)
    assert set(data.frame("items")["raw_id"]) == set(ITEMS["item_id"])
    with pytest.raises(UsageError, match="has no table 'per_user'") as caught:
        data.frame("per_user")
    assert "items" in str(caught.value.hint)


def test_any_frame_and_any_file_of_the_same_rows_is_the_same_data(made, tmp_path):
    again = genrec.preprocess(LOG, dataset="shop", items=ITEMS, root=made["root"], k_core=2)
    assert again.artifact == made["data"].artifact
    arrow = genrec.preprocess(LOG.to_arrow(), dataset="arrow", items=ITEMS.lazy(), root=tmp_path, k_core=2)
    assert arrow.frame("items").equals(made["data"].frame("items"))


def test_the_artifacts_are_those_of_the_command_line(made):
    words = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    answer = command(made["root"], "train", "--model", "rpg", "--curriculum", "inf", "--epochs", "1", *words)
    assert answer.path.resolve() == made["rpg"].path.resolve() and "up to date" in answer.err
    assert made["rpg"].artifact.command.startswith("genrec train --dataset shop --model rpg --curriculum inf")
    assert command(made["root"], *made["rpg"].artifact.command.split()[1:]).path.name == made["rpg"].name


def test_runs_are_evaluated_and_compared(made):
    evaluations = [genrec.evaluate(made[name], at=[1, 10]) for name in ("counts", "rpg")]
    assert evaluations[0].result["metrics"]["left_out"]["Recall@1"] == pytest.approx(1.0)
    assert evaluations[0].frame("per_user").height == 60
    table = genrec.compare(*evaluations, metrics=["NDCG@10"]).frame("table")
    assert table["run"].to_list() == ["transitions-s0", "rpg-s0"] * 2 and table["difference"][1] < 0
    assert genrec.compare(made["counts"], [made["rpg"]], metrics=["NDCG@10"]).frame("table").equals(table)


def test_a_blend_is_a_run(made):
    mixed = genrec.blend(made["counts"], made["rpg"], label="mix", settings={"blend.users": 50})
    assert mixed.name.startswith("mix-") and mixed.config["blend"]["users"] == 50
    assert genrec.evaluate(mixed).result["metrics"]["kept"]["NDCG@10"] > 0
    with pytest.raises(genrec.GenrecError, match="does not read the section 'search'"):
        genrec.evaluate(mixed, settings={"search.beams": 5})


def test_lists_for_new_histories(made):
    run = genrec.load(made["counts"])
    lists = run.recommend({"anna": ["i1", "i4"], 7: ["i2"]}, k=2)
    assert lists.columns == ["user", "rank", "item", "title", "score"]
    assert lists.filter(rank=1).select("user", "item").rows() == [("anna", "i7"), ("7", "i5")]
    assert run.recommend([["i1", "i4"]], k=1)["item"].to_list() == ["i7"]
    frame = pa.table({"user": ["b", "b"], "item": ["i1", "i4"]})
    answer = run.recommend(frame, k=1)
    assert isinstance(answer, pa.Table) and answer["item"].to_pylist() == ["i7"]
    chosen = run.recommend([["i1", "i4"]], k=2, candidates=["i9", "i7", "i4"])
    assert chosen.select("rank", "item").rows() == [(1, "i7"), (2, "i9")], "i4 is in the history"
    assert set(run.recommend([["i1"]], k=20, exclude_seen=False)["item"]) == set(ITEMS["item_id"])
    assert run.recommend(users=["3"], k=1)["user"].to_list() == ["3"]


def test_pandas_in_and_out(made):
    pd = pytest.importorskip("pandas")
    answer = genrec.load(made["counts"]).recommend(pd.DataFrame({"user": ["b", "b"], "item": ["i1", "i4"]}), k=1)
    assert isinstance(answer, pd.DataFrame) and answer["item"].tolist() == ["i7"]


def test_nothing_is_printed_unless_asked_and_warnings_are_those_of_python(made, capfd):
    genrec.train("popular", data=made["data"])
    with pytest.warns(UserWarning, match="not in the catalogue"):
        genrec.load(made["counts"]).recommend([["i1", "unknown"]], k=1)
    assert capfd.readouterr() == ("", "")
    genrec.train("sasrec", data=made["data"], epochs=1, settings=TINY, verbose=True)
    out, err = capfd.readouterr()
    assert out == "" and "epoch 1/1" in err


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda data: genrec.train("rgp", data=data), UsageError, "Did you mean 'rpg'"),
        (lambda data: genrec.train("popular", data=data, settings={"model.widht": 3}), ConfigError, "no such key"),
        (lambda data: genrec.train("popular", data=data, settings={"evaluate.at": [3]}), ConfigError, "cannot set"),
        (lambda data: genrec.preprocess([1, 2], dataset="x"), UsageError, "interactions is of the type list"),
        (lambda data: genrec.preprocess(LOG, root=data.root), UsageError, "needs a name"),
        (lambda data: genrec.preprocess("absent.csv", dataset="x"), DataError, "no file absent.csv"),
        (
            lambda data: genrec.preprocess(LOG.rename({LOG.columns[0]: "uid"}).lazy(), dataset="x", root=data.root),
            DataError,
            "The frame 'interactions' has no column",
        ),
        (lambda data: genrec.load("absent", root=data.root), genrec.GenrecError, "No runs 'absent'"),
        (
            lambda data: genrec.train("popular", data=data, epoch=1),
            UsageError,
            "no argument 'epoch'. Did you mean 'epochs'",
        ),
        (lambda data: genrec.train("popular", data=data, settings=[1]), UsageError, "settings are a dictionary"),
        (lambda data: genrec.train("sasrec", data=data, settings={"noise.gamma": 3}), UsageError, "does not read"),
        (lambda data: genrec.evaluate("rpg-s0", data=data, codes="absent"), genrec.GenrecError, "No codes 'absent'"),
        (lambda data: genrec.compare(root=data.root), UsageError, "nothing to compare"),
    ],
)
def test_errors_are_genrec_errors(made, call, error, said):
    with pytest.raises(error, match=said):
        call(made["data"])


def test_one_value_in_place_of_a_list_and_scalars_of_numpy(made):
    settings = {"model.width": np.int64(8), "model.inner": None, "train.warmup_steps": np.float32(2.0).astype(int)}
    run = genrec.train("sasrec", data=made["data"], epochs=1, label="scalars", settings=settings)
    assert run.config["model"]["width"] == 8
    found = genrec.evaluate(run, at=3, settings={"evaluate.users": 5})
    assert "NDCG@3" in found.result["metrics"]["kept"] and found.result["users"] == 5
    frozen = genrec.train("sasrec", data=made["data"], epochs=1, freeze="item.*", label="frozen", settings=TINY)
    assert list(frozen.config["train"]["freeze"]) == ["item.*"]


def test_a_frame_of_histories_is_ordered_by_its_times(made, tmp_path):
    run, day = genrec.load(made["counts"]), datetime(2026, 11, 30)
    frame = pl.DataFrame({"user_id": ["b", "b"], "item_id": ["i4", "i1"], "timestamp": [day, day - timedelta(1)]})
    frame.write_csv(tmp_path / "new.csv")
    for given in (frame, tmp_path / "new.csv", pl.DataFrame({"user": ["b"], "items": [["i1", "i4"]]})):
        assert run.recommend(given, k=1).rows() == run.recommend({"b": ["i1", "i4"]}, k=1).rows()
    assert run.recommend({"b": ["i4", "i1"]}, k=1).rows() != run.recommend(frame, k=1).rows()


def test_wrong_histories_are_one_clear_error(made):
    run = genrec.load(made["counts"])
    with pytest.raises(UsageError, match="The history of 'anna' is a text"):
        run.recommend({"anna": "i1"})
    with pytest.raises(DataError, match="The frame 'histories' must have one column user or user_id"):
        run.recommend(pl.DataFrame({"person": ["a"], "item": ["i1"]}))
    with pytest.raises(UsageError, match="exclude each other"):
        run.recommend([["i1"]], users=["1"])


def test_the_import_is_light():
    script = "import sys, genrec_cli as g; dir(g); sys.exit(bool({'torch', 'polars'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        genrec.absent  # noqa: B018


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENREC_ROOT", raising=False)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cell in cells:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [], "notebooks are kept without outputs"
                exec("".join(cell["source"]), names)
    if path.stem == "own-data":
        assert names["lists"].filter(rank=1)["item"].to_list() == ["item 10", "item 23"]
    else:
        assert names["table"].height == 4 and names["table"]["sd"].null_count() == 0

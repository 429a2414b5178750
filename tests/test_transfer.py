"""A run of one data set evaluated on another: codes by its codebook, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from shop import SMALL_SHOP, TINY, Answer, genrec

from genrec_cli.engine.checkpoint import BEST


def folder(root: Path, dataset: str, kind: str) -> Path:
    return next((root / dataset / kind).glob("[!.]*/"))


def write_vectors(root: Path, dataset: str) -> Path:
    """A vector per item that depends on its title alone, so that both data sets have one encoder."""
    items = pl.read_parquet(folder(root, dataset, "data") / "items.parquet")
    words = [np.array([sum(word.encode()) for word in title.split()]) for title in items["title"]]
    vectors = [np.bincount(word % 24, minlength=24).astype(np.float32) for word in words]
    pl.DataFrame({"raw_id": items["raw_id"], "vector": vectors}).write_parquet(path := root / f"{dataset}.parquet")
    return path


def other_shop(root: Path) -> None:
    """A second shop with the layout of the first, as files of ``interactions`` and ``items``."""
    log = pl.read_parquet(folder(root, "synthetic", "data") / "interactions.parquet")
    users = pl.read_parquet(folder(root, "synthetic", "data") / "users.parquet").select("user", name="raw_id")
    items = pl.read_parquet(folder(root, "synthetic", "data") / "items.parquet")
    chosen = items.filter(pl.col("item") % 3 != 0)
    log = log.join(chosen.select("item", item_id="raw_id"), on="item").join(users, on="user")
    log.select(user_id="name", item_id="item_id", timestamp="time").write_csv(root / "log.csv")
    chosen.select(item_id="raw_id", title="title").write_csv(root / "items.csv")


@pytest.fixture(scope="module")
def shops(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("transfer") / "artifacts"
    assert genrec(root, *SMALL_SHOP).code == 0
    assert genrec(root, "preprocess", "--k-core", "2").code == 0
    other_shop(root)
    files = ["--interactions", root / "log.csv", "--items", root / "items.csv", "--k-core", "2"]
    small = ["--codebooks", "4", "--codewords", "8", "--pca", "16"]
    short = [*TINY, "--epochs", "2", "--device", "cpu", "--dataset", "synthetic"]
    steps = [
        ["preprocess", "--dataset", "other", *files],
        ["tokenize", "--dataset", "synthetic", "--encoder", write_vectors(root, "synthetic"), *small],
    ]
    for words in steps:
        assert (answer := genrec(root, *words)).code == 0, answer.err
    codebook = folder(root, "synthetic", "codes")
    for words in (
        ["tokenize", "--dataset", "other", "--encoder", write_vectors(root, "other"), "--codebook-from", codebook],
        ["train", "--model", "rpg", *short],
        ["train", "--model", "sasrec", *short],
    ):
        assert (answer := genrec(root, *words)).code == 0, answer.err
    return root


def evaluate(root: Path, run: str, *words: object) -> Answer:
    return genrec(root, "evaluate", "--dataset", "synthetic", "--run", run, "--device", "cpu", *map(str, words))


def test_a_run_is_evaluated_on_another_data_set(shops):
    data, codes = folder(shops, "other", "data"), folder(shops, "other", "codes")
    answer = evaluate(shops, "rpg-s0", "--data", data, "--codes", codes)
    result = answer.manifest["result"]
    users = pl.read_parquet(data / "users.parquet")
    assert result["users"] == (users["test_at"] > 0).sum() and result["on"] == f"other/{data.name}"
    assert answer.path.parent.name == "transfers" and f"on test of other/{data.name}" in answer.err
    assert 0 < result["metrics"]["kept"]["NDCG@10"] < 1
    again = evaluate(shops, "rpg-s0", "--data", data)
    assert again.path == answer.path, "the only codes of these data by the codebook of the run"
    manifest = json.loads((answer.path / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"runs", "data", "codes"}
    genrec(shops, "evaluate", "--dataset", "synthetic", "--run", "rpg-s0", "--device", "cpu")
    table = genrec(shops, "table", "--dataset", "synthetic", "--json")
    assert table.code == 0 and table.out.count("rpg") >= 1
    own = json.loads((next((shops / "synthetic" / "eval").glob("rpg*")) / "manifest.json").read_text())["result"]
    assert own["users"] != result["users"], "no table takes the transfer for an evaluation of the run"


def test_the_same_data_give_the_same_metrics(shops):
    own = evaluate(shops, "rpg-s0").manifest["result"]["metrics"]
    data = folder(shops, "synthetic", "data").name
    assert evaluate(shops, "rpg-s0", "--data", data).manifest["result"]["metrics"] == own


def test_a_training_on_other_data_starts_from_a_run(shops):
    """VQ-Rec's transfer: codes of one codebook, and all weights of the run."""
    words = ["train", "--model", "vqrec", *TINY, "--epochs", "1", "--device", "cpu"]
    first = genrec(shops, *words, "--dataset", "synthetic")
    still = ["--set", "train.lr=1e-30"]
    second = genrec(shops, *words, "--dataset", "other", "--init-from", first.path, *still)
    assert second.code == 0 and "keep their initial" not in second.err, second.err
    start, weights = (load_file(answer.path / BEST) for answer in (first, second))
    assert all(torch.equal(weights[name], value) for name, value in start.items())


def test_codes_of_another_data_set_are_no_input(shops):
    words = ["train", "--dataset", "other", "--model", "rpg", *TINY, "--codes", folder(shops, "synthetic", "codes")]
    answer = genrec(shops, *words)
    assert answer.code == 2 and "is of the data set 'synthetic', not of 'other'" in answer.err


def test_models_of_item_ids_know_no_other_items(shops, tmp_path):
    root = Path(shutil.copytree(shops, tmp_path / "root"))
    known = evaluate(root, "sasrec-s0", "--data", folder(root, "other", "data"))
    assert known.code == 0, "all items of the other data are known by their raw ids"
    log = (root / "log.csv").read_text().replace("B0", "C0")
    (root / "log.csv").write_text(log)
    made = genrec(root, "preprocess", "--dataset", "strange", "--interactions", root / "log.csv", "--k-core", "2")
    assert made.code == 0, made.err
    answer = evaluate(root, "sasrec-s0", "--data", folder(root, "strange", "data"))
    assert answer.code == 2 and "knows its items by id" in answer.err and "models that read codes" in answer.err
    answer = evaluate(root, "sasrec-s0", "--codes", folder(root, "other", "codes"))
    assert answer.code == 2 and "reads no codes" in answer.err
    answer = evaluate(root, "rpg-s0", "--data", folder(root, "strange", "data"))
    assert answer.code == 4 and "--codebook-from" in answer.err

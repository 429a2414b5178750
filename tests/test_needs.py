"""What encoders and tokenizers declare to need: training interactions, and nothing that is held out."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli import registry
from genrec_cli.artifacts import Workspace
from genrec_cli.config import Section
from genrec_cli.data.codes_table import CodesTable
from genrec_cli.data.interactions import training_matrix
from genrec_cli.data.schema import INTERACTIONS, ITEMS, USERS, read_table
from genrec_cli.data.vectors import read_vectors

seen: list[Any] = []
"""The matrices that the parts below were given."""


class CountsConfig(Section):
    name: Literal["counts", "both", "wrong"] = "counts"
    codebooks: int = 1
    codewords: int = 64
    collisions: Literal["none", "digit", "reassign"] = "none"


class Counts:
    """The code of an item is its number of training users."""

    Config = CountsConfig
    needs: ClassVar = frozenset({"interactions"})

    def __init__(self, config: CountsConfig) -> None:
        self.config = config

    def fit(self, interactions_UI: Any, train_I: np.ndarray) -> None:
        seen.append(interactions_UI)
        assert interactions_UI.shape[1] == len(train_I)

    def codes(self, interactions_UI: Any) -> np.ndarray:
        count_I = np.asarray((interactions_UI > 0).sum(axis=0)).ravel()
        return count_I.clip(max=self.config.codewords - 1).astype(np.uint16)[:, None]

    def save(self, folder: Path) -> None:
        pass


class Both(Counts):
    """Needs titles too."""

    needs: ClassVar = frozenset({"interactions", "titles"})

    def fit(self, interactions_UI: Any, titles: list[str], train_I: np.ndarray) -> None:
        assert len(titles) == len(train_I) == interactions_UI.shape[1]

    def codes(self, interactions_UI: Any, titles: list[str]) -> np.ndarray:
        return super().codes(interactions_UI)


class Wrong(Counts):
    needs: ClassVar = frozenset({"pictures"})


class SvdConfig(Section):
    name: Literal["svd"] = "svd"


class SvdEncoder:
    """The items of the training matrix as rows, one column per user."""

    Config, config, label, frozen = SvdConfig, SvdConfig(), "svd", False
    facts: ClassVar = {}
    needs: ClassVar = frozenset({"interactions"})

    def __init__(self, config: SvdConfig) -> None:
        pass

    def external(self) -> dict[str, str]:
        return {}

    def encode(self, texts: list[str], raw_ids: list[str], interactions_UI: Any) -> np.ndarray:
        seen.append(interactions_UI)
        return interactions_UI.T.toarray()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("needs")
    for words in (SMALL_SHOP, ["preprocess", "--k-core", "2"]):
        assert genrec(root, *words).code == 0
    return root


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("counts", "Counts"), ("both", "Both"), ("wrong", "Wrong")):
        monkeypatch.setitem(registry.TABLE["tokenizer"], name, f"{__name__}:{kind}")
    monkeypatch.setitem(registry.TABLE["encoder"], "svd", f"{__name__}:SvdEncoder")
    seen.clear()


def expected(folder: Path) -> tuple[np.ndarray, int]:
    """The same matrix by a loop over users; and the number of interactions that are held out."""
    items = read_table(folder / "items.parquet", ITEMS)
    item_N = read_table(folder / "interactions.parquet", INTERACTIONS)["item"].to_pylist()
    users = read_table(folder / "users.parquet", USERS).to_pylist()
    count_UI = np.zeros((len(users), len(items)))
    for row, user in enumerate(users):
        for item in item_N[user["offset"] : user["offset"] + user["train_end"]]:
            count_UI[row, item - 1] += 1
    assert count_UI.sum(axis=0).tolist() == items["train_count"].to_pylist()
    return count_UI, len(item_N) - int(count_UI.sum())


def test_the_matrix_holds_the_training_part_alone(root: Path) -> None:
    folder = Workspace(root).find("synthetic", "data").path
    count_UI, held_out = expected(folder)
    assert held_out > 500
    found_UI = training_matrix(folder, count_UI.shape[1])
    assert np.array_equal(found_UI.toarray(), count_UI) and found_UI.dtype == np.float32
    item_N = read_table(folder / "interactions.parquet", INTERACTIONS)["item"].to_numpy()
    assert (found_UI.indices[:3] + 1).tolist() == item_N[:3].tolist(), "in the order of time"


def test_other_targets_give_the_same_matrix(root: Path, tmp_path: Path) -> None:
    """Changing every interaction that is held out changes nothing."""
    import shutil

    from genrec_cli.data.histories import read_histories

    folder = shutil.copytree(Workspace(root).find("synthetic", "data").path, tmp_path / "data")
    before = training_matrix(folder, 150).toarray()
    item_N, user_U, _ = read_histories(folder)
    changed_N = item_N.copy()
    for user in user_U:
        changed_N[user["offset"] + user["train_end"] : user["offset"] + user["length"]] = 1
    assert (changed_N != item_N).sum() > 500
    np.save(folder / "histories" / "items.npy", changed_N)
    assert np.array_equal(training_matrix(folder, 150).toarray(), before)


def test_a_tokenizer_of_interactions_needs_no_vectors(root: Path) -> None:
    answer = genrec(root, "tokenize", "--tokenizer", "counts")
    folder = Workspace(root).find("synthetic", "data").path
    count_UI, _ = expected(folder)
    assert np.array_equal(seen[0].toarray(), count_UI)
    assert CodesTable.read(answer.path).codes_IK[:, 0].tolist() == (count_UI > 0).sum(0).clip(max=63).tolist()
    assert answer.manifest["inputs"].keys() == {"data"} and answer.path.name.startswith("counts1x64-")
    assert not (root / "synthetic" / "vectors").exists()
    run = genrec(root, "train", "--model", "rpg", "--codes", answer.path, "--epochs", "1", *TINY)
    assert run.code == 0, run.err
    assert genrec(root, "tokenize", "--tokenizer", "both").code == 0


def test_its_items_can_be_numbered_but_not_moved(root: Path) -> None:
    digit = genrec(root, "tokenize", "--tokenizer", "counts", "--collisions", "digit").path
    codes_IK = CodesTable.read(digit).codes_IK
    assert len(np.unique(codes_IK, axis=0)) == len(codes_IK)
    refused = genrec(root, "tokenize", "--tokenizer", "counts", "--collisions", "reassign")
    assert refused.code == 2 and "cannot move items" in refused.err and "--collisions digit" in refused.err


def test_a_need_that_nobody_knows_is_an_error(root: Path) -> None:
    answer = genrec(root, "tokenize", "--tokenizer", "wrong")
    assert answer.code == 2 and "needs 'pictures'; there is: vectors, titles, interactions" in answer.err


def test_an_encoder_reads_the_training_interactions(root: Path) -> None:
    words = ["--encoder", "svd", "--codebooks", "4", "--codewords", "16", "--pca", "8"]
    answer = genrec(root, "tokenize", *words)
    ws = Workspace(root)
    count_UI, _ = expected(ws.find("synthetic", "data").path)
    assert np.array_equal(seen[0].toarray(), count_UI)
    made = ws.find("synthetic", "vectors", "svd")
    assert np.array_equal(read_vectors(made.path), count_UI.T)
    assert made.manifest["inputs"].keys() == {"data"} and answer.path.name.startswith("opq4x16-svd-")

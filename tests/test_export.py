"""Exports: a folder recommends as its run does, alone; broken ones are refused; ONNX gives the same numbers."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from shop import SMALL_SHOP, TINY, TINY_TIGER, genrec

from genrec_cli.artifacts import Workspace
from genrec_cli.errors import ConfigError, DataError, DownloadError
from genrec_cli.stages import export as stage
from genrec_cli.stages.exported import ExportedRun, export_folder, read_export
from genrec_cli.stages.trained import Run

MHL = [*TINY, "--curriculum", "r-inf", "--set", "curriculum.max_epochs=1"]
RUNS = {"popular": [], "transitions": [], "sasrec": TINY, "rpg": TINY, "mhl": MHL, "tiger": TINY_TIGER}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("export")
    for words in (SMALL_SHOP, ["preprocess"], ["tokenize", "--codebooks", "4", "--codewords", "8"]):
        assert genrec(root, *words).code == 0
    for model, words in RUNS.items():
        assert genrec(root, "train", "--model", model, *(["--epochs", "2", *words] if words else [])).path
    items = pq.read_table(next(root.glob("synthetic/data/*")) / "items.parquet")["raw_id"].to_pylist()
    (root / "h.jsonl").write_text(
        "".join(json.dumps({"user": f"u{n}", "items": items[n : 3 * n]}) + "\n" for n in (1, 5, 9))
    )
    return root


@pytest.fixture(scope="module")
def exported(root) -> dict[str, Path]:
    found = {}
    for model in RUNS:
        answer = genrec(root, "export", f"{model}-s0", "--to", root / "exports" / model)
        found[model] = answer.path
    return found


@pytest.mark.parametrize("model", RUNS)
def test_an_export_recommends_what_its_run_does_from_an_empty_root(root, exported, tmp_path, model):
    alone = Path(shutil.copytree(exported[model], tmp_path / "elsewhere"))
    words = ["--history", root / "h.jsonl", "--k", "5", "--json"]
    expected = genrec(root, "recommend", "--run", f"{model}-s0", *words)
    found = genrec(tmp_path / "empty", "recommend", "--run", alone, *words)
    assert found.code == 0, found.err
    assert json.loads(found.out)["recommendations"] == json.loads(expected.out)["recommendations"]
    assert not (tmp_path / "empty").exists()


def test_an_export_holds_no_users_and_no_texts(root, exported):
    names = {path.name for path in exported["rpg"].iterdir()}
    tables = {"items.parquet", "attributes.parquet", "users.parquet", "codes.parquet"}
    assert names == tables | {"model.safetensors", "config.json", "README.md"}
    assert pq.read_metadata(exported["rpg"] / "users.parquet").num_rows == 0
    assert set(pq.read_table(exported["rpg"] / "items.parquet")["text"].to_pylist()) == {None}
    text = (exported["rpg"] / "README.md").read_text() + (exported["rpg"] / "config.json").read_text()
    assert str(root) not in text and "library_name: genrec-cli" in text
    assert not (exported["sasrec"] / "codes.parquet").exists()


def test_candidates_and_a_fallback_work_with_an_export(root, exported, tmp_path):
    (tmp_path / "h.csv").write_text("user,item\nlost,NEVER\n")
    words = ["--history", tmp_path / "h.csv", "--k", "3", "--where", "train_count > 3", "--json"]
    folder = exported["rpg"]
    answer = genrec(tmp_path / "empty", "recommend", "--run", folder, *words, "--fallback", "popular")
    assert len(json.loads(answer.out)["recommendations"]) == 3
    for more, said in (
        (["--fallback", "transitions"], "holds no histories"),
        (["--fallback", "popular", "--data", "x"], "an export has its own items"),
    ):
        answer = genrec(tmp_path / "empty", "recommend", "--run", folder, *words, *more)
        assert answer.code == 2 and said in answer.err
    assert "holds no users" in genrec(tmp_path / "empty", "recommend", "--run", folder).err
    answer = genrec(
        tmp_path / "empty", "recommend", "--run", folder, "--history", root / "h.jsonl", "--diversity", "0.5"
    )
    assert answer.code == 2 and "holds no vectors" in answer.err


def test_an_existing_folder_is_not_touched(root, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    answer = genrec(root, "export", "popular-s0", "--to", tmp_path / "full")
    assert answer.code == 2 and "is not empty" in answer.err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("x")
    assert genrec(root, "export", "popular-s0", "--to", tmp_path / "file").code == 2
    (tmp_path / "blank").mkdir()
    assert genrec(root, "export", "popular-s0", "--to", tmp_path / "blank").path == tmp_path / "blank"
    assert genrec(root, "export", "popular-s0").code == 2
    dry = genrec(root, "export", "popular-s0", "--to", tmp_path / "dry", "--dry-run")
    assert dry.code == 0 and not (tmp_path / "dry").exists()


def test_a_failed_export_leaves_nothing(root, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stage.export(Run(Workspace(root), Workspace(root).find("synthetic", "runs", "rpg-s0")), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


BREAKS = {
    "no object": lambda folder: (folder / "config.json").write_text("[1]"),
    "no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "too deep": lambda folder: (folder / "config.json").write_text("[" * 100_000),
    "other format": lambda folder: change(folder, format="other"),
    "unknown key": lambda folder: change(folder, more=1),
    "no model": lambda folder: change(folder, model={}),
    "unknown model": lambda folder: change(folder, model={"name": "sasrecc"}),
    "other model": lambda folder: change(folder, model={"name": "sasrec"}),
    "other settings": lambda folder: change(folder, model={"name": "rpg", "width": 32}),
    "unknown setting": lambda folder: change(folder, model={"name": "rpg", "breadth": 32}),
    "other length": lambda folder: change(folder, max_length=3),
    "files outside": lambda folder: change(folder, files={"../x": "0" * 64}),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "changed weights": lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100),
    "no codes": lambda folder: (folder / "codes.parquet").unlink(),
    "changed titles": lambda folder: (folder / "items.parquet").write_bytes(b"PAR1"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_export_is_one_clear_error(root, exported, tmp_path, name):
    folder = Path(shutil.copytree(exported["rpg"], tmp_path / "broken"))
    BREAKS[name](folder)
    answer = genrec(tmp_path / "empty", "recommend", "--run", folder, "--history", root / "h.jsonl")
    assert answer.code in (2, 3) and "Traceback" not in answer.err and "bug" not in answer.err, answer.err


def test_codes_that_are_not_listed_are_missed(exported, tmp_path):
    folder = Path(shutil.copytree(exported["rpg"], tmp_path / "broken"))
    files = json.loads((folder / "config.json").read_text())["files"]
    change(folder, files={name: value for name, value in files.items() if name != "codes.parquet"})
    with pytest.raises(DataError, match="codes"):
        ExportedRun(folder, CPU).model  # noqa: B018


def test_a_run_is_no_export(root):
    ws = Workspace(root)
    assert export_folder(ws, str(next(root.glob("synthetic/runs/rpg*")))) is None and export_folder(ws, None) is None
    assert export_folder(ws, "rpg-s0") is None


def test_a_wrong_folder_without_a_root_is_named(root, tmp_path):
    answer = genrec(tmp_path / "empty", "recommend", "--run", "rpg-shop", "--history", root / "h.jsonl")
    assert answer.code == 4 and "'rpg-shop' is not the folder of an export" in answer.err
    assert "that genrec export wrote" in answer.err and "synthetic" not in answer.err


# ---- the Hugging Face hub --------------------------------------------------------------------------


class FakeHub:
    """The calls of huggingface_hub that are used, with folders in place of a server."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, []
        self.HfApi = lambda: SimpleNamespace(create_repo=self.create_repo, upload_folder=self.upload_folder)

    def create_repo(self, name, **options):
        self.calls.append((name, options))

    def upload_folder(self, *, folder_path, repo_id, commit_message):
        shutil.copytree(folder_path, self.folder / repo_id)
        return f"hub/{repo_id}"

    def snapshot_download(self, name, *, revision=None):
        if not (self.folder / name).exists():
            raise ConnectionError(f"404: {name}@{revision}")
        return str(self.folder / name)


def test_a_pushed_export_is_loaded_by_its_name(root, tmp_path, monkeypatch):
    hub = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(stage, "_hub", lambda: hub)
    answer = genrec(root, "export", "rpg-s0", "--to", tmp_path / "rpg", "--push", "shop/rpg")
    assert answer.code == 0 and "hub/shop/rpg" in answer.err
    assert hub.calls == [("shop/rpg", {"exist_ok": True, "private": True})]
    words = ["--history", root / "h.jsonl", "--json"]
    found = genrec(tmp_path / "empty", "recommend", "--run", "hf:shop/rpg@main", *words)
    assert found.out == genrec(tmp_path / "empty", "recommend", "--run", tmp_path / "rpg", *words).out
    answer = genrec(tmp_path / "empty", "recommend", "--run", "hf:shop/other", *words)
    assert answer.code == 5 and "404: shop/other" in answer.err and "hf auth login" in answer.err


def test_a_hub_that_refuses_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(stage, "_hub", lambda: SimpleNamespace(HfApi=lambda: SimpleNamespace(create_repo=refuse)))
    with pytest.raises(DownloadError, match="could not be uploaded: no network"):
        stage.push(tmp_path, "a/b")


def test_an_upload_that_failed_is_repeated_by_the_same_command(root, tmp_path, monkeypatch):
    api = pytest.importorskip("huggingface_hub").HfApi(endpoint="http://127.0.0.1:9", token="none")
    words = ["export", "rpg-s0", "--to", tmp_path / "rpg", "--push", "shop/rpg"]
    monkeypatch.setattr(stage, "_hub", lambda: SimpleNamespace(HfApi=lambda: api))
    answer = genrec(root, *words)
    assert answer.code == 5 and "shop/rpg could not be uploaded: " in answer.err and "Traceback" not in answer.err
    assert "the same command uploads it" in answer.err
    hub = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(stage, "_hub", lambda: hub)
    answer = genrec(root, *words, "--json")
    assert answer.code == 0 and json.loads(answer.out)["url"] == "hub/shop/rpg", answer.err
    assert json.loads(answer.out)["state"] == "up to date"
    answer = genrec(root, "export", "popular-s0", *words[2:])
    assert answer.code == 2 and "is not empty" in answer.err, "another run is not taken for it"


def test_names_that_the_hub_does_not_allow_are_refused():
    with pytest.raises(DownloadError, match="could not be downloaded"):
        stage.from_hub("a/b/c/d")


# ---- ONNX ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sasrec", "rpg", "mhl"])
def test_the_onnx_graph_gives_the_numbers_of_the_model(root, tmp_path, model):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    folder = genrec(root, "export", f"{model}-s0", "--to", tmp_path / "out", "--onnx").path
    trained = ExportedRun(folder, CPU)
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    assert output.name == ("query_BD" if model == "sasrec" else "logp_BKV")
    generator = np.random.default_rng(0)
    for lengths in ([1], [trained.max_length], [3, 1, 7, 2, 5], [2, trained.max_length, 1]):
        item_BT = np.zeros((len(lengths), max(lengths)), np.int64)
        for row, length in enumerate(lengths):
            item_BT[row, :length] = generator.integers(1, trained.catalog.items + 1, length)
        (found,) = session.run(None, {"item_BT": item_BT, "length_B": np.array(lengths)})
        expected = packed_output(trained, item_BT, lengths)
        assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-5
    if model == "sasrec":
        from safetensors.numpy import load_file

        vectors = load_file(folder / "item_vectors.safetensors")["item_vectors"]
        assert np.array_equal(vectors, trained.model.item_vectors().detach().numpy())


def packed_output(trained: Run, item_BT: np.ndarray, lengths: list[int]) -> np.ndarray:
    """The output of the model by a packed batch."""
    from genrec_cli.data.batch import Batch
    from genrec_cli.nn.packing import Packing

    item_N = torch.from_numpy(np.concatenate([row[:n] for row, n in zip(item_BT, lengths, strict=True)]))
    batch = Batch(item_N, Packing.of(np.array(lengths)), torch.full((len(lengths),), -1))
    call = trained.model.queries if trained.model_name == "sasrec" else trained.model.code_logprobs
    with torch.no_grad():
        return call(batch).numpy()


@pytest.mark.parametrize("model", ["popular", "tiger"])
def test_a_model_without_a_causal_encoder_has_no_onnx_form(root, tmp_path, model):
    answer = genrec(root, "export", f"{model}-s0", "--to", tmp_path / "out", "--onnx")
    assert answer.code == 2 and "no causal encoder" in answer.err and not (tmp_path / "out").exists()


def test_onnx_without_its_packages_says_what_to_install(root, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    answer = genrec(root, "export", "rpg-s0", "--to", tmp_path / "out", "--onnx")
    assert answer.code == ConfigError.exit_code and "genrec-cli[onnx]" in answer.err


def test_padding_is_seen_by_no_causal_model(root):
    """The packing of padded histories, against the packed batch, without ONNX."""
    from genrec_cli.stages.onnx import encoder_of

    for model in ("sasrec", "rpg"):
        trained = Run(Workspace(root), Workspace(root).find("synthetic", "runs", f"{model}-s0"))
        item_BT = np.array([[4, 9, 2, 7], [5, 0, 0, 0], [1, 3, 0, 0]])
        with torch.no_grad():
            found = encoder_of(trained)(torch.from_numpy(item_BT), torch.tensor([4, 1, 2])).numpy()
        assert np.abs(found - packed_output(trained, item_BT, [4, 1, 2])).max() < 1e-6


def test_the_configuration_is_read_again(exported):
    config = read_export(exported["mhl"])
    assert config.model["name"] == "mhl" and config.search == {"name": "exhaustive"} and config.format == "genrec-1"

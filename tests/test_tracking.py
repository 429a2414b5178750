"""Trackers for real, on files: what TensorBoard, MLflow and W&B read back is the log of the training."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from shop import SMALL_SHOP, Answer, genrec

from genrec_cli.engine import tracking
from genrec_cli.errors import UsageError

CURVE = "valid/NDCG@10"


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tracking")
    for words in (SMALL_SHOP, ["preprocess", "--k-core", "2"]):
        assert genrec(folder, *words).code == 0
    return folder


def train(shop: Path, kind: str) -> tuple[Answer, list[float]]:
    words = ["--model", "gru4rec", "--epochs", "2", "--set", "model.width=8", "--device", "cpu", "--label", kind]
    answer = genrec(shop, "train", *words, "--track", kind)
    assert answer.code == 0, answer.err
    return answer, pq.read_table(answer.path / "log.parquet")[CURVE].to_pylist()


def test_tensorboard(shop):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    answer, expected = train(shop, "tensorboard")
    events = EventAccumulator(str(shop / "synthetic/tensorboard" / answer.path.name)).Reload()
    assert [event.step for event in events.Scalars(CURVE)] == [1, 2]
    assert [event.value for event in events.Scalars(CURVE)] == pytest.approx(expected)


def test_mlflow(shop, monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    answer, expected = train(shop, "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("synthetic").experiment_id])
    assert run.info.run_name == answer.path.name and run.info.status == "FINISHED"
    assert run.data.params["model.width"] == "8"
    history = client.get_metric_history(run.info.run_id, CURVE.replace("@", "_at_"))
    assert [point.value for point in history] == pytest.approx(expected)


def test_wandb(shop, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    answer, _ = train(shop, "wandb")
    (written,) = (shop / "synthetic/wandb").glob("offline-run-*/*.wandb")
    content = written.read_bytes()
    assert answer.path.name.encode() in content and CURVE.encode() in content


def test_an_unknown_or_absent_tracker_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="tensorboard, wandb, mlflow"):
        tracking.start("aim", "run", tmp_path, {})

    def absent(*arguments: object) -> tracking.Tracker:
        raise ImportError

    monkeypatch.setitem(tracking.TRACKERS, "wandb", absent)
    with pytest.raises(UsageError) as error:
        tracking.start("wandb", "run", tmp_path, {})
    assert "genrec-cli[wandb]" in str(error.value.hint)


def test_settings_are_flat_and_rows_are_numbers():
    assert tracking.flat({"train": {"lr": 0.1, "freeze": []}}) == {"train.lr": 0.1, "train.freeze": "[]"}
    assert tracking.numbers({"epoch": 1, "phase": "x", "lr": 0.1, "best": None, "step": 3}) == {"lr": 0.1, "step": 3.0}

"""Encoding that is stopped at any batch and goes on: the same bytes, and no batch of a finished part twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from shop import SMALL_SHOP, genrec
from two_processes import BatchEncoder, encode_some, some_texts

from genrec_cli import console
from genrec_cli.artifacts import Workspace
from genrec_cli.errors import DataError
from genrec_cli.stages import encode, vectors

HOME = Path(__file__).parents[1]
BATCHES, PARTS = 11, 6
"""Of :func:`two_processes.some_texts`; a part has two batches."""


@pytest.fixture
def whole_ID(tmp_path: Path) -> np.ndarray:
    """The vectors of a run that nothing stopped."""
    return encode_some(tmp_path / "whole", BatchEncoder())


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    return said


def test_batches_are_those_of_the_longest_texts_first(whole_ID: np.ndarray) -> None:
    texts = some_texts()
    order = sorted((row for row, text in enumerate(texts) if text.strip()), key=lambda row: -len(texts[row]))
    for start in range(0, 43, 4):
        rows = order[start : start + 4]
        lengths = [len(texts[row]) for row in rows]
        assert whole_ID[rows, 0].tolist() == lengths and set(whole_ID[rows, 1]) == {sum(lengths)}
    assert not whole_ID[[20, 21, 45]].any()


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_kill_at_any_batch_costs_its_part_at_most(tmp_path: Path, whole_ID, warnings, batch: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode_some(tmp_path / "parts", BatchEncoder(batch))
    again = BatchEncoder()
    assert np.array_equal(encode_some(tmp_path / "parts", again), whole_ID)
    assert again.batches == BATCHES - batch // 2 * 2 and not warnings
    again = BatchEncoder(0)
    assert np.array_equal(encode_some(tmp_path / "parts", again), whole_ID), "all parts were there"


def rewrite(part: Path, change: Any) -> None:
    """Another array under the digest that was there."""
    from safetensors import safe_open

    with safe_open(part, framework="numpy") as file:
        metadata = file.metadata()
    save_file({"vectors": change(load_file(part)["vectors"])}, part, metadata=metadata)


DAMAGE = {
    "cut": lambda part: part.write_bytes(part.read_bytes()[:-3]),
    "empty": lambda part: part.write_bytes(b""),
    "gone": lambda part: part.unlink(),
    "other rows": lambda part: rewrite(part, lambda vec_SD: vec_SD[:-1].copy()),
    "other width": lambda part: rewrite(part, lambda vec_SD: vec_SD[:, :-1].copy()),
    "other type": lambda part: rewrite(part, lambda vec_SD: vec_SD.astype(np.float64)),
    "not finite": lambda part: rewrite(part, lambda vec_SD: vec_SD * np.float32("nan")),
    "no digest": lambda part: save_file(load_file(part), part),
    "another part": lambda part: part.write_bytes((part.parent / "000000.safetensors").read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_part_that_does_not_fit_begins_anew(tmp_path: Path, whole_ID, warnings, damage: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        encode_some(tmp_path / "parts", BatchEncoder(9))
    DAMAGE[damage](tmp_path / "parts" / "000002.safetensors")
    again = BatchEncoder()
    assert np.array_equal(encode_some(tmp_path / "parts", again), whole_ID) and again.batches == BATCHES
    assert len(warnings) == 1 and "000002.safetensors" in warnings[0]


def test_parts_of_other_texts_or_settings_begin_anew(tmp_path: Path, warnings) -> None:
    encode_some(tmp_path / "parts", BatchEncoder())
    other = BatchEncoder()
    texts = some_texts()
    texts[0] = "y" * len(texts[0])
    encode_some(tmp_path / "parts", other, texts)
    assert other.batches == BATCHES and len(warnings) == 1

    other = BatchEncoder()
    other.facts = {"device": "cuda"}
    encode_some(tmp_path / "parts", other, texts)
    assert other.batches == BATCHES and len(warnings) == 2


def test_the_bar_starts_at_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []
    real = console.progress

    def progress(items: Any = None, **options: Any) -> Any:
        bars.append((options["initial"], options["total"]))
        return real(items, **options)

    monkeypatch.setattr(console, "progress", progress)
    with pytest.raises(KeyboardInterrupt):
        encode_some(tmp_path / "parts", BatchEncoder(7))
    encode_some(tmp_path / "parts", BatchEncoder())
    assert bars == [(0, 43), (3 * 8, 43)]


def test_a_vector_that_is_not_finite_is_named_and_not_kept(tmp_path: Path) -> None:
    class Sick(BatchEncoder):
        def _batch(self, texts: Any) -> np.ndarray:
            return super()._batch(texts) / (self.batches - 3)

    with pytest.raises(DataError, match="4 of 8 items"), np.errstate(divide="ignore"):
        encode_some(tmp_path / "parts", Sick())
    assert [part.name for part in (tmp_path / "parts").iterdir()] == ["000000.safetensors"]


# ---- the artifact --------------------------------------------------------------------------------


def test_an_encoder_that_cannot_be_opened_leaves_nothing(tmp_path: Path) -> None:
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(tmp_path, *words).code == 0

    class Closed(BatchEncoder):
        def open(self) -> Any:
            raise DataError("no model")

    ws = Workspace(tmp_path)
    with pytest.raises(DataError, match="no model"):
        vectors.vectors_stage(ws, ws.find("synthetic", "data"), Closed())[1]()
    assert not (tmp_path / "synthetic" / "vectors").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from two_processes import BatchEncoder
from genrec_cli.artifacts import Workspace
from genrec_cli.stages import encode, vectors
encode.BATCHES = 2
encoder = BatchEncoder(21)
ws = Workspace(Path(sys.argv[1]))
try:
    vectors.vectors_stage(ws, ws.find("synthetic", "data"), encoder)[1]()
finally:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_an_artifact_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCHES", 2)
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(tmp_path, *words).code == 0
    ws = Workspace(tmp_path)
    data = ws.find("synthetic", "data")

    def stage(encoder: BatchEncoder) -> Any:
        return vectors.vectors_stage(ws, data, encoder)[1]()

    whole = BatchEncoder()
    made = stage(whole)
    expected = (made.path / vectors.FILE).read_bytes()
    (made.path / "manifest.json").unlink()
    (made.path / vectors.FILE).unlink()

    paths = os.pathsep.join([str(HOME), str(HOME / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list((made.path / "unfinished").glob("*.safetensors"))) == 10
    status = genrec(tmp_path, "status")
    assert "partial" in status.out + status.err and ws.all("synthetic", "vectors") == []

    rest = BatchEncoder()
    again = stage(rest)
    assert (again.path / vectors.FILE).read_bytes() == expected
    assert rest.batches == whole.batches - 20 and again.result == made.result
    assert sorted(path.name for path in again.path.iterdir()) == ["manifest.json", vectors.FILE]
    assert set(again.manifest["files"]) == {vectors.FILE}

"""Two processes on this CPU, started by torchrun, against one process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import two_processes
from safetensors.torch import load_file
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli.distributed import resolve_device
from genrec_cli.engine.checkpoint import BEST, LAST
from genrec_cli.errors import UsageError
from genrec_cli.process_group import ProcessGroup

HOME = Path(__file__).parents[1]
LIMIT = 100
"""Seconds after which two processes that wait for each other fail the test."""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(*words: str | Path, root: Path | None = None) -> subprocess.Popen[str]:
    """Two processes of a script or module; the words come after torchrun's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GENREC_")}
    paths = os.pathsep.join([str(HOME), str(HOME / "tests"), kept.get("PYTHONPATH", "")])
    kept |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GENREC_ROOT": str(root), "GENREC_ENCODER": "lsa"}
    pipes: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*TORCHRUN, *map(str, words)], env=kept, text=True, **pipes)


def ended(job: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a job; a job that hangs is killed and fails."""
    try:
        out, err = job.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        job.send_signal(signal.SIGTERM)  # torchrun ends its processes
        out, err = job.communicate(timeout=LIMIT)
        pytest.fail(f"two processes hang:\n{err}")
    return job.returncode, out, err


# ---- the loop ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in torchrun's processes: the last bit of a product may depend on the count of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The results of one process, and those of two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    job = start(HOME / "tests" / "two_processes.py", two)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genrec_cli.distributed.LARGE", 100)
        two_processes.everything(one)
    code, _, err = ended(job)
    assert code == 0, err
    return one, two


@pytest.mark.parametrize("case", two_processes.CASES)
def test_two_processes_take_the_steps_of_one(both: tuple[Path, Path], case: str) -> None:
    alone, first, second = (
        load_file(both[at] / case / f"rank{rank}.safetensors") for at, rank in ((0, 0), (1, 0), (1, 1))
    )
    assert sum(name.startswith("gradient") for name in alone) > 10
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between the processes"
        far = 1e-6 if name.startswith("gradient") else 1e-4  # Adam divides small gradients by their size
        torch.testing.assert_close(first[name], value, atol=far, rtol=1e-4, msg=name)


@pytest.mark.parametrize("case", two_processes.CASES)
def test_the_log_of_two_is_that_of_one(both: tuple[Path, Path], case: str) -> None:
    (rows, positions), (other, others) = (json.loads((path / case / "log0.json").read_text()) for path in both)
    assert positions == others
    for row, second in zip(rows, other, strict=True):
        assert row.keys() == second.keys()
        words = {"phase", "change"}
        assert {name: row[name] for name in words} == {name: second[name] for name in words}
        for name in row.keys() - words - {"seconds", "waited"}:
            assert second[name] == pytest.approx(row[name], abs=1e-5, rel=1e-4), name


def test_the_first_validation_is_that_of_one(both: tuple[Path, Path]) -> None:
    rows, other = (json.loads((path / "rpg" / "log0.json").read_text())[0] for path in both)
    for name in (name for name in rows[0] if name.startswith("valid/") and name != "valid/loss"):
        assert other[0][name] == pytest.approx(rows[0][name], abs=1e-6), name


def test_every_user_is_scored_once_with_the_same_result(both: tuple[Path, Path]) -> None:
    one, two = (np.load(path / "outcome.npz") for path in both)
    assert len(set(two["user"])) == len(two["user"]) == 24
    for name in one:
        assert np.array_equal(one[name], two[name]), name


def test_texts_are_encoded_in_the_batches_of_one_process(both: tuple[Path, Path]) -> None:
    one, two = (np.load(path / "vectors.npy") for path in both)
    assert one.any(1).sum() == 43 and np.array_equal(one, two)


def test_parts_that_two_processes_kept_are_those_of_one(both: tuple[Path, Path]) -> None:
    one, two = ({path.name: path.read_bytes() for path in (at / "parts").iterdir()} for at in both)
    assert len(one) == 6 and one == two


def test_two_processes_resume_to_the_same_bits(both: tuple[Path, Path]) -> None:
    whole, broken = (load_file(both[1] / name / LAST) for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert len(whole["random.cpu"]) == 2 and not torch.equal(*whole["random.cpu"]), "one stream per process"
    assert len(whole["random.masks"]) == 2 and not torch.equal(*whole["random.masks"])
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_checkpoint_of_two_goes_on_in_one(both: tuple[Path, Path]) -> None:
    loop = two_processes.make_loop(both[1] / "left", "mhl", dropout=0.2)
    counters = loop.run()
    assert counters.epoch == 2 and counters.step == 2 * len(loop.batches)
    assert all(np.isfinite(row["loss/next"]) for row in counters.rows)


# ---- the commands --------------------------------------------------------------------------------


def until(job: subprocess.Popen[str], runs: Path, newer: float) -> None:
    """Wait for a checkpoint that is written after a time."""
    limit = time.monotonic() + LIMIT
    while not any(path.stat().st_mtime > newer for path in runs.glob(f"*/{LAST}")):
        if job.poll() is not None or time.monotonic() > limit:
            job.terminate()
            pytest.fail(f"no checkpoint:\n{ended(job)[2]}")
        time.sleep(0.05)


def process_of(job: subprocess.Popen[str], rank: int) -> int:
    """The pid of one of the job's processes."""
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    return next(int(pid) for pid in children if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the processes of a job in /proc")
def test_a_job_that_is_stopped_or_loses_a_process_goes_on(tmp_path: Path) -> None:
    for words in (SMALL_SHOP, ["preprocess"], ["tokenize", "--codebooks", "4", "--codewords", "8"]):
        assert genrec(tmp_path, *words).code == 0
    train = ["train", "--model", "rpg", *TINY, "--epochs", "40", "--set", "curriculum.patience=40"]

    job = start("-m", "--", "genrec_cli", *train, root=tmp_path)
    runs = tmp_path / "synthetic" / "runs"
    until(job, runs, 0)
    (run,) = runs.glob("rpg-s0-*")
    os.kill(process_of(job, 1), signal.SIGTERM)  # twice, as some schedulers do
    job.send_signal(signal.SIGTERM)
    code, out, err = ended(job)
    assert code != 0 and not out and err.count("stopped in epoch") == 1 and err.count("epoch 1/40") == 1, err

    before = (run / LAST).stat().st_mtime
    job = start("-m", "--", "genrec_cli", *train, root=tmp_path)
    until(job, runs, before)
    os.kill(process_of(job, 1), signal.SIGKILL)
    code, out, err = ended(job)
    assert code != 0 and not out and "epoch 1/40" not in err, err
    assert err.count("stopped: another process") == 1 and "this is a bug" not in err, err
    assert not (run / "manifest.json").exists()

    answer = genrec(tmp_path, *train)
    assert answer.path == run and answer.manifest["result"]["processes"] == 1
    assert answer.manifest["result"]["epochs"] == 40 and "waiting for data" in answer.err
    assert (run / BEST).exists() and [path for path in runs.iterdir() if path.is_dir()] == [run]

    code, out, err = ended(start("-m", "--", "genrec_cli", "evaluate", "--run", "rpg-s0", root=tmp_path))
    assert code == 0 and out.count("\n") == 1 and err.count("Recall@5") == 1, err
    tables = [(Path(out.strip()) / f"{name}.parquet").read_bytes() for name in ("per_user", "topk")]
    again = genrec(tmp_path, "evaluate", "--run", "rpg-s0", "--force")
    assert [(again.path / f"{name}.parquet").read_bytes() for name in ("per_user", "topk")] == tables


@pytest.mark.parametrize(
    "words, message",
    [
        (["preprocess"], "'genrec preprocess' runs as one process"),
        (["train", "--dry-run"], "A dry run runs as one process"),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_command_for_one_process_refuses_several(tmp_path, monkeypatch, words, message, rank) -> None:
    for name, value in {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    answer = genrec(tmp_path, *words)
    assert answer.code == 2 and (message in answer.err) == (rank == 0)


def test_collectives_of_a_single_process() -> None:
    two_processes.collectives()
    assert ProcessGroup().batch_size(256, 3) == 256


def test_every_process_gets_a_batch() -> None:
    group = ProcessGroup()
    group.world = 4
    assert group.batch_size(256, 10_000) == 256
    assert group.batch_size(256, 300) == 75, "at least four batches"
    with pytest.raises(UsageError, match="3 users"):
        group.batch_size(256, 3)


def test_a_device_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UsageError, match="no device 'tpu'"):
        resolve_device("tpu")
    for name in ("cpu:x", "cpu:"):
        with pytest.raises(UsageError, match=f"no device '{name}'"):
            resolve_device(name)


def test_an_index_beyond_the_devices_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="no device 'cuda:2'"):
        resolve_device("cuda:2")

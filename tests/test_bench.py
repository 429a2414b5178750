"""The command for all benchmarks: what it tables, draws and skips. Nothing is timed here."""

import importlib
import re
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def everything(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.delitem(sys.modules, "all", raising=False)
    return importlib.import_module("all")


LINE = {
    "what": "RPG step",
    "other": "reference",
    "ours_seconds": 0.3,
    "other_seconds": 1.95,
    "ratio": 6.5,
    "ours_peak_mib": 900.0,
    "other_peak_mib": 2000.0,
}
PARSED = {
    "files": {
        "reviews.json.gz": {
            "sides": {
                "ours": {"seconds": 2.0, "times_ours": 1.0, "peak_mib": 100.0},
                "loop of json.loads": {"seconds": 7.0, "times_ours": 3.5, "peak_mib": 90.0},
            }
        }
    }
}


def test_the_page_lists_the_benchmarks_that_are_run(everything):
    page = (BENCH.parent / "docs" / "performance.md").read_text("utf-8")
    listed = re.findall(r"^\| `bench/(\w+)\.py` \|", page, re.M)
    assert listed == list(everything.BENCHES) and all((BENCH / f"{name}.py").is_file() for name in listed)


def test_results_become_one_table(everything):
    lines = everything.comparisons({"rpg_step": {"comparisons": [LINE]}, "parse": PARSED})
    text = everything.table(lines).splitlines()
    assert text[2] == "| RPG step | 300.0 ms | reference | 1.9 s | 6.5 | 900 and 2,000 MiB |"
    assert text[3].startswith("| parsing reviews.json.gz | 2.0 s | loop of json.loads | 7.0 s | 3.5 |")
    assert len(text) == 4


def test_the_figure_is_the_same_bytes_again(everything, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "two.svg"):
        everything.figure([LINE, LINE | {"ratio": 0.5}], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    everything.figure([LINE, LINE | {"ratio": 2.5}], tmp_path / "other.svg")
    assert (tmp_path / "one.svg").read_bytes() != (tmp_path / "other.svg").read_bytes(), "the ratio is drawn"
    words = re.findall(r"<!-- *(.+?) *-->", (tmp_path / "one.svg").read_text("utf-8"))  # beside drawn letters
    assert {"RPG step", "reference", "6.5", "0.5"} <= set(words)


@pytest.mark.parametrize(
    "name, why", [("peers", "it needs --data --codes --peers"), ("nothing", "no bench/nothing.py")]
)
def test_what_cannot_run_is_skipped_with_a_line(everything, capsys, name, why):
    assert everything.run(name, {}, []) is None
    assert why in capsys.readouterr().err


def test_a_ratio_is_the_median_over_neighbouring_runs(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    comparison = importlib.import_module("comparison")
    line = comparison.Comparison.of("step", "other", [1.0, 2.0, 4.0], [5.0, 10.0, 40.0])
    assert (line.ours_seconds, line.other_seconds, line.ratio) == (2.0, 10.0, 5.0)


def test_an_absent_peer_has_no_interpreter(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCH))
    peers = importlib.import_module("peers")
    assert peers.interpreter("cornac", None, {}, install=False) is None
    assert peers.interpreter("cornac", tmp_path, {}, install=False) is None
    assert peers.interpreter("cornac", None, {"cornac": "python"}, install=False) == Path("python")


STEPS = {
    "rpg_step": ["--digits", "4", "--batch-size", "4", "--steps", "1", "--precision", "fp32", "--json"],
    "mhl_step": ["--digits", "4", "--batch-size", "4", "--steps", "1", "--json"],
    "steps": ["--batch-size", "4", "--steps", "1", "--models", "rpg", "mhl", "sasrec", "--precision", "fp32"],
    "one_pass": ["--batch-size", "4", "--steps", "1", "--precision", "fp32"],
    "floor": ["--digits", "4", "--batch-size", "4", "--batches", "1", "--precision", "fp32", "--json"],
}


@pytest.mark.parametrize("name", STEPS)
def test_commands_that_time_steps_still_run(name, monkeypatch, capsys):
    """On a few made-up histories; what they time is not looked at."""
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module(name)
    shared = importlib.import_module("rpg_step")
    few = shared.made_up(users=30, items=40)
    for place in (module, shared):
        monkeypatch.setattr(place, "made_up", lambda: few, raising=False)
    monkeypatch.setattr(sys, "argv", [name, *STEPS[name]])
    module.main()
    assert "{" in capsys.readouterr().out


def test_what_wrk_prints_is_read(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.delitem(sys.modules, "serve", raising=False)
    serve = importlib.import_module("serve")
    text = """
      Thread Stats   Avg      Stdev     Max   +/- Stdev
        Latency    43.56ms    9.12ms   1.20s    76.50%
        Req/Sec     1.15k   299.76     1.29k    77.50%
      Latency Distribution
         50%  980.00us
         75%   45.10ms
         90%   54.22ms
         99%    1.05s
      3250 requests in 3.01s, 6.20MB read
    """
    fine = {"answers": 3250, "histories_per_second": 1078.52, "p50_ms": 0.98, "p99_ms": 1050.0, "failed": 0}
    assert serve.read(f"{text}Requests/sec:   1078.52\n") == pytest.approx(fine)
    errors = "  Socket errors: connect 0, read 2, write 0, timeout 1\n  Non-2xx or 3xx responses: 4\n"
    assert serve.read(f"{text}{errors}Requests/sec:   1078.52\n") == pytest.approx(fine | {"failed": 7})

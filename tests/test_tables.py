"""Tables for people: blocks of columns in a narrow terminal, and that none of the commands' tables is wider than it."""

import io
import sys
from contextlib import redirect_stdout

import pytest

from genrec_cli import console
from genrec_cli.console_table import blocks
from genrec_cli.engine.protocols import PROTOCOLS
from genrec_cli.stages.compare_table import tables

LONG = "mhl-40-256-ccd51194"


def printed(width: int, *arguments, monkeypatch: pytest.MonkeyPatch, **options) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    sink = io.StringIO()
    with redirect_stdout(sink):
        console.table(*arguments, to_stdout=True, **options)
    return sink.getvalue().splitlines()


def test_columns_that_fit_are_one_block() -> None:
    assert blocks([4, 5, 6], 1, 19) == [[0, 1, 2]], "4 + 5 + 6 and two gaps of 2"
    assert blocks([4, 5, 6], 1, 18) == [[0, 1], [0, 2]]
    assert blocks([4, 5, 6], 1, 11) is None, "4 + 2 + 6 is 12"


def test_blocks_are_few_and_of_about_equal_widths() -> None:
    assert blocks([10, 5, 5, 5, 5], 1, 31) == [[0, 1, 2], [0, 3, 4]], "not three columns and one"
    assert blocks([3, 4, 5, 5, 5], 2, 16) == [[0, 1, 2], [0, 1, 3], [0, 1, 4]]


def test_a_narrow_terminal_gets_blocks_that_repeat_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ["run", "Recall@10", "NDCG@10", "NDCG@10, seen left out", "training"]
    rows = [[LONG, 0.1, 0.05, 0.0612, "47 min 03 s"], ["popular-s0", 0.01, None, 0.0061, "-"]]
    for width in (100, 60, 45, 33):
        lines = printed(width, "Runs", head, rows, monkeypatch=monkeypatch)
        assert max(map(len, lines)) <= width and lines[0] == "Runs"
        assert sum(LONG in line for line in lines) == {100: 1, 60: 2, 45: 2, 33: 4}[width]
        for cell in ("0.1000", "0.0500", "0.0612", "47 min 03 s"):
            assert sum(cell in line for line in lines) == 1, "every value is there, in one piece"
    lines = printed(31, "", head, rows, monkeypatch=monkeypatch)  # a line per value
    assert max(map(len, lines)) <= 31 and ["Recall@10", "0.1000"] in map(str.split, lines)
    assert "47 min 03 s" in " ".join(lines) and "popular-s0" in " ".join(lines)


def test_texts_wrap_before_columns_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["ml-100k", "a long sentence about the terms of use of these files", 5]]
    lines = printed(50, "", ["name", "terms", "MiB"], rows, monkeypatch=monkeypatch)
    assert sum("name" in line for line in lines) == 1 and max(map(len, lines)) <= 50
    assert "sentence" in " ".join(lines) and lines[1].split()[-1] == "5"


def compared(slices: list[str], runs: int) -> list[dict]:
    numbers = {"value": 0.0649, "sd": None, "difference": -0.0237, "relative": -0.221}
    numbers |= {"low": -0.0271, "high": -0.0203, "p": 0.0001, "p_holm": 0.0008}
    return [
        {"slice": name, "users": 22_363, "metric": metric, "seen": protocol, "run": f"run-{run}-of-some-256-s{run}"}
        | (numbers if run else numbers | {"difference": None, "p": None, "p_holm": None})
        for name in slices
        for metric in ("Recall@10", "NDCG@10")
        for protocol in PROTOCOLS
        for run in range(runs)
    ]


@pytest.mark.parametrize("runs", [2, 5])
@pytest.mark.parametrize("slices", [["all"], ["all", "6 to 10 interactions", "more"]], ids=len)
def test_a_comparison_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch, slices: list[str], runs: int) -> None:
    rows = compared(slices, runs)
    parts = list(tables(rows))
    assert len(parts) == (1 if len(slices) == 1 else 4)
    for title, head, body in parts:
        lines = printed(80, title, head, body, monkeypatch=monkeypatch, keys=head.index("value"))
        assert max(map(len, lines)) <= 80
        assert sum("-0.0271 to -0.0203" in line for line in lines) == len(body) * (runs - 1) // runs
    assert sum(len(body) for _, _, body in parts) == len(rows)


def test_a_pipe_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console.width(io.StringIO()) == 160
    monkeypatch.setenv("COLUMNS", "72")
    assert console.width(io.StringIO()) == 72


def test_a_narrow_terminal_cuts_the_end_of_a_bar_and_not_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("TERM", "xterm")
    with console.progress(total=1000, unit="item", desc="encode with sentence-transformers-sentence-t5-base") as bar:
        bar.start_t -= 100
        bar.update(10)
        bar.refresh()
    last = [line for line in terminal.getvalue().replace("\n", "\r").split("\r") if "10/1000" in line][-1]
    assert "<2:4" in last and len(last) <= 120

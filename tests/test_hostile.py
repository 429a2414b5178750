"""Hostile input: every option of every command answers it with an error and an exit code, in bounded time.

Options are read from the Typer application and settings from the sections that exist, so new ones are covered by
themselves. ``HOSTILE_EXAMPLES=100`` searches longer than the few examples of a normal run.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shop import SMALL_SHOP, TINY, Answer, genrec
from typer.main import get_group

from genrec_cli import registry
from genrec_cli.cli import app
from genrec_cli.cli.progress import TrainProgress
from genrec_cli.config import DEVICE, SECTIONS, Section, read_toml, validate
from genrec_cli.console import markdown, printable, table
from genrec_cli.errors import GenrecError

EXPECTED_CODES = {0, 2, 3, 4, 5, 6, 130}
LIMIT_SECONDS = 60
EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "2"))
COMMANDS = get_group(app).commands
VALID = {
    "download": SMALL_SHOP[3:],
    "adopt": ["--dataset=adopted"],
    "tokenize": ["--codebooks=4", "--codewords=8"],
    "train": ["--model=rpg", "--epochs=1", *TINY],
    "evaluate": ["--run=rpg-s0"],
    "recommend": ["--run=popular-s0", "--k=3"],
    "case-study": ["--users=1"],
    "figures": ["--dry-run"],
    "sweep": ["--dry-run"],
    "run": ["--dry-run"],
}
"""Options with which a command does little on the prepared root; an option that is tried comes after them."""
ARGUMENTS = {"compare": ["rpg-s0", "popular-s0"], "sweep": ["mhl-table2"], "run": ["quickstart"], "list": ["models"]}
TEXTS = [
    "", " ", "x" * 300, "é" * 200, "x" * 100_000, "a\nb", "\t", "..", "../..", ".", "-", "--", "*", "%s", "{at}",
    "\x1b[31mred", "\x1b]0;title\x07", "\x9b0m", "\0", "\udcff", "[red]", "[/]", "a=b", "a.b=c", ",", "5,", "cuda:99",
]  # fmt: skip
NUMBERS = [
    "0", "-1", "1", "nan", "-inf", "1e999", "1e-320", "9" * 18, "9" * 20, "9" * 5000, "0x" + "f" * 5000, "1.5", "true",
    "-9223372036854775808", "2147483648", "[]", "{}", "[" * 500 + "]" * 500, "[[1]]", "'a\\u001bb'",
]  # fmt: skip
FILES: dict[str, Callable[[Path], Any]] = {
    "folder": Path.mkdir,
    "fifo": os.mkfifo,
    "loop": lambda path: path.symlink_to(path),
    "empty": Path.touch,
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "deep.toml": lambda path: path.write_text(f"[train]\nlr = {'[' * 500}{']' * 500}\n"),
    "digits.toml": lambda path: path.write_text(f"[train]\nlr = {'9' * 5000}\n"),
    "range.toml": lambda path: path.write_text("[train]\nlr = 1e999\nseed = 99999999999999999999\n"),
    "escape.toml": lambda path: path.write_text('[train]\nmetric = "\\u001b[31m"\n[recipe]\ntitle = "\\u001b"\n'),
    "nul.toml": lambda path: path.write_text('[train]\nmetric = "\\u0000"\n[sweep]\ntitle = "\\u0000"\n'),
    "closed.toml": lambda path: (path.write_text("[train]\n"), path.chmod(0)),
}
PATHS = [*(f"files/{name}" for name in FILES), "absent", "absent.toml", "/dev/null", "/dev/full"]


class Hang(BaseException):
    """A command took longer than the limit. No handler of the program catches this."""


class Case(NamedTuple):
    command: str
    option: str
    """An option, or nothing for a positional argument."""
    value: str | None
    """None for a flag by itself."""

    @property
    def words(self) -> list[str]:
        given = VALID.get(self.command, [])
        arguments = ARGUMENTS.get(self.command, []) if self.option else [str(self.value)]
        option = self.option if self.value is None else f"{self.option}={self.value}"
        return [self.command, "--dataset=synthetic", *given, *([option] if self.option else []), "--", *arguments]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with two runs and an evaluation of each."""
    root = tmp_path_factory.mktemp("hostile") / "root"
    for words in (
        SMALL_SHOP, ["preprocess"], ["tokenize", *VALID["tokenize"]], ["train", "--model", "popular"],
        ["train", *VALID["train"]], ["evaluate", "--run=rpg-s0"], ["evaluate", "--run=popular-s0"],
    ):  # fmt: skip
        answer = genrec(root, *words)
        assert answer.code == 0, answer.err
    return root


@pytest.fixture
def place(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root, seen from a folder of hostile files, deep enough that ``../..`` stays in it. Trainings stop early."""
    folder = tmp_path / "a" / "b" / "c"
    (folder / "files").mkdir(parents=True)
    for name, make in FILES.items():
        make(folder / "files" / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(TrainProgress, "attach", stopped(TrainProgress.attach))
    return root


def stopped(attach: Callable[..., Any]) -> Callable[..., Any]:
    """A training that is asked to stop before its first step: ten million epochs are no hostile wish."""

    def attach_and_stop(self: TrainProgress, loop: Any) -> Any:
        self.asked = True
        return attach(self, loop)

    return attach_and_stop


def within_limit(root: Path, words: list[str]) -> Answer:
    """What a command answers; :class:`Hang` if it does not. SIGALRM belongs to pytest-timeout."""

    def interrupt(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(LIMIT_SECONDS, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    timer.start()
    try:
        return genrec(root, *words)
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, before)


def fault(root: Path, words: list[str]) -> str | None:
    """What is wrong with the answer of a command, or None."""
    try:
        answer = within_limit(root, words)
    except Hang:
        return "it hangs"
    except BaseException as error:
        return f"it raises {error!r}"
    told = answer.out + answer.err
    if answer.code not in EXPECTED_CODES or "Traceback" in told:
        return f"exit code {answer.code}: {told[-1500:]}"
    return None if printable(told) == told else f"raw control characters: {told[:500]!r}"


def options_of(command: str) -> Iterator[tuple[str, bool]]:
    """The long options of a command, nothing for an argument, and whether it takes a value."""
    for parameter in COMMANDS[command].params:
        if parameter.param_type_name == "argument":
            yield "", True
        else:
            yield max(parameter.opts, key=len), not parameter.is_flag


def values_of(command: str, option: str, takes_value: bool) -> st.SearchStrategy[str | None]:
    if option == "--set":
        sections = st.sampled_from(sorted(SECTIONS))
        return st.builds("{}.{}={}".format, sections, st.sampled_from(["name", "seed", "x"]), st.sampled_from(NUMBERS))
    return st.sampled_from([*TEXTS, *NUMBERS, *PATHS] if takes_value else [None, None, "", "true", "x" * 300])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_answers_hostile_values(place: Path, command: str) -> None:
    options = list(options_of(command))
    values = st.tuples(*(values_of(command, *option) for option in options))

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(values)
    def answers(drawn: tuple[str | None, ...]) -> None:
        cases = [Case(command, name, value) for (name, _), value in zip(options, drawn, strict=True)]
        faults = {(case.option, str(case.value)[:50]): fault(place, case.words) for case in cases}
        assert {case: told for case, told in faults.items() if told} == {}

    answers()

"""Hostile input: every option of every command answers it with an error and an exit code, in bounded time.

Options are read from the Typer application and settings from the sections that exist, so new ones are covered by
themselves. ``HOSTILE_EXAMPLES=100`` searches longer than the few examples of a normal run.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shop import SMALL_SHOP, TINY, Answer, genrec
from typer.main import get_group

from genrec_cli import __version__, console, registry
from genrec_cli.cli import app
from genrec_cli.cli.common import fail
from genrec_cli.cli.progress import TrainProgress
from genrec_cli.config import SECTIONS, Section, parse_set, read_toml, validate
from genrec_cli.console import markdown, printable, table
from genrec_cli.encoders.vectors import VectorsEncoder
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import ConfigError, GenrecError, UsageError

EXPECTED_CODES = {0, 2, 3, 4, 5, 6, 130}
LIMIT_SECONDS = 60
EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "2"))
FIXED = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
COMMANDS = get_group(app).commands
VALID = {
    "download": SMALL_SHOP[3:],
    "import": ["--dataset=imported"],
    "tokenize": ["--codebooks=4", "--codewords=8"],
    "train": ["--model=rpg", "--epochs=1", *TINY],
    "evaluate": ["--run=rpg-s0"],
    "recommend": ["--run=popular-s0", "--k=3"],
    "export": ["--to=exported", "--dry-run"],
    "case-study": ["--users=1"],
    "figures": ["--dry-run"],
    "sweep": ["--dry-run"],
    "run": ["--dry-run"],
}
"""Options with which a command does little on the prepared root; an option that is tried comes after them."""
ARGUMENTS = {"compare": ["rpg-s0", "popular-s0"], "sweep": ["mhl-table2"], "run": ["quickstart"], "list": ["models"]}
ARGUMENTS |= {"export": ["popular-s0"]}
TEXTS = [
    "",
    " ",
    "x" * 300,
    "é" * 200,
    "x" * 100_000,
    "a\nb",
    "\t",
    "..",
    "../..",
    ".",
    "-",
    "--",
    "*",
    "%s",
    "{at}",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b0m",
    "\0",
    "\udcff",
    "[red]",
    "[/]",
    "a=b",
    "a.b=c",
    ",",
    "5,",
    "cuda:99",
]
NUMBERS = [
    "0",
    "-1",
    "1",
    "nan",
    "-inf",
    "1e999",
    "1e-320",
    "9" * 18,
    "9" * 20,
    "9" * 5000,
    "0x" + "f" * 5000,
    "1.5",
    "true",
    "-9223372036854775808",
    "2147483648",
    "[]",
    "{}",
    "[" * 500 + "]" * 500,
    "[[1]]",
    "'a\\u001bb'",
]
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
        SMALL_SHOP,
        ["preprocess"],
        ["tokenize", *VALID["tokenize"]],
        ["train", "--model", "popular"],
        ["train", *VALID["train"]],
        ["evaluate", "--run=rpg-s0"],
        ["evaluate", "--run=popular-s0"],
    ):
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

    @settings(FIXED, max_examples=EXAMPLES)
    @given(values)
    def answers(drawn: tuple[str | None, ...]) -> None:
        cases = [Case(command, name, value) for (name, _), value in zip(options, drawn, strict=True)]
        faults = {(case.option, str(case.value)[:50]): fault(place, case.words) for case in cases}
        assert {case: told for case, told in faults.items() if told} == {}

    answers()


# ---- settings --------------------------------------------------------------------------------------


def sections() -> list[type[Section]]:
    """Every section that a part of the registry or a stage declares."""
    for kind in registry.TABLE:
        for name in registry.names(kind):
            registry.load(kind, name)

    def below(section: type[Section]) -> Iterator[type[Section]]:
        for child in section.__subclasses__():
            if child.__module__.startswith("genrec_cli"):
                yield child
                yield from below(child)

    return sorted(set(below(Section)), key=lambda section: (section.__module__, section.__name__))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5)
TREES = st.recursive(PLAIN, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=3), t, max_size=3))
HOSTILE = [10**5000, -(2**63), 2**64, 1e308, -0.0, "\0", "\ud800", "x" * 100_000, [[[]]] * 3, {"a": {"b": {}}}]
DEEP: list[Any] = []
for _ in range(2000):
    DEEP = [DEEP]


@settings(FIXED, max_examples=20 * EXAMPLES)
@given(st.lists(st.sampled_from([*HOSTILE, DEEP]) | TREES, min_size=1, max_size=5))
def test_every_setting_is_validated_or_refused(values: list[Any]) -> None:
    for section in sections():
        for number, key in enumerate(section.model_fields):
            try:
                validate(section, "any", {key: values[number % len(values)]})
            except GenrecError as error:
                assert len(error.message) < 3000, "a value is shown in part"


@pytest.mark.parametrize("value", [10**5000, 2**63, -(2**63), "a\0b", DEEP, [[1e999]], {"a": float("nan")}], ids=type)
def test_values_that_no_later_code_can_hold_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"train\.lr must be a finite number of at most 64 bits, text or list"):
        validate(TrainConfig, "train", {"lr": value})


def test_a_path_is_text_where_the_setting_is_text(tmp_path: Path) -> None:
    layer = parse_set([f"encoder.ids={tmp_path}/my ids.txt", "encoder.path=x.npy"])
    assert validate(VectorsEncoder.Config, "encoder", layer["encoder"]).ids == f"{tmp_path}/my ids.txt"
    with pytest.raises(ConfigError, match=r"train.lr: .*valid number.*/a/path"):
        validate(TrainConfig, "train", parse_set(["train.lr=/a/path"])["train"])
    with pytest.raises(ConfigError, match="valid string") as caught:
        validate(VectorsEncoder.Config, "encoder", parse_set(["encoder.ids=2026"])["encoder"])
    assert caught.value.hint == """Quote text: --set 'encoder.ids="TEXT"'"""


FILE_FAULTS = {
    "fifo": "not a regular file",
    "folder": "not a regular file",
    "deep.toml": "not valid TOML: maximum recursion",
    "digits.toml": "not valid TOML: Exceeds the limit",
    "range.toml": "train.lr must be a finite number",
    "nul.toml": "train.metric must be",
    "escape.toml": "\\u001b[31m",
    "binary": "not valid TOML",
    "loop": "symbolic links",
}


@pytest.mark.parametrize("name", FILE_FAULTS)
def test_a_configuration_file_that_cannot_be_one_is_refused(place: Path, name: str) -> None:
    answer = within_limit(place, ["train", *VALID["train"], f"--config=files/{name}"])
    assert answer.code in (2, 3) and FILE_FAULTS[name] in answer.err, answer.err
    assert "Traceback" not in answer.err and "\x1b" not in answer.err


def test_a_large_configuration_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large.toml").write_text("#" * 2_000_000)
    with pytest.raises(UsageError, match="at most 1,048,576 bytes"):
        read_toml(tmp_path / "large.toml")


LONG = "x" * 300
LONG_NAMES = [
    ["status", f"--root={LONG}"],
    ["download", f"--dataset={LONG}", "--set=source.name=synthetic"],
    ["evaluate", f"--dataset={LONG}"],
    ["evaluate", f"--run={LONG}"],
    ["train", "--model=popular", f"--label={LONG}"],
    ["tokenize", f"--encoder=./{LONG}"],
    ["tokenize", f"--encoder={LONG}.npy"],
    ["run", f"{LONG}.toml"],
    ["run", LONG],
    ["sweep", f"{LONG}.toml"],
    ["preprocess", "--dataset=own", f"--interactions={LONG}.csv"],
    ["import", LONG],
    ["recommend", "--run=popular-s0", f"--output={LONG}.csv"],
    ["recommend", f"--users={LONG}"],
    ["train", f"--config={LONG}"],
    ["download", f"--from-dir={LONG}"],
]


@pytest.mark.parametrize("words", LONG_NAMES, ids=lambda words: " ".join(words)[:30])
def test_a_name_of_more_than_255_bytes_is_refused(place: Path, words: list[str]) -> None:
    answer = within_limit(place, [words[0], "--dataset=synthetic", *words[1:]])
    assert answer.code in (2, 4), answer.err
    assert "error" in answer.err.lower() and "Traceback" not in answer.err


@pytest.mark.parametrize("name", ["meta", "cpu:", "cuda:x", "CPU", "auto:1", "xla", "cuda:\u0663"])
@pytest.mark.parametrize("command", ["compare", "evaluate", "train"])
def test_a_device_is_checked_before_any_work(place: Path, command: str, name: str) -> None:
    """Also where nothing is computed: ``meta`` is a device of torch, on which nothing has a value."""
    answer = genrec(place, *Case(command, "--device", name).words)
    assert answer.code == 2 and f"There is no device '{name}'" in answer.err, answer.err


@pytest.mark.parametrize("root", ["data [old]", "*", "a?", "s3:bucket"])
def test_a_root_that_reads_like_a_pattern_or_an_address_is_refused(place: Path, root: str) -> None:
    answer = genrec(place, "download", *VALID["download"], f"--root={root}")
    assert answer.code == 2 and "reads like a pattern or an address" in answer.err
    assert not Path(root).exists()


# ---- what is shown ---------------------------------------------------------------------------------

ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b0m\r\x08\x7f\udcff"


def test_control_characters_are_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    said = printable(ESCAPES)
    assert said.isprintable() and "\\u001b[31mred" in said and "\\udcff" in said
    assert printable("é 日本\t|\n") == "é 日本\t|\n"
    assert json.loads(printable(json.dumps(ESCAPES, ensure_ascii=False))) == ESCAPES
    console.say(ESCAPES)
    console.warn(ESCAPES)
    console.emit({}, text=ESCAPES)
    table(ESCAPES, [ESCAPES], [[ESCAPES]], to_stdout=True)
    assert fail(UsageError(ESCAPES, hint=ESCAPES)) == 2 and fail(ValueError(ESCAPES)) == 1
    with mock.patch("tqdm.tqdm") as bar:
        console.user_bar(ESCAPES)(3)
    assert bar.call_args.kwargs["desc"] == said
    told = "".join(capsys.readouterr()) + markdown([ESCAPES], [[ESCAPES]])
    assert told == printable(told) and told.count("\\u001b[31mred") >= 10


def test_escapes_in_titles_and_ids_reach_no_terminal_and_no_page(tmp_path: Path) -> None:
    title = "\x1b[31mred\x9b0m"
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("user_id,item_id\n" + "".join(f"u{u},\x1b[3{i}m\n" for u in range(9) for i in range(7)))
    items.write_text("item_id,title\n" + "".join(f"\x1b[3{i}m,{title} {i}\n" for i in range(7)))
    answers = [
        genrec(tmp_path / "root", *words)
        for words in (
            ["preprocess", "--dataset=own", f"--interactions={log}", f"--items={items}"],
            ["train", "--model=popular"],
            ["evaluate"],
            ["recommend", "--k=3", "--keep-seen"],
            ["case-study", "--users=2"],
            ["recommend", "--k=3", "--keep-seen", "--json"],
        )
    ]
    assert [answer.code for answer in answers] == [0] * 6, answers[-1].err
    for answer in answers:
        assert (answer.out + answer.err) == printable(answer.out + answer.err)
    cases = (answers[4].path / "cases.md").read_text()
    assert "\\u001b[30m" in answers[3].out and cases == printable(cases)
    assert json.loads(answers[5].out)["recommendations"][0]["item"] == "\x1b[30m"


def test_help_keeps_square_brackets(place: Path) -> None:
    assert "[sweep]" in genrec(place, "sweep", "--help").out
    assert "genrec-cli[spark]" in genrec(place, "preprocess", "-h").out.replace("\n", " ")


# ---- streams and arguments of the process ----------------------------------------------------------


def shell(line: str, root: Path) -> subprocess.CompletedProcess[str]:
    """A line of bash in which ``genrec`` is this program; what is printed after ``code`` is its exit code."""
    environment = os.environ | {"GENREC_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    line = f'genrec() {{ {sys.executable} -m genrec_cli "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=120)


STREAMS = {
    "genrec --version; echo code $?": (0, f"genrec {__version__}"),
    "genrec --version >&-; echo code $?": (0, ""),
    "genrec list models >&- 2>&-; echo code $?": (0, ""),
    "genrec train --model=nope 2>&-; echo code $?": (2, ""),
    "genrec list models <&- | true; echo code ${PIPESTATUS[0]}": (130, ""),
    "genrec status --json | true; echo code ${PIPESTATUS[0]}": (130, ""),
    "genrec list models >/dev/full; echo code $?": (4, "No space left on device"),
    "genrec list $'\\xff\\xfe'; echo code $?": (2, "not UTF-8"),
    "genrec list models --dataset $'\\e]0;title\\a'; echo code $?": (2, "\\u001b]0;title\\u0007"),
    "GENREC_SEED=$'\\e[31m' genrec train; echo code $?": (2, "\\u001b[31m"),
    "PYTHONIOENCODING=ascii genrec list models --json | cut -c1-9; echo code $?": (0, '{"schema"'),
}


@pytest.mark.parametrize("line", STREAMS)
def test_closed_streams_and_arguments_that_are_not_text(root: Path, line: str) -> None:
    code, said = STREAMS[line]
    answer = shell(line, root)
    told = answer.stdout + answer.stderr
    assert f"code {code}\n" in answer.stdout and said in told, told
    assert not any(word in told for word in ("Traceback", "Exception ignored", "bug in genrec")), told
    assert "\x1b" not in told

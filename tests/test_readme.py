"""The README and the pages of docs/ against the program: links, commands, options, generated pages, the example.

A fence ``sh`` holds commands that must parse; a fence ``sh run`` is typed line by line, on data this file makes.
"""

import importlib.util
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from shop import TINY
from torch.distributed.run import get_args_parser
from typer.main import get_group

from genrec_cli import console, registry
from genrec_cli.cli import app, main
from genrec_cli.models.base import Model
from genrec_cli.testing import ModelContract

HOME = Path(__file__).parents[1]
PAGES = [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").rglob("*.md"))]
SMALL = {
    "download": ["--set", "source.users=300", "--set", "source.items=300"],
    "train": [*TINY, "--epochs", "2", "--device", "cpu"],
}
"""What is added to the commands of a page that are really run."""


def fences(page: Path, info: str) -> list[str]:
    """Contents of the fenced blocks with exactly this info string."""
    return re.findall(rf"^```{re.escape(info)}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)


def typed(block: str) -> Iterator[list[str]]:
    """The words of each command; lines that end in a backslash go on."""
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def split_environment(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """``A=1 genrec run`` as its variables and its command."""
    count = next((n for n, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=.*", word)), len(words))
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


def commands() -> list:
    """Every command of every page, with the page's name."""
    return [
        pytest.param(words, id=f"{page.name}: {' '.join(words)}"[:70])
        for page in PAGES
        for info in ("sh", "sh run")
        for block in fences(page, info)
        for words in typed(block)
    ]


@pytest.mark.parametrize("words", commands())
def test_a_command_on_a_page_is_one_that_exists(words: list[str]) -> None:
    variables, words = split_environment(words[1:] if words[0] == "export" else words)
    known = (HOME / "genrec_cli").rglob("*.py")
    assert variables.keys() <= set(re.findall(r"GENREC_[A-Z]+", "".join(p.read_text("utf-8") for p in known)))
    match words:
        case ["genrec", name, *rest]:
            command = get_group(app).commands[name]
            command.make_context(f"genrec {name}", rest)  # raises on an option that does not exist
        case ["torchrun", *rest]:
            given = get_args_parser().parse_args(rest)
            assert given.module and given.training_script == "genrec_cli"
            name, *rest = given.training_script_args
            get_group(app).commands[name].make_context(f"genrec {name}", rest)
        case ["make", target]:
            assert re.search(rf"^{target}:", (HOME / "Makefile").read_text("utf-8"), re.M)
        case ["pip", "install", *_] | ["uv", "pip", "install", *_]:
            pass
        case ["python", script, *_]:
            assert (HOME / script).is_file()
        case _:
            assert variables and not words, f"no such command: {shlex.join(words)}"


def test_the_job_script_is_a_script_and_its_command_exists(tmp_path: Path) -> None:
    (script,) = fences(HOME / "docs" / "scaling.md", "bash")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)
    (words,) = (words for words in typed(script) if "torchrun" in words)
    test_a_command_on_a_page_is_one_that_exists(words[words.index("torchrun") :])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        found = page.parent / path if path else page
        assert found.exists(), target
        heads = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.M) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(
        r"`((?:genrec_cli/|tests/|docs/|bench/)?\w+/[\w/]+\.(?:py|toml|md))`", page.read_text("utf-8")
    ):
        places = (HOME / name, HOME / "genrec_cli" / name)
        assert any(place.exists() for place in places) or name == "genrec_cli/models/recurrent.py", name


def test_settings_and_variables_of_the_readme_are_all_there_are() -> None:
    text = (HOME / "README.md").read_text(encoding="utf-8")
    for kind in registry.TABLE:
        for name in registry.TABLE[kind]:
            assert kind == "source" or f"`{name}`" in text, f"the README does not name the {kind} {name}"
    for name in get_group(app).commands:
        assert re.search(rf"`(genrec )?{name}\b", text), f"the README does not name the command {name}"
    given = {p.envvar for c in get_group(app).commands.values() for p in c.params if p.envvar}
    assert given <= set(re.findall(r"`(GENREC_\w+)`", text))


# ---- generated pages ------------------------------------------------------------------------------------


def script(name: str) -> ModuleType:
    """A script of docs/, imported."""
    spec = importlib.util.spec_from_file_location(name, HOME / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_of_results_are_made_of_their_data() -> None:
    found = json.loads((HOME / "docs" / "results.json").read_text(encoding="utf-8"))
    for name, page in script("make_results").pages(found).items():
        assert (HOME / "docs" / name).read_text(encoding="utf-8") == page, f"docs/{name}: python docs/make_results.py"


def test_inherited_settings_are_on_the_page_once() -> None:
    page = (HOME / "docs" / "settings.md").read_text(encoding="utf-8")
    for name in ("shared_negatives", "dense_input", "decay", "norm"):
        lines = re.findall(rf"^\| `{name}` .*$", page, re.M)
        assert lines and len(set(lines)) == len(lines), f"{name} is shown twice with one meaning"
    assert page.count("The settings of [sasrec](#model-of-sasrec)") >= 5


def test_the_generated_pages_are_up_to_date() -> None:
    for name, write in script("make_cli").PAGES.items():
        page = write()
        assert (HOME / "docs" / name).read_text(encoding="utf-8") == page, f"docs/{name}: python docs/make_cli.py"
        assert str(HOME) not in page and str(Path.home()) not in page


# ---- commands that are run ------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with the files that the pages name, and no variables of this machine."""
    for name in [name for name in os.environ if name.startswith("GENREC_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    terminate = signal.getsignal(signal.SIGTERM)
    own_data(tmp_path)
    yield tmp_path
    signal.signal(signal.SIGTERM, terminate)
    console.configure()


def own_data(folder: Path) -> None:
    """``log.csv``, ``items.csv`` and ``new.csv`` of a small shop in which the next item is the next number."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(400)]
    items = [f"i{n},{' '.join(draw.sample(words, 4))},{draw.choice(words)},kitchen\n" for n in range(200)]
    (folder / "items.csv").write_text("item_id,title,brand,categories\n" + "".join(items))
    starts = [(user, draw.randrange(200)) for user in range(240)]
    log = [
        f"u{u},i{(s + n) % 200},{1_600_000_000 + 86_400 * n}\n" for u, s in starts for n in range(draw.randint(5, 9))
    ]
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(log))
    (folder / "new.csv").write_text("user,item\nann,i3\nann,i4\nbob,i7\n")


def type_line(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line as a person types it, in this process and small; raises unless it ends with exit code 0."""
    variables, words = split_environment(words[1:] if words[0] == "export" else words)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if words:
        try:
            main([*words[1:], *SMALL.get(words[1], [])])
        except SystemExit as leaving:
            assert not leaving.code, shlex.join(words)


@pytest.mark.parametrize("number", range(len(fences(HOME / "README.md", "sh run"))))
def test_the_readme_runs(
    number: int, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in typed(fences(HOME / "README.md", "sh run")[number]):
        capsys.readouterr()
        type_line(words, monkeypatch)
        assert words[0] == "export" or capsys.readouterr().out.strip(), f"{shlex.join(words)} printed nothing"


def test_a_recipe_of_ones_own_runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of docs/data.md, whose steps name small sizes themselves."""
    (recipe,) = (text for text in fences(HOME / "docs" / "data.md", "toml") if "[recipe]" in text)
    Path("mine.toml").write_text(recipe)
    type_line(["genrec", "run", "mine.toml", *TINY, "--set", "train.epochs=2"], monkeypatch)
    assert list(Path("artifacts/mine/eval").glob("rpg-s0-test-*"))


def test_the_curriculum_of_the_page_on_training_runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (phases,) = (text for text in fences(HOME / "docs" / "train.md", "toml") if "curriculum.phase" in text)
    Path("mine.toml").write_text(phases)
    monkeypatch.setitem(SMALL, "train", [*TINY, "--epochs", "10"])
    for line in (
        "export GENREC_DATASET=synthetic",
        "genrec download",
        "genrec preprocess",
        "genrec tokenize --encoder lsa --codebooks 8 --codewords 32",
        "genrec train --model mhl --config mine.toml",
    ):
        type_line(shlex.split(line), monkeypatch)
    (log,) = Path("artifacts/synthetic/runs").glob("mhl-s0-*/log.parquet")
    assert set(pq.read_table(log)["phase"].to_pylist()) == {"warm-up", "uncertain", "alignment"}


# ---- the example models ---------------------------------------------------------------------------------


def example(number: int, name: str) -> type[Model]:
    """A class of a Python fence on docs/add-a-model.md, in a module of its own."""
    module = ModuleType(f"page_{name.lower()}")
    exec(fences(HOME / "docs" / "add-a-model.md", "python")[number], vars(module))
    sys.modules[module.__name__] = module
    return getattr(module, name)


class TestItemModelOfThePage(ModelContract):
    kind = example(0, "Recurrent")


class TestMaskedModelOfThePage(ModelContract):
    kind = example(1, "Cloze")
    learns: ClassVar = {"epochs": 8, "batch_size": 64, "lr": 1e-2, "warmup_steps": 10, "eval_every": 8}


def test_an_item_model_takes_at_most_25_lines() -> None:
    assert len(fences(HOME / "docs" / "add-a-model.md", "python")[0].splitlines()) <= 25


def test_the_example_model_trains(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TABLE["model"], "recurrent", "page_recurrent:Recurrent")
    monkeypatch.setenv("GENREC_DATASET", "mine")
    type_line(["genrec", "preprocess", "--interactions", "log.csv", "--items", "items.csv"], monkeypatch)
    for block, epochs in zip(fences(HOME / "docs" / "add-a-model.md", "sh"), ("8", "1"), strict=True):
        monkeypatch.setitem(SMALL, "train", ["--epochs", epochs, "--set", "train.warmup_steps=2"])
        for words in typed(block):
            type_line(words, monkeypatch)
    (log,) = Path("artifacts/mine/runs").glob("recurrent-s0-*/log.parquet")
    rows = pq.read_table(log).to_pylist()
    assert rows[-1]["loss/next"] < 0.9 * rows[0]["loss/next"] and rows[-1]["best"] > 2 * rows[0]["best"]

"""The tutorials of docs/: their commands are typed on a tiny shop; and the messages that docs/ explains exist."""

import ast
import random
import re
import shlex
import string
import subprocess
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from shop import Answer, genrec
from test_readme import HOME, SMALL, desk, fences, type_line, typed  # noqa: F401

DOCS = HOME / "docs"
SWEPT = ["--set", "train.epochs=1", "--set", "train.warmup_steps=2"]


def write_settings(page: Path) -> None:
    """The TOML fences of a page whose first line names their file."""
    for text in fences(page, "toml"):
        if name := re.match(r"# (\w+\.toml)\n", text):
            Path(name[1]).write_text(text)


def type_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in fences(page, "sh run"):
        for words in typed(re.sub(r"--epochs \d+", "--epochs 2", block)):
            type_line(words, monkeypatch)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("sweep", "tune"):
        monkeypatch.setitem(SMALL, command, SWEPT)


def test_the_tutorial_on_own_data_runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    page = DOCS / "tutorial-own-data.md"
    (script,) = fences(page, "python")
    exec(script.replace("range(600)", "range(150)"), {})
    Path("new.csv").write_text("user,item\nann,p3\nann,p4\nbob,p72\n")
    monkeypatch.setitem(SMALL, "train", [])
    monkeypatch.setenv("GENREC_DEVICE", "cpu")
    text = page.read_text(encoding="utf-8")
    assert Path("log.csv").read_text().splitlines()[0] in text and Path("items.csv").read_text().splitlines()[0] in text
    type_page(page, monkeypatch)
    assert pl.read_csv("lists.csv").columns == ["user", "rank", "item", "title", "score"]


def test_the_tutorial_for_researchers_runs(desk: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    pytest.importorskip("optuna")
    page = DOCS / "tutorial-researchers.md"
    write_settings(page)
    for name, old, new in (
        ("study.toml", "trials = 4", "trials = 1"),
        ("study.toml", "width = 64\ninner = 128", "width = 16\ninner = 16\nheads = 2"),
        ("table.toml", "model.width = 64, model.inner = 128", "model.width = 16, model.inner = 16, model.heads = 2"),
        ("table.toml", "epochs = 10", "epochs = 1"),
    ):
        assert old in Path(name).read_text()
        Path(name).write_text(Path(name).read_text().replace(old, new))
    type_page(page, monkeypatch)
    assert list(Path("tutorial/synthetic/sweeps").glob("table-test-*"))


# ---- a week of a shop -----------------------------------------------------------------------------------


def write_shop(users: int, items: int, days: int) -> None:
    """``log.csv``, ``items.csv`` and ``vectors.parquet``: the vector of an item depends on the item alone."""
    draw = random.Random(0)
    rows = [f"u{u},p{(u * 7 + 3 * d) % 30},{86_400 * d + u}\n" for u in range(users) for d in range(days)]
    Path("log.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    goods = [f"p{n},thing {n} {draw.choice('abcdef')}\n" for n in range(items)]
    Path("items.csv").write_text("item_id,title\n" + "".join(goods))
    ids = [f"p{n}" for n in range(items)]
    vectors = [np.random.default_rng(zlib.crc32(raw.encode())).normal(size=16).astype("float32") for raw in ids]
    pl.DataFrame({"raw_id": ids, "vector": vectors}).write_parquet("vectors.parquet")


def typed_in_the_shop(line: str, *more: str) -> Answer:
    answer = genrec(Path("artifacts"), *shlex.split(line)[1:], *more)
    assert answer.code == 0, f"{line}: {answer.err}"
    return answer


def test_a_week_of_a_shop(desk: Path) -> None:  # noqa: F811
    """Seven days and a training; then a new day with new items and the old run; a new training, and gc after it."""
    page = DOCS / "production.md"
    write_settings(page)
    recipe = Path("weekly.toml").read_text()
    sizes = "model = { width = 16, heads = 2, inner = 16 }, train = { epochs = 2, warmup_steps = 2 }"
    recipe = recipe.replace('train", model = "rpg" }', f'train", model = "rpg", set = {{ {sizes} }} }}')
    recipe = recipe.replace("codebooks = 16\ncodewords = 256", "codebooks = 4\ncodewords = 8")
    Path("weekly.toml").write_text(recipe + '\n[encoder]\nname = "vectors"\npath = "vectors.parquet"\n')
    first, second, export = ([shlex.join(w) for w in typed(block)] for block in fences(page, "sh run"))
    assert first.pop(0) == "export GENREC_DATASET=shop"

    write_shop(users=40, items=34, days=7)
    for line in first:
        typed_in_the_shop(line)
    assert {f"u{n}" for n in range(40)} == set(pl.read_csv("lists.csv")["user"])
    (run,) = Path("artifacts/shop/runs").glob("rpg-s0-*")

    write_shop(users=45, items=40, days=8)
    (daily, weekly) = (text for text in fences(page, "bash") if text.startswith("#!"))
    for script in (daily, weekly):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)
    names = {"run": str(run)}
    for name, command in re.findall(r"^(?:(\w+)=\$\()?(genrec .*?)\)?$", daily, re.M):
        more = ["--encoder", "vectors.parquet"] if command.startswith("genrec tokenize") else []
        answer = typed_in_the_shop(string.Template(command).substitute(names), "--dataset", "shop", *more)
        names |= {name: str(answer.path)} if name else {}
    lists = pl.read_csv("lists.new.csv")
    assert set(lists["user"]) == {f"u{n}" for n in range(45)}
    assert set(lists["item"]) & {f"p{n}" for n in range(34, 40)}, "no new item is in a list"

    write_shop(users=45, items=40, days=9)
    for line in second:
        typed_in_the_shop(line)
    (newer,) = Path("artifacts/shop/runs").glob("rpg-s0-*")
    assert newer != run
    assert set(pl.read_csv("lists.csv")["item"]) & {f"p{n}" for n in range(34, 40)}

    Path("new.csv").write_text("user,item\nann,p3\nann,p38\n")
    for line in export:
        assert typed_in_the_shop(line).out.strip()

    Path("weekly.toml").write_text(Path("weekly.toml").read_text().replace("epochs = 2,", "epochs = 1,"))
    Path("printed.txt").write_text(typed_in_the_shop("genrec run weekly.toml").out)  # another run of the same log
    printing = 'genrec() { if [ "$1" = run ]; then cat printed.txt; fi; }\n'
    script = printing + weekly.replace("cd /srv/shop\n", "")
    subprocess.run(["bash"], input=script, text=True, check=True, timeout=10, capture_output=True)
    (line,) = Path("run.txt").read_text().splitlines()
    others = {str(path) for path in Path("artifacts/shop/runs").glob("rpg-s0-*")} - {line}
    assert others == {str(newer)}, "the script writes the run of the recipe, not all runs of its name"


# ---- troubleshooting ------------------------------------------------------------------------------------


def texts_of_the_program() -> list[str]:
    """All texts of genrec_cli, with a null character for each value that is inserted."""
    found = []
    for path in (HOME / "genrec_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_messages_of_the_page_are_those_of_the_program() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.+)`$", page, re.M)
    assert len(messages) >= 20 and len(set(messages)) == len(messages)
    texts = texts_of_the_program()
    for message in messages:
        literal = [re.escape(part) for part in re.split(r"\b[A-Z][A-Z0-9]*\b", message)]
        pattern = re.compile("^" + "\0".join(literal), re.S)
        assert any(pattern.search(text) for text in texts), f"no message of the program begins with: {message}"

"""The commands from end to end: each twice, dry, as JSON, wrong, interrupted, killed."""

import ast
import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from shop import SMALL_SHOP, TINY, TINY_TIGER, Answer, genrec

from genrec_cli.cli.common import fail
from genrec_cli.engine.checkpoint import BEST, LAST
from genrec_cli.engine.step import TrainStep
from genrec_cli.errors import InputError
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.stages.recommend import Recommendations

SHORT_PHASES = ["--set", "curriculum.max_epochs=1"]
SMALL_GRAPH = ["--set", "search.beams=20", "--set", "search.edges=10"]
PIPELINE = {
    "download": SMALL_SHOP,
    "preprocess": ["preprocess"],
    "tokenize": ["tokenize", "--codebooks", "8", "--codewords", "16"],
    "popular": ["train", "--model", "popular"],
    "sasrec": ["train", "--model", "sasrec", "--epochs", "2", *TINY],
    "rpg": ["train", "--model", "rpg", "--curriculum", "inf", "--epochs", "2", *TINY],
    "tiger": ["train", "--model", "tiger", "--epochs", "2", *TINY_TIGER],
    "mhl": ["train", "--model", "mhl", "--curriculum", "r-e-inf", "--epochs", "3", *TINY, *SHORT_PHASES],
    "evaluate popular": ["evaluate", "--run", "popular-s0"],
    "evaluate sasrec": ["evaluate", "--run", "sasrec-s0", "--split", "valid"],
    "evaluate rpg": ["evaluate", "--run", "rpg-s0", "--at", "10,5,1"],
    "evaluate tiger": ["evaluate", "--run", "tiger-s0", "--at", "5,10,20"],
    "evaluate mhl": ["evaluate", "--run", "mhl-s0"],
    "graph": ["evaluate", "--run", "mhl-s0", "--search", "graph", *SMALL_GRAPH],
    "case-study": ["case-study", "rpg-s0", "sasrec-s0", "--users", "3"],
}


class Step(NamedTuple):
    """One command: dry, then twice."""

    dry: Answer
    made_dry: set[Path]
    """What the dry call left behind."""
    first: Answer
    second: Answer


class Walk(NamedTuple):
    root: Path
    steps: dict[str, Step]


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Walk:
    """The whole pipeline. Tests must leave its root as it is."""
    root = tmp_path_factory.mktemp("walk") / "artifacts"
    steps = {}
    for name, words in PIPELINE.items():
        before = set(root.rglob("*"))
        dry = genrec(root, *words, "--dry-run")
        made_dry = set(root.rglob("*")) - before
        steps[name] = Step(dry, made_dry, genrec(root, *words), genrec(root, *words))
    return Walk(root, steps)


@pytest.fixture
def copy(walk, tmp_path) -> Path:
    """A root of its own, with the times of all files."""
    return Path(shutil.copytree(walk.root, tmp_path / "artifacts"))


# ---- every command, twice --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIPELINE)
def test_the_second_time_is_up_to_date(walk, name):
    _, _, first, second = walk.steps[name]
    assert first.manifest["key"][:8] == first.path.name[-8:]
    assert not first.manifest["tainted"]
    assert "up to date" not in first.err
    assert (second.code, second.out) == (0, first.out)
    assert "up to date" in second.err


@pytest.mark.parametrize("name", PIPELINE)
def test_a_dry_run_names_what_it_would_make_and_makes_nothing(walk, name):
    step = walk.steps[name]
    assert step.made_dry == set()
    assert (step.dry.code, step.dry.out) == (0, step.first.out)
    assert "would be made" in step.dry.err


@pytest.mark.parametrize("name", PIPELINE)
def test_json_is_one_object_and_nothing_else(walk, name, capfd):
    answer = genrec(walk.root, *PIPELINE[name], "--json", "--quiet")
    output = json.loads(answer.out)
    assert output["path"] == walk.steps[name].first.out.strip()
    assert output["state"] == "up to date" and output["schema"] == 1 and "result" in output
    assert answer.err == ""
    assert capfd.readouterr() == ("", ""), "nothing may go around sys.stdout and sys.stderr"


def test_force_makes_the_same_again(copy):
    words = [*PIPELINE["rpg"], "--force"]
    before = genrec(copy, *PIPELINE["rpg"])
    weights = (before.path / BEST).read_bytes()
    again = genrec(copy, *words)
    assert "up to date" not in again.err and again.out == before.out
    assert (again.path / BEST).read_bytes() == weights


def test_the_curriculum_is_in_the_log(walk):
    log = pq.read_table(walk.steps["mhl"].first.path / "log.parquet")
    assert log.column("phase").to_pylist() == ["random", "entropy", "inference"]


def test_cutoffs_stand_in_order_whatever_was_typed(walk):
    step = walk.steps["evaluate rpg"]
    rows = [line.split()[0] for line in step.first.err.splitlines() if re.match(r"\w+@\d+ ", line)]
    assert rows == [f"{name}@{k}" for k in (1, 5, 10) for name in ("Recall", "NDCG", "MRR")]
    assert genrec(walk.root, "evaluate", "--run", "rpg-s0", "--at", "1,5,10").out == step.first.out


@pytest.mark.parametrize("words, allowed", [(["--help"], set()), (["train", "--help"], {"pydantic"})], ids=str)
def test_help_loads_nothing_heavy(words, allowed):
    """Typer imports pydantic for the help of a command."""
    code = (
        "import sys\nfrom genrec_cli.cli import main\n"
        f"try: main({words})\nexcept SystemExit as leaving: assert leaving.code == 0\n"
        "heavy = {'torch', 'pydantic', 'numpy', 'polars', 'pyarrow', 'sklearn', 'faiss', 'tqdm', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Usage:" in output and set(ast.literal_eval(output.splitlines()[-1])) <= allowed


def test_the_help_of_a_command_has_its_options_by_panel(tmp_path):
    out = genrec(tmp_path, "preprocess", "--help").out
    places = [out.index(f"{name}:\n") for name in ("Options", "Your own data", "Common options", "Examples")]
    assert places == sorted(places), "common options come after those of the command"
    assert out.index("Your own data") < out.index("--interactions") < out.index("Examples")
    assert "[env var: GENREC_DATASET]" in " ".join(out.split()) and "genrec-cli[spark]" in out, "brackets are kept"


# ---- recommend -------------------------------------------------------------------------------------


def test_recommend_shows_titles_in_the_terminal(walk):
    answer = genrec(walk.root, "recommend", "--run", "rpg-s0", "--k", "3")
    lines = answer.out.splitlines()
    assert lines[0].split() == ["user", "rank", "item", "title", "score"]
    assert [line.split()[1] for line in lines[1:]] == ["1", "2", "3"] * 5
    assert "--users FILE" in answer.err


def test_the_formats_hold_the_same(walk, tmp_path):
    users = tmp_path / "users.txt"
    users.write_text("U0000007\nU0000003\n")
    paths = [tmp_path / "new" / f"r.{ending}" for ending in ("csv", "tsv", "parquet", "jsonl")]
    for path in paths:
        answer = genrec(walk.root, "recommend", "--run", "sasrec-s0", "--users", users, "-o", path)
        assert answer.path == path
    rows = [json.loads(line) for line in paths[3].read_text().splitlines()]
    assert len(rows) == 20 and {row["user"] for row in rows} == {"U0000003", "U0000007"}
    assert pq.read_table(paths[2]).to_pylist() == rows
    for path, delimiter in ((paths[0], ","), (paths[1], "\t")):
        with path.open(newline="") as stream:
            found = list(csv.DictReader(stream, delimiter=delimiter))
        assert found == [{name: str(value) for name, value in row.items()} for row in rows]
    output = json.loads(genrec(walk.root, "recommend", "--run", "sasrec-s0", "--users", users, "--json").out)
    assert output["recommendations"] == rows


def test_a_file_of_columns_makes_no_rows(walk, tmp_path, monkeypatch):
    monkeypatch.setattr("genrec_cli.stages.recommend.Recommendations.rows", lambda self: pytest.fail("made rows"))
    answer = genrec(walk.root, "recommend", "--run", "popular-s0", "--k", "3", "-o", tmp_path / "all.parquet")
    assert f"{pq.read_metadata(answer.path).num_rows:,} recommendations written" in answer.err


def test_histories_never_seen_may_hold_unknown_items(walk, tmp_path):
    path, out = tmp_path / "h.csv", tmp_path / "r.jsonl"
    items = pq.read_table(data_of(walk.root) / "items.parquet").column("raw_id").to_pylist()
    path.write_text("\ufeffuser,item\n" + f"new,{items[0]}\nnew,NEVER\nnew,{items[1]}\nlost,NEVER\n")
    answer = genrec(walk.root, "recommend", "--run", "mhl-s0", "--history", path, "--k", "4", "-o", out)
    assert "2 item(s)" in answer.err and "'NEVER' of 'new'" in answer.err and "'lost'" in answer.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["user"], row["rank"]) for row in rows] == [("new", n) for n in (1, 2, 3, 4)]
    path.write_text(f"user,item\nnew,{items[0]}\nnew,{items[1]}\n")
    genrec(walk.root, "recommend", "--run", "mhl-s0", "--history", path, "--k", "4", "-o", tmp_path / "same.jsonl")
    assert (tmp_path / "same.jsonl").read_text() == out.read_text()
    words = ["--history", path, "--k", "140", "--exclude-seen", "--json"]
    unseen = json.loads(genrec(walk.root, "recommend", "--run", "mhl-s0", *words).out)
    left = {row["item"] for row in unseen["recommendations"]}
    assert left == set(items) - set(items[:2])


BAD_HISTORIES = {
    "h.csv": ["", "a,b\n1,2\n", "user,item\nu\n", "user,item\nu,NEVER\n", '"' + "x" * 140_000],
    "h.jsonl": [
        "[1]\n",
        "{\n",
        '{"user": "u"}\n',
        '{"user": null, "items": ["x"]}\n',
        '{"user": "u", "items": "x"}\n',
        '{"user": "\\ud800", "items": ["x"]}\n',
        '{"user": 1, "items": [' + "9" * 5000 + "]}\n",
        '{"user": "u", "items": []}\n',
        "[" * 100_000,
    ],
}


@pytest.mark.parametrize("name, content", [(name, c) for name, many in BAD_HISTORIES.items() for c in many])
def test_a_bad_history_is_one_clear_error(walk, tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    answer = genrec(walk.root, "recommend", "--run", "rpg-s0", "--history", path)
    assert answer.code == 3, answer.err
    assert name in answer.err or "None of the histories" in answer.err


# ---- ways out --------------------------------------------------------------------------------------

TRAIN = ["train", "--model", "rpg", *TINY]
WRONG = [
    (2, ["train", "--nope"], "--nope"),
    (2, ["trian"], "train"),
    (2, ["train", "--model", "sasrek"], "Did you mean 'sasrec'?"),
    (2, ["train", "--set", "model.name=3"], "no model '3'"),
    (2, ["train", "--model", "rpg", "--curriculum", "r-e-inf"], "--curriculum inf"),
    (2, [*TRAIN, "--label", "../x"], "--label '../x'"),
    (2, [*TRAIN, "--set", "evaluate.at=[5]"], "'genrec train' does not read"),
    (2, [*TRAIN, "--set", "train.lr"], "section.key=value"),
    (2, [*TRAIN, "--config", "absent.toml"], "absent.toml"),
    (2, [*TRAIN, "--config", "."], "cannot be read"),
    (2, [*TRAIN, "--label", "x" * 300], "At most 64"),
    (2, [*TRAIN, "--set", "train.metric=F1@3"], "as in NDCG@10"),
    (2, [*TRAIN, "--set", "train.metric=NDCG@10, unseen"], "'NDCG@10, seen left out'"),
    (2, [*TRAIN, "--device", "tpu", "--seed", "5"], "'tpu'"),
    (2, ["evaluate", "--run", "sasrec-s0", "--search", "graph"], "--search exhaustive"),
    (2, ["evaluate", "--run", "rpg-s0", "--search", "graph", "--at", "60"], "beams"),
    (2, ["evaluate", "--run", "rpg-s0", "--at", "5;10"], "--at 5,10"),
    (2, ["evaluate", "--run", "rpg-s0", "--at", "0"], "from 1 to 999,999"),
    (2, ["case-study", "rpg-s0", "rpg-s0"], "twice"),
    (2, ["recommend", "--run", "rpg-s0", "-o", "r.xls"], ".csv"),
    (2, ["recommend", "--run", "rpg-s0", "-o", "/dev/null/r.csv"], "/dev/null/r.csv"),
    (2, ["recommend", "--run", "rpg-s0", "--k", "0"], "--k"),
    (2, ["recommend", "--run", "rpg-s0", "--users", "absent.txt"], "absent.txt"),
    (3, [*TRAIN, "--set", "train.epoch=1"], "Did you mean 'epochs'?"),
    (3, [*TRAIN, "--set", "trian.lr=1"], "Did you mean 'train'?"),
    (3, [*TRAIN, "--set", "train.lr='fast'"], "given: 'fast'"),
    (3, [*TRAIN, "--set", "train.epochs=1.5"], "train.epochs"),
    (3, [*TRAIN, "--set", "model.heads=3"], "must divide the width"),
    (3, [*TRAIN, "--lr", "nan"], "train.lr must be a finite number"),
    (3, [*TRAIN, "--seed", "9" * 20], "train.seed"),
    (2, ["list", "models", "--set", "train.lr=1"], "'genrec list' does not read the section 'train'"),
    (2, ["status", "--config", "nofile.toml"], "no configuration file nofile.toml"),
    (2, ["doctor", "--set", "train.lr=1"], "It reads: no settings"),
    (2, ["figures", "--sweep", "mine", "--users", "5"], "The figure of a sweep does not read figures.users"),
    (3, ["tokenize", "--codebooks", "0"], "tokenizer.codebooks"),
    (3, ["train", "--curriculum", "e-r-x"], "r-e-inf"),
    (3, ["evaluate", "--run", "rpg-s0", "--split", "train"], "'test'"),
    (3, ["evaluate", "--run", "rpg-s0", "--set", "evaluate.batch_size=0"], "evaluate.batch_size"),
    (3, ["case-study", "rpg-s0", "--k", "0"], "case_study.k"),
    (3, ["case-study", "rpg-s0", "--user", "U000007"], "Did you mean 'U0000"),
    (4, ["evaluate"], "Choose one with --run"),
    (4, ["export", "--to", "absent"], "Choose one with genrec export NAME --to absent"),
    (4, ["serve"], "Choose one with genrec serve NAME"),
    (4, ["figures"], "Choose one with genrec figures NAME"),
    (4, ["evaluate", "--run", "rpg-s9"], "No runs 'rpg-s9'"),
    (4, ["evaluate", "--dataset", "synthetik"], "Did you mean 'synthetic'?"),
    (4, ["train", "--codes", "opq9"], "opq9"),
]


@pytest.mark.parametrize("code, words, said", WRONG, ids=[" ".join(words[-3:]) for _, words, _ in WRONG])
def test_a_mistake_has_its_exit_code_and_says_what_to_type(walk, code, words, said):
    answer = genrec(walk.root, *words)
    assert answer.code == code, answer.err
    assert answer.out == ""
    assert said in " ".join(answer.err.replace("│", " ").split())
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["preprocess", "--events", "a", "--events", "b"],
            "--events is given 2 times, and it takes one list. try: --events A,B",
        ),
        (["compare", "--metrics=NDCG@10", "--metrics=NDCG@5", "--metrics=NDCG@1"], "--metrics is given 3 times"),
        (
            ["status", "-q", "--dataset=a", "--dataset=b", "--set", "train.lr=1", "-q", "--set", "train.lr=2"],
            "does not read the section 'train'",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_option_with_a_list_is_given_once(tmp_path, words, said):
    answer = genrec(tmp_path, *words)
    assert answer.code == 2 and said in " ".join(answer.err.split()) and answer.out == ""


def test_a_root_that_is_a_file_is_refused(walk, tmp_path):
    (tmp_path / "root").write_text("")
    answer = genrec(tmp_path / "root", "download", "--dataset", "synthetic")
    assert answer.code == 2 and "--root FOLDER" in answer.err and "Traceback" not in answer.err


def test_a_full_or_closed_disk_is_no_bug(tmp_path, capsys):
    def met(error):
        return fail(error), capsys.readouterr().err

    code, said = met(OSError(errno.ENOSPC, "No space left on device", "root/x.parquet"))
    assert code == 4 and "root/x.parquet: No space left on device." in said and "--root FOLDER" in said
    assert met(PermissionError(errno.EROFS, "Read-only file system", "x"))[0] == 4
    code, said = met(pl.exceptions.ComputeError("parquet: IO error: No space left on device (os error 28)"))
    assert code == 4 and "No space left on device" in said and "Traceback" not in said
    for other in (ValueError("x"), FileNotFoundError(errno.ENOENT, "No such file", "x")):
        code, said = met(other)
        assert code == 1 and "bug" in said


def test_a_full_disk_below_the_lists_is_no_wrong_option(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("genrec_cli.stages.recommend.write_atomically", full)
    with pytest.raises(InputError, match=f"--output {tmp_path}/l.csv cannot be written: No space left") as caught:
        Recommendations({}).write(tmp_path / "l.csv")
    assert "--output FILE" in str(caught.value.hint)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    answer = genrec(tmp_path / "root", *SMALL_SHOP)
    assert answer.code == 4 and "No locks available" in answer.err and "--root FOLDER" in answer.err


def test_nothing_there_is_exit_4(tmp_path):
    for words in (["preprocess"], ["tokenize"], ["train"], ["evaluate"], ["recommend"], ["case-study"]):
        answer = genrec(tmp_path / "empty", *words)
        assert answer.code == 4 and "genrec" in answer.err
    assert not (tmp_path / "empty").exists()


def test_a_changed_byte_is_found_named_and_never_forgotten(copy):
    codebook = genrec(copy, *PIPELINE["tokenize"]).path / "codebook.safetensors"
    content = bytearray(codebook.read_bytes())
    content[-1] ^= 1
    codebook.write_bytes(content)
    for words in (PIPELINE["evaluate rpg"], PIPELINE["rpg"], ["recommend", "--run", "rpg-s0"], PIPELINE["case-study"]):
        answer = genrec(copy, *words)
        assert answer.code == 4, words
        assert str(codebook) in answer.err and "--allow-stale" in answer.err
    assert genrec(copy, *PIPELINE["evaluate sasrec"]).code == 0, "it has nothing to do with codes"
    anyway = genrec(copy, *PIPELINE["evaluate rpg"], "--allow-stale")
    assert anyway.manifest["tainted"] is True
    warning = "made from stale inputs (--allow-stale): do not report these numbers"
    assert anyway.err.count(warning) == 1
    cases = genrec(copy, *PIPELINE["case-study"], "--allow-stale")
    compared = genrec(copy, "compare", "rpg-s0", "--allow-stale")
    for answer, page in ((cases, "cases.md"), (compared, "table.md")):
        assert answer.manifest["tainted"] is True and f"warning: {warning}" in answer.err
        assert f"**M{warning[1:]}.**" in (answer.path / page).read_text()
    assert "stale" in genrec(copy, "recommend", "--run", "rpg-s0", "--allow-stale").err
    assert genrec(copy, "case-study", "--users", "1").manifest["result"]["runs"] == ["popular-s0", "sasrec-s0"]


def test_a_run_starts_anew_when_its_inputs_changed_under_the_same_recipe(walk, tmp_path):
    """Files given by hand have one key and many contents: a checkpoint of other content is not gone on from."""
    root, folder = tmp_path / "root", tmp_path / "files"
    raw = genrec(walk.root, *SMALL_SHOP).path
    folder.mkdir()
    for name in ("reviews", "meta"):
        shutil.copy(next(raw.glob(f"{name}_*.gz")), folder / f"{name}_Beauty{'_5' * (name == 'reviews')}.json.gz")
    download = ["download", "--dataset", "amazon-2014-beauty", "--from-dir", folder]
    train = [*PIPELINE["sasrec"], "--epochs", "1"]
    weights = []
    for _ in range(2):
        assert (genrec(root, *download).code, genrec(root, "preprocess").code) == (0, 0)
        answer = genrec(root, *train)
        weights.append((answer.path, (answer.path / BEST).read_bytes()))
        other = raw_of_another_shop(tmp_path)
        shutil.copy(other, folder / "reviews_Beauty_5.json.gz")
    assert weights[0][0] == weights[1][0]
    assert "starts anew" in answer.err
    assert weights[0][1] != weights[1][1]


def raw_of_another_shop(folder: Path) -> Path:
    words = ["download", "--dataset", "synthetic", "--set", "source.users=310", "--set", "source.items=150"]
    return next(genrec(folder / "other", *words).path.glob("reviews_*.gz"))


# ---- stopped and killed ----------------------------------------------------------------------------


def signal_after(monkeypatch, number: int, step: int) -> None:
    """Send this process a signal at a step of training."""
    real = TrainStep.__call__

    def counted(self, prepared, index):
        real(self, prepared, index)
        if index + 1 == step:
            signal.raise_signal(number)

    monkeypatch.setattr(TrainStep, "__call__", counted)


def test_a_signal_leaves_a_checkpoint_and_the_same_command_goes_on(copy, monkeypatch):
    """The user's own line, as it stands: full size, so it is stopped twice and not finished."""
    words = ["train", "--curriculum", "inf", "--device", "cpu"]
    for number, step in ((signal.SIGTERM, 2), (signal.SIGINT, 3)):
        signal_after(monkeypatch, number, step)
        answer = genrec(copy, *words)
        monkeypatch.undo()
        assert (answer.code, answer.out) == (130, "")
        assert f"after step {step}" in answer.err, "the second call goes on from the first"
        assert "the same command goes on" in answer.err
        run = Path(answer.err.partition("the checkpoint is ")[2].partition("\n")[0]).parent.parent
        assert (run / LAST).exists() and not (run / "manifest.json").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_best_epoch_of_an_interrupted_training_is_a_run_of_its_own(copy, monkeypatch):
    words = [*PIPELINE["rpg"], "--epochs", "6", "--label", "long"]
    whole = genrec(copy, *PIPELINE["rpg"], "--epochs", "6", "--label", "whole").path  # the same key
    steps = pq.read_table(whole / "log.parquet")["step"].to_pylist()
    whole = whole.rename(copy / whole.name)  # out of the runs: it would be copied, as it has the same key
    answer = genrec(copy, *words, "--best-so-far")
    assert answer.code == 2 and "Nothing has been trained" in answer.err
    for step, code in ((1, 2), (steps[2] + 1, 0)):
        signal_after(monkeypatch, signal.SIGTERM, step)
        assert genrec(copy, *words).code == 130
        monkeypatch.undo()
        answer = genrec(copy, *words, "--best-so-far")
        assert answer.code == code, answer.err
        assert code == 0 or "No epoch has been validated yet" in answer.err
    run = answer.path
    assert run.name.startswith("long-e3-") and run.name[-8:] != whole.name[-8:]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["config"]["stopped"] == {"epoch": 3} and manifest["result"]["best_epoch"] <= 3
    assert manifest["result"]["parameters"] == json.loads((whole / "manifest.json").read_text())["result"]["parameters"]
    assert genrec(copy, "evaluate", "--run", "long-e3", "--at", "5").code == 0
    with mock.patch("genrec_cli.stages.best_so_far.epoch_of", lambda path: 99):
        answer = genrec(copy, *words, "--best-so-far", "--force")
    assert answer.code == 4 and "is of epoch 99" in answer.err
    assert genrec(copy, *words).path.name == whole.name.replace("whole", "long")  # the training went on to its end
    answer = genrec(copy, *words, "--best-so-far")
    assert answer.code == 2 and "is finished" in answer.err


def test_a_training_whose_best_weights_are_gone_is_not_finished(copy, monkeypatch):
    words = [*PIPELINE["rpg"], "--epochs", "2", "--lr", "1e-12", "--label", "lost"]
    whole = genrec(copy, *words).path
    steps = pq.read_table(whole / "log.parquet")["step"].to_pylist()
    signal_after(monkeypatch, signal.SIGTERM, steps[0] + 1)
    assert genrec(copy, *words, "--force").code == 130
    monkeypatch.undo()
    (whole / BEST).unlink()
    answer = genrec(copy, *words)
    assert answer.code == 3 and "model.safetensors is gone" in answer.err and "--force" in answer.err
    assert not (whole / "manifest.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_elsewhere_leaves_nothing_half_made(walk, monkeypatch, number):
    before = {path.name for path in (walk.root / "synthetic" / "eval").iterdir() if path.is_dir()}
    monkeypatch.setattr(Exhaustive, "scored", lambda *given: signal.raise_signal(number))
    answer = genrec(walk.root, "evaluate", "--run", "rpg-s0", "--at", "3")
    assert (answer.code, answer.out) == (130, "")
    assert {path.name for path in (walk.root / "synthetic" / "eval").iterdir() if path.is_dir()} == before


@pytest.fixture
def one_thread(set_threads):
    set_threads(1)


@pytest.mark.parametrize("command, epochs", [(TRAIN, 40), (["train", "--model", "tiger", *TINY_TIGER], 2)])
def test_a_run_killed_in_the_middle_ends_with_the_bits_of_an_unbroken_one(
    walk, copy, tmp_path, one_thread, command, epochs
):
    words = [*command, "--device", "cpu", "--label", "killed", "--epochs", str(epochs)]
    words += ["--set", "curriculum.patience=99", "--set", "train.checkpoint_minutes=0.001"]
    other = Path(shutil.copytree(walk.root, tmp_path / "other"))
    whole = genrec(other, *words).path
    partial = copy / whole.relative_to(other)
    environment = os.environ | {"GENREC_ROOT": str(copy), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "genrec_cli", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (partial / LAST).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (partial / "manifest.json").exists()
    with safe_open(partial / LAST, framework="pt") as state:
        counters = json.loads(state.metadata()["state"])["counters"]
    assert counters["step"] > 0 and counters["epoch"] < epochs, "killed in the middle"

    assert genrec(copy, *words).path == partial
    for name in (BEST, "config.json"):
        assert (partial / name).read_bytes() == (whole / name).read_bytes(), name
    logs = [pq.read_table(path / "log.parquet").drop_columns(["seconds", "waited"]) for path in (partial, whole)]
    assert logs[0].num_rows == epochs
    assert logs[0].equals(logs[1])
    assert not any((path / LAST).parent.exists() for path in (partial, whole)), "a finished run needs no checkpoint"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_memory_that_runs_out_is_no_bug(walk, monkeypatch, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("genrec_cli.stages.evaluate.evaluate", fail)
    answer = genrec(walk.root, "evaluate", "--run", "rpg-s0", "--at", "3")
    assert answer.code == 3 and "Memory ran out" in answer.err and str(error) in answer.err
    assert "evaluate.batch_size" in answer.err and "train.micro_batch_size" in answer.err
    assert "Traceback" not in answer.err and "bug" not in answer.err


def data_of(root: Path) -> Path:
    return next((root / "synthetic" / "data").glob("k5-loo-????????"))

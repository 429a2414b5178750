"""Recipes: read strictly, typed as a user would type them, stopped at the first failure."""

import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import typer
from typer.main import get_group

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.cli import main
from genrec_cli.cli import run as cli_run
from genrec_cli.config import read_toml
from genrec_cli.errors import ConfigError, GenrecError, UsageError
from genrec_cli.stages.run import (
    COLUMNS,
    FOLDER,
    READS,
    Chain,
    aligned,
    commands,
    duration,
    folded,
    name_in_recipe,
    read_recipe,
    reads,
    recipe_names,
    rows,
    run_recipe,
)

HEAD = '[recipe]\ntitle = "T"\ndataset = "shop"\ndated = "2026-11-22"\nsteps = {steps}\n'
OPTIONS = {
    "tokenize": frozenset({"--data"}),
    "train": frozenset({"--data", "--codes"}),
    "evaluate": frozenset({"--run"}),
}


def write(folder: Path, *steps: str, more: str = "") -> Path:
    (path := folder / "mine.toml").write_text(HEAD.format(steps=json.dumps(steps)) + more)
    return path


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "root")


class FakeStages:
    """Stands in for the command line: each command makes a small artifact and prints its path."""

    KIND = {"download": "raw", "preprocess": "data", "tokenize": "codes", "train": "runs", "evaluate": "eval"}  # noqa: RUF012

    def __init__(self, ws: Workspace, fail_at: str = "", code: int = 0) -> None:
        self.ws, self.fail_at, self.code = ws, fail_at, code
        self.typed: list[list[str]] = []

    def __call__(self, words: list[str]) -> int:
        self.typed.append(words)
        if words[0] == self.fail_at:
            return self.code
        if words[0] not in self.KIND:
            print("Tripod for cameras")
            return 0
        inputs = {}
        label = words[0]
        if words[0] == "train":
            seeds = [word.removeprefix("train.seed=") for word in words if word.startswith("train.seed=")]
            label = f"{words[words.index('--model') + 1]}-s{seeds[-1] if seeds else os.environ.get('GENREC_SEED', 0)}"
        if words[0] == "evaluate":
            inputs = {"runs": self.ws.find("shop", "runs", words[words.index("--run") + 1])}
        plan = Plan("shop", self.KIND[words[0]], label, 1, {}, inputs)
        with self.ws.build(plan) as draft:
            (draft.path / "file").write_text("x")
            draft.result |= {
                "metrics": {"kept": {"Recall@10": 0.5, "NDCG@10": 0.25}, "left_out": {"NDCG@10": 0.3}},
                "users": 3,
                "epochs": 7,
                "seconds": 65.0,
            }
        path = str(self.ws.path(plan))
        print(json.dumps({"path": path}) if console.json_mode() else path)
        return 0


def chain(ws: Workspace, path: Path, invoke: FakeStages, *assigned: str):
    recipe = read_recipe(str(path))
    lines = commands(recipe, ["--dataset", "shop"], assigned)
    return recipe, run_recipe(ws, recipe, lines, invoke, lambda name: OPTIONS.get(name, frozenset()))


# ---- the recipes that come with the package ------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_sound(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.head.title and recipe.head.dated and recipe.steps
    read_toml(recipe.path)  # its sections are those of the stages
    for model, published in recipe.head.expected.items():
        assert set(published) <= set(COLUMNS) and all(0 < value < 1 for value in published.values())
        assert recipe.head.cite, f"{name}: a number of {model} without a source"
        assert any(f"--model {model}" in shlex.join(step) for step in recipe.steps)


@pytest.mark.parametrize("name", recipe_names())
def test_every_step_is_a_command_line_that_parses(name: str) -> None:
    from genrec_cli.cli import app

    recipe = read_recipe(name)
    for line in commands(recipe, ["--dataset", recipe.head.dataset, "--config", str(recipe.path)]):
        command = get_group(app).commands[line[0]]
        command.make_context("genrec", line[1:])  # raises on an option that does not exist


@pytest.mark.parametrize("name", recipe_names())
def test_what_a_recipe_says_to_type_next_parses(name: str) -> None:
    from genrec_cli.cli import app

    recipe = read_recipe(name)
    for line in recipe.head.next:
        words = shlex.split(line.replace("{at}", "--dataset shop"), comments=True)
        assert words[0] == "genrec" and "#" in line, "a command and what it does"
        get_group(app).commands[words[1]].make_context("genrec", words[2:])
        if "--run" in words:
            label = words[words.index("--run") + 1]
            assert f"--model {label.removesuffix('-s0')}" in "\n".join(recipe.head.steps)


@pytest.mark.parametrize("name", recipe_names())
def test_every_section_of_a_recipe_is_read_by_a_step(name: str) -> None:
    recipe = read_recipe(name)
    read = {section for step in recipe.steps for section in reads(step)}
    assert set(read_toml(recipe.path)) - {"recipe"} <= read


@pytest.mark.parametrize("name", ["sports-mdgr", "toys-mdgr", "sweeps/mdgr-codes", "sweeps/mdgr-decoding",
                                  "sweeps/mdgr-noise"])  # fmt: skip
def test_settings_of_mdgr_that_were_found_on_beauty_hold_wherever_it_is_trained(name: str) -> None:
    found, beauty = (read_toml(FOLDER / f"{one}.toml") for one in (name, "beauty-mdgr"))
    sweep = found.get("sweep", {})
    rows = [sweep.get("grid", {}), *(row["set"] for row in sweep.get("run", []))]
    varied = {(section, key) for row in rows for section, keys in row.items() for key in keys}
    for section in ("model", "train", "noise", "decoder"):
        for key, value in beauty[section].items():
            if (section, key) not in varied and key != "stride":
                assert found[section][key] == value, f"{section}.{key}"


def test_the_recipes_of_the_readme_are_there() -> None:
    assert {"quickstart", "beauty-rpg", "beauty-sasrec", "toys-rpg", "sports-rpg"} <= set(recipe_names())


# ---- reading -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[train]\nlr = 1.0\n", r"no \[recipe\] table"),
        ("recipe = 3", r"no \[recipe\] table"),
        ("[recipe", "not valid TOML"),
        (
            HEAD.format(steps="[]") + "stepz = 3\n",
            r"recipe\.stepz: there is no such key\. Did you mean 'steps'",
        ),
        (HEAD.format(steps='"download"'), r"recipe\.steps"),
        (HEAD.format(steps='["dwnload"]'), "Did you mean 'download'"),
        (HEAD.format(steps='["run quickstart"]'), "cannot begin with 'run'"),
        (HEAD.format(steps='[""]'), "cannot begin with ''"),
        (HEAD.format(steps='["train \'open"]'), "cannot be split"),
        (HEAD.format(steps='["train --root=/elsewhere"]'), "must leave --root"),
        (HEAD.format(steps='["train --dataset x"]'), "must leave --dataset"),
    ],
)
def test_a_bad_recipe_is_refused_by_name_before_anything_runs(tmp_path: Path, content: str, message: str) -> None:
    (path := tmp_path / "mine.toml").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(str(path))
    assert str(path) in caught.value.message and caught.value.exit_code == 3


def test_an_unknown_recipe_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean 'quickstart'") as caught:
        read_recipe("quikstart")
    assert "beauty-rpg" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no recipe file"):
        read_recipe("absent.toml")


# ---- typing --------------------------------------------------------------------------------------------


def test_a_set_reaches_the_steps_that_read_it(tmp_path: Path) -> None:
    recipe = read_recipe(str(write(tmp_path, "download", "train --set train.epochs=3", "evaluate")))
    lines = commands(recipe, ["-q"], ["train.epochs=1", "source.users=9"], from_dir=Path("raw files"))
    assert lines == [
        ["download", "-q", "--set", "source.users=9", "--from-dir", "raw files"],
        ["train", "--set", "train.epochs=3", "-q", "--set", "train.epochs=1"],
        ["evaluate", "-q"],
    ]
    with pytest.raises(UsageError, match="No step of 'mine' reads the section 'encoder'"):
        commands(recipe, [], ["encoder.name=lsa"])
    with pytest.raises(UsageError, match="downloads anything"):
        commands(replace(recipe, steps=recipe.steps[1:]), [], from_dir=Path("raw files"))


def test_a_set_of_decoding_reaches_the_models_that_have_some(tmp_path: Path) -> None:
    recipe = read_recipe(str(write(tmp_path, "train --model rpg", "train --model tiger", "evaluate --decoder graph")))
    lines = commands(recipe, [], ["decoder.beams=9"])
    assert ["decoder.beams=9" in line for line in lines] == [False, True, True]


def test_the_table_of_sections_agrees_with_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask each command itself: one that does not read a section refuses a ``--set`` of it by name."""
    from genrec_cli.cli import app, common

    asked: dict[str, list[str]] = {}

    class AskedError(GenrecError):
        pass

    def layers(self: object, command: str, sections: list[str], named: object) -> None:
        asked[command] = list(sections)
        raise AskedError("enough")

    monkeypatch.setattr(common.Common, "layers", layers)
    for command, sections in READS.items():
        needed = [p for p in get_group(app).commands[command].params if p.required]
        words = [command, "--dataset", "synthetic", *("x" for _ in needed)]
        with pytest.raises(GenrecError):
            app(args=words, standalone_mode=False)
        assert set(asked.get(command, ["never asked"])) == set(sections), command


# ---- running -------------------------------------------------------------------------------------------


def test_later_steps_use_what_earlier_steps_made(tmp_path: Path, ws: Workspace) -> None:
    other = FakeStages(ws)
    for words in (["preprocess"], ["train", "--model", "rpg"]):
        other(words)
    with ws.build(Plan("shop", "runs", "rpg-s0", 1, {"another": "run"})):
        pass  # the label rpg-s0 alone is ambiguous now
    invoke = FakeStages(ws)
    steps = (
        "download",
        "preprocess",
        "tokenize",
        "train --model rpg",
        "evaluate --run rpg-s0",
        "recommend --k 5",
    )
    _, (code, made) = chain(ws, write(tmp_path, *steps), invoke)
    assert code == 0 and [words[0] for words in invoke.typed] == [step.split()[0] for step in steps]
    by_name = {words[0]: words for words in invoke.typed}
    data, codes = made.by_kind["data"].path.name, made.by_kind["codes"].path.name
    assert by_name["tokenize"][-2:] == ["--data", data]
    assert by_name["train"][-4:] == ["--data", data, "--codes", codes]
    assert by_name["evaluate"][1:3] == ["--run", made.by_label["rpg-s0"].path.name]
    assert len(made.evals) == 1 and made.evals[0].kind == "eval"


@pytest.mark.parametrize("by", ["environment", "set"])
def test_with_another_seed_later_steps_use_the_runs_of_that_seed(
    by: str, tmp_path: Path, ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeStages(ws)(["train", "--model", "rpg"])  # rpg-s0 of another day must not be used
    if by == "environment":
        monkeypatch.setenv("GENREC_SEED", "7")
    invoke = FakeStages(ws)
    path = write(tmp_path, "train --model rpg", "evaluate --run rpg-s0", "recommend --run=rpg-s0")
    recipe, (code, made) = chain(ws, path, invoke, *(["train.seed=7"] if by == "set" else []))
    used = invoke.typed[1][2]
    assert code == 0 and used.startswith("rpg-s7-") and used == made.by_label["rpg-s0"].path.name
    assert invoke.typed[2][1] == f"--run={used}"
    assert [row["model"] for row in rows(recipe, made)] == ["rpg-s7"]
    assert cli_run._next("genrec recommend --run rpg-s0 {at}", "--dataset shop", made) == (
        "genrec recommend --run rpg-s7 --dataset shop"
    )


@pytest.mark.parametrize(
    ("step", "more", "name"),
    [
        ("train --model rpg", "", "rpg-s0"),
        ("train --model=rpg --seed 3", "[train]\nseed = 2\n", "rpg-s3"),
        ("train", "[train]\nseed = 2\n", "mhl-s2"),
        ("train --set train.seed=1 --set train.seed=4", '[model]\nname = "tiger"\n', "tiger-s4"),
        ("train --model rpg --label words", "", "words"),
    ],
)
def test_the_name_of_a_run_is_what_the_recipe_alone_gives(tmp_path: Path, step: str, more: str, name: str) -> None:
    recipe = read_recipe(str(write(tmp_path, step, more=more)))
    assert name_in_recipe(recipe, recipe.steps[0]) == name


def test_a_step_that_names_no_run_uses_the_one_that_was_made(tmp_path: Path, ws: Workspace) -> None:
    FakeStages(ws)(["train", "--model", "sasrec"])  # two runs lie there then
    invoke = FakeStages(ws)
    _, (code, made) = chain(ws, write(tmp_path, "train --model rpg", "evaluate"), invoke)
    assert code == 0 and invoke.typed[1][-2:] == ["--run", made.by_kind["runs"].path.name]


def test_an_input_chosen_by_the_step_is_left_alone(tmp_path: Path, ws: Workspace) -> None:
    invoke = FakeStages(ws)
    chain(ws, write(tmp_path, "preprocess", "tokenize --data mine"), invoke)
    assert invoke.typed[1] == ["tokenize", "--data", "mine", "--dataset", "shop"]


def test_it_stops_at_the_first_failure_with_its_exit_code(
    tmp_path: Path, ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure()
    invoke = FakeStages(ws, fail_at="tokenize", code=4)
    _, (code, made) = chain(ws, write(tmp_path, "preprocess", "tokenize", "train --model rpg"), invoke)
    assert code == 4 and [words[0] for words in invoke.typed] == ["preprocess", "tokenize"]
    err = capsys.readouterr().err
    assert "[2/3] genrec tokenize \\\n        --dataset shop --data preprocess-" in err and "exit code 4" in err
    assert set(made.by_kind) == {"data"}


def test_a_stop_that_was_asked_for_is_no_failure(
    tmp_path: Path, ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure()
    _, (code, _) = chain(ws, write(tmp_path, "preprocess", "tokenize"), FakeStages(ws, fail_at="tokenize", code=130))
    err = capsys.readouterr().err
    assert code == 130 and "step 2 of 2 of 'mine' was stopped" in err
    assert "goes on from there" in err and "warning" not in err


def test_a_folded_line_is_the_same_command() -> None:
    words = ["train", "--label", "two words", "--dataset", "my shop", "--codes", "opq-1"]
    line = folded(words, 3)
    assert line.count("\n") == 1 and shlex.split(line.replace("\\\n", " ")) == ["genrec", *words]
    assert folded(["status"], 1) == "genrec status"


def test_results_stay_on_stdout_and_talk_on_stderr(
    tmp_path: Path, ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure()
    _, (_, made) = chain(ws, write(tmp_path, "preprocess", "recommend"), FakeStages(ws))
    out = capsys.readouterr().out.splitlines()
    assert out == [str(made.by_kind["data"].path), "Tripod for cameras"]


def test_with_json_stdout_is_left_for_one_object(
    tmp_path: Path, ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure(as_json=True)
    try:
        _, (_, made) = chain(ws, write(tmp_path, "preprocess", "recommend"), FakeStages(ws))
    finally:
        console.configure()
    assert capsys.readouterr().out == ""
    assert made.outputs == [{"command": "preprocess", "path": str(made.by_kind["data"].path)}]


def test_the_table_sets_the_published_number_beside_ours(tmp_path: Path, ws: Workspace) -> None:
    more = '[recipe.expected.rpg]\n"Recall@10" = 0.0745\n'
    steps = (
        "train --model popular",
        "train --model rpg",
        "evaluate --run popular-s0",
        "evaluate --run rpg-s0",
    )
    recipe, (_, made) = chain(ws, write(tmp_path, *steps, more=more), FakeStages(ws))
    table = rows(recipe, made)
    assert [row["model"] for row in table] == ["popular-s0", "rpg-s0", "rpg, published"]
    assert [row["Recall@10"] for row in table] == [0.5, 0.5, 0.0745]
    assert rows(recipe, Chain()) == [] and table[1]["MRR@10"] is None and table[2]["NDCG@10"] is None
    assert [(row["users"], row["epochs"], row["train_seconds"]) for row in table[1:]] == [(3, 7, 65.0), (None,) * 3]


def test_comments_stand_below_each_other() -> None:
    found = aligned(["genrec status # what", "genrec list runs     # which", "genrec doctor"])
    assert found == ["genrec status      # what", "genrec list runs   # which", "genrec doctor"]


def test_durations_read_well() -> None:
    assert [duration(s) for s in (None, 0.4, 59.7, 125, 11_225)] == [
        "-",
        "0 s",
        "1 min 00 s",
        "2 min 05 s",
        "3 h 07 min",
    ]


def test_published_numbers_of_another_data_set_are_left_out(tmp_path: Path, ws: Workspace) -> None:
    more = '[recipe.expected.rpg]\n"Recall@10" = 0.0745\n'
    path = write(tmp_path, "train --model rpg", "evaluate --run rpg-s0", more=more)
    _, (_, made) = chain(ws, path, FakeStages(ws))
    path.write_text(path.read_text().replace('dataset = "shop"', 'dataset = "elsewhere"'))
    assert [row["model"] for row in rows(read_recipe(str(path)), made)] == ["rpg-s0"]


def test_a_label_is_not_an_input_of_training(tmp_path: Path, ws: Workspace) -> None:
    invoke = FakeStages(ws)
    chain(ws, write(tmp_path, "train --model rpg", "train --model rpg --label rpg-s0 --data=mine"), invoke)
    assert invoke.typed[1] == [
        "train",
        "--model",
        "rpg",
        "--label",
        "rpg-s0",
        "--data=mine",
        "--dataset",
        "shop",
    ]


def test_an_evaluation_of_an_unknown_form_does_not_break_the_table(tmp_path: Path, ws: Workspace) -> None:
    with ws.build(plan := Plan("shop", "eval", "odd", 1, {})):
        pass
    odd = ws.read(ws.path(plan))
    assert isinstance(odd, Artifact)
    row = rows(read_recipe(str(write(tmp_path, "evaluate"))), Chain(evals=[odd]))[0]
    assert row["model"].startswith("odd-") and row["users"] is None and row["epochs"] is None


# ---- the command ---------------------------------------------------------------------------------------


def test_the_dry_run_prints_lines_to_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    app.command("other")(lambda: None)
    cli_run.register(app)
    path = write(tmp_path, "download", "train --model rpg")
    app(
        ["run", str(path), "--dry-run", "--root", str(tmp_path / "r"), "--dataset", "mine"],
        standalone_mode=False,
    )
    out = capsys.readouterr().out.splitlines()
    shared = f"--dataset mine --root {tmp_path / 'r'} --config {path}"
    assert out == [f"genrec download {shared}", f"genrec train --model rpg {shared}"]
    assert not (tmp_path / "r").exists()


def test_the_option_wins_over_the_recipe_and_the_recipe_over_the_environment(tmp_path: Path, capsys) -> None:
    path = write(tmp_path, "download")
    with mock.patch.dict(os.environ, {"GENREC_DATASET": "elsewhere"}):
        for words, expected in (([], "shop"), (["--dataset", "mine"], "mine"), (["--dataset=shop"], "shop")):
            with pytest.raises(SystemExit):
                main(["run", str(path), "--dry-run", *words])
            assert f"genrec download --dataset {expected} " in capsys.readouterr().out


def test_a_step_is_recorded_as_if_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("genrec_cli.cli.main", lambda words: seen.append(sys.argv) or sys.exit(5))
    before = sys.argv
    assert cli_run._invoke(["train", "--model", "rpg"]) == 5
    assert seen == [["genrec", "train", "--model", "rpg"]] and sys.argv is before


def test_the_whole_command_ends_with_the_table_and_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command("other")(lambda: None)
    cli_run.register(app)
    root = tmp_path / "root"
    monkeypatch.setattr(cli_run, "_invoke", FakeStages(Workspace(root)))
    path = write(tmp_path, "train --model rpg", "evaluate --run rpg-s0")
    text = path.read_text().replace("steps", 'next = ["genrec status {at}    # what there is"]\nsteps', 1)
    path.write_text(text)
    app(["run", str(path), "--root", str(root)], standalone_mode=False)
    found = capsys.readouterr()
    assert "T (shop), 3 users" in found.out and "1 min 05 s" in found.out and "rpg-s0" in found.out
    assert f"  genrec status --dataset shop --root {root}   # what there is" in found.err.splitlines()
    app(["run", str(path), "--root", str(root), "--json"], standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)["table"]
    assert row["epochs"] == 7 and row["users"] == 3 and row["Recall@10"] == 0.5


def test_a_root_from_the_environment_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command("other")(lambda: None)
    cli_run.register(app)
    monkeypatch.setenv("GENREC_ROOT", str(tmp_path / "r"))
    path = write(tmp_path, "download")
    app(["run", str(path), "--dry-run"], standalone_mode=False)
    assert capsys.readouterr().out.splitlines() == [f"genrec download --dataset shop --config {path}"]

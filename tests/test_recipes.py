"""Recipes: read strictly, run step by step as a user would type it, stopped at the first failure."""

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from shop import SMALL_SHOP, TINY, genrec
from typer.main import get_group

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.cli import app, main
from genrec_cli.cli import run as cli_run
from genrec_cli.cli.common import fail
from genrec_cli.config import READS, parse_set, read_toml
from genrec_cli.errors import ConfigError, InputError, Interrupted, UsageError
from genrec_cli.stages.recipe import RECIPES, Recipe, names, read_recipe, refuse_unread
from genrec_cli.stages.recipe_step import TAKES, Step, typed
from genrec_cli.stages.run import COLUMNS, Chain, aligned, duration, folded, rows, run_recipe

HEAD = '[recipe]\ntitle = "T"\ndataset = "shop"\ndated = "2026-11-22"\nsteps = {steps}\n'
STAGES = [*("download", "preprocess", "tokenize", "train", "evaluate", "recommend", "case-study")]


def write(folder: Path, *steps: str, more: str = "") -> Path:
    """A recipe whose steps are the insides of inline tables: ``stage = "train", model = "rpg"``, or a stage alone."""
    tables = [f'{{ stage = "{step}" }}' if step in STAGES else f"{{ {step} }}" for step in steps]
    (path := folder / "mine.toml").write_text(HEAD.format(steps=f"[{', '.join(tables)}]") + more)
    return path


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "root")


class FakeStages:
    """Stands in for the commands: each step makes a small artifact."""

    KIND = {"download": "raw", "preprocess": "data", "tokenize": "codes", "train": "runs", "evaluate": "eval"}  # noqa: RUF012

    def __init__(self, ws: Workspace, fail_at: str = "", error: BaseException | None = None, seed: int = 0) -> None:
        self.ws, self.fail_at, self.error, self.seed = ws, fail_at, error, seed
        self.typed: list[list[str]] = []
        self.done: list[Step] = []

    def __call__(self, step: Step, line: list[str]) -> tuple[Artifact | None, list[dict[str, Any]]]:
        self.typed.append(line)
        self.done.append(step)
        if step.stage == self.fail_at and self.error:
            raise self.error
        if step.stage not in self.KIND:
            return None, [{"recommendations": []}]
        label = step.stage if step.stage != "train" else step.label or f"{step.model}-s{self.seed}"
        inputs = {"runs": self.ws.find("shop", "runs", step.run)} if step.stage == "evaluate" else {}
        plan = Plan("shop", self.KIND[step.stage], label, 1, {}, inputs)
        with self.ws.build(plan) as draft:
            (draft.path / "file").write_text("x")
            if inputs:
                run = inputs["runs"].path.name
                draft.result |= {"run": run, "model": run.partition("-s")[0]}
            measured = {"kept": {"Recall@10": 0.5, "NDCG@10": 0.25}, "left_out": {"NDCG@10": 0.3}}
            draft.result |= {"metrics": measured, "users": 3, "epochs": 7, "seconds": 65.0}
        return self.ws.made(plan), [{"path": str(self.ws.path(plan))}]


def last(chain: Chain, kind: str) -> str:
    """The folder of the last artifact of a kind."""
    return chain.of(kind)[-1].path.name


def chain(path: Path, do: FakeStages) -> tuple[Recipe, tuple[int, Chain]]:
    recipe = read_recipe(str(path))
    return recipe, run_recipe(recipe, [["--dataset", "shop"]] * len(recipe.steps), do, fail)


def dry(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[str]:
    """The lines of a dry run."""
    with pytest.raises(SystemExit) as leaving:
        main(["run", *map(str, words), "--dry-run"])
    assert not leaving.value.code
    return capsys.readouterr().out.splitlines()


# ---- the recipes that come with the package ------------------------------------------------------------


@pytest.mark.parametrize("name", names(RECIPES))
def test_every_recipe_is_sound(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.head.title and recipe.head.dated and recipe.steps
    read_toml(recipe.path)  # its sections are those of the stages
    for model, published in recipe.head.expected.items():
        assert set(published) <= set(COLUMNS) and all(0 < value < 1 for value in published.values())
        assert recipe.head.cite, f"{name}: a number of {model} without a source"
        assert any(step.model == model for step in recipe.steps)


@pytest.mark.parametrize("name", names(RECIPES))
def test_every_step_is_a_command_line_that_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = dry(capsys, name)
    assert len(lines) == len(read_recipe(name).steps)
    for line in lines:
        words = shlex.split(line)
        command = get_group(app).commands[words[1]]
        context = command.make_context("genrec", words[2:])  # raises on an option that does not exist
        assert context.params["dataset"] == read_recipe(name).head.dataset


@pytest.mark.parametrize("name", names(RECIPES))
def test_every_run_that_a_step_names_was_trained_before(name: str) -> None:
    recipe = read_recipe(name)
    trained: set[str] = set()
    for step in recipe.steps:
        named = {label for side in step.runs for label in side.split(",")}  # a side is a run, or its seeds
        assert {step.run, *named} - {None} <= trained
        trained |= {recipe.label(step)} if step.stage in ("train", "blend") else set()


@pytest.mark.parametrize("name", names(RECIPES))
def test_what_a_recipe_says_to_type_next_parses(name: str) -> None:
    recipe = read_recipe(name)
    for line in recipe.head.next:
        words = shlex.split(line.replace("{at}", "--dataset shop"), comments=True)
        assert words[0] == "genrec" and "#" in line, "a command and what it does"
        get_group(app).commands[words[1]].make_context("genrec", words[2:])
        if "--run" in words:
            label = words[words.index("--run") + 1]
            assert any(step.model == label.removesuffix("-s0") for step in recipe.steps)


@pytest.mark.parametrize("name", names(RECIPES))
def test_every_section_of_a_recipe_is_read_by_a_step(name: str) -> None:
    recipe = read_recipe(name)
    read = {section for step in recipe.steps for section in recipe.reads(step)}
    assert set(read_toml(recipe.path)) - {"recipe"} <= read


@pytest.mark.parametrize("name", ["quickstart", "beauty"])
def test_the_models_without_training_are_the_first_rows_of_the_table(name: str) -> None:
    evaluated = [step.run for step in read_recipe(name).steps if step.stage == "evaluate"]
    order = ("popular", "transitions", "neighbours", "sasrec", "rpg", "mhl")
    assert evaluated == [f"{model}-s0" for model in order]


MDGR = ["sports-mdgr", "toys-mdgr", "sweeps/mdgr-codes", "sweeps/mdgr-decoding", "sweeps/mdgr-noise"]


@pytest.mark.parametrize("name", MDGR)
def test_settings_of_mdgr_that_were_found_on_beauty_hold_wherever_it_is_trained(name: str) -> None:
    found, beauty = (read_toml(RECIPES / f"{one}.toml") for one in (name, "beauty-mdgr"))
    sweep = found.get("sweep", {})
    rows = [sweep.get("grid", {}), *(row["set"] for row in sweep.get("run", []))]
    varied = {(section, key) for row in rows for section, keys in row.items() for key in keys}
    for section in ("model", "train", "noise", "search"):
        for key, value in beauty[section].items():
            if (section, key) not in varied and key != "stride":
                assert found[section][key] == value, f"{section}.{key}"


def test_the_recipes_of_the_readme_are_there() -> None:
    assert {"quickstart", "beauty-rpg", "beauty-sasrec", "toys-rpg", "sports-rpg"} <= set(names(RECIPES))


# ---- reading -------------------------------------------------------------------------------------------

LONG = "x" * 256


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[train]\nlr = 1.0\n", r"no \[recipe\] table"),
        ("recipe = 3", r"must be a section: write \[recipe\]"),
        ("[recipe", "not valid TOML"),
        (HEAD.format(steps="[]") + "stepz = 3\n", r"recipe\.stepz: there is no such key\. Did you mean 'steps'"),
        (HEAD.format(steps='"download"'), r"recipe\.steps"),
        (HEAD.format(steps='["download"]'), r"recipe\.steps\.0"),
        (HEAD.format(steps="[{ set = { train.lr = 1e-3 } }]"), r"step 1.stage: Field required"),
        (HEAD.format(steps='[{ stage = "dwnload" }]'), "step 1: 'dwnload' cannot be a step. Did you mean 'download'"),
        (HEAD.format(steps='[{ stage = "run" }]'), "'run' cannot be a step"),
        (HEAD.format(steps='[{ stage = "" }]'), "'' cannot be a step"),
        (HEAD.format(steps='[{ stage = "train", modell = "rpg" }]'), r"no such key\. Did you mean 'model'"),
        (HEAD.format(steps='[{ stage = "train", model = 3 }]'), r"step 1\.model"),
        (HEAD.format(steps='[{ stage = "train", model = "" }]'), r"step 1\.model"),
        (HEAD.format(steps='[{ stage = "recommend", k = 0 }]'), r"step 1\.k"),
        (HEAD.format(steps='[{ stage = "train", root = "/elsewhere" }]'), "root: there is no such key"),
        (HEAD.format(steps='[{ stage = "train", dataset = "x" }]'), "dataset: there is no such key"),
        (HEAD.format(steps='[{ stage = "evaluate", model = "rpg" }]'), "the stage 'evaluate' takes no 'model'"),
        (HEAD.format(steps='[{ stage = "evaluate", set = { model.width = 8 } }]'), "'evaluate' cannot set 'model'"),
        (HEAD.format(steps='[{ stage = "train", set = { lr = 1e-3 } }]'), "write section.key, not 'lr'"),
        (HEAD.format(steps=f'[{{ stage = "train", label = "{LONG}" }}]'), r"step 1\.label"),
        (HEAD.format(steps='[{ stage = "train", label = "../up" }]'), r"step 1\.label"),
        (HEAD.format(steps=f'[{{ stage = "evaluate", run = "{LONG}" }}]'), "at most 255 bytes, this one has 256"),
        (HEAD.format(steps='[{ stage = "evaluate", run = "' + "é" * 200 + '" }]'), "this one has 400"),
        (HEAD.format(steps=f'[{{ stage = "preprocess", interactions = "a/{LONG}" }}]'), "this one has 256"),
        (HEAD.format(steps="[]").replace("shop", LONG), r"recipe\.dataset: .*this one has 256"),
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
    for name in ("absent.toml", f"{LONG}.toml"):
        with pytest.raises(UsageError, match=name):
            read_recipe(name)
    with pytest.raises(UsageError, match="There is no recipe"):
        read_recipe(LONG)


def test_each_table_says_which_command_is_for_it() -> None:
    with pytest.raises(ConfigError, match=r"no \[recipe\] table") as caught:
        read_recipe(str(RECIPES / "sweeps" / "tokenizers.toml"))
    assert "genrec sweep" in str(caught.value.hint)


# ---- the line of a step --------------------------------------------------------------------------------

VALUES: list[Any] = ["lsa", "a b", "true", "3", "1e-3", "inf", 'it\'s "so"', "sentence-t5/base", "", 3, 2e-3, True]
VALUES += [["title", "brand"], [], [{"mask": "none", "until": {"epochs": 3}}], "2014-01-31", "é\n\t\\"]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_setting_of_a_step_is_read_again_as_it_was(value: Any) -> None:
    """The printed line, split as a shell splits it, sets the very value of the recipe."""
    step = Step(stage="train", set={"train": {"lr": value}})
    words = shlex.split(shlex.join(step.words))
    assert words[:2] == ["train", "--set"] and parse_set(words[2:]) == {"train": {"lr": value}}


def test_words_need_no_quotes_where_they_are_read_as_text() -> None:
    assert Step(stage="train", set={"curriculum.preset": "r-inf"}).words[-1] == "curriculum.preset=r-inf"
    assert Step(stage="train", set={"curriculum.preset": "true"}).words[-1] == 'curriculum.preset="true"'


def test_options_are_typed_as_the_commands_have_them() -> None:
    step = Step(stage="case-study", runs=("a", "b"), set={"case_study": {"users": 4}})
    assert step.words == ["case-study", "a", "b", "--set", "case_study.users=4"]
    step = Step(stage="preprocess", interactions="my log.csv", items="items.csv")
    assert step.words == ["preprocess", "--interactions", "my log.csv", "--items", "items.csv"]
    given = {"from_dir": Path("raw files"), "seed": 0, "force": True, "json": False, "device": None, "set": ["a", "b"]}
    assert typed(given) == ["--from-dir", "raw files", "--seed", "0", "--force", "--set", "a", "--set", "b"]


@pytest.mark.parametrize("stage", TAKES)
def test_a_step_takes_options_of_its_command(stage: str) -> None:
    assert set(TAKES[stage]) <= {parameter.name for parameter in get_group(app).commands[stage].params}
    assert set(TAKES) <= set(READS) and set(TAKES[stage]) <= set(Step.model_fields)


def test_a_set_reaches_the_steps_that_read_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "download", 'stage = "train", set = { train.epochs = 3 }', "evaluate")
    words = ["--set", "train.epochs=1", "--set", "source.users=9", "--from-dir", "raw files", "-q"]
    shared = f"--dataset shop --config {path} --quiet"
    assert dry(capsys, path, *words) == [
        f"genrec download {shared} --set source.users=9 --from-dir 'raw files'",
        f"genrec train --set train.epochs=3 {shared} --set train.epochs=1",
        f"genrec evaluate {shared}",
    ]
    recipe = read_recipe(str(path))
    with pytest.raises(UsageError, match="No step of 'mine' reads the section 'encoder'"):
        refuse_unread(recipe, ["encoder.name=lsa"], None)
    without = replace(recipe, steps=recipe.steps[1:])
    with pytest.raises(UsageError, match="downloads anything"):
        refuse_unread(without, [], Path("raw files"))


def test_a_set_of_decoding_reaches_the_models_that_have_some(tmp_path: Path) -> None:
    models = 'stage = "train", models = ["popular", "rpg", "tiger"], evaluated = true'
    graph = 'stage = "evaluate", run = "rpg-s0", set = { evaluate.search = "graph" }'
    recipe, beams = read_recipe(str(write(tmp_path, models, graph, "evaluate"))), "search.beams=9"
    read = [(step.stage, step.model or step.run) for step in recipe.steps if recipe.assigned_to(step, [beams])]
    assert read == [("train", "tiger"), ("evaluate", "tiger-s0"), ("evaluate", "rpg-s0"), ("evaluate", None)]
    given = ["evaluate.search=graph", beams]
    assert [recipe.assigned_to(step, given) for step in recipe.steps if step.run == "rpg-s0"] == [given, given]


def test_source_is_read_with_ones_own_files_only(tmp_path: Path) -> None:
    folder = 'stage = "preprocess", source = "movielens", from_dir = "ml-100k"'
    recipe = read_recipe(str(write(tmp_path, "preprocess", 'stage = "preprocess", interactions = "log.csv"', folder)))
    own = ("preprocess", "source")
    assert [recipe.reads(step) for step in recipe.steps] == [("preprocess",), own, own]


@pytest.mark.parametrize("command", READS)
def test_the_table_of_sections_agrees_with_the_commands(command: str, tmp_path: Path) -> None:
    """Ask each command itself: it refuses a ``--set`` of a section that it does not read, and of no other."""
    (tmp_path / "synthetic" / "raw").mkdir(parents=True)
    needed = [p for p in get_group(app).commands[command].params if p.required]
    words = [command, "--dataset", "synthetic", *("x" for _ in needed)]
    words += ["--interactions", "absent.csv"] if command == "preprocess" else []
    for section in set().union(*READS.values()):
        task = ["--task", "reconstruct"] if (command, section) == ("evaluate", "reconstruct") else []
        answer = genrec(tmp_path, *words, *task, "--set", f"{section}.x=1")
        refused = f"'genrec {command}' does not read the section '{section}'" in answer.err
        assert answer.code and refused == (section not in READS[command]), answer.err


# ---- running -------------------------------------------------------------------------------------------


def test_later_steps_use_what_earlier_steps_made(tmp_path: Path, ws: Workspace) -> None:
    other = FakeStages(ws)
    for step in (Step(stage="preprocess"), Step(stage="train", model="rpg")):
        other(step, [])
    with ws.build(Plan("shop", "runs", "rpg-s0", 1, {"another": "run"})):
        pass  # the label rpg-s0 alone is ambiguous now
    do = FakeStages(ws)
    steps = (
        "download",
        "preprocess",
        "tokenize",
        'stage = "train", model = "rpg"',
        'stage = "evaluate", run = "rpg-s0"',
        'stage = "recommend", k = 5',
    )
    _, (code, made) = chain(write(tmp_path, *steps), do)
    assert code == 0 and [words[0] for words in do.typed] == [*STAGES[:6]]
    by_name = {words[0]: words for words in do.typed}
    data, codes, run = last(made, "data"), last(made, "codes"), made.runs["rpg-s0"].path.name
    assert by_name["preprocess"][-2:] == ["--raw", last(made, "raw")]
    assert by_name["tokenize"][-2:] == ["--data", data]
    assert by_name["train"][-4:] == ["--data", data, "--codes", codes]
    assert by_name["evaluate"][1:3] == ["--run", run]
    assert by_name["recommend"] == ["recommend", "--k", "5", "--dataset", "shop", "--run", run]
    assert len(made.of("eval")) == 1
    given = {step.stage: step.options for step in do.done}
    assert given["train"] == {"model": "rpg", "data": data, "codes": codes}, "what is typed is what is done"
    assert given["evaluate"] == {"run": run} and given["recommend"] == {"run": run, "k": 5}


def test_with_another_seed_later_steps_use_the_runs_of_that_seed(tmp_path: Path, ws: Workspace) -> None:
    FakeStages(ws)(Step(stage="train", model="rpg"), [])  # rpg-s0 of another day must not be used
    do = FakeStages(ws, seed=7)
    steps = ('stage = "train", model = "rpg"', 'stage = "evaluate", run = "rpg-s0"', 'stage = "recommend"')
    recipe, (code, made) = chain(write(tmp_path, *steps, 'stage = "case-study", runs = ["rpg-s0"]'), do)
    used = do.typed[1][2]
    assert code == 0 and used.startswith("rpg-s7-") and used == made.runs["rpg-s0"].path.name
    assert do.typed[2][-1] == used and do.typed[3][1] == used
    assert [row["model"] for row in rows(recipe, made)] == ["rpg-s7"]
    assert cli_run._next("genrec recommend --run rpg-s0 {at}", "--dataset shop", made) == (
        "genrec recommend --run rpg-s7 --dataset shop"
    )


@pytest.mark.parametrize(
    ("step", "more", "name"),
    [
        ('stage = "train", model = "rpg"', "", "rpg-s0"),
        ('stage = "train", model = "rpg", set = { train.seed = 3 }', "[train]\nseed = 2\n", "rpg-s3"),
        ("train", "[train]\nseed = 2\n", "mhl-s2"),
        ('stage = "train", set = { "train.seed" = 4 }', '[model]\nname = "tiger"\n', "tiger-s4"),
        ('stage = "train", set = { model.name = "sasrec" }', '[model]\nname = "tiger"\n', "sasrec-s0"),
        ('stage = "train", model = "rpg", label = "words"', "", "words"),
    ],
)
def test_the_name_of_a_run_is_what_the_recipe_alone_gives(tmp_path: Path, step: str, more: str, name: str) -> None:
    recipe = read_recipe(str(write(tmp_path, step, more=more)))
    assert recipe.label(recipe.steps[0]) == name


def test_a_step_that_names_no_run_uses_the_one_that_was_made(tmp_path: Path, ws: Workspace) -> None:
    FakeStages(ws)(Step(stage="train", model="sasrec"), [])  # two runs lie there then
    do = FakeStages(ws)
    _, (code, made) = chain(write(tmp_path, 'stage = "train", model = "rpg"', "evaluate"), do)
    assert code == 0 and do.typed[1][-2:] == ["--run", last(made, "runs")]


def test_an_input_chosen_by_the_step_is_left_alone(tmp_path: Path, ws: Workspace) -> None:
    do = FakeStages(ws)
    chain(write(tmp_path, "preprocess", 'stage = "tokenize", data = "mine"'), do)
    assert do.typed[1] == ["tokenize", "--data", "mine", "--dataset", "shop"]


def test_vectors_are_those_behind_the_last_codes(tmp_path: Path, ws: Workspace) -> None:
    for label in ("lsa", "other"):
        with ws.build(Plan("shop", "vectors", label, 1, {})):
            pass
    vectors = ws.find("shop", "vectors", "lsa")
    with ws.build(plan := Plan("shop", "codes", "opq", 1, {}, {"vectors": vectors})):
        pass
    made = Chain(made=[ws.made(plan)])
    assert made.inputs(Step(stage="train")) == {"codes": plan.name, "vectors": vectors.path.name}
    assert made.inputs(Step(stage="train", codes="mine")) == {}
    assert made.inputs(Step(stage="train", vectors="other")) == {"codes": plan.name}
    assert made.inputs(Step(stage="evaluate")) == {}


def test_a_recipe_without_a_training_recommends_on_its_own_data(tmp_path: Path, ws: Workspace) -> None:
    FakeStages(ws)(Step(stage="train", model="rpg"), [])  # an earlier day
    do = FakeStages(ws)
    steps = "preprocess", 'stage = "tokenize", codebook_from = "rpg-s0"', 'stage = "recommend", run = "rpg-s0"'
    _, (code, made) = chain(write(tmp_path, *steps), do)
    assert code == 0 and do.done[1].codebook_from == "rpg-s0"
    assert (do.done[2].run, do.done[2].data) == ("rpg-s0", last(made, "data"))
    do = FakeStages(ws, seed=1)
    _, (code, made) = chain(write(tmp_path, "preprocess", 'stage = "train", model = "rpg"', "recommend"), do)
    assert (do.done[2].run, do.done[2].data) == (last(made, "runs"), None), "the run knows its data"


def test_a_run_starts_from_one_of_the_recipe(tmp_path: Path, ws: Workspace) -> None:
    FakeStages(ws)(Step(stage="train", model="rpg"), [])
    with ws.build(Plan("shop", "runs", "rpg-s0", 1, {"another": "run"})):
        pass  # the label rpg-s0 alone is ambiguous now
    do = FakeStages(ws)
    steps = ('stage = "train", model = "rpg"', 'stage = "train", model = "mdgr", init_from = "rpg-s0"')
    _, (code, made) = chain(write(tmp_path, *steps), do)
    assert code == 0
    assert do.typed[1][:5] == ["train", "--model", "mdgr", "--init-from", made.runs["rpg-s0"].path.name]
    assert do.done[1].options["init_from"] == made.runs["rpg-s0"].path.name


def test_ones_own_files_need_no_raw_ones(tmp_path: Path, ws: Workspace) -> None:
    do = FakeStages(ws)
    chain(write(tmp_path, "download", 'stage = "preprocess", interactions = "log.csv"'), do)
    assert do.typed[1] == ["preprocess", "--interactions", "log.csv", "--dataset", "shop"]


def test_it_stops_at_the_first_failure_with_its_exit_code(
    tmp_path: Path, ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure()
    do = FakeStages(ws, fail_at="tokenize", error=InputError("Something is gone.", hint="genrec status"))
    path = write(tmp_path, "preprocess", "tokenize", 'stage = "train", model = "rpg"')
    _, (code, made) = chain(path, do)
    assert code == 4 and [words[0] for words in do.typed] == ["preprocess", "tokenize"]
    err = capsys.readouterr().err
    assert "[2/3] genrec tokenize \\\n        --dataset shop --data preprocess-" in err and "exit code 4" in err
    assert "error: Something is gone.\n  try: genrec status" in err
    assert [artifact.kind for artifact in made.made] == ["data"]


def test_a_fault_of_ours_is_shown_and_ends_the_recipe(
    tmp_path: Path, ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    _, (code, _) = chain(write(tmp_path, "preprocess", "tokenize"), FakeStages(ws, "preprocess", ZeroDivisionError()))
    assert code == 1 and "this is a bug in genrec" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("Stopped after step 3.")], ids=repr)
def test_a_stop_that_was_asked_for_is_no_failure(
    error: BaseException, tmp_path: Path, ws: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure()
    _, (code, _) = chain(write(tmp_path, "preprocess", "tokenize"), FakeStages(ws, "tokenize", error))
    err = capsys.readouterr().err
    assert code == 130 and "step 2 of 2 of 'mine' was stopped" in err
    assert "goes on from there" in err and "warning" not in err and "error:" not in err


def test_a_folded_line_is_the_same_command() -> None:
    own, given = ["train", "--label", "two words"], ["--dataset", "my shop", "--codes", "opq-1"]
    line = folded(own, given)
    assert line.count("\n") == 1 and shlex.split(line.replace("\\\n", " ")) == ["genrec", *own, *given]
    assert folded(["status"], []) == "genrec status"


def test_what_the_steps_print_is_kept(tmp_path: Path, ws: Workspace) -> None:
    _, (_, made) = chain(write(tmp_path, "preprocess", "recommend"), FakeStages(ws))
    assert made.outputs == [
        {"command": "preprocess", "path": str(ws.root / "shop" / "data" / last(made, "data"))},
        {"command": "recommend", "recommendations": []},
    ]


def test_the_table_sets_the_published_number_beside_ours(tmp_path: Path, ws: Workspace) -> None:
    more = '[recipe.expected.rpg]\n"Recall@10" = 0.0745\n'
    steps = (
        'stage = "train", model = "popular"',
        'stage = "train", model = "rpg"',
        'stage = "evaluate", run = "popular-s0"',
        'stage = "evaluate", run = "rpg-s0"',
    )
    recipe, (_, made) = chain(write(tmp_path, *steps, more=more), FakeStages(ws))
    table = rows(recipe, made)
    assert [row["model"] for row in table] == ["popular-s0", "rpg-s0", "rpg, published"]
    assert [row["Recall@10"] for row in table] == [0.5, 0.5, 0.0745]
    assert rows(recipe, Chain()) == [] and table[1]["NDCG@5"] is None and table[2]["NDCG@10"] is None
    assert [row["NDCG@10, seen left out"] for row in table] == [0.3, 0.3, None]
    assert [(row["users"], row["epochs"], row["train_seconds"]) for row in table[1:]] == [(3, 7, 65.0), (None,) * 3]


def test_comments_stand_below_each_other() -> None:
    found = aligned(["genrec status # what", "genrec list runs     # which", "genrec doctor"])
    assert found == ["genrec status      # what", "genrec list runs   # which", "genrec doctor"]


def test_durations_read_well() -> None:
    output = ["-", "0 s", "1 min 00 s", "2 min 05 s", "3 h 07 min"]
    assert [duration(s) for s in (None, 0.4, 59.7, 125, 11_225)] == output


def test_published_numbers_of_another_data_set_are_left_out(tmp_path: Path, ws: Workspace) -> None:
    more = '[recipe.expected.rpg]\n"Recall@10" = 0.0745\n'
    path = write(tmp_path, 'stage = "train", model = "rpg"', 'stage = "evaluate", run = "rpg-s0"', more=more)
    _, (_, made) = chain(path, FakeStages(ws))
    path.write_text(path.read_text().replace('dataset = "shop"', 'dataset = "elsewhere"'))
    assert [row["model"] for row in rows(read_recipe(str(path)), made)] == ["rpg-s0"]


def test_a_label_is_not_an_input_of_training(tmp_path: Path, ws: Workspace) -> None:
    do = FakeStages(ws)
    again = 'stage = "train", model = "rpg", label = "rpg-s0", data = "mine"'
    chain(write(tmp_path, 'stage = "train", model = "rpg"', again), do)
    assert do.typed[1] == ["train", "--model", "rpg", "--label", "rpg-s0", "--data", "mine", "--dataset", "shop"]


def test_an_evaluation_of_an_unknown_form_does_not_break_the_table(tmp_path: Path, ws: Workspace) -> None:
    with ws.build(plan := Plan("shop", "eval", "odd", 1, {})):
        pass
    odd = ws.read(ws.path(plan))
    assert isinstance(odd, Artifact)
    row = rows(read_recipe(str(write(tmp_path, "evaluate"))), Chain(made=[odd]))[0]
    assert row["model"].startswith("odd-") and row["users"] is None and row["epochs"] is None


# ---- the command ---------------------------------------------------------------------------------------


def test_the_dry_run_prints_lines_to_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "download", 'stage = "train", model = "rpg"')
    lines = dry(capsys, path, "--root", tmp_path / "r", "--dataset", "mine")
    shared = f"--dataset mine --root {tmp_path / 'r'} --config {path}"
    assert lines == [f"genrec download {shared}", f"genrec train --model rpg {shared}"]
    assert not (tmp_path / "r").exists()


def test_device_and_seed_reach_the_steps_that_have_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, *STAGES)
    shared = f"--dataset shop --config {path}"
    lines = dry(capsys, path, "--device", "cpu", "--seed", "0")
    assert lines == [
        *(f"genrec {stage} {shared}" for stage in STAGES[:3]),
        f"genrec train {shared} --seed 0 --device cpu",
        *(f"genrec {stage} {shared} --device cpu" for stage in STAGES[4:]),
    ]
    with mock.patch.dict(os.environ, {"GENREC_SEED": "7"}):
        assert dry(capsys, path)[3] == f"genrec train {shared} --seed 7"
        path = write(tmp_path, 'stage = "train", model = "sasrec", seeds = [0, 1]')
        assert "--seed" not in "".join(dry(capsys, path)), "they would be one run under two labels"


def test_the_option_wins_over_the_recipe_and_the_recipe_over_the_environment(tmp_path: Path, capsys) -> None:
    path = write(tmp_path, "download")
    with mock.patch.dict(os.environ, {"GENREC_DATASET": "elsewhere"}):
        for words, expected in (([], "shop"), (["--dataset", "mine"], "mine"), (["--dataset=shop"], "shop")):
            (line,) = dry(capsys, path, *words)
            assert line.startswith(f"genrec download --dataset {expected} ")


OWN = (
    'stage = "download"',
    "preprocess",
    'stage = "train", model = "popular"',
    'stage = "evaluate", run = "popular-s0"',
    'stage = "recommend", run = "popular-s0", k = 2',
)
SMALL = SMALL_SHOP[3:]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A root, a recipe, and what its first run said. Tests must leave the root as it is."""
    folder = tmp_path_factory.mktemp("recipe")
    more = 'next = ["genrec status {at}    # what there is"]\n'
    path = write(folder, *OWN, more=more)
    path.write_text(path.read_text().replace('"shop"', '"synthetic"'))
    return folder / "root", path, genrec(folder / "root", "run", path, *SMALL)


def test_the_whole_command_ends_with_the_table_and_what_to_type_next(made) -> None:
    root, _, answer = made
    assert answer.code == 0, answer.err
    (*paths,) = (line for line in answer.out.splitlines() if line.startswith(str(root)))
    assert [Path(path).parent.name for path in paths] == ["raw", "data", "runs", "eval"], "results are on stdout"
    assert "T (synthetic), " in answer.out and "popular-s0" in answer.out.rpartition("T (synthetic)")[2]
    assert answer.out.count("U0000") == 10, "two items for each of five users"
    assert "  genrec status --dataset synthetic   # what there is" in answer.err.splitlines()


def lines_of(answer: Any) -> list[list[str]]:
    """The command lines that a run printed, as a shell splits them."""
    text = answer.err.replace(" \\\n", " ")
    return [shlex.split(line)[2:] for line in text.splitlines() if line.startswith("[")]


def test_a_step_is_recorded_as_if_typed(made) -> None:
    root, path, answer = made
    folders = [Path(line) for line in answer.out.splitlines() if line.startswith(str(root))]
    for folder, line in zip(folders, lines_of(answer), strict=False):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["environment"]["argv"] == line and str(path) in line
        artifact = Workspace(root).read(folder)
        assert artifact is not None and artifact.command == "genrec " + shlex.join(line)


def test_each_printed_line_typed_alone_finds_its_artifact_up_to_date(made) -> None:
    root, _, answer = made
    folders = [line for line in answer.out.splitlines() if line.startswith(str(root))]
    lines = lines_of(answer)
    assert len(lines) == 5
    for folder, words in zip(folders, lines, strict=False):
        alone = genrec(root, *words)
        assert alone.code == 0 and alone.out.strip() == folder and "up to date" in alone.err, alone.err
    assert genrec(root, *lines[4]).out.count("U0000") == 10


def test_with_json_stdout_is_one_object(made) -> None:
    root, path, first = made
    again = genrec(root, "run", path, *SMALL, "--json")
    output = json.loads(again.out)
    assert (again.code, output["recipe"], output["exit"]) == (0, "mine", 0)
    assert [step["command"] for step in output["steps"]] == [*STAGES[:2], "train", "evaluate", "recommend"]
    assert [step.get("state") for step in output["steps"]] == ["up to date"] * 4 + [None]
    assert all(step["path"] in first.out for step in output["steps"][:4])
    assert len(output["steps"][4]["recommendations"]) == 2 * output["steps"][1]["result"]["users"]
    (row,) = output["table"]
    assert row["model"] == "popular-s0" and row["users"] == output["steps"][3]["result"]["users"]


def test_a_set_of_the_whole_recipe_wins_over_a_step(tmp_path: Path, made) -> None:
    root, path, _ = made
    step = 'stage = "train", model = "sasrec", set = { train.epochs = 3, train.lr = 1e-3 }'
    path = write(tmp_path, step)
    path.write_text(path.read_text().replace('"shop"', '"synthetic"') + "[train]\nlr = 2e-3\nepochs = 4\n")
    answer = genrec(root, "run", path, *TINY, "--set", "train.epochs=1", "--seed", "4", "--dry-run")
    assert answer.out.count("--set train.epochs=") == 2
    output = json.loads(genrec(root, *shlex.split(answer.out)[1:], "--json", "--dry-run").out)
    assert {name: output["config"]["train"][name] for name in ("epochs", "lr", "seed")} == {
        "epochs": 1,
        "lr": 1e-3,
        "seed": 4,
    }


def test_a_failure_in_a_step_is_the_exit_code_of_the_command(tmp_path: Path, made) -> None:
    root, path, _ = made
    path = write(tmp_path, 'stage = "train", model = "popular"', 'stage = "evaluate", set = { evaluate.users = 0 }')
    path.write_text(path.read_text().replace('"shop"', '"synthetic"'))
    answer = genrec(root, "run", path, "--json")
    output = json.loads(answer.out)
    assert answer.code == output["exit"] == 3 and "evaluate.users" in answer.err and "step 2 of 2" in answer.err
    assert [step["command"] for step in output["steps"]] == ["train"]


def test_what_is_evaluated_is_what_was_trained(tmp_path: Path) -> None:
    steps = ('stage = "train", evaluated = true', 'stage = "train", models = ["sasrec"], evaluated = true')
    recipe = read_recipe(str(write(tmp_path, *steps, more='[train]\nseed = 3\n[model]\nname = "rpg"\n')))
    assert [step.run for step in recipe.steps if step.stage == "evaluate"] == ["rpg-s3", "sasrec-s3"]


def test_a_blend_is_a_step_and_later_steps_read_it(tmp_path: Path, made) -> None:
    root, path, _ = made
    trained = 'stage = "train", models = ["popular", "transitions"], evaluated = true'
    mixed = 'stage = "blend", runs = ["popular-s0", "transitions-s0"], set = { blend.users = 40 }'
    path = write(tmp_path, trained, mixed, 'stage = "evaluate", run = "blend"')
    path.write_text(path.read_text().replace('"shop"', '"synthetic"'))
    answer = genrec(root, "run", path, "--json")
    assert answer.code == 0, answer.err
    assert [row["model"] for row in json.loads(answer.out)["table"]] == ["popular-s0", "transitions-s0", "blend"]


def test_data_that_are_there_take_the_place_of_the_first_steps(tmp_path: Path) -> None:
    root, log = tmp_path / "artifacts", tmp_path / "log.csv"
    rows = [f"u{user},i{(user + place) % 12},{place}" for user in range(12) for place in range(6)]
    log.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    made = genrec(root, "preprocess", "--interactions", log, "--dataset", "shop", "--set", "preprocess.k_core=2")
    assert made.code == 0, made.err
    name = made.path.name
    path = write(tmp_path, "download", "preprocess", 'stage = "train", model = "popular"', "evaluate")
    answer = genrec(root, "run", path, "--data", name)
    assert answer.code == 0 and "[1/2] genrec train" in answer.err and f"--data {name}" in answer.err
    wrong = genrec(root, "run", path, "--data", "other")
    assert wrong.code == 4 and "No data 'other'" in wrong.err
    needless = genrec(root, "run", write(tmp_path, "evaluate"), "--data", name)
    assert needless.code == 2 and "makes data" in needless.err

"""Recipe steps with several models and seeds, trials as a step, and a budget for both."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from shop import genrec

from genrec_cli.config import read_toml
from genrec_cli.errors import ConfigError
from genrec_cli.stages.recipe import RECIPES, read_recipe
from genrec_cli.stages.run import Chain
from genrec_cli.stages.tune_recipe import STUDIES, read_tune

STUDY = """
[tune]
title = "Two models"
trials = 2
sampler = "random"
halving = false

[tune.space]
train.lr = [1e-3, 3e-3]

[[tune.model]]
name = "sasrec"
set.model = { width = 16, heads = 2, inner = 16 }

[[tune.model]]
name = "recjpq"
set.model = { width = 16, heads = 2, inner = 16 }
set.tokenizer = { name = "svd", codewords = 16 }
space.tokenizer.codebooks = [2, 4]

[train]
epochs = 2
batch_size = 64
"""

RECIPE = """
[recipe]
title = "A table"
dataset = "synthetic"
dated = "2026-11-29"

[[recipe.steps]]
stage = "download"
set.source = { users = 300, items = 150, text = 0.0 }

[[recipe.steps]]
stage = "preprocess"

[[recipe.steps]]
stage = "tokenize"
set.tokenizer = { codebooks = 4, codewords = 16 }

[[recipe.steps]]
stage = "train"
models = ["popular", "transitions"]
evaluated = true

[[recipe.steps]]
stage = "tune"
study = "STUDY"

[[recipe.steps]]
stage = "train"
models = ["sasrec", "recjpq"]
seeds = [0, 1]
tuned = "two"
evaluated = true

[[recipe.steps]]
stage = "compare"
runs = ["transitions-s0", "sasrec-s0,sasrec-s1"]

[[recipe.steps]]
stage = "table"
reference = "transitions-s0"

[train]
batch_size = 64
epochs = 2
"""


@pytest.fixture
def recipe(tmp_path):
    study, file = tmp_path / "two.toml", tmp_path / "table.toml"
    study.write_text(STUDY, encoding="utf-8")
    file.write_text(RECIPE.replace("STUDY", study.as_posix()), encoding="utf-8")
    return file


def test_a_step_of_several_models_and_seeds_is_one_step_each(recipe):
    steps = read_recipe(str(recipe)).steps
    trained = [(step.model, step.label, step.set.get("train.seed")) for step in steps if step.stage == "train"]
    assert trained[:2] == [("popular", None, None), ("transitions", None, None)]
    assert trained[2:] == [(m, f"{m}-s{seed}", seed) for m in ("sasrec", "recjpq") for seed in (0, 1)]
    after = [steps[number + 1].run for number, step in enumerate(steps) if step.stage == "train"]
    assert after == ["popular-s0", "transitions-s0", "sasrec-s0", "sasrec-s1", "recjpq-s0", "recjpq-s1"]


def test_only_train_steps_are_expanded(recipe):
    recipe.write_text(recipe.read_text().replace('stage = "preprocess"', 'stage = "preprocess"\nseeds = [0]'))
    with pytest.raises(ConfigError, match="takes no 'seeds'"):
        read_recipe(str(recipe))


def test_trials_then_seeds_of_the_best_and_one_table(tmp_path, recipe):
    pytest.importorskip("optuna")
    answer = genrec(tmp_path / "artifacts", "run", str(recipe), "--budget", "40s", "--json")
    assert answer.code == 0, answer.err
    root = tmp_path / "artifacts" / "synthetic"
    (study,) = (root / "studies").iterdir()
    best = read_toml(study / "best-recjpq.toml")
    assert best["model"]["width"] == 16 and best["tokenizer"]["codebooks"] in (2, 4), "the file is complete"
    for seed in (0, 1):
        (run,) = (root / "runs").glob(f"recjpq-s{seed}-*")
        config, made = (json.loads((run / name).read_text()) for name in ("config.json", "manifest.json"))
        assert config["train"]["seed"] == seed and config["train"]["lr"] == best["train"]["lr"]
        digits = best["tokenizer"]["codebooks"]
        assert f"/codes/svd{digits}x16-" in made["inputs"]["codes"]["path"], "the codes of the best trial"
    output = json.loads(answer.out)
    (table,) = (step for step in output["steps"] if step["command"] == "table")
    assert {row["model"]: row["seeds"] for row in table["rows"]}["sasrec"] == 2
    assert "half of the budget for trials" in answer.err and "--minutes 0.17" in answer.err
    collected(tmp_path)


def collected(folder: Path) -> None:
    """The script of docs/ copies these runs, trials and tests into a file of results, and replaces them."""
    file = folder / "results.json"
    file.write_text(json.dumps({"studies": [{"title": "T", "results": [], "trials": [], "tables": []}]}))
    given = ["--row", "SASRec=sasrec-s0,sasrec-s1", "--row", "RecJPQ=recjpq-s1", "--trials", "Table 1=two"]
    given += ["--compare", "Tests=transitions-s0-vs-sasrec", "--sweep", "small-test"]
    sweep = folder / "small.toml"
    sweep.write_text(
        '[sweep]\ntitle = "Small"\ndated = "2026-11-29"\ncite = ["ours"]\n'
        '[[sweep.run]]\nname = "by popularity"\nset = { model.name = "popular" }\n'
    )
    private = ["--set", "encoder.name=vectors", "--set", f"encoder.path='{folder}/vectors.npy'"]
    words = [sys.executable, "-m", "genrec_cli", "sweep", sweep, "--split", "test", "--force", *private]
    subprocess.run([*words, "--root", folder / "artifacts", "--dataset", "synthetic"], check=True)
    script = Path(__file__).parents[1] / "docs" / "collect_results.py"
    words = [sys.executable, script, "--file", file, "--study", "T", "--root", folder / "artifacts"]
    for _ in range(2):
        subprocess.run([*words, "--dataset", "synthetic", *given], check=True)
    (study,) = json.loads(file.read_text(encoding="utf-8"))["studies"]
    *trained, popular = study["results"]
    assert [entry["row"] + str(entry["seed"]) for entry in trained] == ["SASRec0", "SASRec1", "RecJPQ1"]
    assert popular["row"] == "by popularity" and popular["command"].startswith("genrec sweep ")
    assert "encoder.name=vectors" in popular["command"] and "vectors.npy" not in popular["command"]
    for entry in trained:
        words = shlex.split(entry["command"])
        assert words[:2] == ["genrec", "train"] and words[words.index("--model") + 1] == entry["model"]
        assert f"--set train.seed={entry['seed']} " in entry["command"] and "--set model.width=16" in entry["command"]
        assert "tokenizer" not in entry["command"] and str(folder) not in entry["command"]
        assert entry["metrics"].keys() == entry["left_out"].keys() >= {"NDCG@10"}
    assert sum("(best)" in trial["name"] for trial in study["trials"]) == 2
    assert study["tables"][0]["rows"][0][4] == "transitions-s0"


def test_a_training_from_scratch_leaves_out_the_start_of_the_best_trial():
    """In the recipe ``set.model.from_scratch = true`` is a table in a table."""
    best = {"best": {"inputs": {"init": "s3rec-pretrain-0", "vectors": "v-0"}}}
    result, path = {"models": {"s3rec": best}}, Path("studies/table1-0")
    study = SimpleNamespace(kind="studies", label="table1", result=result, path=path)
    steps = [step for step in read_recipe("table1").steps if step.model == "s3rec" and step.tuned]
    found = {step.label: Chain(made=[study]).best(step).get("init_from") for step in steps}
    assert found == {f"s3rec-s{n}": "s3rec-pretrain-0" for n in range(3)} | {
        f"s3rec-scratch-s{n}": None for n in range(3)
    }


def test_a_budget_that_ends_all_trials_early_still_trains_their_best(tmp_path, recipe):
    pytest.importorskip("optuna")
    recipe.write_text(recipe.read_text().replace("epochs = 2", "epochs = 500"))
    answer = genrec(tmp_path / "artifacts", "run", str(recipe), "--budget", "1s")
    assert answer.code == 0, answer.err
    assert "its minutes spent" in answer.err
    assert len(list((tmp_path / "artifacts" / "synthetic" / "runs").glob("recjpq-s?-*/manifest.json"))) == 2


def test_training_by_a_study_that_no_step_makes_is_an_error(tmp_path, recipe):
    recipe.write_text(recipe.read_text().replace('tuned = "two"', 'tuned = "three"'))
    text = recipe.read_text()
    start, end = (
        text.index('[[recipe.steps]]\nstage = "tune"'),
        text.index('[[recipe.steps]]\nstage = "train"\nmodels = ["sasrec'),
    )
    recipe.write_text(text[:start] + text[end:])
    answer = genrec(tmp_path / "artifacts", "run", str(recipe))
    assert answer.code != 0 and "the study 'three' of an earlier step has no model 'sasrec'" in answer.err


def test_the_table_of_the_paper_names_every_model_that_is_tuned():
    study = read_tune("table1", {})
    recipe = read_recipe("table1")
    tuned = {step.model for step in recipe.steps if step.tuned}
    assert tuned == {model.name for model in study.models}
    assert (STUDIES / "table1.toml").exists() and (RECIPES / "table1.toml").exists()

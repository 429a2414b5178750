"""run --budget: fewer epochs until the trainings of a recipe fit into a time."""

import json
from pathlib import Path

import pytest
from shop import SMALL_SHOP, genrec

from genrec_cli.errors import UsageError
from genrec_cli.stages import budget

RECIPE = """
[recipe]
title = "Two trainings"
dataset = "synthetic"
dated = "2026-11-28"
steps = [
  { stage = "train", model = "popular" },
  { stage = "train", model = "sasrec", set = { model = { width = 16, heads = 2, inner = 16 } } },
  { stage = "train", model = "bert4rec", set = { model.width = 16, model.inner = 16, curriculum = CURRICULUM } },
]
[train]
epochs = 40
warmup_steps = 2
""".replace("CURRICULUM", '{ preset = "r-inf", max_epochs = 20 }')


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("0.5h", 1800), ("minutes=30", 1800)]
)
def test_times(text, seconds):
    assert budget.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "0s", "-5m", "30 m", "5m later"])
def test_what_is_no_time(text):
    with pytest.raises(UsageError, match="--budget takes a time"):
        budget.seconds_of(text)


def test_the_epochs_fit_and_the_same_command_goes_on(tmp_path, monkeypatch):
    root, recipe = tmp_path / "artifacts", tmp_path / "mine.toml"
    recipe.write_text(RECIPE)
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(root, *words).code == 0
    timed = []

    def forecast(plan, *, device):
        timed.append(plan.model)
        return {"time": {"at_most_seconds": 20_000.0}}

    monkeypatch.setattr(budget, "forecast", forecast)
    answer = genrec(root, "run", str(recipe), "--budget", "3000s")
    assert answer.code == 0 and timed == ["sasrec", "bert4rec"], "a model that counts has no epochs"
    assert "--budget 3000s: --set train.epochs=" in answer.err
    (run,) = (root / "synthetic" / "runs").glob("sasrec-*")
    manifest = json.loads((run / "manifest.json").read_text())
    epochs = manifest["result"]["epochs"]
    assert epochs == 2, "less than 1,500 of 20,000 seconds for 40 epochs: the first training took some time"
    assert manifest["environment"]["argv"][-2:] == ["--set", f"train.epochs={epochs}"]
    (masked,) = (root / "synthetic" / "runs").glob("bert4rec-*")
    config = json.loads((masked / "config.json").read_text())
    assert config["train"]["epochs"] == 5 and config["curriculum"]["phase"][0]["max_epochs"] == 2
    again = genrec(root, "run", str(recipe), "--budget", "3000s")
    assert again.code == 0 and len(timed) == 2 and f"runs/{run.name}: up to date" in again.err


def test_seeds_of_one_setting_have_the_same_epochs(tmp_path, monkeypatch):
    root, recipe = tmp_path / "artifacts", tmp_path / "mine.toml"
    step = '{ stage = "train", models = ["sasrec"], seeds = [0, 1], set = { model = { width = 16, inner = 16 } } }'
    recipe.write_text(RECIPE[: RECIPE.index("steps")] + f"steps = [{step}]\n[train]\nepochs = 40\nwarmup_steps = 2\n")
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(root, *words).code == 0
    seconds = iter([40_000.0, 5_000.0])
    monkeypatch.setattr(budget, "forecast", lambda plan, *, device: {"time": {"at_most_seconds": next(seconds)}})
    assert genrec(root, "run", str(recipe), "--budget", "6000s").code == 0
    runs = [json.loads(file.read_text()) for file in (root / "synthetic" / "runs").glob("sasrec-*/config.json")]
    assert [run["train"]["epochs"] for run in runs] == [3, 3] and next(seconds) == 5_000.0


def test_trials_have_equal_parts_of_half_of_the_time(tmp_path):
    pytest.importorskip("optuna")
    root, recipe, study = tmp_path / "artifacts", tmp_path / "mine.toml", tmp_path / "small.toml"
    space = "[tune.space]\ntrain.lr = [1e-3, 1e-2, 1e-1]\n"
    settings = '[model]\nname = "sasrec"\nwidth = 16\n[train]\nepochs = 4000\nwarmup_steps = 2\n'
    study.write_text(f'[tune]\ntitle = "Small"\ntrials = 2\nhalving = false\n{space}{settings}')
    step = f'{{ stage = "tune", study = "{study}" }}'
    recipe.write_text(RECIPE[: RECIPE.index("steps")] + f"steps = [{step}]\n")
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(root, *words).code == 0
    answer = genrec(root, "run", str(recipe), "--budget", "4s")
    assert answer.code == 0 and "--trials 2 --minutes 0.03 --set tune.trial_minutes=0.015 for each model" in answer.err
    (made,) = (root / "synthetic" / "studies").glob("*/manifest.json")
    rows = json.loads(made.read_text())["result"]["trials"]
    assert rows[0]["outcome"] == "its minutes spent" and rows[0]["epoch"] < 4000


def test_a_shorter_training_has_shorter_phases():
    given = {"preset": "r-inf", "max_epochs": 40}
    assert budget.shortened(given, 15, 60) == {"preset": "r-inf", "max_epochs": 10}
    assert budget.shortened(given, 1, 60)["max_epochs"] == 1 and budget.shortened({}, 1, 60) == {}
    assert given["max_epochs"] == 40


def test_a_wrong_budget_is_refused_before_any_work(tmp_path):
    recipe = Path(tmp_path) / "mine.toml"
    recipe.write_text(RECIPE)
    answer = genrec(tmp_path / "artifacts", "run", str(recipe), "--budget", "soon")
    assert answer.code == 2 and "For example: --budget 30m" in answer.err

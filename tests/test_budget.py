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
]
[train]
epochs = 40
warmup_steps = 2
"""


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
        return {"time": {"at_most_seconds": 40.0}}

    monkeypatch.setattr(budget, "forecast", forecast)
    answer = genrec(root, "run", str(recipe), "--budget", "2s")
    assert answer.code == 0 and timed == ["sasrec"], "a model that counts has no epochs"
    assert "--budget 2s: --epochs " in answer.err
    (run,) = (root / "synthetic" / "runs").glob("sasrec-*")
    manifest = json.loads((run / "manifest.json").read_text())
    epochs = manifest["result"]["epochs"]
    assert 1 <= epochs <= 2, "a second of 40 for 40 epochs, or two if the first training took none"
    assert manifest["environment"]["argv"][-2:] == ["--epochs", str(epochs)]
    again = genrec(root, "run", str(recipe), "--budget", "2s")
    assert again.code == 0 and timed == ["sasrec"] and f"runs/{run.name}: up to date" in again.err


def test_a_wrong_budget_is_refused_before_any_work(tmp_path):
    recipe = Path(tmp_path) / "mine.toml"
    recipe.write_text(RECIPE)
    answer = genrec(tmp_path / "artifacts", "run", str(recipe), "--budget", "soon")
    assert answer.code == 2 and "For example: --budget 30m" in answer.err

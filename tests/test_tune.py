"""Tuning from end to end on a small shop: two models, halving, a larger budget, a kill, and what is refused."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from shop import SMALL_SHOP, genrec

from genrec_cli.config import read_toml
from genrec_cli.errors import ConfigError, InputError, UsageError
from genrec_cli.stages.tune_draws import ask, open_study, restart
from genrec_cli.stages.tune_recipe import read_tune
from genrec_cli.stages.tune_table import toml

pytest.importorskip("optuna")

STUDY = """
[tune]
title = "Two models"
sampler = "random"
first_rung = 1
reduction = 2

[tune.space]
train.lr = { low = 1e-4, high = 1e-1, log = true }

[[tune.model]]
name = "sasrec"
space = { model.layers = { low = 1, high = 2 } }

[[tune.model]]
name = "gru4rec"
space = { train.batch_size = [32, 64] }

[model]
width = 16

[train]
epochs = 3
warmup_steps = 2
"""
ONE = STUDY.replace('[[tune.model]]\nname = "gru4rec"\nspace = { train.batch_size = [32, 64] }\n', "")


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    for words in (SMALL_SHOP, ["preprocess", "--k-core", "2"]):
        assert genrec(folder, *words).code == 0
    (folder / "two.toml").write_text(STUDY)
    (folder / "one.toml").write_text(ONE)
    return folder


def raised(error: Exception) -> None:
    raise error


def write_study(folder: Path) -> Path:
    (folder / "study.toml").write_text(STUDY)
    return folder / "study.toml"


def tune(shop: Path, name: str, *words: str):
    return genrec(shop, "tune", shop / f"{name}.toml", "--device", "cpu", *words)


def test_two_models_with_equal_budgets_and_a_larger_budget_later(shop):
    answer = tune(shop, "two", "--trials", "4")
    result = answer.manifest["result"]
    assert {name: m["trials"] for name, m in result["models"].items()} == {"sasrec": 4, "gru4rec": 4}
    rows = pq.read_table(answer.path / "trials.parquet").to_pylist()
    assert len(rows) == 8 and sum(row["best"] for row in rows) == 2
    assert {"complete", "stopped by halving"} == {row["outcome"] for row in rows}
    best = result["models"]["sasrec"]["best"]
    assert best["value"] == max(row["value"] for row in rows if row["model"] == "sasrec" and row["value"] is not None)
    run = next((shop / "synthetic/runs").glob(best["run"]))
    assert json.loads((run / "manifest.json").read_text())["result"]["valid"][result["metric"]] == best["value"]
    assert set(read_toml(answer.path / "best-sasrec.toml")["model"]) == {"name", "layers", "width"}
    assert "| sasrec |" in (answer.path / "table.md").read_text()

    assert "up to date" in tune(shop, "two", "--trials", "4").err
    more = tune(shop, "two", "--trials", "5").manifest["result"]
    first = [row | {"best": None} for row in more["trials"] if row["trial"] < 4]  # the fifth may be better
    assert first == [row | {"best": None} for row in result["trials"]]
    assert {m["trials"] for m in more["models"].values()} == {5}


def test_a_study_and_its_trainings_can_leave_seen_items_out(shop):
    answer = tune(shop, "one", "--trials", "1", "--set", "train.metric=ndcg@5, seen left out")
    result = answer.manifest["result"]
    best, name = result["models"]["sasrec"]["best"], "NDCG@5, seen left out"
    assert result["metric"] == name and f"best {name}" in (answer.path / "table.md").read_text()
    run = next((shop / "synthetic/runs").glob(best["run"]))
    rows = pq.read_table(run / "log.parquet").to_pylist()
    assert best["value"] == max(row[f"valid/{name}"] for row in rows) != max(row["valid/NDCG@5"] for row in rows)
    measured = genrec(shop, "evaluate", "--run", run, "--split", "valid").manifest["result"]["metrics"]
    assert measured["left_out"]["NDCG@5"] == pytest.approx(best["value"], abs=1e-6)
    assert measured["kept"]["NDCG@5"] < best["value"]
    assert "seen left out" in read_toml(answer.path / "best-sasrec.toml")["train"]["metric"]


def test_an_interrupted_study_has_the_trials_of_an_unbroken_one(tmp_path):
    config = read_tune(str(write_study(tmp_path)), {"tune": {"trials": 9}})
    model = config.models[0]

    def draws(interrupted: int | None, folder: Path) -> list[dict]:
        folder.mkdir()
        study = open_study(config.config, model, folder)
        for number in range(6):
            trial = ask(config.config, model, study)
            if number == interrupted:
                restart(study)
                again = ask(config.config, model, study)
                assert again.params == trial.params
                trial = again
            study.tell(trial, float(number))
        return [trial.params for trial in study.get_trials() if trial.value is not None]

    assert draws(2, tmp_path / "broken") == draws(None, tmp_path / "whole")


def test_what_is_no_fault_of_the_settings_stops_the_study(shop, tmp_path, monkeypatch):
    root = shutil.copytree(shop, tmp_path / "root")
    (root / "two.toml").write_text(ONE.replace("Two models", "Faults"))
    with monkeypatch.context() as patched:
        patched.setattr("genrec_cli.stages.tune.train.train", lambda *_, **__: raised(InputError("locked")))
        answer = tune(root, "two", "--trials", "3")
        assert answer.code == 4 and "locked" in answer.err
        out_of_memory = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        patched.setattr("genrec_cli.stages.tune.train.train", lambda *_, **__: raised(out_of_memory))
    assert tune(root, "two", "--trials", "3").manifest["result"]["models"]["sasrec"]["trials"] == 3


def test_codes_cannot_be_given_if_the_trials_have_their_own(shop, tmp_path):
    root = shutil.copytree(shop, tmp_path / "root")
    small = ["--encoder", "lsa", "--codebooks", "2", "--codewords", "8", "--pca", "8"]
    codes = genrec(root, "tokenize", *small).path
    study = ONE.replace("sasrec", "rpg").replace("model.layers = { low = 1, high = 2 }", "tokenizer.codebooks = [2, 4]")
    (root / "codes.toml").write_text(study)
    answer = tune(root, "codes", "--trials", "1", "--codes", codes)
    assert answer.code == 2 and "vary tokenizer.codebooks" in answer.err and "--codes cannot be given" in answer.err


def test_a_best_file_trains_the_run_of_the_best_trial(shop):
    answer = tune(shop, "one", "--trials", "1")
    config = ["--config", shop / "one.toml", "--config", answer.path / "best-sasrec.toml"]
    label = answer.manifest["result"]["models"]["sasrec"]["best"]["run"][:-9]
    assert "up to date" in genrec(shop, "train", *config, "--label", label).err


def test_processes_share_a_study(shop):
    answer = tune(shop, "one", "--trials", "3", "--jobs", "2", "--set", "tune.seed=1", "--set", "tune.sampler='tpe'")
    trials = answer.manifest["result"]["trials"]
    assert [row["trial"] for row in trials] == [0, 1, 2]
    assert len({json.dumps(row["settings"]) for row in trials}) == 3


def test_no_settings_are_drawn_twice_and_all_of_them_end_a_study(shop):
    few = ONE.replace("{ low = 1e-4, high = 1e-1, log = true }", "[1e-3, 2e-3]")  # four settings
    (shop / "few.toml").write_text(few, encoding="utf-8")
    trials = tune(shop, "few", "--trials", "5").manifest["result"]["trials"]
    settings = [json.dumps(row["settings"], sort_keys=True) for row in trials]
    assert len(trials) == len(set(settings)) == 4, "there is no fifth"


def test_a_stopped_study_goes_on_with_the_same_trial(shop, monkeypatch):
    from genrec_cli.engine.loop import Loop
    from genrec_cli.errors import Interrupted

    words = ["--trials", "2", "--set", "tune.seed=5"]
    whole = Loop._finish_epoch
    monkeypatch.setattr(Loop, "_finish_epoch", lambda loop: (whole(loop), loop._stop())[0])
    stopped = tune(shop, "one", *words)
    assert stopped.code == Interrupted.exit_code
    monkeypatch.setattr(Loop, "_finish_epoch", whole)
    rows = tune(shop, "one", *words).manifest["result"]["trials"]
    assert [row["trial"] for row in rows] == [1, 2]  # trial 0 was left; trial 1 resumes its run
    logs = pq.read_table(next((shop / "synthetic/runs").glob(rows[0]["run"])) / "log.parquet")
    assert logs["epoch"].to_pylist() == [1, 2, 3]


def test_minutes_end_a_study_and_a_trial_without_its_end_is_taken(shop):
    answer = tune(shop, "one", "--minutes", "0.0001", "--set", "tune.seed=11")
    assert (
        answer.code == 0
        and "reached its end (out of minutes); trial 0 is taken, by its validation after epoch 1" in answer.err
    )
    assert [row["best"] for row in pq.read_table(answer.path / "trials.parquet").to_pylist()] == [True]
    (row,) = answer.manifest["result"]["trials"]
    assert read_toml(answer.path / "best-sasrec.toml")["train"]["lr"] == row["settings"]["train.lr"]


def test_a_trial_whose_minutes_are_spent_counts_with_its_best_validation(shop):
    answer = tune(shop, "one", "--trials", "2", "--set", "tune.trial_minutes=0.0001", "--set", "tune.seed=13")
    rows = answer.manifest["result"]["trials"]
    assert [(row["epoch"], row["outcome"]) for row in rows] == [(1, "its minutes spent")] * 2
    assert all(row["value"] == row["last"] for row in rows) and sum(row["best"] for row in rows) == 1


def test_a_study_of_a_model_without_defaults_for_the_training(shop):
    (shop / "counts.toml").write_text(
        '[tune]\ntitle = "Counts"\ntrials = 1\n[tune.space]\nmodel.window = [5, 10]\n[model]\nname = "transitions"\n'
    )
    assert tune(shop, "counts").manifest["result"]["models"]["transitions"]["best"]["value"] > 0


@pytest.mark.parametrize("space", ["model.loss = ['ce', 'cf']", "model.dropout = { low = 0.0, high = 1.0 }"])
def test_a_value_that_no_training_takes_is_found_before_any_trial(shop, space):
    settings = f'[tune]\ntitle = "Wrong"\ntrials = 2\n[tune.space]\n{space}\n[model]\nname = "sasrec"\n'
    (shop / "wrong.toml").write_text(settings)
    answer = tune(shop, "wrong", "--dry-run")
    assert answer.code == ConfigError.exit_code and space.partition(" ")[0] in answer.err


def test_a_study_whose_trials_all_fail_has_no_best_one(shop):
    answer = tune(shop, "one", "--trials", "2", "--set", "model.heads=3")
    assert answer.code == ConfigError.exit_code and "reached its end (failed: " in answer.err


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("[tune.space]", "trials = 2\n[tune.space]\ntrain.seed = [0, 1]", "train.seed"),
        ("low = 1, high = 2", "low = 2, high = 1", "low < high"),
        ("{ low = 1, high = 2 }", "3", "a list of values or"),
        ("sampler", "trials = 2\nsampler", ""),
        ('name = "gru4rec"', 'name = "sasrec"', "two"),
        ("first_rung = 1", "", "budget"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, old, new, said):
    (tmp_path / "s.toml").write_text(STUDY.replace(old, new))
    if not said:
        assert (
            read_tune(
                str(tmp_path / "s.toml"),
                {},
            ).metric
            == "NDCG@10"
        )
        return
    with pytest.raises((ConfigError, UsageError)) as error:
        read_tune(str(tmp_path / "s.toml"), {})
    assert said in f"{error.value.message} {error.value.hint}"


def test_settings_of_the_command_cannot_contradict_the_space(shop):
    answer = tune(shop, "one", "--trials", "1", "--set", "train.lr=1e-3")
    assert answer.code == UsageError.exit_code and "train.lr is in the search space" in answer.err


def test_scalars_are_written_as_toml(tmp_path):
    sections = {"model": {"name": 'a"b', "on": True}, "train": {"lr": 1e-05, "epochs": 3}}
    (tmp_path / "f.toml").write_text(toml(sections))
    assert read_toml(tmp_path / "f.toml") == sections


def test_the_study_that_comes_with_genrec_fits_its_models(shop):
    from genrec_cli.stages import sweep_cell

    study = read_tune("baselines", {})
    for model in study.models:
        sweep_cell.check_cell(model.first(), [study.metric])
    assert "would be made" in genrec(shop, "tune", "baselines", "--dry-run").err

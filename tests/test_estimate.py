"""The output before and during a training: the dry run's table, the live line, the line of an epoch."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import make_catalog, make_histories
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli.cli.progress import TrainProgress, clock, epoch_line
from genrec_cli.curriculum.phases import CurriculumConfig, Law, Phase, Until
from genrec_cli.engine import estimate as estimating
from genrec_cli.engine.entropies import EntropyProbe, measure, sample
from genrec_cli.engine.estimate import estimate, longest, rules
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.models.count_prior import Counts
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.nn.classifier import entropy

CONFIG = TrainConfig(epochs=4, batch_size=8, warmup_steps=5, max_length=8)
FULL = CurriculumConfig(preset="r-e-inf", max_epochs=2, ratio=0.3)


def make_loop(folder: Path, *, config=CONFIG, curriculum=FULL) -> Loop:
    torch.manual_seed(0)
    catalog, histories = make_catalog(), make_histories([5, 9, 6, 14, 6, 4, 7, 12] * 4, 30)
    model = Mhl(MhlConfig(width=16, heads=2, inner=32), catalog, max_length=8)
    return Loop(model, catalog, histories, config, curriculum, torch.device("cpu"), folder)


# ---- the estimate --------------------------------------------------------------------------------------


def test_an_estimate_counts_what_the_loop_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr(estimating, "MEASURE_SECONDS", 0.05)
    found = estimate(make_loop(tmp_path))
    fresh = make_loop(tmp_path)
    parameters = sum(p.numel() for p in fresh.model.parameters())
    assert found["parameters"] == parameters
    assert found["rows"] == len(fresh.batches.rows) and found["steps_per_epoch"] == -(-len(fresh.batches.rows) // 8)
    assert found["steps"] == 4 * found["steps_per_epoch"]
    phases = [(p["name"], p["ratio"], p["max_epochs"]) for p in found["phases"]]
    assert phases == [("random", 0.3, 2), ("entropy", 0.3, 2), ("inference", 0.0, None)]
    assert all(p["seconds_a_step"] > 0 for p in found["phases"])
    memory = found["memory"]
    assert memory["weights"] == memory["gradients"] == 4 * parameters and memory["optimizer"] == 8 * parameters
    assert memory["peak"] == 16 * parameters + memory["activations"]
    assert found["time"]["how"] == "measured" and found["time"]["timed_steps"] >= 3
    seconds = [p["seconds_an_epoch"] for p in found["phases"]]
    assert 4 * min(seconds) <= found["time"]["at_most_seconds"] <= 4 * max(seconds)
    assert json.loads(json.dumps(found)) == found
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_moments_are_as_large_as_the_optimisers_state(tmp_path, optimizer):
    loop = make_loop(tmp_path, config=CONFIG.model_copy(update={"optimizer": optimizer}))
    for p in loop.model.parameters():
        p.grad = torch.ones_like(p)
    loop.step.optimizer.step()
    kept = (state.items() for state in loop.step.optimizer.state.values())
    assert estimating.memory(loop)["optimizer"] == sum(t.nbytes for s in kept for name, t in s if name != "step")


def test_activations_grow_with_the_batch(tmp_path):
    small, large = (make_loop(tmp_path, config=CONFIG.model_copy(update={"batch_size": size})) for size in (4, 16))
    assert 2 < estimating.memory(large)["activations"] / estimating.memory(small)["activations"] < 8
    parts = make_loop(tmp_path, config=CONFIG.model_copy(update={"batch_size": 16, "micro_batch_size": 4}))
    assert estimating.memory(parts)["activations"] < 0.6 * estimating.memory(large)["activations"]


def test_an_epoch_that_several_phases_may_take_counts_for_the_slowest():
    assert longest([(1.0, 3), (5.0, 2), (2.0, None)], 10) == 2 * 5.0 + 8 * 2.0
    assert longest([(1.0, None)], 7) == 7.0
    assert longest([(3.0, 2), (1.0, 2)], 10) == 8.0, "the curriculum ends before the epochs do"


def test_rules_in_words():
    assert rules(Phase(name="x")) == "to the end of the run"
    law = Law(on_plateau=5)
    assert rules(Phase(name="x", mask="entropy", ratio=0.1, law=law, until=Until(ratio_at=0.0), max_epochs=9)) == (
        "ratio minus 10% of its start after 5 stale evaluations, until the ratio is 0, at most 9 epochs"
    )
    halved = law.model_copy(update={"kind": "exponential"})
    assert "times 0.5" in rules(Phase(name="x", law=halved, until=Until(plateau=3)))


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shop") / "artifacts"
    for words in (SMALL_SHOP, ["preprocess"], ["tokenize", "--codebooks", "4", "--codewords", "16"]):
        assert genrec(root, *words).code == 0
    return root


def test_the_dry_run_shows_what_training_takes_and_writes_nothing(shop):
    answer = genrec(shop, "train", *TINY, "--epochs", "9", "--dry-run", "--json")
    assert answer.code == 0, answer.err
    forecast = json.loads(answer.out)["forecast"]
    assert forecast["epochs"] == 9 and [p["name"] for p in forecast["phases"]] == ["random", "entropy", "inference"]
    assert forecast["time"]["at_most_seconds"] > 0
    shown = genrec(shop, "train", *TINY, "--epochs", "9", "--dry-run").err
    for word in ("at most 9 epochs", "until 20 stale", "memory", f"{forecast['parameters']:,}", "measured"):
        assert word in shown, word
    assert not (shop / "synthetic" / "runs").exists()
    assert "without gradients" in genrec(shop, "train", "--model", "popular", "--curriculum", "inf", "--dry-run").err


def test_the_measured_steps_are_those_of_the_fitted_model(shop, monkeypatch):
    """Counts are a part of a step, so a forecast without them is too short."""
    counted = []
    fit, losses = Counts.fit, Counts.logs
    monkeypatch.setattr(Counts, "fit", lambda *given: (counted.append("fitted"), fit(*given)))
    monkeypatch.setattr(Counts, "logs", lambda *given: (counted.append("read"), losses(*given))[1])
    small = ["--set", "model.width=16", "--set", "model.inner=16", "--set", "model.count_factor=2"]
    answer = genrec(shop, "train", "--model", "sasrec", *small, "--epochs", "2", "--dry-run")
    assert answer.code == 0 and counted[:2] == ["fitted", "read"], answer.err


def test_the_diagnosis_is_printed_and_stored(shop):
    answer = genrec(shop, "train", *TINY, "--epochs", "2", "--set", "train.warmup_steps=5000")
    (finding,) = [f for f in answer.manifest["result"]["diagnosis"] if f["sign"] == "best epoch in warm-up"]
    assert finding["seen"] in answer.err and f"try: {finding['change']}" in answer.err
    assert answer.err.count("epoch 1/2  random 0.15  next ") == 1, "one line per epoch without a terminal"


# ---- progress ------------------------------------------------------------------------------------------

LOSSES = {"next": 3.21144, "mask": 2.87, "masked_fraction": 0.081, "gradient_norm": 1.0}
ROW = {"epoch": 12, "phase": "entropy", "ratio": 0.135, "change": "mask ratio 0.12", "seconds": 3723.0}
ROW |= {"valid/NDCG@10": 0.0412, "best": 0.0420} | {f"loss/{name}": value for name, value in LOSSES.items()}


def test_an_epoch_in_one_line():
    assert epoch_line(ROW, 150, "NDCG@10") == (
        "epoch 12/150  entropy 0.135  next 3.2114 mask 2.8700 masked 8.1%  NDCG@10 0.0412 (best 0.0420)  1:02:03"
        "  [mask ratio 0.12]"
    )
    plain = {**ROW, "ratio": 0.0, "change": "", "valid/NDCG@10": None, "best": None}
    assert epoch_line(plain, 150, "NDCG@10").endswith("masked 8.1%  1:02:03")
    assert "0.0420 (best)" in epoch_line({**ROW, "valid/NDCG@10": 0.0420}, 150, "NDCG@10")
    assert clock(61) == "1:01"


def test_the_live_line_fits_a_hundred_columns(monkeypatch):
    shown = []
    bar = SimpleNamespace(n=0, set_description_str=shown.append, close=lambda: None)
    options = {}
    monkeypatch.setattr("genrec_cli.console.progress", lambda **given: options.update(given) or bar)
    times = iter([0.0, 100.0])
    monkeypatch.setattr("genrec_cli.cli.progress.time", SimpleNamespace(perf_counter=lambda: next(times)))
    state = SimpleNamespace(ratio=0.135)
    curriculum = SimpleNamespace(state=state, phase=SimpleNamespace(name="entropy"))
    config = SimpleNamespace(epochs=150, metric="NDCG@10")
    report = TrainProgress().attach(
        SimpleNamespace(config=config, steps=150 * 348, steps_per_epoch=348, curriculum=curriculum)
    )
    for step in (38_000, 38_100):
        report.step(SimpleNamespace(epoch=111, step=step, rows=[ROW], means=LOSSES), 348)
    assert shown[-1] == (
        "<3:55:00 left epoch 112/150 entropy 0.135 next 3.211 mask 2.870 masked 8.1% NDCG@10 0.0412"
    ), "100 steps took 100 seconds; 14,100 are left"
    assert options["total"] == 150 * 348 and len(f"{'':6} {shown[-1]}") <= 100


# ---- entropies while training --------------------------------------------------------------------------


def test_a_run_logs_entropies_of_the_clean_pass(tmp_path):
    loop = make_loop(tmp_path)
    rows = loop.run().rows
    for row in rows:
        assert len(row["entropy/position"]) == CONFIG.max_length and len(row["entropy/digit"]) == 4
        assert 0 < row["entropy/mean"] <= torch.tensor(8.0).log()
        assert row["entropy/mean"] == pytest.approx(sum(row["entropy/digit"]) / 4, abs=1e-5)
    again = loop.probe(loop.model)
    assert again["entropy/mean"] == rows[-1]["entropy/mean"], "without dropout, masks or chance"


def test_the_probe_agrees_with_a_loop_over_positions_and_draws_nothing():
    torch.manual_seed(0)
    catalog, histories = make_catalog(), make_histories([5, 9, 6, 14, 6, 4, 7, 12] * 4, 30)
    model = Mhl(MhlConfig(width=16, heads=2, inner=32), catalog, max_length=8).train()
    probe = EntropyProbe(histories, torch.device("cpu"), CONFIG)
    state = torch.get_rng_state()
    result = probe(model)
    assert torch.equal(state, torch.get_rng_state()) and model.training
    slow: dict[int, list[float]] = {}
    model.eval()
    with torch.no_grad():
        for batch in sample(histories, max_length=8, users=10**6, seed=CONFIG.seed):
            entropy_NK = entropy(model.logits(model.states(model.tokens(batch), batch)).log_softmax(-1)).t()
            for position, value in zip(batch.packing.position_N.tolist(), entropy_NK.mean(1).tolist(), strict=True):
                slow.setdefault(position, []).append(value)
    assert histories.users == 32, "the sample holds all users"
    expected = [sum(slow[t]) / len(slow[t]) for t in range(8)]
    assert result["entropy/position"] == pytest.approx(expected, abs=1e-4)


def test_positions_that_few_histories_reach_have_no_mean():
    histories = make_histories([4] * 30 + [12] * 2, 30)
    model = Mhl(MhlConfig(width=16, heads=2, inner=32), make_catalog(), max_length=8)
    position = EntropyProbe(histories, torch.device("cpu"), CONFIG)(model)["entropy/position"]
    assert [mean is None for mean in position] == [False] * 2 + [True] * 6


def test_a_sample_ends_where_training_ends():
    histories = make_histories([5, 9, 14], 30)
    batches = sample(histories, max_length=8, users=3, seed=0)
    assert sorted(n for b in batches for n in b.packing.length_B.tolist()) == [3, 7, 8]
    users = {u: histories.item[histories.offset[u] :][: histories.train_end[u]][-8:].tolist() for u in range(3)}
    (batch,) = batches
    for number, user in enumerate(batch.user_B.tolist()):
        assert batch.item_N[batch.packing.sequence_N == number].tolist() == users[user]
    assert measure(Mhl(MhlConfig(width=16, heads=2, inner=32), make_catalog(), max_length=8), batch).shape == (18, 4)

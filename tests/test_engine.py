"""The training loop: learning, resuming to the same bits, stopping, diverging."""

import contextlib
import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_catalog, make_histories
from safetensors.torch import load_file

from genrec_cli.curriculum.phases import CurriculumConfig, Phase
from genrec_cli.engine import loop as engine
from genrec_cli.engine.checkpoint import BEST, LAST, epoch_of, read_counters
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.optim import TrainConfig, learning_rate, make_optimizer
from genrec_cli.engine.progress import Callbacks
from genrec_cli.engine.ranking import ExactRanker, make_ranker
from genrec_cli.errors import DataError, DivergedError, Interrupted
from genrec_cli.models.mdgr import Mdgr
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.models.rpg import Rpg
from genrec_cli.models.sasrec import SasRec
from genrec_cli.searches.diffusion import Diffusion, DiffusionConfig
from genrec_cli.searches.exhaustive import Exhaustive, ExhaustiveConfig
from genrec_cli.stages.train import write_log
from genrec_cli.testing.data import FixedMasks

CONFIG = TrainConfig(epochs=4, batch_size=8, lr=1e-2, warmup_steps=5, max_length=8, stride=1)
INF = CurriculumConfig(preset="inf")
FULL = CurriculumConfig(preset="r-e-inf", max_epochs=1, ratio=0.3)


def make_loop(folder: Path, *, config=CONFIG, curriculum=INF, callbacks=None, seed=0, kind=Rpg) -> Loop:
    torch.manual_seed(seed)
    catalog, histories = make_catalog(), make_histories([5, 9, 6, 14, 6, 4, 7, 12] * 4, 30)
    small = {"width": 16, "heads": 2, "inner": 32, "dropout": 0.2, "attention_dropout": 0.2}
    small |= {SasRec: {"loss": "bce", "negatives": 2}}.get(kind, {})
    model = kind(kind.Config(**small), catalog, max_length=8)
    search = {Mdgr: (Diffusion, DiffusionConfig(beams=10))}.get(kind, (Exhaustive, ExhaustiveConfig()))
    options = {"callbacks": callbacks, "make_ranker": lambda: make_ranker(model, catalog, *search)}
    return Loop(model, catalog, histories, config, curriculum, torch.device("cpu"), folder, **options)


def stop_at(step: int) -> Callbacks:
    """Callbacks that request a stop at a check."""
    checks = iter(range(1, 10_000))
    return Callbacks(stop_requested=lambda: next(checks) == step)


def same(one: Path, two: Path) -> bool:
    first, second = everything(one), everything(two)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def everything(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / LAST), **{f"best.{n}": v for n, v in load_file(folder / BEST).items()}}


@pytest.mark.parametrize(
    "kind, curriculum, changes",
    [
        (Rpg, INF, {}),
        (Rpg, INF, {"optimizer": "adafactor"}),
        (Rpg, INF, {"ema": 0.9}),
        (Mhl, FULL, {"ema": 0.5}),
        (Mdgr, INF, {}),
        (SasRec, INF, {}),
    ],
)
@pytest.mark.parametrize("stops", [[3], [5, 4, 1], [1, 1, 1, 1, 1, 1, 1]])
def test_a_stopped_run_ends_with_the_bits_of_an_unbroken_one(tmp_path, stops, kind, curriculum, changes):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    more = {"kind": kind, "curriculum": curriculum, "config": CONFIG.model_copy(update=changes)}
    unbroken = make_loop(whole, **more).run()
    for time, step in enumerate(stops):  # a wrong seed after the first start must not matter
        with pytest.raises(Interrupted, match="checkpoint"):
            make_loop(broken, callbacks=stop_at(step), seed=time, **more).run()
    resumed = make_loop(broken, seed=99, **more).run()
    assert same(whole, broken)
    clocks = {"seconds", "waited"}
    logs = [[{k: v for k, v in row.items() if k not in clocks} for row in c.rows] for c in (unbroken, resumed)]
    assert logs[0] == logs[1]
    assert resumed.positions == unbroken.positions


@pytest.mark.parametrize("limit", [3, 9])
def test_a_limit_of_steps_ends_the_run_with_a_validation(tmp_path, limit):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()

    def limited(folder: Path, callbacks: Callbacks | None = None):
        return make_loop(folder, callbacks=callbacks, config=CONFIG.model_copy(update={"max_steps": limit}))

    loop = limited(whole)
    assert len(loop.batches) == 6
    counters = loop.run()
    assert counters.step == limit and counters.epoch == -(-limit // 6)
    assert all(f"valid/{loop.config.metric}" in row for row in counters.rows)
    with pytest.raises(Interrupted):
        limited(broken, stop_at(limit - 1)).run()
    limited(broken).run()
    assert same(whole, broken)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("what", ["save_state", "save_weights"])
@pytest.mark.parametrize("write", range(1, 6))
def test_a_kill_before_any_write_leaves_counters_and_weights_of_one_epoch(tmp_path, monkeypatch, what, write):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    make_loop(whole).run()
    real, writes = getattr(engine, what), iter(range(1, 100))

    def killed(*args, **kwargs):
        if next(writes) == write:
            raise Killed
        real(*args, **kwargs)

    monkeypatch.setattr(engine, what, killed)
    with contextlib.suppress(Killed):
        make_loop(broken).run()
    monkeypatch.undo()
    if (broken / LAST).exists():
        loop = make_loop(broken)
        loop._restore()
        assert loop.counters.best_epoch == epoch_of(broken / BEST)
    make_loop(broken).run()
    assert same(whole, broken) and epoch_of(whole / BEST) == epoch_of(broken / BEST)


@pytest.mark.parametrize("kind, curriculum", [(Rpg, INF), (Mhl, FULL)])
def test_a_stop_while_it_validates_keeps_the_epoch(tmp_path, monkeypatch, kind, curriculum):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    unbroken = make_loop(whole, kind=kind, curriculum=curriculum).run()
    monkeypatch.setattr(engine, "VALIDATION_BATCH", {"cpu": 8})
    asked, checks = [], []
    loop = make_loop(broken, kind=kind, curriculum=curriculum, callbacks=Callbacks(stop_requested=lambda: bool(asked)))
    rank = ExactRanker.rank

    def ask(*args, **kwargs):
        checks.append(asked.append(True))
        return rank(*args, **kwargs)

    monkeypatch.setattr(ExactRanker, "rank", ask)
    with pytest.raises(Interrupted, match=f"epoch 1 after step {len(loop.batches)}"):
        loop.run()
    assert len(checks) == 1, "one batch of four"
    monkeypatch.undo()
    resumed = make_loop(broken, seed=7, kind=kind, curriculum=curriculum).run()
    assert same(whole, broken) and resumed.positions == unbroken.positions
    assert [row["lr"] for row in resumed.rows] == [row["lr"] for row in unbroken.rows]


def test_a_validation_begins_with_a_checkpoint_where_one_is_due(tmp_path, monkeypatch):
    loop = make_loop(tmp_path, config=CONFIG.model_copy(update={"checkpoint_minutes": 1e-9}))

    def killed():
        raise Killed

    monkeypatch.setattr(loop, "_validate", killed)
    with pytest.raises(Killed):
        loop.run()
    assert read_counters(tmp_path / LAST)["step_in_epoch"] == len(loop.batches)


@pytest.mark.parametrize("phase", [{"max_epochs": 3}, {"until": {"ratio_at": 0.0}}])
def test_the_last_epoch_of_a_curriculum_is_validated(tmp_path, phase):
    curriculum = CurriculumConfig(phase=(Phase(name="short", **phase),))
    counters = make_loop(tmp_path, config=CONFIG.model_copy(update={"eval_every": 5}), curriculum=curriculum).run()
    assert counters.epoch == counters.best_epoch == (3 if "max_epochs" in phase else 1)
    assert epoch_of(tmp_path / BEST) == counters.epoch


def test_a_run_leaves_the_precision_of_products_as_it_was(tmp_path):
    during = []
    callbacks = Callbacks(epoch=lambda row: during.append(torch.get_float32_matmul_precision()))
    make_loop(tmp_path, config=CONFIG.model_copy(update={"epochs": 1, "precision": "tf32"}), callbacks=callbacks).run()
    assert during == ["high"] and torch.get_float32_matmul_precision() == "highest"


def test_a_phase_is_logged_with_its_ratio(tmp_path):
    counters = make_loop(tmp_path, kind=Mhl, curriculum=FULL).run()
    phases = [(row["phase"], row["ratio"]) for row in counters.rows]
    assert phases == [("random", 0.3), ("entropy", 0.3), ("inference", 0.0), ("inference", 0.0)]
    assert all(("loss/mask" in row) == (row["ratio"] > 0) for row in counters.rows)
    write_log(tmp_path, counters.rows)
    assert pq.read_table(tmp_path / "log.parquet").column("phase").to_pylist()[0] == "random"


def test_training_lowers_the_loss(tmp_path):
    counters = make_loop(tmp_path, config=CONFIG.model_copy(update={"epochs": 12})).run()
    assert counters.rows[-1]["loss/next"] < 0.8 * counters.rows[0]["loss/next"]
    assert counters.epoch == 12


@pytest.mark.parametrize("kind, curriculum", [(Rpg, INF), (Mhl, FULL)])
def test_accumulation_takes_the_same_step(tmp_path, kind, curriculum):
    """A global batch in parts gives the gradient of the whole, although the parts have unequal counts."""
    weights = []
    for micro in (None, 3):
        folder = tmp_path / str(micro)
        folder.mkdir()
        config = CONFIG.model_copy(update={"epochs": 1, "batch_size": 16, "micro_batch_size": micro})
        loop = make_loop(folder, config=config, kind=kind, curriculum=curriculum)
        for part in loop.model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
            if hasattr(part, "dropout") and isinstance(part.dropout, float):
                part.dropout = 0.0
        if kind is Mhl:  # masks are drawn part by part, so the same mask must come out of any cut
            loop.sampler = FixedMasks
        loop.run()
        weights.append({n: p.detach().clone() for n, p in loop.model.named_parameters()})
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=2e-5, rtol=1e-4, msg=name)


def test_early_stopping_counts_evaluations_without_improvement(tmp_path):
    config = CONFIG.model_copy(update={"epochs": 50, "lr": 1e-12})
    counters = make_loop(tmp_path, config=config, curriculum=CurriculumConfig(preset="inf", patience=3)).run()
    assert counters.epoch - counters.best_epoch == 3
    assert counters.rows[-1]["change"] == "phase 'inference' ended"


def test_an_epoch_without_masked_codes_logs_no_loss_of_masked_codes(tmp_path):
    """A rounded budget of few short histories may be 0."""
    curriculum = CurriculumConfig(preset="r", ratio=1e-6, budget="rounded", max_epochs=1)
    counters = make_loop(tmp_path, curriculum=curriculum, kind=Mhl).run()
    assert counters.rows[0]["loss/masked_fraction"] == 0
    assert counters.rows[0]["loss/next"] > 0 and "loss/mask" not in counters.rows[0]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    make_loop(tmp_path, config=CONFIG.model_copy(update={"epochs": 1})).run()
    before = (tmp_path / LAST).read_bytes()
    loop = make_loop(tmp_path)
    restore = loop._restore

    def poisoned() -> None:
        restore()
        with torch.no_grad():
            loop.model.heads.linear.weight.fill_(float("inf"))

    loop._restore = poisoned
    with pytest.raises(DivergedError, match="epoch 2") as caught:
        loop.run()
    assert caught.value.exit_code == 6
    assert (tmp_path / LAST).read_bytes() == before


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path):
    make_loop(tmp_path, config=CONFIG.model_copy(update={"epochs": 1})).run()
    path = tmp_path / LAST
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        make_loop(tmp_path).run()


def test_linear_layers_see_no_padding(tmp_path):
    """Counts work instead of time: positions that each linear layer reads, against valid positions."""
    loop = make_loop(tmp_path)
    batch = loop.batches.rows.batch(loop.histories, np.arange(len(loop.batches.rows)))
    seen = {}
    for name, part in loop.model.named_modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_hook(
                lambda m, i, o, name=name: seen.__setitem__(name, i[0].numel() // i[0].shape[-1])
            )
    loop.model.losses(batch)
    learned, items = len(batch.learn_M), len(batch.item_N)
    assert learned < items < batch.packing.grid.token_C.numel(), "the batch has padding and rows of one target"
    everywhere = {name for name in seen if "blocks.0" in name or "qkv" in name}
    assert {seen.pop(name) for name in everywhere} == {items}
    assert set(seen.values()) == {learned}, "the last block and the heads read targets alone"


def test_learning_rate_warms_up_and_falls_to_zero():
    config = TrainConfig(lr=1.0, warmup_steps=10)
    rates = [learning_rate(step, 110, config) for step in range(111)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0)
    assert all(a <= b for a, b in pairwise(rates[:10]))
    assert all(a >= b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_adafactor_moves_a_tensor_by_its_size_and_adamw_by_the_rate(name):
    torch.manual_seed(0)
    model = torch.nn.ParameterDict({"small": torch.randn(6, 4), "large": 100 * torch.randn(6, 4)})
    before = {key: value.detach().clone() for key, value in model.items()}
    optimizer = make_optimizer(model, TrainConfig(lr=0.01, optimizer=name))
    for value in model.values():
        value.grad = torch.ones_like(value)
    optimizer.step()
    moved = {key: (model[key] - before[key]).square().mean().sqrt().item() for key in before}
    size = before["small"].square().mean().sqrt().item() if name == "adafactor" else 1.0
    assert moved["small"] == pytest.approx(0.01 * size, rel=1e-3)
    sizes = before["large"].norm() / before["small"].norm() if name == "adafactor" else 1.0
    assert moved["large"] / moved["small"] == pytest.approx(float(sizes), rel=1e-2)


def test_callbacks_are_frozen_and_do_nothing_by_default():
    callbacks = Callbacks()
    assert callbacks.stop_requested() is False
    with pytest.raises(dataclasses.FrozenInstanceError):
        callbacks.step = None


@pytest.mark.parametrize("select, epoch", [("metric", 1), ("last", 4)])
def test_a_run_keeps_the_weights_of_the_best_or_of_the_last_epoch(tmp_path, select, epoch):
    """With a learning rate near zero no epoch is better than the first one."""
    loop = make_loop(tmp_path, config=CONFIG.model_copy(update={"select": select, "lr": 1e-12}))
    counters = loop.run()
    assert counters.best_epoch == epoch_of(tmp_path / BEST) == epoch and counters.epoch == 4
    kept, last = load_file(tmp_path / BEST), load_file(tmp_path / LAST)
    assert all(torch.equal(value, last[f"model.{name}"]) for name, value in kept.items()) == (select == "last")


def test_validation_users_depend_on_their_own_seed_alone(tmp_path, monkeypatch):
    users, evaluate = [], engine.evaluate

    def record(*args, **kwargs):
        outcome = evaluate(*args, **kwargs)
        users.append(sorted(outcome.user.tolist()))
        return outcome

    monkeypatch.setattr(engine, "evaluate", record)
    for number, seeds in enumerate([{"seed": 0}, {"seed": 1}, {"valid_seed": 1}]):
        (folder := tmp_path / str(number)).mkdir()
        make_loop(folder, config=CONFIG.model_copy(update={"epochs": 1, "valid_users": 8, **seeds})).run()
    assert len(users) == 3 and len(users[0]) == 8
    assert users[0] == users[1] != users[2]


def test_sampled_items_are_drawn_from_the_generator_of_the_run(tmp_path):
    """The global random state does not matter, and each step draws anew."""
    drawn = []
    for seed in (0, 99):
        loop = make_loop(tmp_path, kind=SasRec)
        batch = loop.batches.rows.batch(loop.histories, np.arange(8))
        torch.manual_seed(seed)
        drawn.append([loop.step.draw(batch)[0].negative_MS for _ in range(2)])
    assert all(torch.equal(*pair) for pair in zip(*drawn, strict=True))
    assert not torch.equal(*drawn[0])


def test_mhl_gives_the_same_bits_on_two_threads(tmp_path):
    """Gradients that are added up by several threads must be added in a fixed order."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        catalog, histories = make_catalog(300, 8, 32), make_histories([20, 30, 9, 14] * 60, 300)
        config = MhlConfig(width=64, heads=2, inner=128)
        found = []
        for time in range(3):
            (folder := tmp_path / str(time)).mkdir()
            torch.manual_seed(0)
            model = Mhl(config, catalog, max_length=20)
            settings = CONFIG.model_copy(update={"epochs": 2, "batch_size": 64, "max_length": 20})
            curriculum = CurriculumConfig(preset="e-inf", max_epochs=1, ratio=0.3)
            Loop(model, catalog, histories, settings, curriculum, torch.device("cpu"), folder).run()
            found.append(everything(folder))
        assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])
    finally:
        torch.set_num_threads(before)

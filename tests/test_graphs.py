"""Recorded steps on CUDA against the same steps launched one by one; without CUDA there is nothing to test."""

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories
from test_contracts import MAX_LENGTH, settings, windows_of

from genrec_cli import registry
from genrec_cli.config import validate
from genrec_cli.curriculum.history_masks import Masker
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.data.sequences import Rows
from genrec_cli.engine.graphs import Flat, Graphs
from genrec_cli.engine.loop import Loop, Report
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import Interrupted
from genrec_cli.stages.load import on_device

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
STATIC = ["rpg", "mhl", "sasrec", "tiger", "mdgr"]
LENGTHS = [5, 9, 6, 14, 6, 4, 7, 12] * 8


def made(name: str, **changes):
    torch.manual_seed(0)
    kind = registry.load("model", name)
    config = validate(kind.Config, "model", settings(name) | changes)
    return kind(config, on_device(make_catalog(), torch.device("cuda")), max_length=MAX_LENGTH).cuda().train()


@pytest.mark.parametrize("name", STATIC)
def test_replayed_gradients_are_those_of_launched_steps(name):
    """Over several shapes, each met twice: what a graph wrote before must not show."""
    histories = make_histories(LENGTHS, 30)
    rows = Rows.of(histories, max_length=MAX_LENGTH, windows=windows_of(name, "sliding"))
    launched, recorded = made(name), made(name)

    def compute(batch, choose):
        losses = recorded.losses(batch)
        sum(loss.weight * loss.sum / loss.count for loss in losses.values()).backward()
        return {key: loss._replace(sum=loss.sum.detach()) for key, loss in losses.items()}

    graphs = Graphs(compute, recorded.parameters(), torch.Generator("cuda"))
    for size in (8, 40, 24, 8, 40, 24):
        chosen = rows.order(0, size)[:size]
        found = graphs(Flat.of(rows.batch(histories, chosen, rounded=True)))
        launched.zero_grad(set_to_none=True)
        expected = launched.losses(rows.batch(histories, chosen).to(torch.device("cuda")))
        sum(loss.weight * loss.sum / loss.count for loss in expected.values()).backward()
        for key, loss in expected.items():
            torch.testing.assert_close(found[key].sum, loss.sum.detach(), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found[key].count.float(), loss.count.float())
        for (where, p), q in zip(launched.named_parameters(), recorded.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), where
            if p.grad is not None:
                torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5, msg=where)
    assert len(graphs.recorded) == 3


@pytest.mark.parametrize("policy", ["random", "entropy"])
def test_replayed_masks_are_drawn_anew_and_follow_the_ratio(policy):
    histories = make_histories(LENGTHS, 30)
    rows = Rows.of(histories, max_length=MAX_LENGTH, windows="sliding")
    model, generator = made("mhl"), torch.Generator("cuda").manual_seed(0)
    masker = Masker(policy, "token", 0.2, "rounded", generator)

    def compute(batch, choose):
        losses = model.losses(batch, choose)
        losses["mask"].sum.backward()
        return {key: loss._replace(sum=loss.sum.detach()) for key, loss in losses.items()}

    graphs = Graphs(compute, model.parameters(), generator, masker)
    flat = Flat.of(rows.batch(histories, np.arange(40), rounded=True))

    def shares(ratio: float) -> list[float]:
        masker.at(ratio)
        return [float(graphs(flat)["mask"].count) for _ in range(6)]

    low, high = shares(0.2), shares(0.6)
    assert len(graphs.recorded) == 1 and len(set(low)) > 1
    assert 2.5 < sum(high) / sum(low) < 3.5


def test_dropout_is_drawn_anew_at_every_replay():
    histories = make_histories(LENGTHS, 30)
    rows = Rows.of(histories, max_length=MAX_LENGTH, windows="sliding")
    model = made("rpg", dropout=0.5)

    def compute(batch, choose):
        loss = model.losses(batch)["next"]
        loss.sum.backward()
        return {"next": loss._replace(sum=loss.sum.detach())}

    graphs = Graphs(compute, model.parameters(), torch.Generator("cuda"))
    flat = Flat.of(rows.batch(histories, np.arange(16), rounded=True))
    torch.cuda.manual_seed(0)
    drawn = [float(graphs(flat)["next"].sum) for _ in range(4)]
    assert len(set(drawn)) == 4
    torch.cuda.manual_seed(0)
    assert [float(graphs(flat)["next"].sum) for _ in range(4)] == drawn  # as if nothing had been recorded in between


def loop(folder, name: str, *, graphs: bool = True, stop_at: int | None = None, preset: str = "inf") -> Loop:
    histories = make_histories(LENGTHS, 30)
    config = TrainConfig(epochs=3, batch_size=16, max_length=MAX_LENGTH, graphs=graphs, graphs_of_masks=True,
                         warmup_steps=2, lr=1e-2, windows=windows_of(name, "sliding"))  # fmt: skip
    model = made(name, dropout=0.2)
    made_loop = Loop(model, on_device(make_catalog(), torch.device("cuda")), histories, config,
                     CurriculumConfig(preset=preset, max_epochs=1), torch.device("cuda"), folder,
                     report=Report(stop_requested=lambda: made_loop.counters.step == stop_at))  # fmt: skip
    return made_loop


@pytest.mark.parametrize("name, preset", [("rpg", "inf"), ("sasrec", "inf"), ("mdgr", "inf"), ("mhl", "r-e-inf")])
def test_kill_and_resume_with_graphs_give_the_same_bits(name, preset, tmp_path):
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = loop(tmp_path / "whole", name, preset=preset)
    whole.run()
    assert whole.graphs is not None and whole.graphs.recorded
    first = loop(tmp_path / "parts", name, preset=preset, stop_at=6)
    with pytest.raises(Interrupted):
        first.run()
    second = loop(tmp_path / "parts", name, preset=preset)
    second.run()
    for (where, p), q in zip(whole.model.named_parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0, msg=where)


def test_graphs_can_be_switched_off(tmp_path):
    (tmp_path / "off").mkdir()
    off = loop(tmp_path / "off", "rpg", graphs=False)
    off.run()
    assert off.graphs is None

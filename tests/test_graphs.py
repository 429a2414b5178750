"""Captured steps on CUDA against the same steps launched one by one."""

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories

from genrec_cli import registry
from genrec_cli.config import validate
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.data.sequences import Rows
from genrec_cli.engine.graphs import FlatBatch, Graphs
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.engine.progress import Callbacks
from genrec_cli.errors import Interrupted

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
CAPTURABLE = ["rpg", "mhl", "sasrec", "tiger"]
LENGTHS = [5, 9, 6, 14, 6, 4, 7, 12] * 8


MAX_LENGTH = 8
SMALL = {"width": 16, "heads": 2, "inner": 32}


def windows_of(name: str, default: str) -> str:
    return registry.load("model", name).defaults.get("train", {}).get("windows", default)


def settings(name: str) -> dict:
    fields = registry.load("model", name).Config.model_fields
    quiet = {field: 0.0 for field in fields if field.endswith("dropout")}
    return quiet | {key: value for key, value in SMALL.items() if key in fields}


def made(name: str, **changes):
    torch.manual_seed(0)
    kind = registry.load("model", name)
    config = validate(kind.Config, "model", settings(name) | changes)
    return kind(config, make_catalog().to(torch.device("cuda")), max_length=MAX_LENGTH).cuda().train()


@pytest.mark.parametrize("name", CAPTURABLE)
def test_replayed_gradients_are_those_of_launched_steps(name):
    """Over several shapes, each used twice: what a graph wrote before must have no effect."""
    histories = make_histories(LENGTHS, 30)
    rows = Rows.of(histories, max_length=MAX_LENGTH, windows=windows_of(name, "sliding"))
    launched, captured = made(name), made(name)

    def compute(batch):
        losses = captured.losses(batch)
        sum(loss.weight * loss.sum / loss.count for loss in losses.values()).backward()
        return {key: loss._replace(sum=loss.sum.detach()) for key, loss in losses.items()}

    graphs = Graphs(compute, captured.parameters(), torch.device("cuda"))
    for size in (8, 40, 24, 8, 40, 24):
        chosen = rows.order(0, size)[:size]
        found = graphs(FlatBatch.of(rows.batch(histories, chosen, bucketed=True)))
        launched.zero_grad(set_to_none=True)
        expected = launched.losses(rows.batch(histories, chosen).to(torch.device("cuda")))
        sum(loss.weight * loss.sum / loss.count for loss in expected.values()).backward()
        for key, loss in expected.items():
            torch.testing.assert_close(found[key].sum, loss.sum.detach(), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found[key].count.float(), loss.count.float())
        for (where, p), q in zip(launched.named_parameters(), captured.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), where
            if p.grad is not None:
                torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5, msg=where)
    assert len(graphs.captured) == 3


def test_dropout_is_drawn_anew_at_every_replay():
    histories = make_histories(LENGTHS, 30)
    rows = Rows.of(histories, max_length=MAX_LENGTH, windows="sliding")
    model = made("rpg", dropout=0.5)

    def compute(batch):
        loss = model.losses(batch)["next"]
        loss.sum.backward()
        return {"next": loss._replace(sum=loss.sum.detach())}

    graphs = Graphs(compute, model.parameters(), torch.device("cuda"))
    flat = FlatBatch.of(rows.batch(histories, np.arange(16), bucketed=True))
    torch.cuda.manual_seed(0)
    drawn = [float(graphs(flat)["next"].sum) for _ in range(4)]
    assert len(set(drawn)) == 4
    torch.cuda.manual_seed(0)
    assert [float(graphs(flat)["next"].sum) for _ in range(4)] == drawn  # the capture leaves the random state as it was


def loop(folder, name: str, *, graphs: bool = True, stop_at: int | None = None, preset: str = "inf") -> Loop:
    histories = make_histories(LENGTHS, 30)
    train = {"epochs": 3, "batch_size": 16, "max_length": MAX_LENGTH, "warmup_steps": 2, "lr": 1e-2}
    config = TrainConfig(**train, graphs=graphs, windows=windows_of(name, "sliding"))
    cuda, curriculum = torch.device("cuda"), CurriculumConfig(preset=preset, max_epochs=1)
    callbacks = Callbacks(stop_requested=lambda: made_loop.counters.step == stop_at)
    catalog = make_catalog().to(cuda)
    made_loop = Loop(made(name, dropout=0.2), catalog, histories, config, curriculum, cuda, folder, callbacks=callbacks)
    return made_loop


@pytest.mark.parametrize("name, preset", [("rpg", "inf"), ("sasrec", "inf"), ("mhl", "r-e-inf")])
def test_kill_and_resume_with_graphs_give_the_same_bits(name, preset, tmp_path):
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = loop(tmp_path / "whole", name, preset=preset)
    whole.run()
    assert whole.step.graphs is not None and whole.step.graphs.captured
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
    assert off.step.graphs is None

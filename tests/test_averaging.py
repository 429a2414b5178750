"""The exponential moving average of the weights, by itself and in a training."""

import pytest
import torch
from conftest import make_catalog, make_histories
from torch import nn

from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.engine.averaging import AveragedWeights
from genrec_cli.engine.checkpoint import BEST, LAST, read_weights
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.engine.progress import Callbacks
from genrec_cli.errors import Interrupted
from genrec_cli.models.sasrec import SasRec, SasRecConfig


def test_the_average_follows_the_formula_and_forgets_the_start():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    average = AveragedWeights(model, 0.5)
    expected = model.weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.averages.keys() == {"weight"}, "a frozen parameter has no average"
    torch.testing.assert_close(average.averages["weight"], expected)
    constant = AveragedWeights(model, 0.9999)
    for step in range(5):
        with torch.no_grad():
            model.weight.fill_(7.0)
        constant.update(step)
    assert (constant.averages["weight"] - 7).abs().max() < 0.01, "the warm-up forgets the initial weights"


def test_the_exchange_keeps_the_memory_and_undoes_itself():
    model = nn.Linear(2, 1)
    average = AveragedWeights(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(3.0)
    place, kept = model.weight.data_ptr(), average.averages["weight"].clone()
    with pytest.raises(RuntimeError, match="inside"), average.applied():
        assert torch.equal(model.weight, kept) and model.weight.data_ptr() == place
        raise RuntimeError("inside")
    assert (model.weight == 3).all() and torch.equal(average.averages["weight"], kept)
    with pytest.raises(ValueError, match="0 parameters, not 2"):
        average.load_state_dict({})


def make_loop(folder, callbacks=None, **changes) -> Loop:
    torch.manual_seed(0)
    catalog, histories = make_catalog(), make_histories([5, 9, 6, 14] * 20, 30)
    config = TrainConfig(epochs=2, batch_size=8, lr=1e-2, warmup_steps=2, max_length=8).model_copy(update=changes)
    model = SasRec(SasRecConfig(width=16, heads=2), catalog, max_length=8)
    folder.mkdir(exist_ok=True)
    curriculum = CurriculumConfig(preset="inf")
    return Loop(model, catalog, histories, config, curriculum, torch.device("cpu"), folder, callbacks=callbacks)


def test_the_average_is_validated_and_kept_and_the_training_is_unchanged(tmp_path):
    rows = [make_loop(tmp_path / "plain", select="last").run().rows[-1]]
    averaged = make_loop(tmp_path / "ema", ema=0.9, select="last")
    rows.append(averaged.run().rows[-1])
    assert rows[0]["loss/next"] == rows[1]["loss/next"] and rows[0]["valid/loss"] != rows[1]["valid/loss"]
    state, best = read_weights(tmp_path / "ema" / LAST), read_weights(tmp_path / "ema" / BEST)
    raw = read_weights(tmp_path / "plain" / BEST)
    for name, value in raw.items():
        assert torch.equal(state[f"model.{name}"], value)
        assert torch.equal(best[name], state[f"average.{name}"]) and not torch.equal(best[name], value)
    averaged.model.load_state_dict(best)
    averaged.step.average = None
    assert averaged._validate()["valid/loss"] == rows[1]["valid/loss"]


def test_a_stop_between_two_batches_of_a_validation_keeps_the_weights_apart(tmp_path, monkeypatch):
    make_loop(tmp_path / "whole", ema=0.9).run()
    monkeypatch.setattr("genrec_cli.engine.loop.VALIDATION_BATCH", {"cpu": 8})
    validating = []
    broken = make_loop(tmp_path / "broken", Callbacks(stop_requested=lambda: bool(validating)), ema=0.9)
    evaluate = broken.make_ranker
    broken.make_ranker = lambda: validating.append(1) or evaluate()
    with pytest.raises(Interrupted):
        broken.run()
    make_loop(tmp_path / "broken", ema=0.9).run()
    for file in (LAST, BEST):
        torch.testing.assert_close(
            read_weights(tmp_path / "broken" / file), read_weights(tmp_path / "whole" / file), rtol=0, atol=0
        )

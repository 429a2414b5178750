"""What every model must do: scorer interface, saved weights, batches, losses. The other tests of the contract are in
``leaks.py``, ``learning.py`` and ``generators.py``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from genrec_cli.config import validate
from genrec_cli.data.sequences import Histories, eval_batches
from genrec_cli.engine.checkpoint import load_weights, save_weights
from genrec_cli.engine.optim import autocast
from genrec_cli.models.base import CodeScorer, DigitScorer, ItemScorer, MaskPredictor, PrefixScorer
from genrec_cli.testing.case import CPU, LENGTHS, mask_of, total_loss
from genrec_cli.testing.data import FixedMasks
from genrec_cli.testing.generators import GeneratorTests
from genrec_cli.testing.leaks import LeakTests
from genrec_cli.testing.learning import LearningTests


class ModelContract(LeakTests, LearningTests, GeneratorTests):
    """Subclass it, and name the model."""

    def test_offers_an_interface_and_scores_every_item(self) -> None:
        model = self.build().eval()
        assert isinstance(model, (ItemScorer, CodeScorer, DigitScorer, PrefixScorer, MaskPredictor))
        scores = self.scores(model, next(self.known()).batch)
        assert scores.shape == (len(LENGTHS), 30) and torch.isfinite(scores).all()

    def test_settings_survive_json(self) -> None:
        config = self.config()
        assert validate(self.kind.Config, "model", json.loads(json.dumps(config.model_dump(mode="json")))) == config

    def test_saved_weights_give_the_same_scores(self, tmp_path: Path) -> None:
        model, other = self.build().eval(), self.build(seed=1).eval()
        save_weights(tmp_path / "m.safetensors", model)
        load_weights(tmp_path / "m.safetensors", other)
        batch = next(self.known()).batch
        assert torch.equal(self.scores(model, batch), self.scores(other, batch))

    def test_a_batch_gives_what_each_history_gives_alone(self) -> None:
        model, results = self.build().eval(), []
        for size in (99, 1):
            scores = torch.zeros(len(LENGTHS), 30)
            for known in self.known(size):
                scores[known.row_B] = self.scores(model, known.batch)
            results.append(scores)
        torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)

    def test_unknown_users_with_one_history_get_one_list(self) -> None:
        """A user outside the data is user -1, and gets no other user's row."""
        item = np.tile(np.array([3, 7, 5, 9], "uint32"), 4)
        at = np.full(4, 4)
        histories = Histories(item, np.arange(4) * 4, at, at, at - 5, at - 5, np.tile(np.arange(4) + 10**9, 4), True)
        (known,) = eval_batches(histories, np.arange(4), at, max_length=self.max_length, batch_size=9)
        assert (known.batch.user_B == -1).all()
        scores = self.scores(self.build().eval(), known.batch)
        torch.testing.assert_close(scores, scores[:1].expand(4, -1), atol=1e-6, rtol=1e-6)

    def test_gradients_reach_every_parameter(self) -> None:
        """Also those that a pass without gradient has cast before, which older torch (2.6) keeps in its cast cache."""
        self.requires_training()
        batch, names = self.batch(), {name for name, _ in self.build().named_parameters()}
        for precision in ("fp32", "bf16"):
            for sampler in self.samplers():
                model = self.build()
                with autocast(CPU, precision):
                    loss = total_loss(model, batch, mask_of(sampler, model, batch))
                loss.backward()
                assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()} == names

    def test_the_loss_of_a_batch_is_the_sum_of_its_rows(self) -> None:
        self.requires_training()
        model, rows = self.build().eval(), self.rows(histories := self.histories())
        self.requires(not model.negatives, "samples items")
        batches = [self.batch(), *(rows.batch(histories, np.array([number])) for number in range(len(rows)))]
        for sampler in (None, FixedMasks()) if self.kind.masking != "none" else (None,):
            whole, *parts = (model.losses(batch, mask_of(sampler, model, batch))["next"] for batch in batches)
            assert sum(part.count for part in parts) == whole.count
            torch.testing.assert_close(sum(part.sum for part in parts), whole.sum, atol=1e-4, rtol=1e-5)

    def test_counts_are_those_of_the_losses(self) -> None:
        """Gradient accumulation needs the counts before the pass."""
        self.requires_training()
        model, batch = self.build(), self.batch()
        for sampler in [None, *self.samplers()]:
            mask = mask_of(sampler, model, batch)
            losses = {name: loss for name, loss in model.losses(batch, mask).items() if loss.weight}
            assert model.counts(batch, mask) == {name: loss.count for name, loss in losses.items()}

    def test_padding_rows_change_no_loss_and_no_gradient(self) -> None:
        self.requires_training()
        self.requires(self.build().graph_capturable, "its steps are not captured")
        gradients = []
        for bucketed in (False, True):
            model = self.build()
            total_loss(model, self.batch(bucketed=bucketed)).backward()
            gradients.append({name: p.grad for name, p in model.named_parameters()})
        torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)

    def test_a_capturable_step_never_synchronises(self) -> None:
        """What the capture of a CUDA graph would refuse, tested on any device."""
        self.requires_training()
        model, batch = self.build(), self.batch(bucketed=True)
        self.requires(model.graph_capturable, "its steps are not captured")
        with NoSynchronisation():
            total_loss(model, batch).backward()


class NoSynchronisation(TorchDispatchMode):
    """Fails where a tensor's values decide a size or a number on the host, or where the host sends a number."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "unique", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        indices = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else []
        assert not any(x is not None and x.dtype == torch.bool for x in indices), "a mask decides a size"
        assert not name.startswith(self.REFUSED), name
        return func(*args, **(kwargs or {}))

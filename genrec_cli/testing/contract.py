"""What every model must do: interface, losses, masks, causality, learning, resuming, several processes.

Random seeds are fixed and there is no dropout unless a test says so, so that numbers can be compared.
"""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genrec_cli.config import validate
from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.curriculum.target_masks import NoiseConfig, TargetMasks
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories, Rows, eval_batches
from genrec_cli.engine.checkpoint import BEST, LAST, load_weights, read_weights, save_weights
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.optim import TrainConfig, autocast, make_optimizer
from genrec_cli.engine.progress import Callbacks
from genrec_cli.engine.ranking import make_ranker
from genrec_cli.engine.step import MaskSampler
from genrec_cli.errors import Interrupted
from genrec_cli.models.base import CodeScorer, DigitScorer, ItemScorer, MaskPredictor, Model, PrefixScorer
from genrec_cli.registry import load
from genrec_cli.searches.beam import Beam, BeamConfig
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.testing.data import FixedMasks, all_codes, make_catalog, make_histories

LENGTHS = [5, 9, 3, 14, 6, 4, 7, 12]


class ModelContract:
    """Subclass it, and name the model."""

    kind: ClassVar[type[Model]]
    settings: ClassVar[dict[str, Any]] = {}
    """Settings under which the model is tested, beside small sizes and no dropout."""
    windows: ClassVar[str | None] = None
    """Training rows; default: those of the model's own defaults."""
    max_length: ClassVar[int] = 8
    catalog_options: ClassVar[dict[str, Any]] = {}
    """Arguments of ``make_catalog``."""
    learns: ClassVar[dict[str, Any]] = {
        "epochs": 12,
        "batch_size": 32,
        "lr": 1e-2,
        "warmup_steps": 10,
        "eval_every": 12,
    }
    """Section [train] of the tests that train to learn an order. Empty: the catalogue does not tell items apart."""

    # ---- what the tests are made of --------------------------------------------------------------

    def config(self, **changes: Any) -> Any:
        fields = self.kind.Config.model_fields
        small = {"width": 16, "heads": 2, "inner": 32, "layers": 2, "decoder_layers": 1, "head_width": 8}
        small |= {name: 0.0 for name in fields if name.endswith("dropout")}
        values = {name: value for name, value in (small | changes).items() if name in fields}
        return validate(self.kind.Config, "model", values | self.settings)

    def catalog(self) -> Catalog:
        return make_catalog(**self.catalog_options)

    def build(self, *, seed: int = 0, catalog: Catalog | None = None, **changes: Any) -> Model:
        torch.manual_seed(seed)
        catalog = catalog or self.catalog()
        model = self.kind(self.config(**changes), catalog, max_length=self.max_length)
        if not self.kind.trainable:
            model.fit(catalog, self.histories(catalog))
        return model

    def histories(self, catalog: Catalog | None = None, lengths: list[int] = LENGTHS) -> Histories:
        return make_histories(lengths, catalog.items if catalog else 30)

    def rows(self, histories: Histories, otherwise: str = "sliding") -> Rows:
        own = self.windows or self.kind.defaults.get("train", {}).get("windows", otherwise)
        return Rows.of(histories, max_length=self.max_length, windows=own)

    def batch(self, *, bucketed: bool = False) -> Batch:
        """A training batch of all rows."""
        rows = self.rows(histories := self.histories())
        return self.with_negatives(rows.batch(histories, np.arange(len(rows)), bucketed=bucketed))

    def with_negatives(self, batch: Batch) -> Batch:
        return batch.with_negatives(self.build().negatives, 30, torch.Generator().manual_seed(0))

    def known(self, batch_size: int = 99, histories: Histories | None = None) -> Any:
        """Batches of histories to continue."""
        histories = histories or self.histories()
        user, at = histories.targets("test")
        return eval_batches(histories, user, at, max_length=self.max_length, batch_size=batch_size)

    def samplers(self) -> list[MaskSampler | None]:
        """A mask sampler for each way in which the model may be trained."""
        generator, masking = torch.Generator().manual_seed(0), self.kind.masking
        if masking == "target":
            presets = ("random", "curriculum", "curriculum-history")
            digits = self.catalog().digits
            return [TargetMasks(NoiseConfig(preset=preset), digits, generator).at(0.5) for preset in presets]
        policies = {"random": ("random",), "entropy": ("random", "entropy")}.get(masking, ())
        return [HistoryMasks(policy, "token", 0.5, "printed", generator) for policy in policies] or [None]

    @torch.no_grad()
    def scores(self, model: Model, batch: Batch) -> Tensor:
        """``score_BI`` of the whole catalogue: by exact search, or item by item from a model that generates."""
        if isinstance(model, (ItemScorer, CodeScorer, DigitScorer)):
            return Exhaustive(self.catalog()).scores(model, batch)
        rows = batch.packing.sequences
        each = [model.target_loss(batch, torch.full((rows,), item)) for item in range(1, self.catalog().items + 1)]
        return -torch.stack(each, dim=1)

    def loop(self, folder: Path, histories: Histories, *, fixed: bool = False, **changes: Any) -> Loop:
        """A training loop; ``fixed``: without any random draw in its steps."""
        folder.mkdir(exist_ok=True)
        callbacks, dropout = changes.pop("callbacks", None), changes.pop("dropout", 0.0)
        train = {"windows": self.rows(histories).windows, "max_length": self.max_length} | changes
        own = {key: value for key, value in self.kind.defaults.get("train", {}).items() if key == "optimizer"}
        masking = {"random": "r", "entropy": "r-e-inf"}.get(self.kind.masking, "inf")
        preset = "r" if fixed and masking != "inf" else masking
        model = self.build(width=16, dropout=dropout, attention_dropout=dropout)
        catalog, search = self.catalog(), load("search", self.kind.search)
        settings = {"beams": 10} if "beams" in search.Config.model_fields else {}
        loop = Loop(
            model,
            catalog,
            histories,
            TrainConfig(**(own | train)),
            CurriculumConfig(preset=preset, ratio=0.3, max_epochs=1 if not fixed else None),
            torch.device("cpu"),
            folder,
            callbacks=callbacks,
            noise=NoiseConfig(ramp=0.1),
            make_ranker=lambda: make_ranker(model, catalog, search, search.Config(**settings)),
        )
        if fixed and self.kind.masking != "none":
            loop.sampler = FixedMasks  # type: ignore[method-assign,assignment]
        return loop

    def needs_training(self) -> None:
        if not self.kind.trainable:
            pytest.skip("learns without gradients")

    # ---- interface ---------------------------------------------------------------------------------

    def test_offers_an_interface_and_scores_every_item(self) -> None:
        model = self.build().eval()
        assert isinstance(model, (ItemScorer, CodeScorer, DigitScorer, PrefixScorer, MaskPredictor))
        scores = self.scores(model, next(self.known()).batch)
        assert scores.shape == (len(LENGTHS), 30)
        assert torch.isfinite(scores).all()

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
        model, found = self.build().eval(), []
        for size in (99, 1):
            scores = torch.zeros(len(LENGTHS), 30)
            for known in self.known(size):
                scores[known.row_B] = self.scores(model, known.batch)
            found.append(scores)
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)

    def test_unknown_users_with_one_history_get_one_list(self) -> None:
        """Whoever the data do not know is user -1, and no other user's row."""
        item = np.tile(np.array([3, 7, 5, 9], "uint32"), 4)
        at = np.full(4, 4)
        histories = Histories(item, np.arange(4) * 4, at, at, at - 5, at - 5, np.tile(np.arange(4) + 10**9, 4), True)
        model = self.build().eval()
        (known,) = eval_batches(histories, np.arange(4), at, max_length=self.max_length, batch_size=9)
        assert (known.batch.user_B == -1).all()
        scores = self.scores(model, known.batch)
        torch.testing.assert_close(scores, scores[:1].expand(4, -1), atol=1e-6, rtol=1e-6)

    # ---- losses ------------------------------------------------------------------------------------

    def test_gradients_reach_every_parameter(self) -> None:
        """Also those that a pass without gradient has cast before, which older torch (2.6) keeps as they are."""
        self.needs_training()
        batch, reached = self.batch(), []
        for precision in ("fp32", "bf16"):
            for sampler in self.samplers():
                model = self.build()
                with autocast(torch.device("cpu"), precision):
                    total = total_of(model, batch, sampler and sampler(model, batch))
                total.backward()
                reached.append({name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()})
        for names in reached:
            assert names == {name for name, _ in self.build().named_parameters()}

    def test_the_loss_of_a_batch_is_the_sum_of_its_rows(self) -> None:
        self.needs_training()
        model, rows = self.build().eval(), self.rows(histories := self.histories())
        if model.negatives:
            pytest.skip("samples items")
        batches = [rows.batch(histories, np.array([number])) for number in range(len(rows))]
        for sampler in (None, FixedMasks()) if self.kind.masking != "none" else (None,):
            whole, *parts = (
                model.losses(batch, sampler and sampler(model, batch))["next"] for batch in (self.batch(), *batches)
            )
            assert sum(part.count for part in parts) == whole.count
            torch.testing.assert_close(sum(part.sum for part in parts), whole.sum, atol=1e-4, rtol=1e-5)

    def test_counts_are_those_of_the_losses(self) -> None:
        """Gradient accumulation relies on counts that are known before the pass."""
        self.needs_training()
        model, batch = self.build(), self.batch()
        for sampler in [None, *self.samplers()]:
            mask = sampler and sampler(model, batch)
            losses = {name: loss for name, loss in model.losses(batch, mask).items() if loss.weight}
            counts = model.counts(batch, mask)
            assert counts.keys() == losses.keys()
            assert all(counts[name] == loss.count for name, loss in losses.items())

    def test_padding_rows_change_no_loss_and_no_gradient(self) -> None:
        self.needs_training()
        if not self.build().graph_capturable:
            pytest.skip("its steps are not captured")
        gradients = []
        for bucketed in (False, True):
            model = self.build()
            total_of(model, self.batch(bucketed=bucketed)).backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)

    def test_a_capturable_step_never_synchronises(self) -> None:
        """What the capture of a CUDA graph would refuse, seen on any machine."""
        self.needs_training()
        model, batch = self.build(), self.batch(bucketed=True)
        if not model.graph_capturable:
            pytest.skip("its steps are not captured")
        with NoSynchronisation():
            total_of(model, batch).backward()

    # ---- who sees what -----------------------------------------------------------------------------

    def test_the_future_does_not_leak(self) -> None:
        """Items behind a position change no loss at this position; the items up to it do."""
        self.needs_training()
        model, histories = self.build().eval(), self.histories(lengths=[9])
        if not model.causal:
            pytest.skip("reads both directions")
        rows = Rows.of(histories, max_length=self.max_length, windows="recent")
        batch = self.with_negatives(rows.batch(histories, np.array([0])))
        only = 2
        negative = batch.negative_MS[[only]] if batch.negative_MS is not None else None

        def loss(item_N: Tensor) -> Tensor:
            one = Batch(
                item_N, batch.packing, batch.user_B, batch.target_N, batch.learn_M[[only]], batch.time_N, negative
            )
            return model.losses(one)["next"].sum

        def changed(place: int) -> Tensor:
            item_N = batch.item_N.clone()
            item_N[place] = item_N[place] % 30 + 1
            return item_N

        own = loss(batch.item_N)
        for place in range(len(batch.item_N)):
            same = torch.isclose(loss(changed(place)), own, atol=1e-6, rtol=1e-6)
            assert bool(same) == (place > only), place

    def test_masked_items_do_not_leak(self) -> None:
        """Each item of the catalogue takes the masked place in turn. The model must not see which one it is, so what it
        gives them are probabilities of one distribution: they add up to one."""
        if self.kind.masking not in ("random", "entropy"):
            pytest.skip("has no masks over the history")
        catalog, histories = all_codes(), make_histories([9], 25)
        if self.catalog_options:
            pytest.skip("its catalogue does not have every code")
        model = self.build(catalog=catalog).eval()
        batch = Rows.of(histories, max_length=self.max_length, windows="recent").batch(histories, np.array([0]))
        for place in (0, 3, len(batch.item_N) - 1):
            mask_NK = torch.zeros_like(model.maskable(batch))
            mask_NK[place] = True
            total = 0.0
            for item in range(1, catalog.items + 1):
                item_N = batch.item_N.clone()
                item_N[place] = item
                one = Batch(item_N, batch.packing, batch.user_B, batch.target_N, batch.learn_M, batch.time_N)
                losses = model.losses(one, mask_NK)
                total += float(torch.exp(-losses.get("mask", losses["next"]).sum))
            assert total == pytest.approx(1, abs=1e-4), f"place {place}"

    def test_targets_do_not_leak(self) -> None:
        """Each item of the catalogue is the last target in turn: probabilities of one distribution."""
        self.needs_training()
        catalog, histories = all_codes(), make_histories([9], 25)
        model = self.build(catalog=catalog).eval()
        if model.negatives or self.catalog_options:
            pytest.skip("has no distribution over this catalogue")
        rows = Rows.of(histories, max_length=self.max_length, windows="recent")
        batch = rows.batch(histories, np.array([0]))
        total = 0.0
        for item in range(1, catalog.items + 1):
            target_N = torch.zeros_like(batch.target_N)
            target_N[-1] = item
            one = Batch(batch.item_N, batch.packing, batch.user_B, target_N, batch.learn_M[-1:], batch.time_N)
            total += float(torch.exp(-model.losses(one)["next"].sum))
        assert total == pytest.approx(1, abs=1e-4)

    # ---- learning ----------------------------------------------------------------------------------

    def test_overfits_eight_users(self) -> None:
        self.needs_training()
        rows = self.rows(histories := self.histories(), "recent")
        model = self.build(width=32)
        optimizer = make_optimizer(model, TrainConfig(lr=1e-2))
        batch = self.with_negatives(rows.batch(histories, np.arange(len(rows))))
        before = float(total_of(model, batch).detach())
        for _ in range(80):
            optimizer.zero_grad()
            loss = total_of(model, batch)
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.3 * before

    @pytest.mark.parametrize("ordered", [True, False])
    def test_learns_an_order_and_nothing_where_there_is_none(self, ordered: bool, tmp_path: Path) -> None:
        """Each item has one successor, or items are drawn at random: then more hits than chance are a leak."""
        self.needs_training()
        if ordered and not self.learns:
            pytest.skip("its catalogue does not tell items apart")
        length = np.random.default_rng(0).integers(5, 13, 160)
        histories = make_histories(length.tolist(), 30)
        if ordered:
            step = np.arange(len(histories.item)) - np.repeat(histories.offset, length)
            histories.item[:] = (np.repeat(histories.item[histories.offset], length) + step) % 30 + 1
        loop = self.loop(tmp_path / "run", histories, **(self.learns or {"epochs": 4}))
        loop.run()
        user, at = histories.targets("test")
        batches = eval_batches(histories, user, at, max_length=self.max_length, batch_size=64)
        hits = evaluate(loop.make_ranker(), batches, torch.device("cpu")).means([5])["Recall@5"] * 160
        chance = 160 * 5 / 30
        if ordered:
            assert hits > 3 * chance
        else:  # a binomial draw: five standard deviations are exceeded by chance once in three million
            assert hits < chance + 5 * chance**0.5

    def test_a_stopped_run_ends_with_the_bits_of_an_unbroken_one(self, tmp_path: Path) -> None:
        self.needs_training()
        histories = make_histories(LENGTHS * 3, 30)
        train = {"epochs": 3, "batch_size": 16, "lr": 1e-2, "warmup_steps": 5, "dropout": 0.2}
        self.loop(tmp_path / "whole", histories, **train).run()
        for stop in (2, 3):
            checks = iter(range(1, 1000))
            callbacks = Callbacks(stop_requested=lambda stop=stop, checks=checks: next(checks) == stop)
            with pytest.raises(Interrupted):
                self.loop(tmp_path / "broken", histories, callbacks=callbacks, **train).run()
        self.loop(tmp_path / "broken", histories, **train).run()
        for file in (BEST, LAST):
            one, two = read_weights(tmp_path / "whole" / file), read_weights(tmp_path / "broken" / file)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[name], two[name]) for name in one)

    def test_two_processes_learn_what_one_learns(self, tmp_path: Path) -> None:
        from genrec_cli.testing.processes import run_two

        self.needs_training()
        self.train_fixed(tmp_path / "one")
        run_two(type(self), tmp_path / "two")
        one, two = read_weights(tmp_path / "one" / BEST), read_weights(tmp_path / "two" / BEST)
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3, msg=name)

    def train_fixed(self, folder: Path) -> None:
        """A short training without any random draw in its steps."""
        self.loop(folder, make_histories(LENGTHS * 2, 30), fixed=True, epochs=1, batch_size=8, lr=1e-3).run()

    # ---- models that generate codes ------------------------------------------------------------------

    def test_digits_after_prefixes_add_up_to_the_loss_of_the_target(self) -> None:
        """A beam as wide as the catalogue lists every item, with the score that the model gives it as a target."""
        model, catalog = self.build().eval(), self.catalog()
        if not isinstance(model, PrefixScorer):
            pytest.skip("does not generate digit after digit")
        batch = next(self.known()).batch
        top, _ = Beam(model, catalog, BeamConfig(beams=30)).decode(batch, 30)
        assert (top.item_Bk.sort(dim=1).values == torch.arange(1, 31)).all()
        expected = catalog.digits * self.scores(model, batch).gather(1, top.item_Bk - 1)
        torch.testing.assert_close(top.score_Bk, expected, atol=1e-4, rtol=1e-5)

    def test_probabilities_of_a_digit_add_up_to_one_on_every_beam(self) -> None:
        model, rows = self.build().eval(), len(LENGTHS)
        if not isinstance(model, PrefixScorer):
            pytest.skip("does not generate digit after digit")
        beams, one = torch.zeros(rows, 3, dtype=torch.long), torch.ones(rows, 1)
        with torch.no_grad():
            prefixes = model.prefixes(next(self.known()).batch)
            torch.testing.assert_close(prefixes.first().exp().sum(-1), one)
            torch.testing.assert_close(prefixes.extend(beams, beams).exp().sum(-1), one.expand(rows, 3))

    def test_masks_are_filled_by_known_digits_and_not_by_other_candidates(self) -> None:
        model, known = self.build().eval(), next(self.known())
        if not isinstance(model, MaskPredictor):
            pytest.skip("fills in no masks")
        codes_BMK = torch.tensor([[-1, 3, -1, 5], [2, -1, 7, 0]]).repeat(len(LENGTHS), 1, 1)
        other = codes_BMK.clone()
        other[..., 3] = 6
        with torch.no_grad():
            memory = model.read(known.batch)
            logp_BMKV = model.fill(memory, codes_BMK)
            changed = model.fill(memory, other) - logp_BMKV
            torch.testing.assert_close(model.fill(memory, codes_BMK[:, 1:]), logp_BMKV[:, 1:])
            torch.testing.assert_close(model.fill(memory, codes_BMK.flip(1)), logp_BMKV.flip(1))
            logp_BKV = model.fill(memory, torch.full_like(codes_BMK[:, :1], -1))[:, 0]
            loss_B = model.target_loss(known.batch, known.target_B)
        torch.testing.assert_close(logp_BMKV.exp().sum(-1), torch.ones(codes_BMK.shape))
        assert (changed[:, :, :2].abs().amax((-1, -2)) > 1e-6).all(), "digits 0 and 1"
        code_BK1 = self.catalog().codes_IK[known.target_B - 1].long()[..., None]
        torch.testing.assert_close(loss_B, -logp_BKV.gather(2, code_BK1).mean((1, 2)))


def total_of(model: Model, batch: Batch, mask: Tensor | None = None) -> Tensor:
    """The loss that training takes the gradient of."""
    return sum(loss.weight * loss.sum / loss.count for loss in model.losses(batch, mask).values() if loss.weight)


class NoSynchronisation(TorchDispatchMode):
    """Fails where a tensor's content decides a size or a number on the host, or the host sends one."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "unique", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        places = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else []
        assert not any(x is not None and x.dtype == torch.bool for x in places), "the size of a mask is asked for"
        assert not name.startswith(self.REFUSED), name
        return func(*args, **(kwargs or {}))

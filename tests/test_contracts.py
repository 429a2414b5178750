"""What every model in the registry must do. A new model gets these tests by its line in the registry."""

import json
from itertools import product

import pytest
import torch
from conftest import make_catalog, make_histories
from torch.utils._python_dispatch import TorchDispatchMode

from genrec_cli import registry
from genrec_cli.config import validate
from genrec_cli.curriculum.history_masks import Masker
from genrec_cli.curriculum.target_masks import PRESETS, Noise, NoiseConfig
from genrec_cli.curriculum.phases import Mask
from genrec_cli.data.sequences import Rows, eval_batches
from genrec_cli.decoders.beam import Beam, BeamConfig
from genrec_cli.decoders.exhaustive import Exhaustive
from genrec_cli.engine.checkpoint import load_weights, save_weights
from genrec_cli.engine.optim import TrainConfig, autocast, make_optimizer
from genrec_cli.models.base import CodeScorer, ItemScorer, MaskFiller, Model, PrefixScorer

MAX_LENGTH = 8
SMALL = {"width": 16, "heads": 2, "inner": 32}
VARIANTS = {"tiger, one pass": ("tiger", {"causal": True}, "sliding")}
"""Settings under which a model learns in another way: the model, they, and the rows it learns from."""


def kind_of(name: str) -> type[Model]:
    return registry.load("model", VARIANTS[name][0] if name in VARIANTS else name)


def settings(name: str) -> dict:
    """Small sizes for what a model lets one choose, and no dropout, so that numbers can be compared."""
    fields = kind_of(name).Config.model_fields
    quiet = {field: 0.0 for field in fields if field.endswith("dropout")}
    return quiet | {key: value for key, value in SMALL.items() if key in fields} | VARIANTS.get(name, ("", {}))[1]


def build(name: str, *, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    kind = kind_of(name)
    model = kind(validate(kind.Config, "model", settings(name)), make_catalog(), max_length=MAX_LENGTH)
    if not kind.trainable:
        model.fit(make_catalog())
    return model


def losses_of(model: Model, batch, choose=None):
    losses = model.losses(batch, choose)
    return sum(loss.weight * loss.sum / loss.count for loss in losses.values() if loss.weight)


def masker(policy: Mask = "random") -> Masker:
    return Masker(policy, "token", 0.5, "printed", torch.Generator().manual_seed(0))


def windows_of(name: str, otherwise: str) -> str:
    """The rows that a model learns from by its own defaults."""
    if name in VARIANTS:
        return VARIANTS[name][2]
    return kind_of(name).defaults.get("train", {}).get("windows", otherwise)


@pytest.fixture
def rows(name, histories) -> Rows:
    return Rows.of(histories, max_length=MAX_LENGTH, windows=windows_of(name, "sliding"))


@torch.no_grad()
def scores_of(model: Model, batch) -> torch.Tensor:
    """``score_BI`` of the whole catalogue: by exact decoding, or item by item from a model that generates."""
    if isinstance(model, (ItemScorer, CodeScorer)):
        return Exhaustive(make_catalog()).scores(model, batch)
    return -torch.stack([model.target_loss(batch, torch.full_like(batch.user_B, i)) for i in range(1, 31)], dim=1)


NAMES = [*registry.names("model"), *VARIANTS]
every = pytest.mark.parametrize("name", NAMES)
trained = pytest.mark.parametrize("name", [name for name in NAMES if kind_of(name).trainable])


@every
def test_offers_a_face_and_scores_every_item(name, histories):
    model = build(name).eval()
    assert isinstance(model, (ItemScorer, CodeScorer, PrefixScorer, MaskFiller))
    user, at = histories.targets("test")
    known = next(eval_batches(histories, user, at, max_length=MAX_LENGTH, batch_size=99))
    scores = scores_of(model, known.batch)
    assert scores.shape == (8, 30)
    assert torch.isfinite(scores).all()


@every
def test_config_survives_json(name):
    kind = kind_of(name)
    config = validate(kind.Config, "model", settings(name))
    assert validate(kind.Config, "model", json.loads(json.dumps(config.model_dump(mode="json")))) == config


@every
def test_save_and_load_give_the_same_scores(name, histories, tmp_path):
    model, other = build(name).eval(), build(name, seed=1).eval()
    save_weights(tmp_path / "m.safetensors", model)
    load_weights(tmp_path / "m.safetensors", other)
    user, at = histories.targets("test")
    known = next(eval_batches(histories, user, at, max_length=MAX_LENGTH, batch_size=99))
    assert torch.equal(scores_of(model, known.batch), scores_of(other, known.batch))


@every
def test_a_batch_gives_what_each_history_gives_alone(name, histories):
    model = build(name).eval()
    user, at = histories.targets("test")

    def scores(batch_size: int) -> torch.Tensor:
        found = torch.zeros(len(user), 30)
        for known in eval_batches(histories, user, at, max_length=MAX_LENGTH, batch_size=batch_size):
            found[known.batch.user_B] = scores_of(model, known.batch)
        return found

    torch.testing.assert_close(scores(99), scores(1), atol=1e-5, rtol=1e-5)


@trained
def test_gradients_reach_every_parameter(name, histories, rows):
    """Also those that a pass without gradient has cast before, which older torch (2.6) keeps as they are."""
    batch = rows.batch(histories, torch.arange(len(rows)).numpy())
    for precision, policy in product(("fp32", "bf16"), ("random", "entropy")):
        model = build(name)
        with autocast(torch.device("cpu"), precision):
            total = losses_of(model, batch, masker(policy) if model.masks else None)
        total.backward()
        missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert missing == [], (precision, policy)


@trained
def test_the_loss_of_a_batch_is_the_sum_of_its_rows(name, histories, rows):
    model = build(name).eval()
    if getattr(model.config, "loss", "ce") != "ce":
        pytest.skip("draws negatives")
    numbers = torch.arange(len(rows)).numpy()
    whole = model.losses(rows.batch(histories, numbers))["next"]
    parts = [model.losses(rows.batch(histories, numbers[[i]]))["next"] for i in range(len(rows))]
    assert sum(part.count for part in parts) == whole.count
    torch.testing.assert_close(sum(part.sum for part in parts), whole.sum, atol=1e-4, rtol=1e-5)


@trained
def test_dummy_rows_change_no_loss_and_no_gradient(name, histories, rows):
    model = build(name)
    if not model.static:
        pytest.skip("takes no dummy rows")
    numbers = torch.arange(len(rows)).numpy()
    gradients = []
    for rounded in (False, True):
        model.zero_grad()
        losses_of(model, rows.batch(histories, numbers, rounded=rounded)).backward()
        gradients.append({where: p.grad.clone() for where, p in model.named_parameters()})
    for where, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][where], gradient, atol=1e-6, rtol=1e-4, msg=where)


class NothingAsked(TorchDispatchMode):
    """Fails where a tensor's content decides a size or a number on the host, or the host sends one."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "unique", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).removeprefix("aten.")
        places = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else []
        assert not any(x is not None and x.dtype == torch.bool for x in places), "how many a mask holds is asked for"
        assert not name.startswith(self.REFUSED), name
        return func(*args, **(kwargs or {}))


@trained
def test_a_static_step_asks_its_device_for_nothing(name, histories, rows):
    """What recording a CUDA graph would refuse, seen on any machine."""
    model = build(name)
    if not model.static:
        pytest.skip("its steps are not recorded")
    batch = rows.batch(histories, torch.arange(len(rows)).numpy(), rounded=True)
    generator = torch.Generator().manual_seed(0)
    choosers = [None]
    if model.noised:
        choosers = [Noise(NoiseConfig(preset=preset), model.digits, generator).at(0.5) for preset in PRESETS]
    if model.masks:
        choosers += [
            Masker(policy, granularity, 0.5, "rounded", generator, smoothing=True)
            for policy in ("random", "entropy") for granularity in ("token", "item", "mixed")
        ]  # fmt: skip
    for choose in choosers:
        with NothingAsked():
            losses_of(model, batch, choose).backward()


@trained
def test_the_future_does_not_leak(name):
    """The gradient of what position t predicts, by the items behind t, is zero."""
    model = build(name).eval()
    if not model.causal:
        pytest.skip("reads both directions")
    histories = make_histories([9], 30)
    rows = Rows.of(histories, max_length=MAX_LENGTH, windows="recent")
    batch = rows.batch(histories, torch.tensor([0]).numpy())
    seen = {}

    def keep(module, inputs, output):
        output.retain_grad()
        seen["x"] = output

    if name in VARIANTS:  # a place for each code, behind one for the user
        handle = model.encoder.register_forward_pre_hook(lambda module, given: keep(module, given, given[0]))
    else:
        embedding = model.codes if hasattr(model, "codes") else model.item
        handle = embedding.register_forward_hook(keep)
    only = 2
    first = type(batch)(batch.item_N, batch.packing, batch.user_B, batch.target_N, batch.learn_M[[only]])
    model.losses(first)["next"].sum.backward()
    handle.remove()
    reach = seen["x"].grad.abs().sum(1)
    if name in VARIANTS:
        reach = reach[1:].unflatten(0, (-1, model.digits)).sum(1)
    assert (reach[: only + 1] > 0).all()
    assert (reach[only + 1 :] == 0).all()


@trained
def test_overfits_eight_users(name, histories):
    torch.manual_seed(0)
    model = build(name)
    rows = Rows.of(histories, max_length=20, windows=windows_of(name, "recent"))
    kind = kind_of(name)
    model = kind(validate(kind.Config, "model", settings(name) | {"width": 32}), make_catalog(), max_length=20)
    optimizer = make_optimizer(model, TrainConfig(lr=1e-2))
    batch = rows.batch(histories, torch.arange(len(rows)).numpy())
    before = float(losses_of(model, batch).detach())
    for _ in range(80):
        optimizer.zero_grad()
        loss = losses_of(model, batch)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * before


def prefix_scorer(name: str, histories):
    """A model that generates digit after digit, and a batch for it."""
    model = build(name).eval()
    if not isinstance(model, PrefixScorer):
        pytest.skip("does not generate digit after digit")
    user, at = histories.targets("test")
    return model, next(eval_batches(histories, user, at, max_length=MAX_LENGTH, batch_size=99)).batch


@every
def test_digits_after_prefixes_add_up_to_the_loss_of_the_target(name, histories):
    """A beam as wide as the catalogue lists every item, with the score that the model gives it as a target."""
    model, batch = prefix_scorer(name, histories)
    catalog = make_catalog()
    top, _ = Beam(model, catalog, BeamConfig(beams=30)).decode(batch, 30)
    assert (top.item_Bk.sort(dim=1).values == torch.arange(1, 31)).all()
    expected = catalog.digits * scores_of(model, batch).gather(1, top.item_Bk - 1)
    torch.testing.assert_close(top.score_Bk, expected, atol=1e-4, rtol=1e-5)


@every
def test_probabilities_of_a_digit_add_up_to_one_on_every_beam(name, histories):
    model, batch = prefix_scorer(name, histories)
    beams, one = torch.zeros(8, 3, dtype=torch.long), torch.ones(8, 1)
    with torch.no_grad():
        prefixes = model.prefixes(batch)
        torch.testing.assert_close(prefixes.first().exp().sum(-1), one)
        torch.testing.assert_close(prefixes.extend(beams, beams).exp().sum(-1), one.expand(8, 3))


# ---- models that fill in masks -------------------------------------------------------------------------


def mask_filler(name: str, histories):
    """A model that fills in masks, some histories with their targets, and two candidates for each of them."""
    model = build(name).eval()
    if not isinstance(model, MaskFiller):
        pytest.skip("fills in no masks")
    user, at = histories.targets("test")
    known = next(eval_batches(histories, user, at, max_length=MAX_LENGTH, batch_size=99))
    codes_BMK = torch.tensor([[-1, 3, -1, 5], [2, -1, 7, 0]]).repeat(len(user), 1, 1)
    return model, known, codes_BMK


@every
def test_masks_are_filled_by_probabilities_that_depend_on_the_known_digits(name, histories):
    model, known, codes_BMK = mask_filler(name, histories)
    other = codes_BMK.clone()
    other[..., 3] = 6
    with torch.no_grad():
        logp_BMKV = model.fill(model.read(known.batch), codes_BMK)
        changed = model.fill(model.read(known.batch), other) - logp_BMKV
    assert logp_BMKV.shape == (8, 2, 4, 8)
    torch.testing.assert_close(logp_BMKV.exp().sum(-1), torch.ones(8, 2, 4))
    assert (changed[:, :, :2].abs().amax((-1, -2)) > 1e-6).all(), "digits 0 and 1"


@every
def test_a_candidate_is_filled_alike_among_others_and_alone(name, histories):
    model, known, codes_BMK = mask_filler(name, histories)
    with torch.no_grad():
        memory = model.read(known.batch)
        both = model.fill(memory, codes_BMK)
        torch.testing.assert_close(model.fill(memory, codes_BMK[:, 1:]), both[:, 1:])
        torch.testing.assert_close(model.fill(memory, codes_BMK.flip(1)), both.flip(1))


@every
def test_the_loss_of_a_target_is_that_of_filling_it_from_nothing(name, histories):
    model, known, codes_BMK = mask_filler(name, histories)
    with torch.no_grad():
        logp_BKV = model.fill(model.read(known.batch), torch.full_like(codes_BMK[:, :1], -1))[:, 0]
        loss_B = model.target_loss(known.batch, known.target_B)
    code_BK1 = make_catalog().codes_IK[known.target_B - 1].long()[..., None]
    torch.testing.assert_close(loss_B, -logp_BKV.gather(2, code_BK1).mean((1, 2)))

"""Masks and phases against cases computed by hand."""

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories

from genrec_cli.config import validate
from genrec_cli.curriculum.history_masks import HistoryMasks, smooth
from genrec_cli.curriculum.phases import Curriculum, CurriculumConfig, Law, Phase, Until
from genrec_cli.data.batch import Batch
from genrec_cli.data.sequences import Rows
from genrec_cli.errors import ConfigError
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.nn.classifier import entropy
from genrec_cli.nn.packing import Packing


def batch_of(lengths: list[int]) -> Batch:
    packing = Packing.of(np.array(lengths))
    return Batch(torch.arange(sum(lengths)) % 30 + 1, packing, torch.arange(len(lengths)))


def sampler(mask="entropy", granularity="token", ratio=0.5, budget="rounded", seed=0):
    """A function to ``mask_NK`` by entropies or, without them, at random."""
    masks = HistoryMasks(mask, granularity, ratio, budget, torch.Generator().manual_seed(seed))

    def draw(entropy_NK, batch, digits):
        return masks.sample(batch.packing, torch.ones(len(batch.item_N), digits, dtype=torch.bool), entropy_NK)

    return draw


def test_entropy_of_known_distributions():
    uniform, certain = torch.zeros(1, 1, 8), torch.tensor([[[50.0] + [0.0] * 7]])
    assert entropy(uniform.log_softmax(-1)).item() == pytest.approx(np.log(8), abs=1e-6)
    assert entropy(certain.log_softmax(-1)).item() == pytest.approx(0.0, abs=1e-6)
    half = torch.tensor([[[0.0, 0.0] + [-1e9] * 6]])
    assert entropy(half.log_softmax(-1)).item() == pytest.approx(np.log(2), abs=1e-6)


def test_entropy_masks_the_highest_tokens():
    batch = batch_of([3, 2])
    scores = torch.tensor([[1.0, 9.0], [8.0, 2.0], [3.0, 7.0], [5.0, 1.0], [4.0, 6.0]])
    mask = sampler(ratio=0.5)(scores, batch, 2)  # 3 of 6 and 2 of 4, exactly
    assert mask.tolist() == [[False, True], [True, False], [False, True], [True, False], [False, True]]


def test_entropy_masks_whole_items_by_their_mean():
    batch = batch_of([4])
    scores = torch.tensor([[1.0, 9.0], [8.0, 8.0], [3.0, 1.0], [0.0, 0.0]])
    mask = sampler(granularity="item", ratio=0.5)(scores, batch, 2)
    assert mask.tolist() == [[True, True], [True, True], [False, False], [False, False]]


@pytest.mark.parametrize("granularity", ["token", "item", "mixed"])
@pytest.mark.parametrize("policy", ["random", "entropy"])
def test_the_rounded_budget_is_the_ratio_on_average(policy, granularity):
    batch = batch_of([1, 3, 7, 20])
    draw = sampler(policy, granularity, ratio=0.15)
    entropies = [torch.rand(31, 4) if policy == "entropy" else None for _ in range(800)]
    fractions = torch.stack([draw(entropy_NK, batch, 4).float().mean() for entropy_NK in entropies])
    assert fractions.mean().item() == pytest.approx(0.15, abs=0.012)


@pytest.mark.parametrize("policy, budget", [("random", "uniform"), ("entropy", "uniform"), ("entropy", "printed")])
def test_the_budget_of_section_3_3_is_uniform_from_one(policy, budget):
    draw = sampler(policy, "token", ratio=0.5, budget=budget)
    entropy_NK = torch.rand(5, 2) if policy == "entropy" else None
    numbers = torch.stack([draw(entropy_NK, batch_of([4, 1]), 2).split([4, 1])[0].sum() for _ in range(2000)])
    counts = numbers.bincount()
    assert counts[0] == 0 and len(counts) == 5, "N lies in 1 .. floor(.5 * 8)"
    assert counts[1:].min() > 400
    tiny = torch.stack(
        [sampler("random", "item", 0.05, "uniform", s)(None, batch_of([3]), 2).any(1).sum() for s in range(20)]
    )
    assert (tiny == 1).all(), "an empty range becomes one item"


def test_printed_random_masks_draw_each_code_alone():
    mask = sampler("random", "token", 0.3, "printed")(None, batch_of([500]), 4)
    assert mask.float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_mixed_masks_both_kinds():
    mask = sampler("random", "mixed", 0.5)(None, batch_of([400]), 4)
    whole = mask.all(1).sum().item()
    part = (mask.any(1) & ~mask.all(1)).sum().item()
    assert whole > 60 and part > 60


def test_smoothing_looks_back_over_three_items_within_a_history():
    batch = batch_of([3, 1])
    entropies = torch.tensor([[4.0], [2.0], [8.0], [6.0]])
    found = smooth(entropies, batch.packing)[:, 0]
    third = (8 + 2 / 2 + 4 / 4) / (1 + 1 / 2 + 1 / 4)
    expected = [4.0, 0.8 * 2 + 0.2 * (2 + 4 / 2) / 1.5, 0.8 * 8 + 0.2 * third, 6.0]
    assert found.tolist() == pytest.approx(expected)


# ---- phases ------------------------------------------------------------------------------------


def test_the_full_curriculum_walks_through_its_phases_to_the_end():
    machine = Curriculum(CurriculumConfig(preset="r-e-inf", plateau=2, patience=3, ratio=0.2))
    seen = []

    def feed(value: float) -> None:
        seen.append((machine.phase.name, round(machine.state.ratio, 3)))
        machine.after_epoch(value)

    for value in [0.1, 0.2, 0.2, 0.2]:  # an equal value is no improvement: two of them end phase R
        feed(value)
    assert machine.phase.name == "entropy"
    feed(0.3)
    while machine.phase.name == "entropy":
        feed(0.1)  # never better again: every second evaluation takes a tenth of the initial ratio
    assert [r for _, r in seen if _ == "entropy"][1:] == [
        r for r in [0.2, 0.18, 0.16, 0.14, 0.12, 0.1, 0.08, 0.06, 0.04, 0.02] for _ in range(2)
    ]
    assert (machine.phase.name, machine.state.ratio) == ("inference", 0.0)
    feed(0.5)
    for value in [0.4, 0.4, 0.4]:
        assert not machine.state.finished
        feed(value)
    assert machine.state.finished


def test_decay_laws():
    linear = Law(on_plateau=1, kind="linear", step=0.25)
    assert [linear.lower(r, 0.4) for r in (0.4, 0.3, 0.2, 0.1)] == pytest.approx([0.3, 0.2, 0.1, 0.0])
    exponential = Law(on_plateau=1, kind="exponential", eta=0.5, floor=0.05)
    assert [exponential.lower(r, 0.4) for r in (0.4, 0.2, 0.1)] == pytest.approx([0.2, 0.1, 0.0])


def test_max_epochs_ends_a_phase_and_losses_may_be_watched():
    config = CurriculumConfig(preset="r-inf", max_epochs=2, plateau=9, watch="loss")
    machine = Curriculum(config)
    assert machine.after_epoch(3.0) is None
    assert machine.after_epoch(2.0) == "phase 'inference' begins"
    machine.after_epoch(5.0)
    machine.after_epoch(4.0)
    assert machine.state.stale == 0, "a lower loss is better"


@pytest.mark.parametrize("ratio", [0.05, 0.15, 0.4])
def test_the_exponential_preset_falls_by_fractions_of_its_start(ratio):
    """At every ratio of Table 1; a floor that was no fraction ended the phase of the lowest at its first plateau."""

    def fractions(**given: float) -> list[float]:
        config = CurriculumConfig(preset="e-inf", law="exponential", ratio=ratio, plateau=1, **given)
        machine, seen = Curriculum(config), []
        while machine.phase.name == "entropy":
            seen.append(machine.state.ratio / ratio)
            machine.after_epoch(0.5)
        return seen

    assert fractions() == pytest.approx([1.0, 1.0, 0.5, 0.25, 0.125])
    assert fractions(eta=0.8, floor=0.6) == pytest.approx([1.0, 1.0, 0.8, 0.64])


def test_state_survives_a_dump():
    machine = Curriculum(CurriculumConfig(preset="r-e-inf", plateau=2))
    for value in [0.3, 0.2, 0.1, 0.2]:
        machine.after_epoch(value)
    again = Curriculum(CurriculumConfig(preset="r-e-inf", plateau=2), machine.dump())
    assert again.state == machine.state and again.phase == machine.phase


@pytest.mark.parametrize("preset", ["inf", "r", "e", "r-inf", "e-inf", "r-e-inf"])
def test_presets_end_in_early_stopping(preset):
    phases = CurriculumConfig(preset=preset, patience=7).phases()
    assert phases[-1].until == Until(plateau=7)
    assert [p.mask for p in phases] == [{"inf": "none", "r": "random", "e": "entropy"}[x] for x in preset.split("-")]


def test_a_plateau_that_is_never_reached_because_the_ratio_falls_is_an_error():
    phase = {"name": "a", "mask": "random", "ratio": 0.3, "law": {"on_plateau": 3}, "until": {"plateau": 3}}
    with pytest.raises(ConfigError, match=r"until\.plateau = 3 is never reached.*ratio_at"):
        validate(CurriculumConfig, "curriculum", {"phase": [phase]})
    phase["until"]["plateau"] = 2
    assert validate(CurriculumConfig, "curriculum", {"phase": [phase]}).phases()[0].name == "a"


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"mask": "random"}, "mask = random with ratio = 0 masks nothing"),
        ({"ratio": 0.3}, "mask = none with ratio = 0.3 masks nothing"),
        ({"mask": "random", "ratio": 0.3, "until": {"ratio_at": 0.1}}, r"ratio_at = 0\.1 is never reached.*a law"),
        ({"mask": "random", "ratio": 0.3, "until": {"ratio_at": -0.1}}, "ratio_at"),
    ],
)
def test_a_phase_that_would_do_nothing_or_never_end_is_an_error(phase, message):
    with pytest.raises(ConfigError, match=message):
        validate(CurriculumConfig, "curriculum", {"phase": [{"name": "a", **phase}]})


def test_phases_in_a_file_and_wrong_presets():
    own = CurriculumConfig(phase=(Phase(name="a", mask="random", ratio=0.3, max_epochs=2), Phase(name="b")))
    assert [p.name for p in own.phases()] == ["a", "b"]
    for preset in ("r-x", "inf-r", "e-r", "r-e"):
        with pytest.raises(ConfigError, match="'r-e-inf'"):
            validate(CurriculumConfig, "curriculum", {"preset": preset})
    with pytest.raises(ConfigError, match=r"curriculum\.ratio"):
        validate(CurriculumConfig, "curriculum", {"preset": "r-inf", "ratio": 0})


# ---- the model under masks ---------------------------------------------------------------------


@pytest.fixture
def model() -> Mhl:
    torch.manual_seed(0)
    config = MhlConfig(width=16, heads=2, inner=32, dropout=0.0, attention_dropout=0.0)
    model = Mhl(config, make_catalog(), max_length=8)
    torch.nn.init.normal_(model.heads.linear.weight, std=0.2)
    return model


def test_mask_ids_name_position_and_digit(model):
    batch = batch_of([2, 3])
    token = model.tokens(batch)
    everything = torch.ones(5, 4, dtype=torch.bool)
    hidden = model.apply_mask(token, everything, batch)
    assert hidden.tolist() == [[32 + t * 4 + k for k in range(4)] for t in (0, 1, 0, 1, 2)]
    assert torch.equal(model.apply_mask(token, ~everything, batch), token)
    assert model.codes.table.num_embeddings == 4 * 8 + 4 * 8


def test_a_masked_code_never_reaches_its_own_target_through_the_input(model):
    """The input of the codes' embedding has no masked code."""
    histories = make_histories([9], 30)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.array([0]))
    mask = torch.zeros(len(batch.item_N), 4, dtype=torch.bool)
    mask[3, 1] = mask[0, 2] = True
    seen = {}
    handle = model.codes.register_forward_hook(lambda m, i, o: seen.__setitem__("tokens", i[0].clone()))
    model.losses(batch, mask)
    handle.remove()
    tokens = model.tokens(batch)
    assert not (seen["tokens"][mask] == tokens[mask]).any()
    assert torch.equal(seen["tokens"][~mask], tokens[~mask])


@pytest.mark.parametrize("fraction_K", [[0.4] * 4, [1.0, 0.1, 0.1, 0.6], [0.0, 0.9, 0.0, 0.0], [0.0] * 4])
def test_reconstruction_at_pairs_equals_a_loop(model, fraction_K):
    histories = make_histories([9, 7], 30)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.array([0, 1]))
    draw = torch.rand(len(batch.item_N), 4, generator=torch.Generator().manual_seed(3))
    mask = draw < torch.tensor(fraction_K)
    loss = model.losses(batch, mask)["mask"]
    h = model.states(model.apply_mask(model.tokens(batch), mask, batch), batch)
    logits = model.logits(h).log_softmax(-1)
    codes = model.codes_of(batch.item_N)
    expected = -sum((logits[k, n, codes[n, k]] for n, k in mask.nonzero().tolist()), torch.zeros(()))
    torch.testing.assert_close(loss.sum, expected, atol=1e-4, rtol=1e-5)
    assert loss.count == mask.sum()


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_counts_name_the_losses_that_are_trained(model, weight):
    batch = Rows.of(make_histories([9, 7], 30), max_length=8, windows="recent")
    batch = batch.batch(make_histories([9, 7], 30), np.array([0, 1]))
    mask = torch.ones(len(batch.item_N), 4, dtype=torch.bool)
    model.config = model.config.model_copy(update={"mask_weight": weight})
    trained = {name for name, loss in model.losses(batch, mask).items() if loss.weight}
    assert model.counts(batch, mask).keys() == trained


def test_clean_pass_leaves_the_next_item_loss_untouched(model):
    histories = make_histories([9, 7], 30)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.array([0, 1]))
    mask = torch.ones(len(batch.item_N), 4, dtype=torch.bool)
    model.config = model.config.model_copy(update={"next_on": "clean"})
    with_masks, without = model.losses(batch, mask), model.losses(batch, None)
    torch.testing.assert_close(with_masks["next"].sum, without["next"].sum)
    model.config = model.config.model_copy(update={"next_on": "masked"})
    assert not torch.isclose(model.losses(batch, mask)["next"].sum, without["next"].sum)


def test_entropies_of_both_readings(model):
    histories = make_histories([9, 7], 30)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.array([0, 1]))
    expected = entropy(model.logits(model.states(model.tokens(batch), batch)).log_softmax(-1)).t()
    model.config = model.config.model_copy(update={"entropy_source": "printed"})
    torch.testing.assert_close(model.entropies(batch), expected, atol=1e-5, rtol=1e-5)
    model.config = model.config.model_copy(update={"entropy_source": "predictive"})
    found = model.entropies(batch)
    assert batch.packing.length_B.tolist() == [4, 6]
    torch.testing.assert_close(found[1:4], expected[:3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0], expected[:4].mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[4], expected[4:].mean(0), atol=1e-5, rtol=1e-5)


def test_masked_pairs_can_be_left_out_of_the_next_item_loss(model):
    histories = make_histories([9, 7], 30)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.array([0, 1]))
    mask = torch.rand(len(batch.item_N), 4, generator=torch.Generator().manual_seed(0)) < 0.4
    model.config = model.config.model_copy(update={"next_masked": False})
    loss = model.losses(batch, mask)["next"]
    assert loss.count == model.counts(batch, mask)["next"] == (~mask[batch.learn_M]).sum()
    h_MD = model.states(model.apply_mask(model.tokens(batch), mask, batch), batch, batch.learn_M)
    logp_MKV = model.logits(h_MD).log_softmax(-1).transpose(0, 1)
    nll_MK = -logp_MKV.gather(2, model.target_codes(batch)[..., None])[..., 0]
    torch.testing.assert_close(loss.sum, nll_MK[~mask[batch.learn_M]].sum(), atol=1e-4, rtol=1e-5)


def test_relative_entropies_have_no_mean_by_position_and_digit(model):
    histories = make_histories([9, 7], 30)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.array([0, 1]))
    plain = model.entropies(batch)
    model.config = model.config.model_copy(update={"entropy_relative": True, "entropy_mode": "eval"})
    model.eval()
    torch.testing.assert_close(model.entropies(batch), plain)  # figures show the entropies themselves
    model.train()
    found = model.entropies(batch)
    assert model.training
    for position in range(int(batch.packing.length_B.max())):
        at_N = batch.packing.position_N == position
        expected = plain[at_N] - plain[at_N].mean(0)
        torch.testing.assert_close(found[at_N], expected, atol=1e-5, rtol=1e-5)


def test_entropies_without_dropout_are_the_same_twice(model):
    histories = make_histories([9, 7], 30)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.array([0, 1]))
    model.backbone.dropout.p = 0.5
    model.train()
    assert not torch.equal(model.entropies(batch), model.entropies(batch))
    model.config = model.config.model_copy(update={"entropy_mode": "eval"})
    assert torch.equal(model.entropies(batch), model.entropies(batch))


def test_an_entropy_policy_masks_by_the_models_entropies(model):
    histories = make_histories([9, 7], 30)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.array([0, 1]))
    masks = HistoryMasks("entropy", "token", 0.5, "rounded", torch.Generator())
    entropy_NK = model.entropies(batch)
    expected = masks.sample(batch.packing, torch.ones_like(entropy_NK, dtype=torch.bool), entropy_NK)
    assert torch.equal(masks(model, batch), expected) and expected.any()

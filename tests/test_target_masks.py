"""Which digits of a target are masked: hand-computed schedules, allocation and counts, and their distributions."""

import json
from collections import Counter
from math import exp

import pytest
import torch
from conftest import make_catalog, make_histories

from genrec_cli.config import validate
from genrec_cli.curriculum.target_masks import NoiseConfig, TargetMasks, count_probabilities, frequency
from genrec_cli.data.batch import Batch
from genrec_cli.data.sequences import Rows
from genrec_cli.errors import ConfigError
from genrec_cli.nn.packing import Packing

DRAWS = 40_000


def batch_of(*lengths: int) -> Batch:
    """Histories of these lengths whose every position has a target."""
    total = sum(lengths)
    ones, user_B = torch.ones(total, dtype=torch.long), torch.arange(len(lengths))
    return Batch(ones, Packing.of(list(lengths)), user_B, target_N=ones, learn_M=torch.arange(total))


def sampler(progress: float = 0.5, *, digits: int = 8, seed: int = 0, **settings):
    """A function from codes of targets, codes of histories and their batch to masks."""
    return TargetMasks(NoiseConfig(**settings), digits, torch.Generator().manual_seed(seed)).at(progress).sample


def test_counts_of_the_curriculum_by_hand() -> None:
    """K 4, gamma 2, half way: s = 1/4, mu = 1.75, sigma = 1."""
    weight = [exp(-((k - 1.75) ** 2) / 2) for k in (1, 2, 3, 4)]
    assert count_probabilities(0.5, 4, NoiseConfig()) == pytest.approx([w / sum(weight) for w in weight])


@pytest.mark.parametrize("progress, likeliest", [(0.0, 1), (1.0, 8)])
def test_the_curriculum_starts_easy_ends_hard_and_gives_every_count_a_probability(
    progress: float, likeliest: int
) -> None:
    probabilities = count_probabilities(progress, 8, NoiseConfig())
    assert max(range(8), key=probabilities.__getitem__) + 1 == likeliest
    assert sum(probabilities) == pytest.approx(1)
    assert min(probabilities) > 0


def test_a_higher_gamma_stays_easy_for_longer() -> None:
    means = [
        sum(k * p for k, p in enumerate(count_probabilities(0.5, 8, NoiseConfig(gamma=gamma)), 1))
        for gamma in (1.0, 2.0, 4.0)
    ]
    assert means[0] > means[1] > means[2]


def test_frequency_by_hand() -> None:
    """Two histories; the second one's codes do not count for the first, nor do the codes after a target."""
    codes_NK = torch.tensor([[1, 5], [1, 6], [2, 6], [1, 7]])
    target_MK = torch.tensor([[1, 6], [1, 5], [1, 6], [1, 6]])
    assert frequency(target_MK, codes_NK, batch_of(3, 1)).tolist() == [[1, 0], [2, 1], [2, 2], [1, 0]]


def test_frequency_is_what_counting_one_by_one_gives() -> None:
    catalog, histories = make_catalog(30, 4, 5), make_histories([5, 9, 3, 14, 6], 30)
    rows = Rows.of(histories, max_length=6, windows="sliding")
    batch = rows.batch(histories, torch.arange(len(rows)).numpy())
    codes_NK, target_MK = catalog.codes_IK[batch.item_N - 1], catalog.codes_IK[batch.target_N[batch.learn_M] - 1]
    slow = torch.zeros_like(target_MK)
    for m, at in enumerate(batch.learn_M.tolist()):
        begin = at - int(batch.packing.position_N[at])
        slow[m] = (codes_NK[begin : at + 1] == target_MK[m]).sum(0)
    assert slow.sum() > 20
    assert torch.equal(frequency(target_MK, codes_NK, batch).long(), slow)


def test_rare_codes_come_first_by_their_weights() -> None:
    """Seen twice and never: weights 1/9 and 1 at rarity 2, so that a single mask hits the first one time in ten."""
    codes_NK = torch.tensor([[1, 5], [1, 6]]).repeat(DRAWS, 1)
    target_MK = torch.tensor([[1, 9], [1, 9]]).repeat(DRAWS, 1)
    mask_MK = sampler(0.0, digits=2, std=0.05, rarity=2.0)(target_MK, codes_NK, batch_of(*[2] * DRAWS))
    assert mask_MK[1::2, 0].float().mean() == pytest.approx(1 / 10, abs=0.01)


def test_the_first_of_two_digits_is_drawn_in_proportion_to_its_weight() -> None:
    """One code of two was seen twice: weights 1/3 and 1, so that a single mask hits it once in four."""
    codes_NK = torch.tensor([[3, 4], [3, 5]]).repeat(DRAWS, 1)
    target_MK = torch.tensor([[3, 9], [3, 9]]).repeat(DRAWS, 1)
    mask_MK = sampler(0.0, digits=2, std=0.05)(target_MK, codes_NK, batch_of(*[2] * DRAWS))
    assert (mask_MK.sum(1) == 1).all(), "a narrow bell curve at the start masks one digit"
    assert mask_MK[1::2, 0].float().mean() == pytest.approx(1 / 4, abs=0.01)
    assert mask_MK[0::2, 0].float().mean() == pytest.approx(1 / 3, abs=0.01), "seen once: 1/2 and 1"


def test_a_cold_user_is_masked_uniformly() -> None:
    codes_NK, target_MK = torch.zeros(DRAWS, 4, dtype=torch.long), torch.ones(DRAWS, 4, dtype=torch.long)
    mask_MK = sampler(digits=4)(target_MK, codes_NK, batch_of(*[1] * DRAWS))
    fraction_K = mask_MK.float().mean(0)
    torch.testing.assert_close(fraction_K, fraction_K.mean().expand(4), atol=0.01, rtol=0)


@pytest.mark.parametrize("preset", ["random", "curriculum", "curriculum-history"])
@pytest.mark.parametrize("progress", [0.0, 0.7, 1.0])
def test_counts_of_masked_digits_have_the_distribution_of_the_preset(preset: str, progress: float) -> None:
    codes_NK, target_MK = torch.zeros(DRAWS, 8, dtype=torch.long), torch.ones(DRAWS, 8, dtype=torch.long)
    count_M = sampler(progress, preset=preset)(target_MK, codes_NK, batch_of(*[1] * DRAWS)).sum(1)
    found = Counter(count_M.tolist())
    wanted = [1 / 8] * 8 if preset == "random" else count_probabilities(progress, 8, NoiseConfig())
    assert [found[k] / DRAWS for k in range(1, 9)] == pytest.approx(wanted, abs=0.012)


def test_the_generator_decides_the_masks() -> None:
    codes_NK, target_MK = torch.zeros(50, 8, dtype=torch.long), torch.ones(50, 8, dtype=torch.long)
    batch = batch_of(*[1] * 50)
    first, same, other = (sampler(seed=seed)(target_MK, codes_NK, batch) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_what_a_run_records_can_be_read_again() -> None:
    config = NoiseConfig(preset="curriculum", gamma=3.0)
    assert validate(NoiseConfig, "noise", json.loads(json.dumps(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.5, 0.9])
def test_a_ramp_reaches_the_highest_difficulty_early_and_stays(progress: float) -> None:
    early = count_probabilities(progress, 8, NoiseConfig(ramp=0.5))
    assert early == pytest.approx(count_probabilities(min(2 * progress, 1.0), 8, NoiseConfig()))


def test_a_ramp_is_above_zero() -> None:
    with pytest.raises(ConfigError, match=r"noise\.ramp"):
        validate(NoiseConfig, "noise", {"ramp": 0.0})


def test_gamma_is_bounded() -> None:
    with pytest.raises(ConfigError, match=r"noise\.gamma"):
        validate(NoiseConfig, "noise", {"gamma": 5.0})

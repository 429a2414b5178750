"""Counts of digits: sums over the items that known digits leave, in training and in both searches."""

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories

from genrec_cli.data.sequences import Histories, Rows, eval_batches
from genrec_cli.models import count_prior
from genrec_cli.models.digit_mixture import DigitMixture
from genrec_cli.models.mdgr import Mdgr, MdgrConfig
from genrec_cli.models.tiger import Tiger, TigerConfig
from genrec_cli.searches.beam import Beam, BeamConfig

CATALOG = make_catalog()
SMALL = {"width": 16, "layers": 1, "heads": 2, "inner": 16, "dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture(scope="module")
def histories() -> Histories:
    return make_histories([5, 9, 3, 14, 6, 4, 7, 12] * 2, CATALOG.items)


@pytest.fixture(scope="module")
def mixture(histories: Histories) -> DigitMixture:
    made = DigitMixture(CATALOG, 0.7)
    made.fit(CATALOG, histories)
    return made


@pytest.fixture(scope="module")
def batch(histories: Histories):
    return next(eval_batches(histories, *histories.targets("test"), max_length=8, batch_size=6)).batch


def by_loops(mixture: DigitMixture, batch, known: dict[int, int], row: int) -> torch.Tensor:
    """``log P`` of a mixture with a uniform model, as ``logp_KV``, item by item."""
    score_I = mixture.counts.item_scores(batch)[row]
    sum_KV = torch.zeros(CATALOG.digits, CATALOG.codewords)
    for item, codes in enumerate(CATALOG.code_RK[1:].tolist()):
        if all(codes[digit] == code for digit, code in known.items()):
            for digit, code in enumerate(codes):
                sum_KV[digit, code] += score_I[item]
    weight_K1 = 0.7 * (sum_KV.sum(1, keepdim=True) > 0)
    uniform = 1 / CATALOG.codewords
    return (weight_K1 * sum_KV / sum_KV.sum(1, keepdim=True).clamp_min(1e-9) + (1 - weight_K1) * uniform).log()


@torch.no_grad()
def test_each_search_gets_the_sums_over_the_items_that_fit(mixture: DigitMixture, batch) -> None:
    counted = mixture.of_histories(batch)
    rows = batch.packing.sequences
    codes_RK = CATALOG.code_RK[torch.arange(5, 5 + rows)].long()
    digits, codewords = CATALOG.digits, CATALOG.codewords
    prefixes = mixture.after_prefixes(counted, codes_RK, torch.zeros(digits, rows, codewords))
    some_RMK = codes_RK[:, None].repeat(1, 2, 1)
    some_RMK[:, 0], some_RMK[:, 1, 1:] = -1, -1  # nothing, and the first digit
    unknown = mixture.at_unknown(counted, some_RMK, torch.zeros(digits, rows, 2, codewords))
    for row in range(rows):
        first = by_loops(mixture, batch, {}, row)
        torch.testing.assert_close(unknown[:, row, 0], first)
        torch.testing.assert_close(unknown[:, row, 1], by_loops(mixture, batch, {0: int(codes_RK[row, 0])}, row))
        for digit in range(CATALOG.digits):
            known = {place: int(codes_RK[row, place]) for place in range(digit)}
            expected_V = by_loops(mixture, batch, known, row)[digit]
            torch.testing.assert_close(prefixes[digit, row], expected_V)
            beams = mixture.next_digit(counted, codes_RK[:, None, :digit], torch.zeros(rows, 1, codewords))
            beams_V = beams[row, 0]
            torch.testing.assert_close(beams_V, expected_V)


@torch.no_grad()
def test_the_rows_of_a_training_batch_leave_their_own_pairs_out(mixture: DigitMixture, histories: Histories) -> None:
    rows = Rows.of(histories, max_length=8, windows="sliding")
    batch = rows.batch(histories, np.arange(4))
    counted, logs = mixture.of_targets(batch, batch.learn_M), mixture.logs(batch, batch.learn_M)
    expected_MI = torch.expm1(logs.rows(0, len(batch.learn_M))) * count_prior.SCALE
    found_MI = torch.zeros_like(expected_MI)
    for row, codes, count in zip(counted.row_S, counted.code_SK, counted.count_S, strict=True):
        same_I = (CATALOG.code_RK[1:] == codes).all(1)
        found_MI[row] += same_I * count / same_I.sum()
    by_code = (CATALOG.code_RK[1:, None] == CATALOG.code_RK[None, 1:]).all(2).float()
    by_code = by_code / by_code.sum(1, keepdim=True)  # items with the same code share their counts
    torch.testing.assert_close(found_MI, expected_MI @ by_code, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["tiger", "mdgr"])
@torch.no_grad()
def test_the_weights_of_the_counts_go_from_none_to_all(kind, batch, histories) -> None:
    torch.manual_seed(0)
    if kind == "tiger":
        config = TigerConfig(**SMALL, head_width=8, user_tokens=0, count_weight=0.6)
        model = Tiger(config, CATALOG, max_length=8).eval()
        plain = Tiger(config.model_copy(update={"count_weight": 0.0}), CATALOG, max_length=8).eval()
    else:
        config = MdgrConfig(**SMALL, decoder_layers=1, count_weight=0.6)
        model = Mdgr(config, CATALOG, max_length=8).eval()
        plain = Mdgr(config.model_copy(update={"count_weight": 0.0}), CATALOG, max_length=8).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    model.fit(CATALOG, histories)
    target_B = torch.arange(1, batch.packing.sequences + 1)
    with_counts = model.target_loss(batch, target_B)
    assert not torch.allclose(with_counts, plain.target_loss(batch, target_B))
    model.mixture.weight = 0.0
    torch.testing.assert_close(model.target_loss(batch, target_B), plain.target_loss(batch, target_B))
    if kind == "tiger":
        model.mixture.weight = 1.0
        list_Bk, score_Bk = Beam(model, CATALOG, BeamConfig(beams=30)).search(batch, 3)[0][:2]
        count_BI = model.mixture.counts.item_scores(batch)
        same_II = (CATALOG.code_RK[1:, None] == CATALOG.code_RK[None, 1:]).all(2).float()
        part_BI = count_BI @ same_II / count_BI.sum(1, keepdim=True)
        torch.testing.assert_close(score_Bk.exp(), part_BI.gather(1, list_Bk - 1))


def test_the_counts_make_a_step_that_cannot_be_captured_and_needs_vectors() -> None:
    assert not Tiger(TigerConfig(count_weight=0.6), CATALOG, max_length=8).graph_capturable
    assert Mdgr.needs_of(MdgrConfig(count_weight=0.6)) == Tiger.needs_of(TigerConfig(count_weight=0.6))
    assert "vectors" in Tiger.needs_of(TigerConfig(count_weight=0.6))

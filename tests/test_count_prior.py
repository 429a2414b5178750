"""The count prior: its counts against loops, what is left out in training, and the item head that starts from it."""

import math

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories
from shop import TINY, genrec, small_codes

from genrec_cli.config import validate
from genrec_cli.data.sequences import Rows, eval_batches
from genrec_cli.errors import ConfigError
from genrec_cli.models.bert4rec import Bert4Rec
from genrec_cli.models.count_prior import SCALE, CountPrior
from genrec_cli.models.mdgr import Mdgr
from genrec_cli.models.recjpq import RecJpq
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.models.sasrec import SasRec
from genrec_cli.models.tiger import Tiger
from genrec_cli.nn.item_cross_entropy import item_cross_entropy
from genrec_cli.searches.exhaustive import Exhaustive

CATALOG = make_catalog()
HISTORIES = make_histories([5, 9, 3, 14, 6, 4, 7, 12] * 2, CATALOG.items)
DENSE = {"width": 16, "heads": 2, "inner": 32, "item_weight": 1.0}


@pytest.fixture(scope="module")
def prior() -> CountPrior:
    prior = CountPrior(CATALOG, 1.5)
    prior.fit(CATALOG, HISTORIES)
    return prior


def test_at_the_end_of_a_history_the_counts_are_those_of_neighbours(prior) -> None:
    (known,) = eval_batches(HISTORIES, *HISTORIES.targets("test"), max_length=20, batch_size=99)
    cell_S, score_S = prior.cells(known.batch)
    users = known.batch.packing.sequences
    count_BI = prior.counts.item_scores(known.batch)
    expected = 1.5 * (count_BI / SCALE).log1p()
    score_BI = torch.zeros_like(expected)
    score_BI[cell_S % users, cell_S // users] = score_S
    torch.testing.assert_close(score_BI, expected)


def test_in_training_the_own_pairs_with_later_items_are_left_out(prior) -> None:
    """Of each stored pair, at most its own weight: a pair that is not stored has nothing to leave out."""
    config = prior.counts.config
    some = CountPrior(CATALOG, 1.5)
    some.load_state_dict(prior.state_dict())
    table = some.counts.transitions
    row_P, item_P, weight_P = table.entries(torch.arange(1, CATALOG.items + 1))
    kept_P = torch.rand(len(item_P), generator=torch.Generator().manual_seed(0)) < 0.7
    table.fill(torch.bincount(row_P[kept_P], minlength=CATALOG.items), item_P[kept_P], weight_P[kept_P])
    stored = torch.zeros(CATALOG.items + 1, CATALOG.items + 1)
    stored.index_put_((row_P[kept_P] + 1, item_P[kept_P]), weight_P[kept_P])
    similar = torch.zeros_like(stored)
    row_P, item_P, weight_P = some.counts.similar.entries(torch.arange(1, CATALOG.items + 1))
    similar.index_put_((row_P + 1, item_P), weight_P)
    rows = Rows.of(HISTORIES, max_length=20, windows="sliding")
    batch = rows.batch(HISTORIES, np.arange(len(rows)))
    found_MI = some.logs(batch, batch.learn_M).rows(0, len(batch.learn_M))
    packing = batch.packing
    for m, at in enumerate(batch.learn_M.tolist()):
        place, length = int(packing.position_N[at]), int(packing.length_B[packing.sequence_N[at]])
        start = at - place
        whole = [*batch.item_N[start : start + length].tolist(), int(batch.target_N[start + length - 1])]
        user, count_R = math.log2(length + 3) ** -config.length_power, torch.zeros(CATALOG.items + 1)
        for age in range(min(place + 1, config.window)):
            item = whole[place - age]
            rest_R = stored[item].clone()
            for end in range(place + 1, length + 1):
                for begin in range(max(0, end - config.window), end):
                    near = config.decay ** (end - begin - 1) * user
                    for first, second, part in ((begin, end, 1.0), (end, begin, config.backward)):
                        if whole[first] == item:
                            factors = float(some.row_factor_R[item] * some.column_factor_R[whole[second]])
                            rest_R[whole[second]] -= part * near * factors
            count_R += config.age_decay**age * (rest_R.clamp_min(0) + similar[item])
        torch.testing.assert_close(found_MI[m], (count_R[1:] / SCALE).log1p(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("length", [4, 9, 12])
def test_a_pair_of_one_user_alone_is_no_count(length, repeated) -> None:
    """Its whole count is the user's own; not even a rounding error is left, which would tell the target. Items that
    occur again are in no target here."""
    lonely = make_histories([length], CATALOG.items)
    lonely.item[:] = 1 + np.random.default_rng(0).permutation(CATALOG.items)[: len(lonely.item)]
    if repeated:
        lonely.item[::2] = lonely.item[0]
    alone = CountPrior(CATALOG, 1.5)
    alone.fit(CATALOG, lonely)
    alone.counts.similar.fill(torch.zeros(CATALOG.items, dtype=torch.long), torch.zeros(0), torch.zeros(0))
    rows = Rows.of(lonely, max_length=20, windows="sliding")
    batch = rows.batch(lonely, np.arange(len(rows)))
    assert alone.counts.transitions.weight_P.max() > 0
    row_S, item_S, _ = alone.logs(batch, batch.learn_M).cells()
    target_M = batch.target_N[batch.learn_M] - 1
    new_M = target_M != int(lonely.item[0]) - 1
    assert not (item_S == target_M[row_S])[new_M[row_S]].any()


def test_chunks_of_rows_are_the_rows_and_the_loss_is_that_of_the_sum(prior, monkeypatch) -> None:
    rows = Rows.of(HISTORIES, max_length=20, windows="sliding")
    batch = rows.batch(HISTORIES, np.arange(len(rows)))
    logs, count = prior.logs(batch, batch.learn_M), len(batch.learn_M)
    whole_MI = logs.rows(0, count)
    assert torch.equal(torch.cat([logs.rows(at, min(at + 7, count)) for at in range(0, count, 7)]), whole_MI)
    h_MD, vector_ID = torch.randn(count, 4, requires_grad=True), torch.randn(CATALOG.items, 4, requires_grad=True)
    column_M = batch.target_N[batch.learn_M] - 1
    expected = torch.nn.functional.cross_entropy(h_MD @ vector_ID.t() + 0.7 * whole_MI, column_M, reduction="sum")
    gradients = torch.autograd.grad(expected, [h_MD, vector_ID])
    for rows in (32, 7):
        monkeypatch.setattr("genrec_cli.nn.item_cross_entropy.ROWS", rows)
        monkeypatch.setattr("genrec_cli.nn.item_cross_entropy.SCORES", rows * CATALOG.items)
        loss = item_cross_entropy(h_MD, vector_ID, column_M, added=(logs, 0.7)).sum
        torch.testing.assert_close(loss, expected)
        for found, wanted in zip(torch.autograd.grad(loss, [h_MD, vector_ID]), gradients, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_prior_is_added_to_the_scores_of_the_item_head() -> None:
    def model(**changes) -> Rpg:
        torch.manual_seed(0)
        made = Rpg(validate(RpgConfig, "model", DENSE | changes), CATALOG, max_length=20)
        made.fit(CATALOG, HISTORIES)
        return made.eval()

    (known,) = eval_batches(HISTORIES, *HISTORIES.targets("test"), max_length=20, batch_size=99)
    plain, counted = model(), model(count_factor=2.0, item_mix=0.5)
    exact = Exhaustive(CATALOG, by_item=True)
    added = exact.scores(counted, known.batch) - exact.scores(plain, known.batch)
    expected = 0.5 * 2.0 * (counted.prior.counts.item_scores(known.batch) / SCALE).log1p()
    torch.testing.assert_close(added, expected, atol=1e-4, rtol=1e-4)
    part = torch.tensor([2, 3, 11])
    some = Exhaustive(CATALOG.take(part), by_item=True).scores(counted, known.batch)
    torch.testing.assert_close(some, exact.scores(counted, known.batch)[:, part], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings, message", [({"count_factor": 2.0}, "item head"), ({"graph_edges": 5}, "free")])
def test_a_setting_without_what_it_belongs_to_is_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Rpg.check(RpgConfig(**settings), type("Train", (), {"windows": "sliding"})())


@pytest.mark.parametrize("kind", [Bert4Rec, RecJpq])
def test_models_with_a_loss_of_their_own_take_no_counts(kind) -> None:
    with pytest.raises(ConfigError, match="softmax over its own scores"):
        kind.check(kind.Config(count_factor=2.0), type("Train", (), {"windows": "sliding"})())


@pytest.mark.parametrize("kind", [Rpg, Tiger, Mdgr, SasRec])
def test_rows_of_one_target_do_not_hold_what_is_left_out(kind) -> None:
    settings = {Rpg: {"count_factor": 2.0, "item_weight": 1.0}, SasRec: {"count_factor": 2.0}}
    settings = settings.get(kind, {"count_weight": 0.5})
    with pytest.raises(ConfigError, match="windows = each"):
        kind.check(kind.Config(**settings), type("Train", (), {"windows": "each"})())


def test_a_run_with_a_prior_is_trained_and_evaluated(tmp_path) -> None:
    root = small_codes(tmp_path)
    options = ["--set", "model.item_weight=1", "--set", "model.count_factor=2", "--label", "counted"]
    assert genrec(root, "train", "--model", "mhl", *TINY, "--epochs", "2", *options).code == 0
    assert genrec(root, "evaluate", "--run", "counted").code == 0

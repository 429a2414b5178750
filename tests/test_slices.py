"""Paired comparison and slices of users, each against a slow or a well-known way to the same numbers."""

import itertools
from datetime import UTC, datetime

import numpy as np
import pytest
from conftest import make_histories
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from genrec_cli.data.sequences import Histories
from genrec_cli.engine import compare, slices
from genrec_cli.engine.compare import bootstrap_means, difference, holm, randomisation_p
from genrec_cli.stages.compare_table import Ranks, shown, table

# ---- comparison ------------------------------------------------------------------------------------


def gains(users: int, seed: int = 0) -> np.ndarray:
    """Differences of NDCG-like values: mostly zero, some of few sizes."""
    return np.random.default_rng(seed).choice([0, 0, 0, 0.5, 1, -0.25, -1, 0.63], users)


def test_the_p_of_a_case_done_by_hand():
    """Gains .3, .2, .1, .1: only all signs equal reach the sum .7, 2 of 16 ways; p is 1 / 8."""
    assert randomisation_p(np.array([0.3, 0.2, 0.1, 0.1]), 40_000, np.random.default_rng(0)) == pytest.approx(
        1 / 8, abs=0.006
    )


def test_no_difference_is_no_evidence_and_any_seed_repeats():
    same = np.array([0.0, 1.0, 0.5])
    assert difference(same, same) == compare.Difference(0.0, 0.0, 0.0, 1.0)
    value, baseline = gains(200, 1), gains(200, 2)
    assert difference(value, baseline, seed=3) == difference(value, baseline, seed=3)
    assert difference(value, baseline, seed=3) != difference(value, baseline, seed=4)
    forth, back = difference(value, baseline), difference(baseline, value)
    assert forth.mean == -back.mean and forth.p == pytest.approx(back.p, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_that_of_scipy(seed):
    gain = gains(400, seed)
    theirs = stats.bootstrap(
        (gain,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(seed), batch=500
    ).confidence_interval
    ours = difference(gain, np.zeros(400), draws=20_000)
    assert ours.mean == pytest.approx(gain.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * (theirs.high - theirs.low))


@pytest.mark.parametrize("seed", range(3))
def test_the_p_is_that_of_every_exchange(seed):
    gain = gains(13, seed) + 0.1
    ways = [abs(float(np.dot(signs, gain))) for signs in itertools.product((-1, 1), repeat=len(gain))]
    exact = np.mean([way >= abs(gain.sum()) - 1e-9 for way in ways])
    theirs = stats.permutation_test((gain,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert exact == pytest.approx(theirs)
    assert randomisation_p(gain, 40_000, np.random.default_rng(seed)) == pytest.approx(exact, abs=0.01)


def test_drawing_counts_equals_drawing_users_one_by_one():
    gain, random = gains(60), np.random.default_rng(5)
    one_by_one = gain[random.integers(0, 60, (20_000, 60))].mean(1)
    assert stats.ks_2samp(bootstrap_means(gain, 20_000, random), one_by_one).pvalue > 1e-3


def test_chunks_change_no_number_of_draws(monkeypatch):
    monkeypatch.setattr(compare, "CHUNK", 50)
    assert len(bootstrap_means(gains(80), 1234, np.random.default_rng(0))) == 1234
    assert difference(gains(80) + 1, gains(80), draws=999).p == pytest.approx(1 / 1000)


def test_users_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="2 users"):
        difference(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="0 users"):
        difference(np.zeros(0), np.zeros(0))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_step_down_loop(p):
    expected, largest = {}, 0.0
    for place, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, p[index] * (len(p) - place)))
        expected[index] = largest
    assert holm(p) == pytest.approx([expected[i] for i in range(len(p))])


# ---- slices ----------------------------------------------------------------------------------------


def test_the_bins_are_those_of_the_paper():
    cold = [name for name, _ in slices.bins(np.arange(3), slices.COLD_START)]
    assert cold == ["0-5", "6-10", "11-15", "16-20", "21+"]
    long = [name for name, _ in slices.bins(np.arange(3), slices.LENGTHS)]
    assert long == ["0-10", "11-20", "21-30", "31-40", "41-50", "51+"]


@given(st.lists(st.integers(0, 60), max_size=40), st.sampled_from([slices.COLD_START, slices.LENGTHS]))
def test_bins_are_what_a_loop_finds_and_hold_everyone_once(values, uppers):
    found = slices.bins(np.array(values, dtype=int), uppers)
    for number, (_, rows) in enumerate(found):
        low = -1 if number == 0 else uppers[number - 1]
        high = uppers[number] if number < len(uppers) else 10**9
        assert rows.tolist() == [row for row, value in enumerate(values) if low < value <= high]


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 200_000)), max_size=30))
def test_days_are_those_of_the_calendar(pairs):
    before_U = np.array([before for before, _ in pairs], dtype=np.int64)
    time_U = before_U + np.array([gap for _, gap in pairs], dtype=np.int64)
    (name, same), (other, later) = slices.by_day(time_U, before_U)
    day = [
        (datetime.fromtimestamp(a, UTC).date(), datetime.fromtimestamp(b, UTC).date())
        for a, b in zip(time_U.tolist(), before_U.tolist(), strict=True)
    ]
    assert (name, other) == ("same day", "later day")
    assert same.tolist() == [row for row, (a, b) in enumerate(day) if a == b]
    assert later.tolist() == [row for row, (a, b) in enumerate(day) if a != b]


def test_the_length_leaves_the_target_out(histories: Histories):
    users = np.arange(histories.users)
    assert (slices.history_length(histories, users, "test") == histories.length - 1).all()
    assert (slices.history_length(histories, users, "valid") == histories.length - 2).all()


@pytest.mark.parametrize("cut", ["printed", "sound"])
@pytest.mark.parametrize("split", ["test", "valid"])
def test_truncated_histories_are_what_a_loop_cuts(cut, split):
    histories = make_histories([30, 5, 23, 22, 21, 60, 3, 26], 200, seed=4)
    user, at = slices.long_histories(histories, split, 20)
    expected = {}
    for row in range(histories.users):
        items = histories.item[histories.offset[row] :][: histories.length[row]].tolist()
        target_at = len(items) - (1 if split == "test" else 2)
        if target_at > 20:
            kept = items[: target_at - 15]
            expected[row] = (kept[-9:], items[len(kept)] if cut == "printed" else items[target_at])
    assert user.tolist() == list(expected) and 0 < len(expected) < histories.users
    found = {}
    for known in slices.truncated_batches(histories, user, at, 15, cut, max_length=9, batch_size=2):
        ends = np.cumsum(known.batch.packing.length_B.numpy())
        parts = np.split(known.batch.item_N.numpy(), ends[:-1])
        for row, items, target in zip(known.batch.user_B.tolist(), parts, known.target_B.tolist(), strict=True):
            found[row] = (items.tolist(), target)
        item_N, row_N = known.seen
        for row, user in enumerate(known.row_B.tolist()):
            before = histories.item[histories.offset[user] :][: histories.length[user]].tolist()
            before = before[: len(before) - (1 if split == "test" else 2) - 15]
            assert item_N[row_N == row].tolist() == before, "seen is what is before the cut"
    assert found == expected


def test_cut_as_printed_the_target_was_trained_on_and_soundly_it_was_not():
    histories = make_histories([30, 24, 40], 200, seed=1)
    user, at = slices.long_histories(histories, "test", 20)
    assert (at - 15 < histories.train_end[user]).all() and (at >= histories.train_end[user]).all()


# ---- the table of a comparison ---------------------------------------------------------------------


def test_the_table_by_hand():
    """Two seeds against one run over four users; ranks 0, 1 and beyond."""
    one = np.ones((1, 4), dtype=int)
    base = Ranks(np.array([[0, 9, 9, 0]]), one)
    other = Ranks(np.array([[0, 0, 9, 0], [0, 0, 0, 0]]), np.ones((2, 4), dtype=int))
    better = Ranks(np.array([[0, 9, 0, 0]]), one)
    sides = [{"kept": base, "left_out": better}, {"kept": other, "left_out": better}]
    nobody = [{protocol: ranks.of(np.array([], int)) for protocol, ranks in side.items()} for side in sides]
    rows = table([("all", sides), ("none", nobody)], ["a", "b"], ["Recall@5"], draws=200, seed=0)
    assert [row["seen"] for row in rows] == ["kept", "kept", "left_out", "left_out"] * 2
    assert [row["value"] for row in rows[2:4]] == [0.75, 0.75] and rows[3]["difference"] == 0
    first, second, *_ = rows
    empty = rows[4:]
    assert (first["value"], first["users"], first["seeds"], first["p"], first["sd"]) == (0.5, 4, 1, None, None)
    assert second["value"] == pytest.approx(0.875) and second["sd"] == pytest.approx(np.std([0.75, 1], ddof=1))
    assert second["difference"] == pytest.approx(0.375) and second["relative"] == pytest.approx(0.75)
    assert second["low"] >= 0 and second["p"] > 0.2 and second["p_holm"] == min(1, 2 * second["p"])
    assert [(row["users"], row["value"], row["p"]) for row in empty] == [(0, None, None)] * 4
    head, body = shown(rows)
    assert head[-5:] == ["difference", "relative", "95 % over users", "p", "p, Holm"] and "sd over seeds" in head
    assert body[1][head.index("relative")] == "+75.0%"


def test_ties_count_as_everywhere_else():
    tied = Ranks(np.array([[0]]), np.array([[4]]))
    rows = table([("all", [{"kept": tied, "left_out": tied}])], ["a"], ["Recall@2"], draws=100, seed=0)
    head, body = shown(rows)
    assert rows[0]["value"] == 0.5 and head == ["slice", "users", "metric", "protocol", "run", "value"]
    assert [row[3] for row in body] == ["seen kept", "seen left out"]

"""The signs of a failed training, each on a log that shows it and no other."""

import pytest

from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.engine.diagnosis import Training, diagnose, foreseen, invalid_codes, parallel_below_residual

STEPS = 100


def log(metric, *, loss=None, ratio=None, entropy=None, lr=None):
    """Rows of a log from one value per epoch; other columns show no sign."""
    epochs = range(len(metric))
    loss = loss or [6.0 * 0.97**e for e in epochs]
    ratio = ratio or [0.0 for _ in epochs]
    rows = []
    for e in epochs:
        phase = "masked" if ratio[e] > 0 else "inference"
        row = {"epoch": e + 1, "step": (e + 1) * STEPS, "phase": phase, "ratio": ratio[e]}
        row |= {"lr": (lr or [1e-3] * len(metric))[e], "loss/next": loss[e], "valid/NDCG@10": metric[e]}
        rows.append(row | ({"entropy/mean": entropy[e]} if entropy else {}))
    return rows


def signs(rows, *, epochs=150, warmup=50):
    found = diagnose(Training(rows, "NDCG@10", epochs, warmup))
    assert all(f.seen.endswith(".") and f.change for f in found)
    return [f.sign for f in found]


RISING = [0.05 * (1 - 0.9**e) for e in range(1, 41)]
"""Rises for forty epochs, ever more slowly."""
SETTLED = [*RISING, *[RISING[-1] * 0.999] * 20]
"""... and stays for the twenty of early stopping."""


def test_a_healthy_run_gets_none():
    ratio = [0.15] * 25 + [0.12] * 5 + [0.0] * 30
    metric = [*(v * 0.9 for v in SETTLED[:30]), *SETTLED[30:]]
    entropy = [5.5 * 0.96**e for e in range(30)] + [2.5] * 30
    assert signs(log(metric, ratio=ratio, entropy=entropy)) == []
    assert signs(log(SETTLED)) == []


def test_a_loss_says_nothing_if_the_training_ends_within_the_warm_up():
    flat = log(RISING[:4], loss=[6.0] * 4)
    assert "loss not falling" in signs(flat) and signs(flat, warmup=500) == ["best epoch in warm-up"]


def test_no_evaluation_is_no_finding():
    rows = log(RISING)
    for row in rows:
        row["valid/NDCG@10"] = None
    assert signs(rows) == []


def test_epochs_between_validations_do_not_matter():
    rows = log(SETTLED)
    for row in rows:
        if row["epoch"] % 2:
            row["valid/NDCG@10"] = None
    assert signs(rows) == []


def test_a_ratio_that_decays_too_fast():
    metric = [0.01, 0.02, 0.03, *[0.04] * 26, 0.0401]
    falling = [0.15] * 4 + [0.1] * 4 + [0.05] * 4 + [0.0] * 18
    (finding,) = diagnose(Training(log(metric, ratio=falling), "NDCG@10", 150, 50))
    assert finding.sign == "validation flat early"
    assert "after epoch 4 of 30" in finding.seen and "from 0.15 in epoch 5" in finding.seen
    assert "curriculum.plateau" in finding.change
    assert signs(log(metric, ratio=[0.15] * 30)) == [], "the ratio never fell"
    assert signs(log(metric, ratio=[0.15] * 20 + [0.0] * 10)) == [], "it fell late"
    assert signs(log(metric[:8], ratio=falling[:8])) == [], "too short to tell"


def test_entropies_that_jump():
    entropy = [5.0, 4.0, 3.5, 3.4, 4.1, 3.0, 3.5, 2.8] + [2.7] * 52
    rows = log(SETTLED, ratio=[0.15] * 40 + [0.0] * 20, entropy=entropy)
    (finding,) = diagnose(Training(rows, "NDCG@10", 150, 50))
    assert finding.sign == "entropies jump"
    assert "2 times, most in epoch 5: 3.400 to 4.100 nats" in finding.seen


def test_entropies_may_follow_a_change_of_phase():
    entropy = [3.0] * 40 + [4.0] * 20
    assert signs(log(SETTLED, ratio=[0.15] * 40 + [0.0] * 20, entropy=entropy)) == []


def test_an_inference_phase_that_lowers_the_metric():
    metric = [*RISING[:30], *[RISING[29] * 0.97] * 10]
    ratio = [0.15] * 30 + [0.0] * 10
    assert signs(log(metric, ratio=ratio)) == ["inference phase harms"]
    assert signs(log([*metric[:39], RISING[29] * 1.02], ratio=ratio)) == []
    assert signs(log(metric)) == [], "nothing was masked"


def test_still_rising_at_the_last_epoch():
    rows = log([0.01 * e for e in range(1, 11)])
    assert signs(rows, epochs=10) == ["still rising"]
    assert signs(rows, epochs=11) == [], "something else ended it"
    (finding,) = diagnose(Training(rows, "NDCG@10", 10, 50))
    assert "0.0900 up to epoch 9 and 0.1000 in epoch 10" in finding.seen and "--epochs 20" in finding.change
    assert signs(log(SETTLED), epochs=60) == []
    assert signs(log([0.03]), epochs=1) == [], "one epoch has no direction"


def test_best_epoch_in_warm_up():
    metric = [0.01, 0.03, *[0.02] * 10]
    assert signs(log(metric), warmup=300) == ["best epoch in warm-up"]
    assert signs(log(metric), warmup=100) == []
    (finding,) = diagnose(Training(log(metric), "NDCG@10", 150, 300))
    assert "--lr 0.0003" in finding.change


def test_a_warm_up_longer_than_the_run():
    (finding,) = diagnose(Training(log(RISING[:5]), "NDCG@10", 150, 1000))
    assert finding.sign == "best epoch in warm-up" and "500 steps" in finding.seen
    assert "train.warmup_steps=50" in finding.change


@pytest.mark.parametrize(
    "loss",
    [
        [5.5] * 40,
        [5.5, 5.6, *[5.52] * 38],
        [*[6.0 * 0.97**e for e in range(20)], *[4.5] * 20],
    ],
    ids=["stuck", "above", "climbs again"],
)
def test_a_loss_that_does_not_fall(loss):
    (finding,) = diagnose(Training(log(RISING, loss=loss), "NDCG@10", 150, 50))
    assert finding.sign == "loss not falling" and "--lr 0.0003" in finding.change


def test_a_loss_that_rises_with_a_new_phase_is_healthy():
    loss = [*[5 * 0.97**e for e in range(20)], *[4 * 0.99**e for e in range(20)]]
    assert signs(log(RISING, loss=loss, ratio=[0.1] * 20 + [0.0] * 20)) == []


# ---- MDGR ------------------------------------------------------------------------------------------------


def masked(*means: float, shifts: bool = True) -> list[str]:
    """Signs in the log of a run of two digits with these mean counts of masked digits."""
    rows = [
        row | {"loss/masked_digits": mean, "loss/masked_1": 2 - mean, "loss/masked_2": mean - 1}
        for row, mean in zip(log([0.01 * e for e in range(1, len(means) + 1)]), means, strict=True)
    ]
    return [finding.sign for finding in diagnose(Training(rows, "NDCG@10", 99, 10, shifts))]


def test_masks_that_stay_easy_are_found():
    assert "masks did not shift" in masked(1.2, 1.25, 1.3)
    assert "masks did not shift" not in masked(1.2, 1.4, 1.8)
    assert "masks did not shift" not in masked(1.2), "one epoch has nothing to shift to"
    assert "masks did not shift" not in masked(1.5, 1.5, 1.5, shifts=False)


def test_invalid_codes_are_found():
    assert invalid_codes(0.2).sign == "invalid codes" and "20%" in invalid_codes(0.2).seen
    assert invalid_codes(0.9) is None and invalid_codes(None) is None


def test_parallel_codes_that_are_worse_are_found():
    finding = parallel_below_residual("Recall@5", {"opq": 0.03, "pq": 0.02, "rkmeans": 0.04, "rqvae": 0.035})
    assert "0.0300 with opq and 0.0400 with rkmeans" in finding.seen
    assert parallel_below_residual("Recall@5", {"opq": 0.05, "rkmeans": 0.04}) is None
    assert parallel_below_residual("Recall@5", {"opq": 0.01}) is None
    assert parallel_below_residual("Recall@5", {"random": 0.01, "text": 0.01, "rqvae": 0.04}) is None, (
        "not parallel codes"
    )


def test_phases_that_never_begin_are_named():
    rows = log(RISING[:5], ratio=[0.15] * 5)
    (finding,) = diagnose(Training(rows, "NDCG@10", 99, 10, phases=("masked", "entropy", "inference")))
    assert (
        finding.sign == "phases never begin" and "'entropy', 'inference' do not begin within 5 epochs" in finding.seen
    )
    assert diagnose(Training(rows, "NDCG@10", 99, 10, phases=("masked",))) == []


def test_what_goes_wrong_on_any_data_is_foreseen():
    def found(preset, epochs, steps=1000, warmup=50, **settings):
        config = CurriculumConfig(preset=preset, **settings)
        return [(f.sign, f.seen) for f in foreseen(config, steps=steps, epochs=epochs, warmup_steps=warmup, every=1)]

    assert found("r-e-inf", 150) == [] and found("inf", 1) == []
    ((sign, seen),) = found("r-inf", 6)  # the best validation and five without improvement: epoch 7 could begin
    assert sign == "phases never begin" and "'inference' does not begin within 6 epochs" in seen
    assert found("r-inf", 7) == [] and found("r-inf", 2, max_epochs=1) == []
    ((sign, seen),) = found("inf", 10, steps=50)
    assert sign == "warm-up longer than the training" and "at most 50 steps and the warm-up 50" in seen

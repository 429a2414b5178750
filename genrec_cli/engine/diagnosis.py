"""What a training log says about its training: the failure signatures of the papers, each with its remedy.

Pure functions over the rows of the log; each returns a finding or None. Three signatures are MHL's (validation
flat early, unstable entropies, harm by the inference phase) and three MDGR's (masks that do not shift, invalid
codes, parallel codes that do worse than residual ones; the last two are no matter of the log and stand apart); the
numbers below are ours. A finding is a hint and not a verdict: it changes nothing, and a metric over few users
jumps by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Row = Mapping[str, Any]

ENOUGH = 9
"""Evaluations below which nothing is called flat."""
GAIN = 0.01
"""A relative gain of the metric below this is none."""
RISE = 0.10
"""A mean entropy that rises by more than this between two evaluations has jumped: learning lowers it."""
FALL = 0.01
"""A training loss that has not fallen by this share has not fallen."""
SHIFT = 0.25
"""The mean number of masked digits has not shifted if it grew by less than this share of the digits."""
INVALID = 0.5
"""So many beams that are no item are many."""
RESIDUAL, PARALLEL = {"rqvae", "rkmeans"}, {"opq", "pq"}
"""Tokenizers whose digits build on each other, and those whose digits are of subspaces of their own."""
CLIMB = 0.10
"""A training loss this far above its lowest within a phase climbs."""


@dataclass(frozen=True)
class Finding:
    """One signature that was found."""

    sign: str
    """Its name, for programs."""
    seen: str
    """What the log shows, with values."""
    change: str
    """What to change, with the settings' names."""


@dataclass(frozen=True)
class Training:
    """The log of a run and what it was meant to be."""

    rows: Sequence[Row]
    """The log, one row an epoch."""
    metric: str
    """The validation metric, for example NDCG@10."""
    epochs: int
    """The limit of epochs that the run was given."""
    warmup_steps: int
    shifts: bool = False
    """Whether more and more digits of a target were meant to be masked (``noise.counts``)."""

    @property
    def measured(self) -> list[tuple[int, float]]:
        """Epoch and metric of each evaluation."""
        name = f"valid/{self.metric}"
        return [(row["epoch"], row[name]) for row in self.rows if row.get(name) is not None]

    @property
    def best(self) -> tuple[int, float]:
        """Epoch and value of the best evaluation, the first of equals."""
        return max(self.measured, key=lambda pair: (pair[1], -pair[0]))


def diagnose(training: Training) -> list[Finding]:
    """Every signature that a log shows; an empty list is good news."""
    if not training.measured:
        return []
    signs = (
        loss_not_falling,
        best_in_warm_up,
        flat_early,
        entropy_jumps,
        inference_harms,
        masks_did_not_shift,
        still_rising,
    )
    return [finding for sign in signs if (finding := sign(training)) is not None]


def loss_not_falling(training: Training) -> Finding | None:
    """The next-item loss does not fall in the first phase, or climbs within one. Phases differ in what they hide."""
    for number, rows in enumerate(_phases(training.rows)):
        losses = [row["loss/next"] for row in rows if row.get("loss/next") is not None]
        if len(losses) < 3:
            continue
        lowest, last = min(losses), losses[-1]
        stuck = number == 0 and last > (1 - FALL) * losses[0]
        if stuck or last > (1 + CLIMB) * lowest:
            return Finding(
                "loss not falling",
                f"The next-item loss of the phase '{rows[0]['phase']}' was {losses[0]:.3f} at first, {lowest:.3f} at "
                f"its lowest, and ended at {last:.3f} in epoch {rows[-1]['epoch']}.",
                f"Most often the rate is too high: --lr {_third(training.rows)}, or a longer train.warmup_steps. If "
                "the loss barely moves at all, the rate is too low",
            )
    return None


def best_in_warm_up(training: Training) -> Finding | None:
    """Validation was best before the rate reached its peak, or the rate never reached it."""
    epoch, value = training.best
    step_of = {row["epoch"]: row["step"] for row in training.rows}
    last = training.rows[-1]["step"]
    if last < training.warmup_steps:
        return Finding(
            "best epoch in warm-up",
            f"The run took {last:,} steps and the warm-up takes {training.warmup_steps:,}: "
            "the rate never reached its peak.",
            f"--set train.warmup_steps={max(last // 10, 1)}, a tenth of the steps, or more epochs",
        )
    if step_of[epoch] > training.warmup_steps or epoch == training.measured[-1][0]:
        return None
    return Finding(
        "best epoch in warm-up",
        f"{training.metric} was best ({value:.4f}) in epoch {epoch}, while the rate was still rising.",
        f"The peak rate is too high: --lr {_third(training.rows)}",
    )


def flat_early(training: Training) -> Finding | None:
    """MHL: validation plateaus early because the mask ratio decays too fast."""
    measured, ratios = training.measured, [row["ratio"] for row in training.rows]
    lowered = next((after["epoch"] for before, after in pairwise(training.rows) if after["ratio"] < before["ratio"]), 0)
    if len(measured) < ENOUGH or not lowered:
        return None
    best = training.best[1]
    flat = next(place for place, (_, value) in enumerate(measured) if value >= (1 - GAIN) * best)
    if 3 * flat > len(measured) or lowered > (training.rows[-1]["epoch"] + 1) // 2:
        return None
    return Finding(
        "validation flat early",
        f"{training.metric} gained less than {GAIN:.0%} after epoch {measured[flat][0]} of {training.rows[-1]['epoch']}"
        f"; the mask ratio began to fall from {max(ratios):.3g} in epoch {lowered}.",
        "The ratio decays too fast: a longer first phase and slower steps (--set curriculum.plateau=10), or a "
        "higher start (--set curriculum.ratio)",
    )


def entropy_jumps(training: Training) -> Finding | None:
    """MHL: unstable entropies, so that the guided masks follow noise.

    Only within a masking phase: when its successor changes the loss, the entropies may well follow at once.
    """
    told = [row for row in training.rows if row.get("entropy/mean") is not None]
    jumps = [
        (after["epoch"], before["entropy/mean"], after["entropy/mean"])
        for before, after in pairwise(told)
        if before["phase"] == after["phase"]
        and after["ratio"] > 0
        and after["entropy/mean"] > (1 + RISE) * before["entropy/mean"]
    ]
    if not jumps:
        return None
    epoch, before, after = max(jumps, key=lambda jump: jump[2] / jump[1])
    times = "once" if len(jumps) == 1 else f"{len(jumps)} times"
    return Finding(
        "entropies jump",
        f"The mean entropy rose by more than {RISE:.0%} between evaluations {times}, most in epoch {epoch}: "
        f"{before:.3f} to {after:.3f} nats.",
        "Guided masks follow noise: fewer codewords for rare codes (genrec tokenize --codewords), a higher "
        "model.temperature, a lower rate, or --set curriculum.smoothing=true",
    )


def inference_harms(training: Training) -> Finding | None:
    """MHL: the phase without masks is worse than the masked ones before it; reconstruction was overfitted."""
    name = f"valid/{training.metric}"
    rows = [row for row in training.rows if row.get(name) is not None]
    last_masked = max((place for place, row in enumerate(rows) if row["ratio"] > 0), default=len(rows))
    before, after = rows[: last_masked + 1], rows[last_masked + 1 :]
    if not after:
        return None
    top, follow = max(row[name] for row in before), max(row[name] for row in after)
    if follow >= (1 - GAIN) * top:
        return None
    return Finding(
        "inference phase harms",
        f"{training.metric} was {top:.4f} with masks and at most {follow:.4f} in the {len(after)} evaluations of the "
        f"phase '{after[0]['phase']}' after them.",
        "Reconstruction has been overfitted: shorter masking phases (--set curriculum.max_epochs), a smaller "
        "model.mask_weight, or a lower rate",
    )


def masks_did_not_shift(training: Training) -> Finding | None:
    """MDGR: no better than vanilla masking, because the distribution of mask counts stayed where it began."""
    rows = [row for row in training.rows if row.get("loss/masked_digits") is not None]
    if not training.shifts or len(rows) < 2:
        return None
    first, last = rows[0]["loss/masked_digits"], rows[-1]["loss/masked_digits"]
    digits = sum(name.removeprefix("loss/masked_").isdigit() for name in rows[0])
    if last - first >= SHIFT * digits or digits == 1:
        return None
    return Finding(
        "masks did not shift",
        f"Of {digits} digits {first:.1f} were masked in the first epoch and {last:.1f} in epoch {rows[-1]['epoch']}: "
        f"the curriculum goes by the share of all {training.epochs} epochs that is done.",
        "The run ended before its curriculum did: fewer --epochs, a longer --set curriculum.patience, or "
        "--set noise.gamma=1",
    )


def invalid_codes(valid_fraction: float | None) -> Finding | None:
    """MDGR: what is built without a look at the catalogue is often no item."""
    if valid_fraction is None or valid_fraction >= INVALID:
        return None
    return Finding(
        "invalid codes",
        f"Only {valid_fraction:.0%} of what the beams built is in the catalogue; the rest was left out of the lists.",
        "--set search.constraint=true, or more beams (--set search.beams); were the codes of this very run used?",
    )


def parallel_below_residual(metric: str, value_of: Mapping[str, float]) -> Finding | None:
    """MDGR: low recall with parallel codes and high recall with residual ones.

    Args:
        value_of: the best value that each tokenizer reached under the same model.
    """
    residual = {name: value for name, value in value_of.items() if name in RESIDUAL}
    parallel = {name: value for name, value in value_of.items() if name in PARALLEL}
    if not residual or not parallel:
        return None
    high, low = max(residual, key=lambda name: residual[name]), max(parallel, key=lambda name: parallel[name])
    if parallel[low] >= (1 - GAIN) * residual[high]:
        return None
    return Finding(
        "parallel codes below residual ones",
        f"{metric} is {parallel[low]:.4f} with {low} and {residual[high]:.4f} with {high}.",
        f"The items' meaning has levels: keep {high}, or fewer and larger codebooks (--codebooks, --codewords)",
    )


def still_rising(training: Training) -> Finding | None:
    """The limit of epochs cut a run that was still getting better."""
    measured = training.measured
    tail = max(1, len(measured) // 10)
    if training.rows[-1]["epoch"] < training.epochs or len(measured) <= tail:
        return None
    before, (epoch, value) = max(value for _, value in measured[:-tail]), training.best
    if value <= (1 + GAIN) * before or epoch <= measured[-tail - 1][0]:
        return None
    return Finding(
        "still rising",
        f"{training.metric} was {before:.4f} up to epoch {measured[-tail - 1][0]} and {value:.4f} in epoch {epoch}, "
        f"when the {training.epochs} epochs were over.",
        f"More epochs: --epochs {2 * training.epochs}",
    )


def _phases(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows of each phase, in order."""
    part: list[Row] = []
    for row in rows:
        if part and row["phase"] != part[-1]["phase"]:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _third(rows: Sequence[Row]) -> str:
    """A third of the highest rate, as one types it."""
    return f"{max(row['lr'] for row in rows) / 3:.1g}"

"""Diagnosis of a training from its log: the failure signs of the papers, each with a change to try.

Three signs are MHL's and three MDGR's, as their functions say; the thresholds are ours. A finding is a hint: it changes
nothing, and a metric over few users varies by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from genrec_cli.curriculum.phases import Curriculum, CurriculumConfig

Row = Mapping[str, Any]

MIN_EVALUATIONS = 9  # with fewer evaluations no metric counts as flat
GAIN = 0.01  # a smaller relative gain of the metric counts as none
RISE = 0.10  # a larger relative rise of the mean entropy between two evaluations is a jump: training should lower it
FALL = 0.01  # a smaller relative fall of a training loss counts as none
CLIMB = 0.10  # a training loss that is this fraction above its minimum within a phase climbs
SHIFT = 0.25  # a smaller growth of the mean count of masked digits, as a fraction of all digits, counts as none
INVALID = 0.5  # a smaller fraction of valid beams is a sign
RESIDUAL, PARALLEL = {"rqvae", "rkmeans"}, {"opq", "pq"}
"""Tokenizers whose digits refine the digits before them, and those whose digits quantise separate subspaces."""


@dataclass(frozen=True)
class Finding:
    """A sign that was found."""

    sign: str  # its name, for programs
    seen: str  # what the log shows, with values
    change: str  # what to change, with the names of settings


@dataclass(frozen=True)
class Training:
    """The log of a run and the settings that it is compared with."""

    rows: Sequence[Row]  # the log, one row per epoch
    metric: str  # the validation metric, for example NDCG@10
    epochs: int  # the maximum of epochs
    warmup_steps: int
    shifts: bool = False  # whether the count of masked digits per target should grow (section [noise])
    phases: Sequence[str] = ()  # the names of all phases in order

    @property
    def measured(self) -> list[tuple[int, float]]:
        """Epoch and metric of each evaluation."""
        name = f"valid/{self.metric}"
        return [(row["epoch"], row[name]) for row in self.having(name)]

    @property
    def best(self) -> tuple[int, float]:
        """Epoch and value of the best evaluation, the first of equal ones."""
        return max(self.measured, key=lambda pair: (pair[1], -pair[0]))

    @property
    def lower_rate(self) -> str:
        """A third of the maximum learning rate, to be typed."""
        return f"{max(row['lr'] for row in self.rows) / 3:.1g}"

    def having(self, name: str) -> list[Row]:
        """The rows with a value in a column."""
        return [row for row in self.rows if row.get(name) is not None]


def diagnose(training: Training) -> list[Finding]:
    """Every sign that a log shows."""
    if not training.measured:
        return []
    signs = (loss_not_falling, best_in_warm_up, phases_not_begun, flat_early, entropy_jumps, inference_harms)
    return [f for sign in (*signs, masks_did_not_shift, still_rising) if (f := sign(training)) is not None]


def foreseen(curriculum: CurriculumConfig, *, steps: int, epochs: int, warmup_steps: int, every: int) -> list[Finding]:
    """What goes wrong in a training whatever its data are: a warm-up that never ends, phases that never begin.

    Args:
        steps, epochs: the maxima of the training.
        every: epochs per validation.
    """
    findings = []
    if steps <= warmup_steps:
        findings.append(
            Finding(
                "warm-up longer than the training",
                f"The training takes at most {steps:,} steps and the warm-up {warmup_steps:,}: the learning rate never "
                "reaches its peak.",
                f"--set train.warmup_steps={max(steps // 10, 1)}, a tenth of the steps, or more epochs",
            )
        )
    fastest = Curriculum(curriculum)  # if no validation improves, each phase is as short as it can be
    for epoch in range(1, epochs):
        fastest.after_epoch(0.0 if epoch % every == 0 else None)
        if fastest.state.finished:
            break
    names = [phase.name for phase in fastest.phases]
    if left := names[fastest.state.phase + 1 :]:
        findings.append(_not_begun(left, epochs))
    return findings


def phases_not_begun(training: Training) -> Finding | None:
    """The training ended before its last phases began, so that it equals one without them."""
    seen = {row["phase"] for row in training.rows}
    left = [name for name in training.phases if name not in seen]
    return _not_begun(left, training.rows[-1]["epoch"]) if left else None


def _not_begun(names: Sequence[str], epochs: int) -> Finding:
    many = len(names) > 1
    return Finding(
        "phases never begin",
        f"The phase{'s' if many else ''} {', '.join(map(repr, names))} {'do' if many else 'does'} not begin within "
        f"{epochs:,} epochs. A training without {'them' if many else 'it'} gives the same result.",
        "more --epochs, or shorter phases before: --set curriculum.max_epochs=N or curriculum.plateau=N",
    )


def loss_not_falling(training: Training) -> Finding | None:
    """The next-item loss does not fall in the first phase, or climbs within a phase. Phases mask differently.

    A training that ends within the warm-up tells nothing about the learning rate."""
    if training.rows[-1]["step"] < training.warmup_steps:
        return None
    for number, (name, phase) in enumerate(groupby(training.rows, key=lambda row: row["phase"])):
        rows = list(phase)
        losses = [row["loss/next"] for row in rows if row.get("loss/next") is not None]
        if len(losses) < 3:
            continue
        first, lowest, last = losses[0], min(losses), losses[-1]
        if (number == 0 and last > (1 - FALL) * first) or last > (1 + CLIMB) * lowest:
            return Finding(
                "loss not falling",
                f"The next-item loss of the phase '{name}' was {first:.3f} at first, {lowest:.3f} at its minimum, and "
                f"{last:.3f} at its end in epoch {rows[-1]['epoch']}.",
                f"Most often the learning rate is too high: --lr {training.lower_rate}, or a longer "
                "train.warmup_steps. If the loss barely moves, the learning rate is too low",
            )
    return None


def best_in_warm_up(training: Training) -> Finding | None:
    """Validation was best before the learning rate reached its peak, or the learning rate never reached it."""
    epoch, value = training.best
    last = training.rows[-1]["step"]
    if last < training.warmup_steps:
        return Finding(
            "best epoch in warm-up",
            f"The run took {last:,} steps and the warm-up takes {training.warmup_steps:,}: "
            "the learning rate never reached its peak.",
            f"--set train.warmup_steps={max(last // 10, 1)}, a tenth of the steps, or more epochs",
        )
    step = next(row["step"] for row in training.rows if row["epoch"] == epoch)
    if step > training.warmup_steps or epoch == training.measured[-1][0]:
        return None
    return Finding(
        "best epoch in warm-up",
        f"{training.metric} was best ({value:.4f}) in epoch {epoch}, while the learning rate was still rising.",
        f"The peak learning rate is too high: --lr {training.lower_rate}",
    )


def flat_early(training: Training) -> Finding | None:
    """MHL: validation plateaus early because the mask ratio decays too fast."""
    measured, last = training.measured, training.rows[-1]["epoch"]
    highest = max(row["ratio"] for row in training.rows)
    fall = next((pair for pair in pairwise(training.rows) if pair[1]["ratio"] < pair[0]["ratio"]), None)
    if len(measured) < MIN_EVALUATIONS or fall is None:
        return None
    flat = next(at for at, (_, value) in enumerate(measured) if value >= (1 - GAIN) * training.best[1])
    if 3 * flat > len(measured) or fall[1]["epoch"] > (last + 1) // 2:
        return None
    return Finding(
        "validation flat early",
        f"{training.metric} gained less than {GAIN:.0%} after epoch {measured[flat][0]} of {last}; "
        f"the mask ratio began to fall from {highest:.3g} in epoch {fall[1]['epoch']}.",
        "The ratio decays too fast: a longer first phase and slower steps (--set curriculum.plateau=10), or a "
        "higher start (--set curriculum.ratio)",
    )


def entropy_jumps(training: Training) -> Finding | None:
    """MHL: unstable entropies within a masking phase; those of a new phase may change at once."""
    name = "entropy/mean"
    jumps = [
        (after[name] / before[name], after["epoch"], before[name], after[name])
        for before, after in pairwise(training.having(name))
        if before["phase"] == after["phase"] and after["ratio"] > 0 and after[name] > (1 + RISE) * before[name]
    ]
    if not jumps:
        return None
    _, epoch, low, high = max(jumps, key=lambda jump: jump[0])
    return Finding(
        "entropies jump",
        f"The mean entropy rose by more than {RISE:.0%} between evaluations {len(jumps)} times, most in epoch {epoch}: "
        f"{low:.3f} to {high:.3f} nats.",
        "Entropy-guided masks follow noise: fewer codewords for rare codes (genrec tokenize --codewords), a higher "
        "model.temperature, a lower learning rate, or --set curriculum.smoothing=true",
    )


def inference_harms(training: Training) -> Finding | None:
    """MHL: the phase without masks is worse than the masked phases before it; reconstruction was overfitted."""
    name = f"valid/{training.metric}"
    rows = training.having(name)
    split = max((at for at, row in enumerate(rows, 1) if row["ratio"] > 0), default=len(rows))
    if split == len(rows):
        return None
    before, after = max(row[name] for row in rows[:split]), max(row[name] for row in rows[split:])
    if after >= (1 - GAIN) * before:
        return None
    return Finding(
        "inference phase harms",
        f"{training.metric} was {before:.4f} with masks and at most {after:.4f} in the {len(rows) - split} evaluations "
        f"of the phase '{rows[split]['phase']}' after them.",
        "Reconstruction was overfitted: shorter masking phases (--set curriculum.max_epochs), a smaller "
        "model.mask_weight, or a lower learning rate",
    )


def masks_did_not_shift(training: Training) -> Finding | None:
    """MDGR: no better than vanilla masking, because the distribution of mask counts did not change."""
    rows = training.having("loss/masked_digits")
    if not training.shifts or len(rows) < 2:
        return None
    first, last = rows[0]["loss/masked_digits"], rows[-1]["loss/masked_digits"]
    digits = sum(name.removeprefix("loss/masked_").isdigit() for name in rows[0])
    if last - first >= SHIFT * digits or digits == 1:
        return None
    return Finding(
        "masks did not shift",
        f"Of {digits} digits {first:.1f} were masked in the first epoch and {last:.1f} in epoch {rows[-1]['epoch']}: "
        f"the curriculum follows the fraction of all {training.epochs} epochs that is done.",
        "The run ended before its curriculum did: fewer --epochs, a longer --set curriculum.patience, or "
        "--set noise.gamma=1",
    )


def still_rising(training: Training) -> Finding | None:
    """The maximum of epochs ended a run whose metric was still rising."""
    measured = training.measured
    tail = max(1, len(measured) // 10)
    if training.rows[-1]["epoch"] < training.epochs or len(measured) <= tail:
        return None
    before, (epoch, value), last = max(value for _, value in measured[:-tail]), training.best, measured[-tail - 1][0]
    if value <= (1 + GAIN) * before or epoch <= last:
        return None
    return Finding(
        "still rising",
        f"{training.metric} was {before:.4f} up to epoch {last} and {value:.4f} in epoch {epoch}, "
        f"when the {training.epochs} epochs were over.",
        f"More epochs: --epochs {2 * training.epochs}",
    )


def invalid_codes(valid_fraction: float | None) -> Finding | None:
    """MDGR: codes that are built without the catalogue are often no item."""
    if valid_fraction is None or valid_fraction >= INVALID:
        return None
    return Finding(
        "invalid codes",
        f"Only {valid_fraction:.0%} of the codes that the beams built are in the catalogue; lists exclude the rest.",
        "--set search.constraint=true, or more beams (--set search.beams); are these the codes of this run?",
    )


def parallel_below_residual(metric: str, value_of: Mapping[str, float]) -> Finding | None:
    """MDGR: the best value of a tokenizer with parallel codes is below that of one with residual codes."""
    residual = {value: name for name, value in value_of.items() if name in RESIDUAL}
    parallel = {value: name for name, value in value_of.items() if name in PARALLEL}
    if not residual or not parallel or max(parallel) >= (1 - GAIN) * max(residual):
        return None
    (low, worse), (high, better) = max(parallel.items()), max(residual.items())
    return Finding(
        "parallel codes below residual ones",
        f"{metric} is {low:.4f} with {worse} and {high:.4f} with {better}.",
        f"The items' meaning is hierarchical: keep {better}, or fewer and larger codebooks (--codebooks, --codewords)",
    )

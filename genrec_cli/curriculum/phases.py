"""The curriculum: a list of phases as data, and the state machine that goes through them.

MHL, section 3.4 and appendix I: random masking, then entropy-guided masking whose ratio decays at each plateau, then
inference alignment. Plain training with early stopping is one phase without a mask that ends at a plateau.
"""

from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from genrec_cli.config import Count, Fraction, NonNegative, Positive, Section

Inside = Annotated[float, Field(gt=0, lt=1)]
Mask = Literal["none", "random", "entropy"]
Granularity = Literal["token", "item", "mixed"]


class Law(Section):
    """How the mask ratio falls within a phase."""

    on_plateau: Count
    """Evaluations without improvement before each step down."""
    kind: Literal["linear", "exponential"] = "linear"
    """linear: minus ``step`` of the initial ratio (appendix I); exponential: times ``eta`` (equation 5)."""
    step: Positive = 0.1
    """Fraction of the initial ratio."""
    eta: Inside = 0.5
    """Factor of the exponential law."""
    floor: NonNegative = 0.0
    """At or below this ratio it becomes 0 (Algorithm 1, line 24)."""

    def lower(self, ratio: float, initial: float) -> float:
        """The next ratio."""
        lowered = ratio - self.step * initial if self.kind == "linear" else ratio * self.eta
        return lowered if lowered > self.floor + 1e-9 else 0.0


class Until(Section):
    """When a phase ends; without any rule, at its ``max_epochs`` or the end of the run."""

    plateau: Count | None = None
    """After this number of evaluations without improvement."""
    ratio_at: NonNegative | None = None
    """Once the mask ratio is at or below this value."""


class Phase(Section):
    """One phase of training."""

    name: str
    """Shown in the log and on the progress line."""
    mask: Mask = "none"
    """How to select what is masked."""
    granularity: Granularity = "token"
    """token: single digits; item: all digits of an item; mixed: one or the other, drawn per item."""
    ratio: Fraction = 0.0
    """Initial mask ratio, above 0 with a mask."""
    law: Law | None = None
    """How the ratio falls; none: it stays."""
    until: Until = Until()
    """When the phase ends."""
    max_epochs: Count | None = None
    """Maximum of epochs in this phase."""

    @model_validator(mode="after")
    def _masks_and_can_end(self) -> Self:
        law, plateau, ratio_at = self.law, self.until.plateau, self.until.ratio_at
        if (self.mask == "none") != (self.ratio == 0):
            raise ValueError(f"mask = {self.mask} with ratio = {self.ratio:g} masks nothing; give both or neither")
        if law is None and ratio_at is not None and ratio_at < self.ratio:
            raise ValueError(f"until.ratio_at = {ratio_at:g} is never reached: ratio = {self.ratio:g} needs a law")
        if law is not None and plateau is not None and law.on_plateau <= plateau:
            raise ValueError(
                f"until.plateau = {plateau} is never reached, because each step down restarts the count, after "
                f"law.on_plateau = {law.on_plateau}; end the phase by until.ratio_at"
            )
        return self


class CurriculumConfig(Section):
    """Which phases to train in."""

    preset: Literal["inf", "r", "e", "r-inf", "e-inf", "r-e-inf"] = "inf"
    """A preset by name, unless ``phase`` lists your own phases."""
    patience: Count = 20
    """Evaluations without improvement that end the last phase (early stopping)."""
    plateau: Count = 5
    """Evaluations without improvement that end a masking phase, or lower its ratio."""
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Initial mask ratio of the presets."""
    granularity: Granularity = "token"
    """Granularity of the presets."""
    law: Literal["linear", "exponential"] = "linear"
    """Decay law of the presets: minus a tenth of ``ratio`` at each plateau, or times ``eta``."""
    eta: Inside = 0.5
    """Factor of the presets' exponential law (equation 5; the paper gives no value)."""
    floor: Inside = 0.1
    """Fraction of ``ratio`` at or below which the presets' exponential law goes to 0 (gamma_min; the paper gives no
    value)."""
    max_epochs: Count | None = None
    """Maximum of epochs in each masking phase of a preset but the last phase."""
    watch: Literal["metric", "loss"] = "metric"
    """A plateau is one of the validation metric or of the validation loss."""
    budget: Literal["printed", "uniform", "rounded"] = "printed"
    """printed: random masks draw each code independently, entropy masks a count from U{1..max(1, ratio T)}; uniform:
    U{1..max(1, ratio T)} for both; rounded: floor(ratio T + u) for both."""
    smoothing: bool = False
    """Smooth entropies over neighbouring items (our reading of appendix I)."""
    phase: tuple[Phase, ...] = ()
    """Your own phases, as [[curriculum.phase]] tables."""

    def phases(self) -> tuple[Phase, ...]:
        """The phases in order."""
        names = self.preset.split("-")
        return self.phase or tuple(self._preset(name, last=name == names[-1]) for name in names)

    def _preset(self, name: str, *, last: bool) -> Phase:
        if name == "inf":
            return Phase(name="inference", until=Until(plateau=self.patience))
        mask: Mask = "random" if name == "r" else "entropy"
        phase = Phase(name=mask, mask=mask, granularity=self.granularity, ratio=self.ratio)
        if last:
            return phase.model_copy(update={"until": Until(plateau=self.patience)})
        rules: dict[str, Any] = {"until": Until(plateau=self.plateau), "max_epochs": self.max_epochs}
        if name == "e":
            exponential: dict[str, Any] = {"kind": self.law, "eta": self.eta, "floor": self.floor * self.ratio}
            law = Law(on_plateau=self.plateau, **(exponential if self.law == "exponential" else {}))
            rules |= {"until": Until(ratio_at=0.0), "law": law}
        return phase.model_copy(update=rules)


@dataclass
class CurriculumState:
    """The state that a checkpoint holds."""

    phase: int = 0
    ratio: float = 0.0
    epochs_in_phase: int = 0
    best: float | None = None  # of the watched value, in this phase
    stale: int = 0  # evaluations since the last improvement or step down
    finished: bool = False


class Curriculum:
    """The state machine. Call :meth:`after_epoch` once per epoch, with the watched value after an evaluation."""

    def __init__(self, config: CurriculumConfig, state: dict[str, Any] | None = None) -> None:
        self.phases = config.phases()
        self.higher_is_better = config.watch == "metric"
        self.state = CurriculumState(**state) if state else CurriculumState(ratio=self.phases[0].ratio)

    @property
    def phase(self) -> Phase:
        return self.phases[self.state.phase]

    @property
    def ends(self) -> bool:
        """Whether the present epoch is the last one, whatever its evaluation gives."""
        ahead = deepcopy(self)
        ahead.after_epoch(None)
        return ahead.state.finished

    def dump(self) -> dict[str, Any]:
        """The state as plain values."""
        return asdict(self.state)

    def after_epoch(self, value: float | None) -> str | None:
        """Advance by one epoch; returns what changed, in words, or None."""
        state, phase = self.state, self.phase
        state.epochs_in_phase += 1
        change = None
        if value is not None:
            better = state.best is None or (value > state.best if self.higher_is_better else value < state.best)
            state.best = value if better else state.best
            state.stale = 0 if better else state.stale + 1
            if phase.law and state.stale >= phase.law.on_plateau:
                state.ratio, state.stale = phase.law.lower(state.ratio, phase.ratio), 0
                change = f"mask ratio {state.ratio:.3g}"
        until = phase.until
        over = (
            (until.plateau is not None and state.stale >= until.plateau)
            or (until.ratio_at is not None and state.ratio <= until.ratio_at)
            or (phase.max_epochs is not None and state.epochs_in_phase >= phase.max_epochs)
        )
        if not over:
            return change
        if state.phase + 1 == len(self.phases):
            state.finished = True
            return f"phase '{phase.name}' ended"
        follower = self.phases[state.phase + 1]
        self.state = CurriculumState(phase=state.phase + 1, ratio=follower.ratio)
        return f"phase '{follower.name}' begins"

"""What every benchmark tells: pairs of medians from alternating runs, with their machine."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """One line of the table: ours and another's median time for the same work."""

    what: str
    other: str
    """Name of the other side."""
    ours_seconds: float
    other_seconds: float
    ratio: float
    """Median over the rounds of other / ours, each round's two runs being neighbours in time."""
    ours_peak_mib: float | None = None
    other_peak_mib: float | None = None

    @classmethod
    def of(cls, what: str, other: str, ours: Sequence[float], others: Sequence[float], **peaks: float) -> "Comparison":
        ratio = statistics.median(b / a for a, b in zip(ours, others, strict=True))
        return cls(what, other, statistics.median(ours), statistics.median(others), ratio, **peaks)

    def line(self) -> str:
        text = f"{self.what:44} ours {self.ours_seconds:9.4g} s  {self.other} {self.other_seconds:9.4g} s"
        return f"{text}  {self.ratio:6.2f} times"


def alternate(
    sides: Mapping[str, Callable[[], object]], rounds: int, *, warm: int = 1, clock: Callable[[], float] | None = None
) -> dict[str, list[float]]:
    """Seconds of each side, the sides taken in turn; the first rounds warm up and do not count."""
    now = clock or time.perf_counter
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm + rounds):
        for name, work in sides.items():
            began = now()
            work()
            if number >= warm:
                spent[name].append(now() - began)
    return spent


def machine() -> dict[str, Any]:
    """Processor, threads, versions, and how busy the machine was: load above the threads makes times noisy."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "CPU": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }


def report(comparisons: Sequence[Comparison], **more: Any) -> dict[str, Any]:
    """A benchmark's result as JSON."""
    return {"machine": machine(), "comparisons": [asdict(line) for line in comparisons], **more}

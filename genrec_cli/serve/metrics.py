"""Counters and histograms in the text format of Prometheus (exposition format 0.0.4)."""

from bisect import bisect_left
from collections.abc import Iterable
from threading import Lock

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Labels = tuple[tuple[str, str], ...]


class Metric:
    """A metric with one value per set of labels. ``kind``: counter or gauge."""

    def __init__(self, name: str, help: str, kind: str = "counter") -> None:
        self.name, self.help, self.kind = name, help, kind
        self._lock = Lock()
        self._values: dict[Labels, float] = {}

    def add(self, amount: float = 1, **labels: str) -> None:
        """Add to the value of these labels."""
        with self._lock:
            key = tuple(labels.items())
            self._values[key] = self._values.get(key, 0) + amount

    def set(self, value: float, **labels: str) -> None:
        """Make this the only value."""
        with self._lock:
            self._values = {tuple(labels.items()): value}

    def samples(self) -> Iterable[str]:
        """Its lines."""
        with self._lock:
            return [_sample(self.name, labels, value) for labels, value in self._values.items()]


class Histogram(Metric):
    """Counts of observations by upper bounds, and their sum."""

    def __init__(self, name: str, help: str, bounds: tuple[float, ...]) -> None:
        super().__init__(name, help, "histogram")
        self.bounds = bounds
        self._counts: dict[Labels, list[int]] = {}

    def observe(self, value: float, **labels: str) -> None:
        """Count one observation."""
        self.add(value, **labels)
        with self._lock:
            counts = self._counts.setdefault(tuple(labels.items()), [0] * (len(self.bounds) + 1))
            counts[bisect_left(self.bounds, value)] += 1

    def samples(self) -> Iterable[str]:
        lines = []
        with self._lock:
            for labels, counts in self._counts.items():
                total = 0
                for bound, count in zip([*map(str, self.bounds), "+Inf"], counts, strict=True):
                    total += count
                    lines.append(_sample(f"{self.name}_bucket", (*labels, ("le", bound)), total))
                lines.append(_sample(f"{self.name}_sum", labels, self._values[labels]))
                lines.append(_sample(f"{self.name}_count", labels, total))
        return lines


class Metrics:
    """The metrics of the service."""

    def __init__(self) -> None:
        self.requests = Metric("genrec_requests_total", "Requests by route and status.")
        self.seconds = Histogram("genrec_request_seconds", "Time from request to answer, by route.", SECONDS)
        self.batches = Histogram("genrec_batch_histories", "Histories of each pass of a model.", SIZES)
        self.waiting = Metric("genrec_waiting_histories", "Histories that wait for a pass.", "gauge")
        self.swaps = Metric("genrec_swaps_total", "Runs that took the place of an older run.")
        self.failed = Metric("genrec_failed_swaps_total", "Newer runs that could not be loaded.")

    def text(self) -> str:
        """All metrics."""
        lines = []
        for metric in vars(self).values():
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}", *metric.samples()]
        return "\n".join(lines) + "\n"


def _sample(name: str, labels: Labels, value: float) -> str:
    """One line. Quotes, backslashes and line feeds in values of labels are escaped."""
    pairs = [f'{key}="{text.translate(ESCAPES)}"' for key, text in labels]
    return f"{name}{{{','.join(pairs)}}} {value:.12g}" if pairs else f"{name} {value:.12g}"


ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

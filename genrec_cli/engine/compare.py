"""Paired comparison of two rankings of the same users: difference, bootstrap interval, randomisation test, Holm.

A metric of one target takes few values, so both draws work on counts. Drawing n users with replacement depends only on
how often each distinct difference is drawn, which is multinomial; flipping signs at random depends only on the number
of flips of each distinct size, which is binomial. The distributions are those of drawing users one by one, at a cost
that does not grow with the number of users.

The interval is over users, for these runs. It does not contain the variation over seeds: several seeds are averaged per
user before anything is drawn, and their standard deviation is reported beside it.

Legend: U users, R draws, J distinct values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 1 << 22
"""Counts drawn at once (32 MiB)."""
DECIMALS = 12
"""Differences that are equal after rounding to so many decimals are one value."""


@dataclass(frozen=True)
class Difference:
    """The mean difference over users, its 95 % percentile bootstrap interval, and p of a two-sided paired
    randomisation test."""

    mean: float
    low: float
    high: float
    p: float


def difference(value_U: np.ndarray, baseline_U: np.ndarray, *, draws: int = 10_000, seed: int = 0) -> Difference:
    """Compare the metric of two sides per user.

    Args:
        value_U, baseline_U: the same users in the same order.
        draws: of the bootstrap and of the test, each; the smallest possible p is 1 / (draws + 1).

    Raises:
        ValueError: there is no user, or the numbers of users differ.
    """
    if value_U.shape != baseline_U.shape or not len(value_U):
        raise ValueError(f"{len(value_U)} users cannot be paired with {len(baseline_U)}")
    gain_U = (value_U.astype(np.float64) - baseline_U).round(DECIMALS)
    random = np.random.default_rng(seed)
    low, high = np.quantile(bootstrap_means(gain_U, draws, random), [0.025, 0.975])
    return Difference(float(gain_U.mean()), float(low), float(high), randomisation_p(gain_U, draws, random))


def bootstrap_means(gain_U: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """``mean_R`` of users drawn with replacement."""
    value_J, count_J = np.unique(gain_U, return_counts=True)
    users = len(gain_U)
    parts = [random.multinomial(users, count_J / users, size) @ value_J for size in _chunks(draws, len(value_J))]
    return np.concatenate(parts) / users


def randomisation_p(gain_U: np.ndarray, draws: int, random: np.random.Generator) -> float:
    """Fraction of random exchanges of the two sides per user that give at least the observed difference."""
    size_J, count_J = np.unique(np.abs(gain_U), return_counts=True)
    observed = abs(gain_U.sum()) - 10.0**-DECIMALS * len(gain_U)
    extreme = sum(
        int((np.abs((2 * random.binomial(count_J, 0.5, (size, len(count_J))) - count_J) @ size_J) >= observed).sum())
        for size in _chunks(draws, len(size_J))
    )
    return (extreme + 1) / (draws + 1)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjustment: the k-th smallest of m times m - k + 1, made monotone, at most 1."""
    order = np.argsort(p, kind="stable")
    stepped = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def _chunks(draws: int, width: int) -> Iterator[int]:
    """Sizes of chunks of draws, so that at most CHUNK counts exist at once."""
    size = max(1, CHUNK // width)
    for begin in range(0, draws, size):
        yield min(size, draws - begin)

"""Bucketing: padding rows after the real ones bring every size of a batch to one of a few values.

A CUDA graph (``engine/graphs.py``) repeats kernels on fixed shapes, while the sizes of packed batches vary. Padding
rows read item 1, and their targets are item 0, which no loss counts.

Legend: B real rows, F padding rows, N items read, M targets, T columns of the grid of the attention.
"""

from typing import NamedTuple

import numpy as np

STEPS_PER_OCTAVE = 8
"""Buckets from a power of two to the next: padding is at most an eighth of the work."""
MIN_STEP = 32
COLUMNS = 8
"""T is a multiple of this, or the maximum length of the model."""


class PaddingRows(NamedTuple):
    """The rows to add to a batch."""

    length_F: np.ndarray
    learned: np.ndarray
    """Whether each item of these rows has a target (bool)."""
    longest: int
    """T."""


def step_of(size: int) -> int:
    """The distance between the buckets near a size."""
    return max(MIN_STEP, 2 ** (size.bit_length() - 1) // STEPS_PER_OCTAVE)


def bucketed(size: int) -> int:
    """The smallest bucket that is not below a size."""
    return -(-size // step_of(size)) * step_of(size)


def padding_rows(length_B: np.ndarray, targets: int, max_length: int) -> PaddingRows:
    """The padding rows for a batch of rows of these lengths with ``targets`` targets in total.

    If every row has one target, the last item of every padding row has one too.
    """
    items, one_each = int(length_B.sum()), targets == len(length_B)
    longest = min(-(-int(length_B.max()) // COLUMNS) * COLUMNS, max_length)
    rows = -(-(2 * step_of(items) + step_of(targets)) // longest)
    missing = rows if one_each else bucketed(targets) - targets
    extra = bucketed(items + max(rows, missing)) - items
    rows = max(rows, -(-extra // longest))  # as no row is longer than T
    length_F = np.full(rows, extra // rows)
    length_F[: extra % rows] += 1
    learned = np.zeros(extra, dtype=bool)
    learned[length_F.cumsum() - 1 if one_each else slice(missing)] = True
    return PaddingRows(length_F, learned, longest)

"""Batches of few shapes: padding rows behind the real ones bring every size up to a round number.

A recorded step (``engine/graphs.py``) repeats the same kernels on the same shapes, while packed batches hardly ever
have the same sizes twice. Dummy rows read item 1, and what they are to learn is item 0, which no loss counts.

Legend: B real rows, F padding rows, N items read, M targets, T columns of the attention's grid.
"""

from typing import NamedTuple

import numpy as np

STEPS_AN_OCTAVE = 8
"""Round numbers between a power of two and the next: at most an eighth of the work is for nothing."""
LEAST_STEP = 32
COLUMNS = 8
"""T is a multiple of this, or the longest history that the model reads."""


class PaddingRows(NamedTuple):
    """The rows to add to a batch."""

    length_F: np.ndarray
    learned: np.ndarray
    """Which of their items, one row after the other, have a (dummy) target."""
    longest: int
    """T."""


def step_of(size: int) -> int:
    """The distance between two round numbers near a size."""
    return max(LEAST_STEP, 2 ** (size.bit_length() - 1) // STEPS_AN_OCTAVE)


def bucketed(size: int) -> int:
    """The next round number."""
    return -(-size // step_of(size)) * step_of(size)


def padding_rows(length_B: np.ndarray, targets: int, max_length: int) -> PaddingRows:
    """What brings rows of these lengths, with ``targets`` targets in all, to round sizes.

    Where every row has one target, every dummy has one too, its last item.
    """
    items, one_each = int(length_B.sum()), targets == len(length_B)
    longest = min(-(-int(length_B.max()) // COLUMNS) * COLUMNS, max_length)
    rows = -(-(2 * step_of(items) + step_of(targets)) // longest)
    missing = rows if one_each else bucketed(targets) - targets
    extra = bucketed(items + max(rows, missing)) - items
    rows = max(rows, -(-extra // longest))  # of short rows it takes more to hold that many
    length_F = np.full(rows, extra // rows)
    length_F[: extra % rows] += 1
    learned = np.zeros(extra, dtype=bool)
    learned[length_F.cumsum() - 1 if one_each else slice(missing)] = True
    return PaddingRows(length_F, learned, longest)

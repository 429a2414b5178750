"""Slices of the users that are measured separately: cold-start bins, history lengths, days, truncated histories.

MHL, arXiv 2509.23649: Table 9 (training count of the target), Table 11 (length of the history before the target),
Table 10 and appendix E (truncated histories).

Days: in many logs a user buys several items on one day, with one time stamp and no order. A target of the same day as
the item before it is easier to predict than a later one, because it may have been bought together with that item.

Truncation, two ways. *Printed*: the last 15 items of histories longer than 20 are dropped, and the target is the item
after the cut. The model was trained to predict this item from this history, so the result measures memory (the paper's
R@5 is .85). *Sound*: the target is the held-out item, and the most recent items before it are dropped; the result
measures the value of older interests alone.

Legend: U users (rows of the user table), B users of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from genrec_cli.data.sequences import EvalBatch, Histories, Split, eval_batches

COLD_START = (5, 10, 15, 20)
"""Upper ends of the bins of Table 9; one more bin is above the last, which the paper leaves out."""
LENGTHS = (10, 20, 30, 40, 50)
"""Upper ends of the bins of Table 11."""
DAY = 86_400
"""Seconds."""
Cut = Literal["printed", "sound"]


def bins(value_U: np.ndarray, uppers: Sequence[int]) -> list[tuple[str, np.ndarray]]:
    """``("6-10", rows)`` of each bin, in order. Upper ends belong to their bin; rows index ``value_U``."""
    lowers = [0, *(upper + 1 for upper in uppers)]
    names = [f"{low}-{high}" for low, high in zip(lowers, uppers, strict=False)] + [f"{lowers[-1]}+"]
    bin_U = np.searchsorted(np.asarray(uppers), value_U, side="left")
    return [(name, np.flatnonzero(bin_U == number)) for number, name in enumerate(names)]


def history_length(histories: Histories, user_U: np.ndarray, split: Split) -> np.ndarray:
    """The number of items before each user's target, as in the example of appendix E."""
    return (histories.valid_at if split == "valid" else histories.test_at)[user_U]


def by_day(time_U: np.ndarray, before_U: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Rows of the users whose target has the day (UTC) of the item before it, and of those whose target is later.

    Args:
        time_U, before_U: seconds since 1970 of the target and of the item before it.
    """
    same_U = time_U // DAY == before_U // DAY
    return [("same day", np.flatnonzero(same_U)), ("later day", np.flatnonzero(~same_U))]


def long_histories(histories: Histories, split: Split, longer_than: int) -> tuple[np.ndarray, np.ndarray]:
    """Users with more than ``longer_than`` items before the target, and the target's position."""
    user, at = histories.targets(split)
    return user[at > longer_than], at[at > longer_than]


def truncated_batches(
    histories: Histories, user_U: np.ndarray, at_U: np.ndarray, drop: int, cut: Cut, *, max_length: int, batch_size: int
) -> Iterator[EvalBatch]:
    """Histories without their last ``drop`` items. Seen items are those before the cut.

    Args:
        at_U: position of the held-out target, more than ``drop``.
        cut: the target: the item after the cut (printed) or the held-out target (sound).
    """
    target_U = np.zeros(histories.users, dtype=np.int64)
    target_U[user_U] = histories.item[histories.offset[user_U] + at_U]
    batches = eval_batches(
        histories, user_U, at_U - drop, exclude_seen=True, max_length=max_length, batch_size=batch_size
    )
    for known in batches:
        yield known if cut == "printed" else replace(known, target_B=torch.from_numpy(target_U)[known.row_B])

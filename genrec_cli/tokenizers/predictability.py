"""What codes predict: the information in nats that a digit of an item gives about the same digit of the next item.

The gain of a digit is the mean of ``log p(next | last) - log p(next)`` over pairs of held-out users, so it is not
biased upward: a digit that predicts nothing has a gain of at most 0. ``p(next | last) = (n[last, next] + a p(next)) /
(n[last] + a)`` is counted on the other users. The prior strength ``a`` is the one of :data:`STRENGTHS` with the largest
leave-one-out likelihood on these users. Codes that know behaviour are made from the pairs of all users, the held-out
ones too, so their gain is biased upward.

Legend: K digits, V codewords, P pairs of consecutive items of a user.
"""

from typing import NamedTuple

import numpy as np

HELD_OUT = 5
"""One user of this number is held out."""
STRENGTHS = (4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)


class Pairs(NamedTuple):
    """Consecutive training items (from 0) and the user of each pair."""

    user_P: np.ndarray
    last_P: np.ndarray
    next_P: np.ndarray


def gains(codes_IK: np.ndarray, codewords: int, pairs: Pairs, *, seed: int) -> list[float | None]:
    """The gain of each digit in nats; None without pairs of both kinds of users. Negative codes, padding, are left
    out. ``seed`` draws the held-out users."""
    users = int(pairs.user_P.max(initial=-1)) + 1
    held_P = (np.random.default_rng(seed).permutation(users) % HELD_OUT == 0)[pairs.user_P]
    return [_gain(code_I.astype(np.int64), codewords, pairs, held_P) for code_I in codes_IK.T]


def _gain(code_I: np.ndarray, codewords: int, pairs: Pairs, held_P: np.ndarray) -> float | None:
    last_P, next_P = code_I[pairs.last_P], code_I[pairs.next_P]
    real_P = (last_P >= 0) & (next_P >= 0)
    counted_P, held_P = real_P & ~held_P, real_P & held_P
    if not counted_P.any() or not held_P.any():
        return None
    prior_V = np.bincount(next_P[counted_P], minlength=codewords) + 1.0
    prior_V /= prior_V.sum()
    row_V = np.bincount(last_P[counted_P], minlength=codewords)
    # Sorted keys in place of a table of V x V, so that the memory does not depend on V.
    key_S, count_S = np.unique(last_P[counted_P] * codewords + next_P[counted_P], return_counts=True)

    def log_ratio(chosen_P: np.ndarray, strength: float, without: int) -> float:
        """Mean log p(next | last) / p(next); each pair is counted ``without`` itself or not."""
        last_X, next_X = last_P[chosen_P], next_P[chosen_P]
        key_X = last_X * codewords + next_X
        place_X = np.minimum(np.searchsorted(key_S, key_X), len(key_S) - 1)
        count_X = np.where(key_S[place_X] == key_X, count_S[place_X], 0) - without
        chance_X = (count_X + strength * prior_V[next_X]) / (row_V[last_X] - without + strength)
        return float(np.log(chance_X / prior_V[next_X]).mean())

    strength = max(STRENGTHS, key=lambda strength: log_ratio(counted_P, strength, 1))
    return log_ratio(held_P, strength, 0)

"""Mutual information between the digits of codes, corrected for chance.

Digits that repeat each other waste codes. MDGR (arXiv 2601.19501) assumes that the digits of a parallel codebook are
independent. For two digits a and b with entropies H over all items:

    I = H(a) + H(b) - H(a, b)        normalised: 2 I / (H(a) + H(b)), 0 to 1

With V^2 pairs of codewords and few items, independent digits seem to share much: random codes of 12,101 items and
V = 256 come to .32. So the same is measured after each digit was shuffled by itself, and ``adjusted`` is
(I - chance) / (1 - chance): 0 for independence, as in Vinh et al., JMLR 2010.
"""

from itertools import combinations

import numpy as np

DENSE = 1 << 20
"""Largest number of values that are counted in a table; more are counted by sorting."""


def mutual_information(codes_IK: np.ndarray, codewords: int, *, seed: int) -> dict[str, float | None]:
    """Means over pairs of digits, normalised; None for a single digit, or where chance alone gives 1."""
    mean = _mean_normalised(codes_IK, codewords)
    shuffled_IK = np.random.default_rng(seed).permuted(codes_IK, axis=0)
    chance = _mean_normalised(shuffled_IK, codewords)
    sound = mean is not None and chance is not None and chance < 1
    return {
        "mutual_information": mean,
        "mutual_information_by_chance": chance,
        "mutual_information_adjusted": (mean - chance) / (1 - chance) if sound else None,
    }


def _mean_normalised(codes_IK: np.ndarray, codewords: int) -> float | None:
    digit_KI = np.ascontiguousarray(codes_IK.T.astype(np.int64))
    entropy_K = [entropy(digit_I, codewords) for digit_I in digit_KI]
    shares = []
    for a, b in combinations(range(len(digit_KI)), 2):
        joint = entropy(digit_KI[a] * codewords + digit_KI[b], codewords**2)
        both = entropy_K[a] + entropy_K[b]
        shares.append(2 * (both - joint) / both if both else 0.0)
    return float(np.mean(shares)) if shares else None


def entropy(value_I: np.ndarray, values: int) -> float:
    """Entropy in bits of the distribution of the values 0..values - 1."""
    dense = values <= DENSE
    count_V = np.bincount(value_I, minlength=values) if dense else np.unique(value_I, return_counts=True)[1]
    share_V = count_V[count_V > 0] / len(value_I)
    return max(0.0, float(-(share_V * np.log2(share_V)).sum()))

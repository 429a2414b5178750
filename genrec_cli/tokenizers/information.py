"""Mutual information between the digits of codes, corrected for chance.

MDGR (arXiv 2601.19501) assumes that the digits of a parallel codebook are independent. For two digits a and b with
entropies H over all items:

    I = H(a) + H(b) - H(a, b)        normalised: 2 I / (H(a) + H(b)), 0 to 1

The estimate is too high for few items: random codes of 12,101 items with V = 256 get .32. So the same is computed
after each digit was shuffled separately, and ``adjusted`` is (I - chance) / (1 - chance), which is 0 for independent
digits, as in Vinh et al., JMLR 2010.
"""

from itertools import combinations

import numpy as np

DENSE = 1 << 20
"""Largest number of values that are counted in a table; more are counted by sorting."""


def mutual_information(codes_IK: np.ndarray, codewords: int, *, seed: int) -> dict[str, float | None]:
    """Means over pairs of digits, normalised; None for a single digit, or where chance alone gives 1."""
    mean = _mean_normalised(codes_IK, codewords)
    chance = _mean_normalised(np.random.default_rng(seed).permuted(codes_IK, axis=0), codewords)
    adjusted = None if mean is None or chance is None or chance >= 1 else (mean - chance) / (1 - chance)
    return {
        "mutual_information": mean,
        "mutual_information_by_chance": chance,
        "mutual_information_adjusted": adjusted,
    }


def _mean_normalised(codes_IK: np.ndarray, codewords: int) -> float | None:
    digit_KI = np.ascontiguousarray(codes_IK.T.astype(np.int64))
    entropy_K = [entropy(digit_I, codewords) for digit_I in digit_KI]
    fractions = []
    for a, b in combinations(range(len(digit_KI)), 2):
        joint = entropy(digit_KI[a] * codewords + digit_KI[b], codewords**2)
        both = entropy_K[a] + entropy_K[b]
        fractions.append(2 * (both - joint) / both if both else 0.0)
    return float(np.mean(fractions)) if fractions else None


def entropy(value_I: np.ndarray, values: int) -> float:
    """Entropy in bits of the distribution of the values 0..values - 1."""
    dense = values <= DENSE
    count_V = np.bincount(value_I, minlength=values) if dense else np.unique(value_I, return_counts=True)[1]
    fraction_V = count_V[count_V > 0] / len(value_I)
    return max(0.0, float(-(fraction_V * np.log2(fraction_V)).sum()))

"""Ranking metrics from the target's rank, exact under ties.

One relevant item per user. If ``above`` items score higher and ``ties - 1`` others have the target's score, its rank is
uniform among ``above .. above + ties - 1``, and each metric is the mean over these ranks. Items with the same codes
always tie, so this is the collision-corrected value: a hit among g items with equal codes counts 1 / g ("Faithful
Evaluation of Semantic-ID Tokenizers", CIKM 2026). Without ties it equals scikit-learn's ``ndcg_score`` (tested).
"""

import re
from collections.abc import Sequence

import numpy as np

from genrec_cli.config import did_you_mean
from genrec_cli.errors import UsageError

SPELLINGS = {"Recall": ("recall", "r", "hitrate", "hr", "hit"), "NDCG": ("ndcg", "n"), "MRR": ("mrr",)}
NAMES = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}
"""Accepted spellings. With one relevant item, HitRate is Recall."""
LARGEST = 999_999
"""The largest cutoff."""


def parse(text: str) -> tuple[str, int]:
    """``ndcg@10`` to ``("NDCG", 10)``."""
    match = re.fullmatch(r"([A-Za-z]+)@([1-9]\d{0,5})", text.strip())
    if not match or match[1].lower() not in NAMES:
        near = did_you_mean(text, ["NDCG@10", "Recall@10", "MRR@10"])
        raise UsageError(f"There is no metric '{text}'.{near}", hint="Metrics: Recall, NDCG, MRR, as in NDCG@10")
    return NAMES[match[1].lower()], int(match[2])


def _gain(name: str, cutoff: int) -> np.ndarray:
    """Prefix sums of the gain of a target at rank 0, 1, ...; length cutoff + 1."""
    rank = np.arange(cutoff)
    gain = {"Recall": np.ones(cutoff), "NDCG": 1 / np.log2(rank + 2), "MRR": 1 / (rank + 1)}[name]
    return np.concatenate([[0.0], np.cumsum(gain)])


def per_user(name: str, cutoff: int, above: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """A metric per user, float64.

    Args:
        above: number of items that score strictly higher than the target.
        ties: number of items with the target's score, itself included (at least 1).
    """
    gain = _gain(name, cutoff)
    return (gain[np.minimum(above + ties, cutoff)] - gain[np.minimum(above, cutoff)]) / ties


def table(above: np.ndarray, ties: np.ndarray, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    """``Recall@k``, ``NDCG@k`` and ``MRR@k`` per user for every cutoff."""
    pairs = [(name, cutoff) for cutoff in cutoffs for name in SPELLINGS]
    return {f"{name}@{cutoff}": per_user(name, cutoff, above, ties) for name, cutoff in pairs}

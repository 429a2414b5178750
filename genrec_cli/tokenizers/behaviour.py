"""Behaviour in vectors: text vectors joined with a spectral embedding of the training transitions.

``joined = [text / |text| ; weight * behaviour / |behaviour|]``. The behaviour part of an item is its row of U S, a
truncated SVD of the symmetric matrix of transitions, whose rows and columns are divided by the square roots of their
sums (Ng, Jordan and Weiss, On spectral clustering, NeurIPS 2001). Items that users choose one after the other have
similar rows, so a tokenizer of joined vectors gives them equal digits.

An item without a training interaction has no row. Its behaviour part is predicted from its text by ridge regression on
the items that have one, so it lies near that of its text neighbours; zeros would move all such items to one place.

Legend: I items, D width of text vectors, W width of the behaviour part.
"""

from typing import TYPE_CHECKING

import numpy as np

from genrec_cli.config import Count, NonNegative, Section
from genrec_cli.tokenizers.kmeans import one_thread
from genrec_cli.tokenizers.quality import unit

if TYPE_CHECKING:
    from scipy.sparse import csr_array

RIDGE = 10.0
"""Penalty of the regression, in squared lengths of unit vectors: some ten items outweigh it in each direction."""
ITERATIONS = 7
"""Power iterations of the randomised SVD."""


class BehaviourConfig(Section):
    """Whether codes are made from text vectors alone, or joined with what users did."""

    weight: NonNegative = 0.0
    """Length of the behaviour part of a vector; the text part has length 1. 0: text alone."""
    width: Count = 128
    """Components of the behaviour part, at most the number of items."""


def join(
    vec_ID: np.ndarray, transitions_II: "csr_array", train_I: np.ndarray, config: BehaviourConfig, *, seed: int
) -> np.ndarray:
    """``joined_IX`` (float32), D + W wide, on one thread. The memory is linear in items and stored transitions.

    Args:
        transitions_II: weights of item pairs, any sparse matrix of I x I.
        train_I: whether an item has training interactions.
        seed: of the randomised SVD.
    """
    from sklearn.utils.extmath import randomized_svd

    with one_thread():
        text_ID = unit(vec_ID).astype(np.float32)
        symmetric_II = ((transitions_II + transitions_II.T) / 2).astype(np.float32)
        width = min(config.width, len(vec_ID))
        u_IW, s_W, _ = randomized_svd(symmetric_II, width, n_iter=ITERATIONS, random_state=seed)
        behaviour_IW = u_IW * s_W
        behaviour_IW[~train_I] = _from_text(text_ID, behaviour_IW, train_I)
        return np.hstack([text_ID, config.weight * unit(behaviour_IW)]).astype(np.float32)


def _from_text(text_ID: np.ndarray, behaviour_IW: np.ndarray, train_I: np.ndarray) -> np.ndarray:
    """The behaviour part of the items outside ``train_I``, by ridge regression."""
    known_ID = text_ID[train_I]
    gram_DD = known_ID.T @ known_ID + RIDGE * np.eye(known_ID.shape[1], dtype=np.float32)
    return text_ID[~train_I] @ np.linalg.solve(gram_DD, known_ID.T @ behaviour_IW[train_I])

"""Training behaviour for codes: the transitions that are joined with text vectors, and pairs that measure codes."""

from pathlib import Path

import numpy as np

from genrec_cli.data.histories import read_histories
from genrec_cli.tokenizers.behaviour import BehaviourConfig, join
from genrec_cli.tokenizers.predictability import Pairs

MEASURED = 200_000
"""Users whose pairs measure the codes; of more users this number is drawn."""
RECENT = 100
"""Last training items of such a user."""


def joined_vectors(
    folder: Path, vec_ID: np.ndarray, train_I: np.ndarray, config: BehaviourConfig, *, seed: int
) -> np.ndarray:
    """Text vectors joined with the transitions of a data artifact, as ``models/transitions.py`` counts them."""
    from scipy.sparse import csr_array

    from genrec_cli.data.sequences import Histories
    from genrec_cli.models.transitions import TransitionsConfig, count_transitions

    counting = TransitionsConfig(backward=1.0, row_power=0.5, column_power=0.5)
    count_I, item_P, weight_P = count_transitions(Histories.read(folder), len(vec_ID), counting)
    begin_I = np.concatenate([[0], count_I.cumsum(0).numpy()])
    shape = (len(vec_ID), len(vec_ID))
    transitions_II = csr_array((weight_P.numpy(), item_P.numpy() - 1, begin_I), shape=shape)
    return join(vec_ID, transitions_II, train_I, config, seed=seed)


def consecutive_pairs(folder: Path, *, seed: int) -> Pairs:
    """Consecutive training items of users; of many users a sample."""
    item_N, user_U, _ = read_histories(folder)
    row_U = np.arange(len(user_U))
    if len(row_U) > MEASURED:
        row_U = np.sort(np.random.default_rng(seed).choice(len(user_U), MEASURED, replace=False))
    end_U = user_U["train_end"][row_U].astype(np.int64)
    pairs_U = np.clip(end_U - 1, 0, RECENT - 1)
    first_U = user_U["offset"][row_U].astype(np.int64) + end_U - 1 - pairs_U
    at_P = np.arange(pairs_U.sum()) + np.repeat(first_U - (pairs_U.cumsum() - pairs_U), pairs_U)
    user_P = np.repeat(np.arange(len(row_U)), pairs_U)
    return Pairs(user_P, item_N[at_P].astype(np.int64) - 1, item_N[at_P + 1].astype(np.int64) - 1)

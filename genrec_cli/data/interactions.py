"""Training interactions as a sparse matrix of users and items, for encoders and tokenizers that need them."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genrec_cli.data.histories import read_histories

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def training_matrix(folder: Path, items: int) -> "csr_array":
    """``interactions_UI`` (float32, users x items) of a data artifact: a one per training interaction.

    The entries of a user are in the order of time. A repeated item has several entries: ``sum_duplicates`` of SciPy
    adds them.
    """
    from scipy.sparse import csr_array

    item_N, user_U, _ = read_histories(folder)
    start_U = np.concatenate([[0], np.cumsum(user_U["train_end"], dtype=np.int64)])
    at_M = np.arange(start_U[-1]) + np.repeat(user_U["offset"] - start_U[:-1], user_U["train_end"])
    column_M = item_N[at_M].astype(np.int64) - 1
    return csr_array((np.ones(len(column_M), np.float32), column_M, start_U), shape=(len(user_U), items))

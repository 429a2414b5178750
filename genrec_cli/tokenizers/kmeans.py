"""k-means of FAISS on one thread, and the limits of V."""

import contextlib
from collections.abc import Iterator

import numpy as np

from genrec_cli.errors import UsageError

FAISS_SEED = 1234
"""FAISS's default seed of k-means. The seed of the settings is added to it."""
MAX_CODEWORDS = 4096
"""Largest V."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit FAISS and NumPy to one thread, so that no sum depends on the number of cores."""
    import faiss  # noqa: F401  threadpoolctl limits only libraries that are loaded
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def check_codewords(codewords: int, training_items: int) -> None:
    """Raises UsageError if V is not in 2..4,096 or exceeds the number of training items."""
    if training_items < 2:
        hint = "genrec train --model popular    and    --model sasrec    need no codes"
        raise UsageError(f"Codebooks need two training items or more; there is {training_items}.", hint=hint)
    largest = min(MAX_CODEWORDS, training_items)
    if not 2 <= codewords <= largest:
        what = f"{codewords} codewords per codebook do not fit {training_items} training items: 2 to {largest} do."
        raise UsageError(what, hint=f"--codewords {max(2, min(codewords, largest))}")


def kmeans(row_NS: np.ndarray, count: int, seed: int, iterations: int | None = None) -> np.ndarray:
    """``centroid_VS``, as FAISS trains a product quantiser's subspace: on a sample of at most 256 rows per centroid."""
    import faiss

    clustering = faiss.Clustering(row_NS.shape[1], count)
    clustering.seed = seed
    clustering.min_points_per_centroid = 1  # no warning on a small catalogue
    if iterations:
        clustering.niter = iterations
    clustering.train(np.ascontiguousarray(row_NS), faiss.IndexFlatL2(row_NS.shape[1]))
    return faiss.vector_to_array(clustering.centroids).reshape(count, -1)


def squared_distances(x_NS: np.ndarray, centroid_VS: np.ndarray) -> np.ndarray:
    """``cost_NV`` in float64."""
    wide_VS = centroid_VS.astype(np.float64)
    cost_NV = x_NS.astype(np.float64) @ (-2 * wide_VS.T)
    cost_NV += np.square(wide_VS).sum(1)
    cost_NV += np.square(x_NS, dtype=np.float64).sum(1, keepdims=True)
    return cost_NV

"""PCA with whitening."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from genrec_cli.errors import DataError

RANK_TOLERANCE = 1e-10
"""Components whose variance is below this fraction of the largest are rounding noise of float32."""
CHUNK = 8192
"""Rows converted to float64 at a time."""


@dataclass(frozen=True)
class Pca:
    """A fitted projection from D to P dimensions. Sums are float64, so a row's result does not depend on other rows."""

    mean_D: np.ndarray
    components_PD: np.ndarray
    scale_P: np.ndarray
    """1 / standard deviation (divisor n - 1) along each component."""

    @classmethod
    def fit(cls, vec_ID: np.ndarray, width: int, *, multiple: int = 1) -> Self:
        """Fit on all given rows; P = width, or if the rank is lower, its largest multiple of ``multiple``, if any.

        Raises DataError if all vectors are equal.
        """
        mean_D = vec_ID.mean(axis=0, dtype=np.float64)
        scatter_DD = np.zeros((len(mean_D), len(mean_D)))
        for rows in _chunks(len(vec_ID)):
            centred_ND = vec_ID[rows] - mean_D
            scatter_DD += centred_ND.T @ centred_ND
        variance_D, vectors_DD = np.linalg.eigh(scatter_DD / max(1, len(vec_ID) - 1))
        variance_D, components_DD = variance_D[::-1], vectors_DD.T[::-1]
        rank = np.count_nonzero(variance_D > max(RANK_TOLERANCE * variance_D[0], np.finfo(np.float32).tiny))
        if rank == 0:
            raise DataError(f"All {len(vec_ID)} training items have the same vector: there is nothing to quantise.")
        if multiple <= rank < width:
            rank -= rank % multiple
        kept = components_DD[: min(width, rank)]
        # The largest entry of each component is made positive, because LAPACK libraries differ in signs.
        largest_P = np.take_along_axis(kept, np.abs(kept).argmax(axis=1, keepdims=True), axis=1)
        return cls(
            mean_D.astype(np.float32),
            (kept * np.sign(largest_P)).astype(np.float32),
            (1 / np.sqrt(variance_D[: len(kept)])).astype(np.float32),
        )

    def transform(self, vec_ID: np.ndarray) -> np.ndarray:
        """``reduced_IP`` as float32, with mean 0 and variance 1 over the fitted items."""
        if vec_ID.ndim != 2 or vec_ID.shape[1] != len(self.mean_D):
            raise DataError(f"The codebook reads vectors of width {len(self.mean_D)}, not shape {vec_ID.shape}.")
        whiten_DP = (self.components_PD.T * self.scale_P).astype(np.float64)
        reduced_IP = np.empty((len(vec_ID), len(self.scale_P)), dtype=np.float32)
        for rows in _chunks(len(vec_ID)):
            reduced_IP[rows] = (vec_ID[rows] - self.mean_D.astype(np.float64)) @ whiten_DP
        return reduced_IP

    def tensors(self) -> dict[str, np.ndarray]:
        """What :meth:`from_tensors` reads."""
        return {"pca.mean": self.mean_D, "pca.components": self.components_PD, "pca.scale": self.scale_P}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Rebuild from stored tensors, whose shapes the caller has checked."""
        return cls(tensors["pca.mean"], tensors["pca.components"], tensors["pca.scale"])


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))

"""Residual quantisation: each digit is the codeword nearest to the residual of the digits before it.

    r_1 = x;  code_k = argmin_v |r_k - c_kv|;  r_{k+1} = r_k - c_{k,code_k};  x is about the sum of the codewords

TIGER (Rajput et al., NeurIPS 2023, section 3.1). The first digit is the coarsest, so codes form a tree.
Distances are computed in float64, so the codes of an item do not depend on the other items of the call.
"""

from collections.abc import Iterator

import numpy as np

from genrec_cli.tokenizers.codebook import CodebookTokenizer
from genrec_cli.tokenizers.collisions import beam_step
from genrec_cli.tokenizers.kmeans import squared_distances

CELLS = 4_000_000
"""Distances held in memory at a time."""


class ResidualTokenizer(CodebookTokenizer):
    """Codes by residual quantisation. A subclass learns the space and the codebooks."""

    def assign(self, x_IS: np.ndarray) -> np.ndarray:
        """The nearest codeword, level by level."""
        digits, codewords, _ = self.centroids_KVS.shape
        codes_IK = np.empty((len(x_IS), digits), dtype=np.uint16)
        for rows in chunks(len(x_IS), codewords):
            rest_NS = x_IS[rows].astype(np.float64)
            for k, centroid_VS in enumerate(self.centroids_KVS):
                codes_IK[rows, k] = squared_distances(rest_NS, centroid_VS).argmin(1)
                rest_NS -= centroid_VS[codes_IK[rows, k]]
        return codes_IK

    def reconstruct(self, codes_IK: np.ndarray) -> np.ndarray:
        """The sum of the codewords."""
        x_IS = np.zeros((len(codes_IK), self.centroids_KVS.shape[2]), dtype=np.float32)
        for k in range(codes_IK.shape[1]):
            x_IS += self.centroids_KVS[k, codes_IK[:, k]]
        return x_IS

    def nearest_codes(self, x_NS: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
        """Beam search of width ``many`` over the levels; exact if the beam holds all V^K codes."""
        rest_NMS = x_NS[:, None, :].astype(np.float64)
        codes_NMK = np.empty((len(x_NS), 1, 0), dtype=np.uint16)
        for centroid_VS in self.centroids_KVS:
            cost_BV = squared_distances(rest_NMS.reshape(-1, rest_NMS.shape[2]), centroid_VS)
            cost_NMV = cost_BV.reshape(*rest_NMS.shape[:2], -1)
            codes_NMK, cost_NM, prefix_NM = beam_step(codes_NMK, cost_NMV, many)
            rest_NMS = np.take_along_axis(rest_NMS, prefix_NM[:, :, None], 1) - centroid_VS[codes_NMK[:, :, -1]]
        return codes_NMK, cost_NM


def chunks(rows: int, codewords: int) -> Iterator[slice]:
    """Chunks of rows whose distances to all codewords are at most :data:`CELLS`."""
    step = max(1, CELLS // codewords)
    return (slice(start, start + step) for start in range(0, rows, step))

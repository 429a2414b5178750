"""Residual quantisation: each digit is the codeword nearest to the residual of the digits before it.

    r_1 = x;  code_k = argmin_v |r_k - c_kv|;  r_{k+1} = r_k - c_{k,code_k};  x is about the sum of the codewords

TIGER (Rajput et al., NeurIPS 2023, section 3.1). The first digit is the coarsest, so codes form a tree.
Distances are computed in float64, so the codes of an item do not depend on the other items of the call.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from genrec_cli.tokenizers.codebook import CodebookTokenizer
from genrec_cli.tokenizers.collisions import cheapest
from genrec_cli.tokenizers.kmeans import squared_distances

CELLS = 4_000_000
"""Distances held in memory at a time."""


class ResidualTokenizer(CodebookTokenizer):
    """Codes by residual quantisation. A subclass learns the space and the codebooks."""

    def assign(self, x_IS: np.ndarray) -> np.ndarray:
        """``codes_IK`` as uint16: the nearest codeword level by level."""
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
        """The codes that a beam search of width ``many`` finds level by level; exact if the beam holds all V^K."""
        rest_NMS = x_NS[:, None, :].astype(np.float64)
        codes_NMK = np.empty((len(x_NS), 1, 0), dtype=np.uint16)
        for centroid_VS in self.centroids_KVS:
            cost_NMV = squared_distances(rest_NMS.reshape(-1, rest_NMS.shape[2]), centroid_VS)
            cost_NB = cost_NMV.reshape(len(x_NS), -1)
            best_NM = cheapest(cost_NB, many)
            cost_NM = np.take_along_axis(cost_NB, best_NM, 1)
            before_NM, code_NM = np.divmod(best_NM, len(centroid_VS))
            rest_NMS = np.take_along_axis(rest_NMS, before_NM[:, :, None], 1) - centroid_VS[code_NM]
            codes_NMK = np.take_along_axis(codes_NMK, before_NM[:, :, None], 1)
            codes_NMK = np.concatenate([codes_NMK, code_NM[:, :, None].astype(np.uint16)], axis=2)
        return codes_NMK, cost_NM

    @classmethod
    def fits(cls, size: Mapping[str, int]) -> bool:
        """By default codewords are as wide as the vectors after PCA."""
        return size["S"] == size["P"]


def chunks(rows: int, codewords: int) -> Iterator[slice]:
    """Chunks of rows whose distances to all codewords are at most :data:`CELLS`."""
    step = max(1, CELLS // codewords)
    return (slice(start, start + step) for start in range(0, rows, step))

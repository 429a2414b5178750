"""Product quantisation: the vector after PCA is divided into K subspaces with a codebook of V codewords each.

Jégou et al., "Product Quantization for Nearest Neighbor Search", PAMI 2011. OPQ (``opq.py``) adds a learned rotation.
Whitening gives all subspaces the same variance; the first digits encode the components with the largest variance
before whitening. V need not be a power of two.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli.errors import UsageError
from genrec_cli.tokenizers.base import MAX_DIGITS
from genrec_cli.tokenizers.codebook import CodebookConfig, CodebookTokenizer
from genrec_cli.tokenizers.collisions import beam_step, cheapest
from genrec_cli.tokenizers.kmeans import FAISS_SEED, kmeans, one_thread, squared_distances

FAR = np.float32(1e15)
"""Coordinate of the padding codewords that fill a codebook up to a power of two. They are never the nearest."""


class PqConfig(CodebookConfig):
    """``[tokenizer]`` of pq."""

    name: Literal["pq"] = "pq"
    codebooks: int = Field(32, ge=1, le=MAX_DIGITS)
    """K: codes per item. Must divide the width after PCA."""


class PqTokenizer(CodebookTokenizer):
    """PCA and K codebooks."""

    Config: ClassVar[type[CodebookConfig]] = PqConfig
    what = "a PQ codebook"
    divides = True

    def learn(self, train_NP: np.ndarray) -> None:
        """k-means in each subspace."""
        check_codebooks(self.config.codebooks, train_NP.shape[1], self.config.pca)
        self.learn_centroids(train_NP)

    def learn_centroids(self, x_NP: np.ndarray) -> None:
        """``centroids_KVS`` by k-means in each of the K subspaces of x."""
        sub_NKS = x_NP.reshape(len(x_NP), self.config.codebooks, -1)
        seed, codewords = FAISS_SEED + self.config.seed, self.config.codewords
        self.centroids_KVS = np.stack([kmeans(sub_NKS[:, k], codewords, seed) for k in range(sub_NKS.shape[1])])

    def assign(self, x_IS: np.ndarray) -> np.ndarray:
        """The nearest codeword in each subspace, by FAISS."""
        import faiss

        digits, codewords, sub = self.centroids_KVS.shape
        bits = (codewords - 1).bit_length()
        filled_KVS = np.full((digits, 1 << bits, sub), FAR, dtype=np.float32)
        filled_KVS[:, :codewords] = self.centroids_KVS
        quantizer = faiss.ProductQuantizer(digits * sub, digits, bits)
        faiss.copy_array_to_vector(filled_KVS.ravel(), quantizer.centroids)
        with one_thread():
            packed = quantizer.compute_codes(np.ascontiguousarray(x_IS))
        return faiss.unpack_bitstrings(packed, digits, bits).astype(np.uint16)

    def reconstruct(self, codes_IK: np.ndarray) -> np.ndarray:
        """The codewords side by side."""
        digits = np.arange(codes_IK.shape[1])
        return self.centroids_KVS[digits, codes_IK].reshape(len(codes_IK), -1)

    def nearest_codes(self, x_NS: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
        """Exact, because distances are sums over digits."""
        x_KNS = x_NS.reshape(len(x_NS), len(self.centroids_KVS), -1).swapaxes(0, 1)
        pairs = zip(x_KNS, self.centroids_KVS, strict=True)
        return smallest_sums((squared_distances(sub_NS, centroid_VS) for sub_NS, centroid_VS in pairs), many)

    @classmethod
    def fits(cls, size: Mapping[str, int]) -> bool:
        """K subspaces of width S make up P."""
        return size["K"] * size["S"] == size["P"]


def check_codebooks(codebooks: int, width: int, max_width: int) -> None:
    """Raises UsageError, with the nearest possible K, if K does not divide the width after PCA."""
    divisors = [k for k in range(1, width + 1) if width % k == 0]
    if codebooks not in divisors:
        nearest = min(divisors, key=lambda k: (abs(k - codebooks), k))
        rank = f" (--pca {max_width}, but the vectors have rank {width})" if width < max_width else ""
        fitting = width - width % codebooks if codebooks > 0 else 0
        other = f"    or keep it with --pca {fitting}" if fitting else ""
        what = (
            f"{codebooks} codebooks do not divide the width {width} after PCA{rank}; the nearest that does: {nearest}."
        )
        raise UsageError(what, hint=f"--codebooks {nearest}{other}")


def smallest_sums(costs: Iterable[np.ndarray], many: int) -> tuple[np.ndarray, np.ndarray]:
    """The codes with the smallest sums of costs over digits: ``codes_NMK`` and ``cost_NM``, in ascending order.

    Exact beam search: each of the M smallest sums over k digits consists of one of the M smallest sums over k - 1
    digits and one of the M smallest costs of digit k. ``costs`` yields ``cost_NV`` digit by digit.
    """
    codes_NMK, cost_NM = np.empty((1, 1, 0), dtype=np.uint16), np.zeros((1, 1))
    for cost_NV in costs:
        code_NC = cheapest(cost_NV, many)
        sum_NMC = cost_NM[:, :, None] + np.take_along_axis(cost_NV, code_NC, 1)[:, None]
        codes_NMK, cost_NM, _ = beam_step(codes_NMK, sum_NMC, many, code_NC)
    return codes_NMK, cost_NM

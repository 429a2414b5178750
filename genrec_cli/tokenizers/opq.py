"""Optimised product quantisation: product quantisation (``pq.py``) after a learned rotation.

Ge et al., "Optimized Product Quantization", CVPR 2013, as RPG uses it (arXiv 2506.05781, section 3.1). For V = 2^b
the codes are bit for bit those of FAISS's ``OPQ{K},IVF1,PQ{K}x{b}np``: the rotation is trained with a separate product
quantiser (256 codewords), one coarse centroid is subtracted, then k-means runs in each subspace.

Deviations from RPG's code: PCA is fitted on training items (its code: on all; ``pca_fit = "all"``); no polysemous
training, which only permutes the codewords of a digit.

Iterations: on the 12,101 items of Beauty (MiniLM, 128 wide, one core) fit and codes take 10 s (K 16) and 19 s (K 32)
with the defaults; with FAISS's defaults (50, 4, 40) the rotation alone takes 52 s and 97 s. The relative
reconstruction error is 0.4 % higher (.2726 for .2715, .0853 for .0850).
"""

from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli.tokenizers.codebook import CodebookConfig
from genrec_cli.tokenizers.kmeans import FAISS_SEED, kmeans
from genrec_cli.tokenizers.pq import PqConfig, PqTokenizer, check_codebooks

COARSE_ITERATIONS = 10
"""k-means iterations of FAISS's coarse quantiser."""
ROTATION_BITS = 8
"""Bits per code while the rotation is trained, independent of V, as in FAISS."""


class OpqConfig(PqConfig):
    """``[tokenizer]`` of opq."""

    name: Literal["opq"] = "opq"  # type: ignore[assignment]
    niter: int = Field(10, ge=1)
    """Rounds of rotation and quantisation."""
    niter_pq: int = Field(2, ge=1)
    """k-means iterations in each round."""
    niter_pq_0: int = Field(10, ge=1)
    """k-means iterations in the first round."""


class OpqTokenizer(PqTokenizer):
    """PCA, rotation, one coarse centroid, K codebooks."""

    Config: ClassVar[type[CodebookConfig]] = OpqConfig
    what = "an OPQ codebook"
    parts = MappingProxyType({"rotation": "PP", "coarse": "P"})
    config: OpqConfig

    def learn(self, train_NP: np.ndarray) -> None:
        """Fit the rotation and the coarse centroid, then k-means in each subspace."""
        check_codebooks(self.config.codebooks, train_NP.shape[1], self.config.pca)
        self.rotation_PP = self._fit_rotation(train_NP)
        rotated_NP = self._rotate(train_NP)
        self.coarse_P = kmeans(rotated_NP, 1, FAISS_SEED, COARSE_ITERATIONS)[0]
        self.learn_centroids(rotated_NP - self.coarse_P)

    def encode(self, reduced_IP: np.ndarray) -> np.ndarray:
        """Rotate and subtract the coarse centroid."""
        return self._rotate(reduced_IP) - self.coarse_P

    def decode_space(self, x_IS: np.ndarray) -> np.ndarray:
        """Add the coarse centroid and rotate back."""
        return (x_IS + self.coarse_P) @ self.rotation_PP

    def _fit_rotation(self, train_NP: np.ndarray) -> np.ndarray:
        import faiss

        width = train_NP.shape[1]
        bits = min(ROTATION_BITS, len(train_NP).bit_length() - 1)  # k-means needs as many rows as codewords
        quantizer = faiss.ProductQuantizer(width, self.config.codebooks, bits)
        quantizer.cp.seed = FAISS_SEED + self.config.seed
        quantizer.cp.min_points_per_centroid = 1  # no warning on a small catalogue
        matrix = faiss.OPQMatrix(width, self.config.codebooks)
        matrix.pq = quantizer
        for name in ("niter", "niter_pq", "niter_pq_0"):
            setattr(matrix, name, getattr(self.config, name))
        matrix.train(train_NP)
        return faiss.vector_to_array(matrix.A).reshape(width, width)

    def _rotate(self, reduced_IP: np.ndarray) -> np.ndarray:
        """The rotated rows, bit for bit as FAISS computes them."""
        import faiss

        matrix = faiss.LinearTransform(*self.rotation_PP.shape)
        faiss.copy_array_to_vector(self.rotation_PP.ravel(), matrix.A)
        matrix.is_trained = True
        return matrix.apply(reduced_IP)

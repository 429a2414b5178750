"""Residual k-means: k-means of the vectors, then k-means of the residuals, level by level.

It is RQ-VAE without networks, and the usual baseline of RQ-VAE (Ju et al., "Generative Recommendation with Semantic
IDs", arXiv 2507.22224). The defaults, 4 levels of 256 codewords, are those of DiffGRM (arXiv 2510.21805).

Deviation: PCA with whitening comes first, as for the other tokenizers. In a trial on Beauty (MiniLM, 8 levels, fitted
on all items) 287 items had equal codes with it and 382 without; equal digits kept 22.8 % and 20.6 % of text neighbours.
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli.tokenizers.base import MAX_DIGITS
from genrec_cli.tokenizers.codebook import CodebookConfig
from genrec_cli.tokenizers.kmeans import FAISS_SEED, kmeans, squared_distances
from genrec_cli.tokenizers.residual import ResidualTokenizer, chunks


class RkmeansConfig(CodebookConfig):
    """``[tokenizer]`` of rkmeans."""

    name: Literal["rkmeans"] = "rkmeans"
    codebooks: int = Field(4, ge=1, le=MAX_DIGITS)
    """K: levels, usually 3 to 8."""


class RkmeansTokenizer(ResidualTokenizer):
    """PCA and K levels of k-means."""

    Config: ClassVar[type[CodebookConfig]] = RkmeansConfig
    what = "a codebook of residual k-means"
    centroid_dimensions = "KVP"

    def learn(self, train_NP: np.ndarray) -> None:
        """k-means of the residuals at each level."""
        config = self.config
        self.centroids_KVS = residual_kmeans(train_NP, config.codebooks, config.codewords, FAISS_SEED + config.seed)


def residual_kmeans(x_NS: np.ndarray, levels: int, codewords: int, seed: int) -> np.ndarray:
    """``centroids_KVS``: k-means of the rows, then of the residuals, ``levels`` times."""
    rest_NS, centroids = x_NS.copy(), []
    for _ in range(levels):
        centroids.append(kmeans(rest_NS, codewords, seed))
        for rows in chunks(len(rest_NS), codewords):
            rest_NS[rows] -= centroids[-1][squared_distances(rest_NS[rows], centroids[-1]).argmin(1)]
    return np.stack(centroids)

"""Latent semantic analysis: TF-IDF and a truncated SVD. Offline, deterministic, no model to fetch.

Deerwester et al., "Indexing by latent semantic analysis", JASIS 1990. Fitted on the texts it encodes,
so the vectors of two data sets have nothing in common.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli.config import Section, Seed
from genrec_cli.errors import DataError

RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest count as zero."""


class LsaConfig(Section):
    """``[encoder]`` of lsa."""

    name: Literal["lsa"] = "lsa"
    dim: int = Field(256, ge=1)
    """Width of the vectors, if the texts have that rank."""
    vocabulary: int = Field(50_000, ge=1)
    """Words kept at most, the most frequent first."""
    seed: Seed = 0
    """Seed of the randomised SVD."""


class LsaEncoder:
    """TF-IDF with sublinear counts, truncated SVD, rows of length 1."""

    Config = LsaConfig
    frozen: ClassVar[bool] = False
    label = "lsa"

    def __init__(self, config: LsaConfig) -> None:
        self.config = config
        self.facts: dict[str, object] = {}

    def external(self) -> Mapping[str, str]:
        """Nothing outside the texts decides the vectors."""
        return {}

    def encode(self, texts: Sequence[str], raw_ids: Sequence[str]) -> np.ndarray:
        """``vec_ID`` with D = min(dim, rank). A text without a known word is a zero row.

        Raises:
            DataError: no text holds a word.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from threadpoolctl import threadpool_limits

        try:
            words = TfidfVectorizer(sublinear_tf=True, max_features=self.config.vocabulary)
            tfidf_IW = words.fit_transform(texts)
        except ValueError:
            raise DataError(
                f"None of the {len(texts)} item texts holds a word of two letters or more.",
                hint="genrec preprocess --fields title,...    chooses the text",
            ) from None
        svd = TruncatedSVD(min(self.config.dim, *tfidf_IW.shape), n_iter=7, random_state=self.config.seed)
        # One thread: a matrix product's sums depend on how threads divide it. No warning where all texts agree.
        with threadpool_limits(1), np.errstate(invalid="ignore"):
            vec_ID = svd.fit_transform(tfidf_IW)
        rank = np.count_nonzero(svd.singular_values_ > RANK_TOLERANCE * svd.singular_values_.max())
        vec_ID = vec_ID[:, :rank]
        norm_I = np.linalg.norm(vec_ID, axis=1, keepdims=True)
        vec_ID = np.divide(vec_ID, norm_I, out=np.zeros_like(vec_ID), where=norm_I > RANK_TOLERANCE)
        return vec_ID.astype(np.float32)

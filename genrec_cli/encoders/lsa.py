"""Latent semantic analysis: TF-IDF and a truncated SVD. Offline and deterministic.

Deerwester et al., "Indexing by latent semantic analysis", JASIS 1990. It is fitted on the texts that it encodes, so the
vectors of two data sets cannot be compared.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli.config import Section, Seed
from genrec_cli.errors import DataError

RANK_TOLERANCE = 1e-6
"""Singular values below this fraction of the largest count as zero."""


class LsaConfig(Section):
    """``[encoder]`` of lsa."""

    name: Literal["lsa"] = "lsa"
    dim: int = Field(256, ge=1)
    """Width of the vectors, if the texts have that rank."""
    vocabulary: int = Field(50_000, ge=1)
    """Largest number of words; the most frequent are kept."""
    seed: Seed = 0
    """Seed of the randomised SVD."""


class LsaEncoder:
    """TF-IDF with sublinear counts, truncated SVD, rows scaled to length 1."""

    Config = LsaConfig
    frozen: ClassVar[bool] = False
    label = "lsa"

    def __init__(self, config: LsaConfig) -> None:
        self.config = config
        self.facts: dict[str, object] = {}

    def external(self) -> Mapping[str, str]:
        """There is no input outside the artifact root."""
        return {}

    def encode(self, texts: Sequence[str], raw_ids: Sequence[str]) -> np.ndarray:
        """``vec_ID`` with D = min(dim, rank), zero for a text without a word of the vocabulary.

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
            hint = "genrec preprocess --fields title,...    chooses the text"
            what = f"None of the {len(texts)} item texts holds a word of two letters or more."
            raise DataError(what, hint=hint) from None
        svd = TruncatedSVD(min(self.config.dim, *tfidf_IW.shape), n_iter=7, random_state=self.config.seed)
        # Sums depend on the number of threads. NumPy warns where all texts are equal.
        with threadpool_limits(1), np.errstate(invalid="ignore"):
            vec_ID = svd.fit_transform(tfidf_IW)
        vec_ID = vec_ID[:, : np.count_nonzero(svd.singular_values_ > RANK_TOLERANCE * svd.singular_values_.max())]
        norm_I = np.linalg.norm(vec_ID, axis=1, keepdims=True)
        vec_ID = np.divide(vec_ID, norm_I, out=np.zeros_like(vec_ID), where=norm_I > RANK_TOLERANCE)
        return vec_ID.astype(np.float32)

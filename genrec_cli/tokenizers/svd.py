"""Codes of a singular value decomposition of the training interactions: RecJPQ's assignment of centroids.

Petrov and Macdonald (WSDM 2024, arXiv 2312.06165). The matrix of users x items is decomposed with K
components. Each component of the item factors is scaled to 0..1, gets noise of 1e-5, which separates equal items, and
is cut into V bins with equal numbers of training items: the bin is the code of digit k.

So items that the same users chose have similar codes, and neighbouring codewords have a meaning. Items without training
interactions have factors of zero, and the noise chooses among the bins near zero. There is no codebook: the codes of
new items need a new decomposition.

Deviation from the authors' code: the exact decomposition (ARPACK) in place of a randomised one; bins are fitted on
items with training interactions. The trap: bins have equal numbers of items, not of interactions, so popular items
share bins.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli.errors import UsageError
from genrec_cli.tokenizers.bare import BareCodes
from genrec_cli.tokenizers.base import MAX_DIGITS, Need
from genrec_cli.tokenizers.codebook import CodesConfig
from genrec_cli.tokenizers.kmeans import check_codewords, one_thread

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NOISE = 1e-5
"""Standard deviation of the noise, as a fraction of the range of a component."""


class SvdConfig(CodesConfig):
    """``[tokenizer]`` of svd."""

    name: Literal["svd"] = "svd"
    codebooks: int = Field(8, ge=1, le=MAX_DIGITS)
    """K: codes per item and components of the decomposition; fewer than users and than items."""


class SvdTokenizer(BareCodes):
    """Quantile bins of the item factors. Items that must move change as few digits as possible."""

    Config = SvdConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"interactions"})

    def __init__(self, config: SvdConfig) -> None:
        self.config, self.codewords, self.seed = config, config.codewords, config.seed

    def fit(self, interactions_UI: "csr_array", train_I: np.ndarray) -> None:
        """Decompose, and cut into bins. Raises UsageError if V or K is not possible."""
        check_codewords(self.codewords, int(np.count_nonzero(train_I)))
        largest, components = min(interactions_UI.shape) - 1, self.config.codebooks
        if components > largest:
            what = f"{components} components of {interactions_UI.shape[0]:,} users x {len(train_I):,} items"
            raise UsageError(f"{what}: at most {largest} are possible.", hint=f"--codebooks {max(largest, 1)}")
        factor_IK = item_factors(interactions_UI, components, self.seed)
        low_K, high_K = factor_IK.min(0), factor_IK.max(0)
        scaled_IK = (factor_IK - low_K) / np.maximum(high_K - low_K, np.finfo(np.float64).tiny)
        scaled_IK += np.random.default_rng(self.seed).normal(scale=NOISE, size=scaled_IK.shape)
        self.codes_IK = bins(scaled_IK, train_I, self.codewords)

    def codes(self, interactions_UI: "csr_array") -> np.ndarray:
        """``codes_IK`` as uint16, of the interactions that were fitted."""
        return self.codes_IK


def item_factors(interactions_UI: "csr_array", components: int, seed: int) -> np.ndarray:
    """``factor_IK``: the right singular vectors of the largest singular values, in falling order. The largest entry of
    each is positive. They do not depend on the number of cores."""
    from scipy.sparse.linalg import svds

    matrix_UI = interactions_UI.astype(np.float64)
    start_X = np.random.default_rng(seed).normal(size=min(matrix_UI.shape))
    with one_thread():
        _, value_K, factor_KI = svds(matrix_UI, k=components, v0=start_X)
    factor_IK = factor_KI[np.argsort(-value_K, kind="stable")].T
    largest_K = np.take_along_axis(factor_IK, np.abs(factor_IK).argmax(axis=0, keepdims=True), axis=0)
    return factor_IK * np.where(largest_K < 0, -1.0, 1.0)


def bins(value_IK: np.ndarray, train_I: np.ndarray, count: int) -> np.ndarray:
    """``bin_IK`` (uint16) from 0 to ``count - 1``: by the quantiles of the rows where ``train_I`` is true."""
    edge_EK = np.quantile(value_IK[train_I], np.arange(1, count) / count, axis=0)
    columns = [
        np.searchsorted(edge_E, value_I, side="right") for edge_E, value_I in zip(edge_EK.T, value_IK.T, strict=True)
    ]
    return np.stack(columns, axis=1).astype(np.uint16)

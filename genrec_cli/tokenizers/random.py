"""Random codes: the baseline for codes of the texts."""

from typing import ClassVar, Literal

import numpy as np

from genrec_cli.tokenizers.bare import BareCodes
from genrec_cli.tokenizers.base import Need
from genrec_cli.tokenizers.codebook import CodesConfig
from genrec_cli.tokenizers.kmeans import check_codewords


class RandomConfig(CodesConfig):
    """``[tokenizer]`` of random."""

    name: Literal["random"] = "random"


class RandomTokenizer(BareCodes):
    """Draws every code uniformly from 0..V - 1, row by row. Only the quality is measured with vectors."""

    Config = RandomConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"vectors"})

    def __init__(self, config: RandomConfig) -> None:
        self.config, self.codewords, self.seed = config, config.codewords, config.seed

    def fit(self, vec_ID: np.ndarray, train_I: np.ndarray) -> None:
        """Nothing is learned; V is checked."""
        check_codewords(self.codewords, int(np.count_nonzero(train_I)))

    def codes(self, vec_ID: np.ndarray) -> np.ndarray:
        """``codes_IK`` as uint16. The codes of row i depend only on the seed and i."""
        shape = (len(vec_ID), self.config.codebooks)
        return np.random.default_rng(self.seed).integers(self.codewords, size=shape, dtype=np.uint16)

"""Codes without meaning: the control that shows what codes of the texts are worth."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli.config import Section, Seed
from genrec_cli.tokenizers.bare import BareCodes
from genrec_cli.tokenizers.base import MAX_DIGITS, Need
from genrec_cli.tokenizers.collisions import Policy
from genrec_cli.tokenizers.kmeans import check_codewords


class RandomConfig(Section):
    """``[tokenizer]`` of random."""

    name: Literal["random"] = "random"
    codebooks: int = Field(32, ge=1, le=MAX_DIGITS)
    """K: codes per item."""
    codewords: int = 256
    """V: codewords per codebook, within the limits of opq, so that random codes can replace those of opq."""
    collisions: Policy = "none"
    """Items with equal codes: none leaves them, digit numbers them in one more digit, reassign moves them apart."""
    seed: Seed = 0
    """Seed of the random codes."""


class RandomTokenizer(BareCodes):
    """Draws every code uniformly from 0..V - 1, row by row. The vectors only serve to measure the quality."""

    Config = RandomConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"vectors"})

    def __init__(self, config: RandomConfig) -> None:
        self.config, self.codewords, self.seed = config, config.codewords, config.seed

    def fit(self, vec_ID: np.ndarray, train_I: np.ndarray) -> None:
        """Nothing is learned; V is checked."""
        check_codewords(self.codewords, int(np.count_nonzero(train_I)))

    def codes(self, vec_ID: np.ndarray) -> np.ndarray:
        """``codes_IK`` as uint16. The codes of row i depend on the seed and i alone."""
        shape = (len(vec_ID), self.config.codebooks)
        return np.random.default_rng(self.seed).integers(self.codewords, size=shape, dtype=np.uint16)

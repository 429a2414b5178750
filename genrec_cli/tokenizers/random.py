"""Codes without meaning: the control that shows what codes of the texts are worth."""

from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field

from genrec_cli.config import Section, Seed
from genrec_cli.errors import DataError
from genrec_cli.tokenizers.codebook import FILE, read_tensors
from genrec_cli.tokenizers.collisions import Policy
from genrec_cli.tokenizers.kmeans import check_codewords
from genrec_cli.tokenizers.pq import smallest_sums


class RandomConfig(Section):
    """``[tokenizer]`` of random."""

    name: Literal["random"] = "random"
    codebooks: int = Field(32, ge=1)
    """K: codes an item."""
    codewords: int = 256
    """V: codewords a codebook, within the limits of opq, so that one can stand for the other."""
    collisions: Policy = "none"
    """Items with equal codes: none leaves them, digit numbers them in one more digit, reassign moves them apart."""
    seed: Seed = 0
    """Seed of the draw."""


class RandomTokenizer:
    """Draws every code uniformly from 0..V - 1, row by row."""

    Config = RandomConfig

    def __init__(self, config: RandomConfig) -> None:
        self.config = config

    def fit(self, vec_ID: np.ndarray, train_I: np.ndarray) -> None:
        """Nothing to learn; only V is checked."""
        check_codewords(self.config.codewords, int(np.count_nonzero(train_I)))

    def reduced(self, vec_ID: np.ndarray) -> np.ndarray:
        """The vectors themselves."""
        return vec_ID

    def codes(self, vec_ID: np.ndarray) -> np.ndarray:
        """``codes_IK`` as uint16. Row i's codes depend on the seed and i alone."""
        generator = np.random.default_rng(self.config.seed)
        shape = (len(vec_ID), self.config.codebooks)
        return generator.integers(self.config.codewords, size=shape, dtype=np.uint16)

    def decode(self, codes_IK: np.ndarray) -> None:
        """Random codes stand for no vectors."""
        return None

    def nearest(self, vec_ND: np.ndarray, codes_NK: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
        """``codes_NMK`` and ``cost_NM``: codes that differ in as few digits as can be, which ones by the seed."""
        generator = np.random.default_rng(self.config.seed)

        def cost_NV(code_N: np.ndarray) -> np.ndarray:
            drawn_NV = 1 + generator.random((len(code_N), self.config.codewords)) / self.config.codebooks
            drawn_NV[np.arange(len(code_N)), code_N] = 0
            return drawn_NV

        return smallest_sums(map(cost_NV, codes_NK.T), many)

    def save(self, folder: Path) -> None:
        """Write ``codebook.safetensors`` with K, V and the seed."""
        from safetensors.numpy import save_file

        facts = [self.config.codebooks, self.config.codewords, self.config.seed]
        save_file({"random": np.array(facts, dtype=np.int64)}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The tokenizer that :meth:`save` wrote."""
        stored = read_tensors(folder / FILE).get("random", np.empty(0))
        try:
            codebooks, codewords, seed = stored.tolist()
            return cls(RandomConfig(codebooks=codebooks, codewords=codewords, seed=seed))
        except (TypeError, ValueError) as error:
            raise DataError(f"{folder / FILE} is not the record of random codes: {error}.") from None

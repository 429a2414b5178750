"""Codes without meaning: the control that shows what codes of the texts are worth."""

from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field

from genrec_cli.config import Section
from genrec_cli.errors import DataError
from genrec_cli.tokenizers.opq import FILE, check_codewords


class RandomConfig(Section):
    """``[tokenizer]`` of random."""

    name: Literal["random"] = "random"
    codebooks: int = Field(32, ge=1)
    """K: codes an item."""
    codewords: int = 256
    """V: codewords a codebook, within the limits of opq, so that one can stand for the other."""
    seed: int = Field(0, ge=0)
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

    def save(self, folder: Path) -> None:
        """Write ``codebook.safetensors`` with K, V and the seed."""
        from safetensors.numpy import save_file

        facts = [self.config.codebooks, self.config.codewords, self.config.seed]
        save_file({"random": np.array(facts, dtype=np.int64)}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The tokenizer that :meth:`save` wrote."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            codebooks, codewords, seed = (int(value) for value in load_file(folder / FILE)["random"])
            return cls(RandomConfig(codebooks=codebooks, codewords=codewords, seed=seed))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(f"{folder / FILE} is not the record of random codes: {error}.") from None

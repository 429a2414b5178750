"""Codes without vectors: random codes, and codes that were made elsewhere."""

from pathlib import Path

import numpy as np

from genrec_cli.tokenizers.pq import smallest_sums


class BareCodes:
    """Base class for codes without vectors. Items that must move change as few digits as possible."""

    codewords: int
    """V."""
    seed: int
    """Seed of the order of codes that differ in equally many digits."""

    def save(self, folder: Path) -> None:
        """There is no codebook."""

    def reduced(self, vec_ID: np.ndarray) -> np.ndarray:
        """The vectors themselves."""
        return vec_ID

    def decode(self, codes_IK: np.ndarray) -> None:
        """There are no vectors to decode to."""

    def nearest(self, vec_ND: np.ndarray, codes_NK: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
        """``codes_NMK`` and ``cost_NM``: the codes that differ in the fewest digits first."""
        generator = np.random.default_rng(self.seed)

        def cost_NV(code_N: np.ndarray) -> np.ndarray:
            drawn_NV = 1 + generator.random((len(code_N), self.codewords)) / codes_NK.shape[1]
            drawn_NV[np.arange(len(code_N)), code_N] = 0
            return drawn_NV

        return smallest_sums(map(cost_NV, codes_NK.T), many)

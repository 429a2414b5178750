"""A pseudo-random permutation without a list of the rows.

Up to :data:`SMALL` rows it is a permutation of NumPy. For more rows, which would cost eight bytes each, it is a Feistel
network over the row numbers: four rounds of a keyed hash of one half, XORed into the other half, are a bijection of 2b
bits; cycle walking restricts it to the rows (Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002).
"""

from collections.abc import Sequence

import numpy as np

SMALL = 2**20
ROUNDS = 4


class Order:
    """A random order of 0 .. count - 1. The same seeds give the same order."""

    def __init__(self, count: int, seed: int | Sequence[int], *, small: int = SMALL) -> None:
        self.count = count
        random = np.random.default_rng(seed)
        self.listed = random.permutation(count) if count <= small else None
        self.half = np.uint64(max(1, -(-max(count - 1, 1).bit_length() // 2)))
        self.keys = random.integers(0, 2**64, 0 if count <= small else ROUNDS, dtype=np.uint64)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, places: slice) -> np.ndarray:
        """The rows at a slice of the order (int64)."""
        if self.listed is not None:
            return self.listed[places]
        value = self._once(np.arange(*places.indices(self.count), dtype=np.uint64))
        while len(outside := np.flatnonzero(value >= self.count)):
            value[outside] = self._once(value[outside])
        return value.astype(np.int64)

    def _once(self, value: np.ndarray) -> np.ndarray:
        """The bijection of integers of ``2 * half`` bits."""
        low_bits = np.uint64((1 << int(self.half)) - 1)
        high, low = value >> self.half, value & low_bits
        for key in self.keys:
            high, low = low, high ^ (mixed(low + key) & low_bits)
        return (high << self.half) | low


def mixed(value: np.ndarray) -> np.ndarray:
    """A hash of unsigned 64-bit integers (the finaliser of SplitMix64, Steele et al., OOPSLA 2014)."""
    value = value.astype(np.uint64)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))

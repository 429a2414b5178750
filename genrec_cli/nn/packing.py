"""Packed sequences: one flat row of tokens, so that no linear layer or head works on padding.

Legend: B sequences, N tokens in all, T longest length in the batch, D width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """How N packed tokens lie in B sequences. Sequence b is ``tokens[start_B[b] : start_B[b] + length_B[b]]``.

    All index tensors are made on the host, once a batch, so that a device is never asked for a size.
    """

    length_B: Tensor
    """Length of each sequence, at least 1."""
    position_N: Tensor
    """Position of each token in its sequence, from 0."""
    sequence_N: Tensor
    """Sequence of each token."""
    last_B: Tensor
    """Index in N of each sequence's last token."""
    padded_N: Tensor
    """Index of each token in the flattened B x T grid (padding on the right)."""
    packed_BT: Tensor
    """Index in N of each cell of the grid; a padding cell points at token 0."""
    longest: int
    """T."""
    equal: bool
    """Whether all sequences have length T, so that packed and padded are the same."""

    @classmethod
    def of(cls, lengths: np.ndarray) -> "Packing":
        """From lengths (B), on the host. Raises ValueError for an empty sequence."""
        lengths = np.asarray(lengths, dtype=np.int64)
        if lengths.size == 0 or lengths.min() < 1:
            raise ValueError("a packed batch needs sequences of length 1 or more")
        starts = np.cumsum(lengths) - lengths
        longest = int(lengths.max())
        sequence = np.repeat(np.arange(lengths.size), lengths)
        position = np.arange(int(lengths.sum())) - starts[sequence]
        steps = np.arange(longest)
        packed = np.where(steps < lengths[:, None], starts[:, None] + steps, 0)
        return cls(
            torch.from_numpy(lengths),
            torch.from_numpy(position),
            torch.from_numpy(sequence),
            torch.from_numpy(starts + lengths - 1),
            torch.from_numpy(sequence * longest + position),
            torch.from_numpy(packed),
            longest,
            bool(lengths.min() == longest),
        )

    def to(self, device: torch.device) -> "Packing":
        """The same packing with its index tensors on a device."""

        def moved(index: Tensor) -> Tensor:
            return index.to(device, non_blocking=True)

        return Packing(
            moved(self.length_B), moved(self.position_N), moved(self.sequence_N), moved(self.last_B),
            moved(self.padded_N), moved(self.packed_BT), self.longest, self.equal,
        )  # fmt: skip

    @property
    def sequences(self) -> int:
        """B."""
        return self.length_B.shape[0]

    def pad(self, x_ND: Tensor) -> Tensor:
        """Packed to padded ``x_BTD``. Padding cells hold copies of token 0: mask them or never read them."""
        if self.equal:
            return x_ND.view(self.sequences, self.longest, *x_ND.shape[1:])
        return x_ND[self.packed_BT]

    def pack(self, x_BTD: Tensor) -> Tensor:
        """Padded to packed ``x_ND``."""
        return x_BTD.flatten(0, 1)[self.padded_N] if not self.equal else x_BTD.flatten(0, 1)

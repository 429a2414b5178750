"""Padded histories as a packed batch, without index arithmetic that depends on the lengths.

Each history is padded on the right to T items and counts as a sequence of T items. A causal model sees no later item,
so the state at the last real item is that of the history alone. All shapes depend on B and T only, so that the same
code runs in an exported graph for any B and T.

Legend: B histories, T longest history, N = B x T packed items.
"""

import torch
from torch import Tensor

from genrec_cli.nn.packing import Grid, Packing


def causal_packing(length_B: Tensor, longest: int) -> Packing:
    """The packing of B sequences of T items, whose ``last_B`` are the last real items; ``length_B``: real lengths."""
    rows, device = length_B.shape[0], length_B.device
    token_N, row_B = torch.arange(rows * longest, device=device), torch.arange(rows, device=device)
    full_B = torch.full_like(length_B, longest)
    grid = Grid(0, rows * longest, longest, full_B, token_N, token_N, full=True)
    position_N = torch.arange(longest, device=device).expand(rows, longest).reshape(-1)
    sequence_N = row_B[:, None].expand(rows, longest).reshape(-1)
    return Packing(full_B, position_N, sequence_N, row_B * longest + length_B - 1, grid, (grid,))

"""Windows of the last items: for each position of a packed history, the L items up to it.

Legend: N packed items, M positions, L places of a window, from the oldest to the newest.
"""

import torch
from torch import Tensor

from genrec_cli.nn.packing import Packing


def recent(item_N: Tensor, packing: Packing, at_M: Tensor, length: int) -> Tensor:
    """``item_ML``: the last ``length`` items up to each position ``at_M``; 0 before the start of a history."""
    back_L = torch.arange(length - 1, -1, -1, device=item_N.device)
    exists_ML = packing.position_N[at_M][:, None] >= back_L
    return torch.where(exists_ML, item_N[(at_M[:, None] - back_L).clamp_min(0)], 0)


def user_vectors(table_UD: Tensor, user_B: Tensor, packing: Packing, at_M: Tensor) -> Tensor:
    """``u_MD``: the vector of the user at each position; zero for a user who is not in the data (-1)."""
    user_M = user_B[packing.sequence_N[at_M]]
    vector_MD = torch.nn.functional.embedding(user_M.clamp_min(0), table_UD)
    return vector_MD.masked_fill((user_M < 0)[:, None], 0.0)

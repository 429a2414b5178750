"""Sparse item-to-item weights (CSR, compressed sparse rows), and the scores of items for histories.

Memory is linear in the stored pairs. Scores exist only for items that have a pair with an item of the history.

Legend: B histories, N packed items, I items, P stored pairs, E entries before they are summed, S distinct cells.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genrec_cli.nn.packing import Packing, positions


class ItemWeights(nn.Module):
    """A sparse matrix ``weight[a, b]`` of I x I item pairs as buffers; :meth:`fill` sets their sizes."""

    begin_I: Tensor
    """The first pair of each row, and P (I + 1 entries); row a - 1 belongs to item a."""
    item_P: Tensor
    """The column b of each pair (ids from 1, int32)."""
    weight_P: Tensor

    def __init__(self, items: int) -> None:
        super().__init__()
        self.register_buffer("begin_I", torch.zeros(items + 1, dtype=torch.long))
        self.register_buffer("item_P", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weight_P", torch.zeros(0))
        self.register_load_state_dict_pre_hook(_resize)

    def fill(self, count_I: Tensor, item_P: Tensor, weight_P: Tensor) -> None:
        """Store the pairs of all rows, one row after the other; ``count_I``: pairs per row."""
        device = self.begin_I.device
        self.begin_I[1:] = count_I.cumsum(0)
        self.item_P, self.weight_P = item_P.to(device, torch.int32), weight_P.to(device, torch.float32)

    def entries(self, item_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs of the rows of some items: ``n_E`` (index into ``item_N``), ``item_E`` (from 1), ``weight_E``."""
        begin_N = self.begin_I[item_N - 1]
        place_E, n_E = positions(self.begin_I[item_N] - begin_N)
        at_E = begin_N[n_E] + place_E
        return n_E, self.item_P[at_E].long(), self.weight_P[at_E]


def _resize(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in ("item_P", "weight_P"):
        if (stored := state.get(prefix + name)) is not None:
            setattr(module, name, getattr(module, name).new_zeros(stored.shape))


def sparse_scores(
    tables: Iterable[ItemWeights], item_N: Tensor, packing: Packing, weight_N: Tensor
) -> tuple[Tensor, Tensor]:
    """``score[b, i]``: the sum of ``weight_N[n] * table[item n, i]`` over the history's items and over all tables, as
    ``cell_S`` and ``score_S`` of :class:`genrec_cli.models.base.SparseScorer`."""
    cells, values = [], []
    for table in tables:
        n_E, item_E, weight_E = table.entries(item_N)
        cells.append((item_E - 1) * packing.sequences + packing.sequence_N[n_E])
        values.append(weight_N[n_E] * weight_E)
    cell_S, score_S = sum_equal(torch.cat(cells), torch.cat(values))
    return cell_S, score_S.float()


def sum_equal(key_E: Tensor, value_E: Tensor) -> tuple[Tensor, Tensor]:
    """The sorted distinct keys, and the float64 sum of the values per key. The sort is stable, so that on a CPU the
    order of additions depends on the entries of the key alone."""
    key_E, order_E = stable_sort(key_E)
    key_S, s_E = torch.unique_consecutive(key_E, return_inverse=True)
    sum_S = torch.zeros(len(key_S), dtype=torch.float64, device=key_E.device)
    return key_S, sum_S.index_add_(0, s_E, value_E[order_E].double())


def stable_sort(key_E: Tensor) -> tuple[Tensor, Tensor]:
    """The sorted keys (at least 0) and their indices. On a CPU, key and index are sorted as one integer if 63 bits are
    enough: NumPy sorts integers with vector instructions, six times as fast as an argsort."""
    bits = len(key_E).bit_length()
    if key_E.device.type != "cpu" or not bits or int(key_E.max()) >> (63 - bits):
        return key_E.sort(stable=True)
    packed_E = torch.from_numpy(np.sort(((key_E << bits) | torch.arange(len(key_E))).numpy()))
    return packed_E >> bits, packed_E & ((1 << bits) - 1)

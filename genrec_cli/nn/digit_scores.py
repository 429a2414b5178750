"""Scores of items as sums (or means) over digits of table entries, computed as an embedding-bag.

The table has a column per user, so that one look-up reads the entries of many users from one cache line. A score has
the same bits in every chunk of items.

Legend: B users, I items, C items of a chunk, K digits, V codewords.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.nn.packing import concatenate

TABLE = 1 << 20
"""Bytes of one embedding-bag's table on a CPU: they fit into a core's second-level cache. With a table of twice the
users a pass takes four times as long (1M items). On an accelerator one table is fastest."""


class DigitTable:
    """The look-ups of all items: ``codes_IK`` are 0-based in each digit; -1 pads an item of fewer than K codes."""

    def __init__(self, codes_IK: Tensor, codewords: int) -> None:
        digits = codes_IK.shape[1]
        self.bag_IK = codes_IK + torch.arange(digits, device=codes_IK.device, dtype=torch.int32) * codewords
        """Rows of the flattened table (int32); K x V is padding."""
        self.count_I: Tensor | None = None
        """Codes per item, if some items have fewer than K."""
        real_IK = codes_IK >= 0
        if not real_IK.all():
            self.bag_IK.masked_fill_(~real_IK, digits * codewords)
            self.count_I = real_IK.sum(1)


class DigitScores:
    """The scores of all items for B users (``Scores`` in ``searches/scores.py``), the sum or ``mean`` over digits."""

    def __init__(self, table: DigitTable, score_BKV: Tensor, *, mean: bool, logprobs: bool) -> None:
        self.bag_IK, self.count_I, self.logprobs = table.bag_IK, table.count_I if mean else None, logprobs
        self.users, self.items, self.device = len(score_BKV), len(table.bag_IK), score_BKV.device
        table_BX = score_BKV.float().flatten(1)
        if table.count_I is not None:
            table_BX = F.pad(table_BX, (0, 1))
        elif mean:  # divided before the sum: only the kernel for sums is fast on every device
            table_BX = table_BX / score_BKV.shape[1]
        size = self.users
        if self.device.type == "cpu":
            size = max(TABLE // (table_BX.element_size() * table_BX.shape[1]) // 16 * 16, 16)
        # A clone, for the strides: embedding_bag is slow with the strides of one user's transposed row.
        self.tables = [part_bX.t().clone(memory_format=torch.contiguous_format) for part_bX in table_BX.split(size)]

    def chunk(self, begin: int, end: int) -> Tensor:
        return self._bags(slice(begin, end))

    def of(self, item_B: Tensor) -> Tensor:
        return self._bags(item_B - 1).diagonal().clone()

    def _bags(self, rows: slice | Tensor) -> Tensor:
        score_CB = concatenate([F.embedding_bag(self.bag_IK[rows], table, mode="sum") for table in self.tables], 1)
        return score_CB if self.count_I is None else score_CB / self.count_I[rows, None]

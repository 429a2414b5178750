"""Scores of items as sums over digits of table entries, computed as an embedding-bag.

Item i has the codes c_1 .. c_K and the score ``sum over k of score_BKV[b, k, c_k]``, or the mean. The table has one
column per user, so that each look-up of an item reads the numbers of many users from one cache line. A score has the
same bits in whatever chunk of items it is computed.

Legend: B users, I items, C items of a chunk, K digits, V codewords.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TABLE = 1 << 20
"""Bytes of one embedding-bag's table on a CPU: what stays in a core's second-level cache. With twice the users in one
table a pass takes four times as long (1M items). On an accelerator one table is best."""


class DigitTable:
    """The look-ups of all items of a catalogue.

    Args:
        codes_IK: 0-based in each digit; -1 pads an item that has fewer than K codes.
        codewords: V.
    """

    def __init__(self, codes_IK: Tensor, codewords: int) -> None:
        digits = codes_IK.shape[1]
        self.bag_IK = codes_IK + torch.arange(digits, device=codes_IK.device, dtype=torch.int32) * codewords
        """Rows of the flattened table (int32); K x V stands for a missing code."""
        self.count_I: Tensor | None = None
        """Codes per item, if some items have fewer than K."""
        real_IK = codes_IK >= 0
        if not real_IK.all():
            self.bag_IK.masked_fill_(~real_IK, digits * codewords)
            self.count_I = real_IK.sum(1)


class DigitScores:
    """The scores of all items for B users; see ``Scores`` in ``searches/scores.py``.

    Args:
        mean: the mean over an item's own digits, in place of the sum.
        logprobs: whether the scores are log-probabilities, so that a loss needs no sum over the catalogue.
    """

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
        # A clone, for the strides: embedding_bag takes those of one user's transposed row for a slow case.
        self.tables = [part_bX.t().clone(memory_format=torch.contiguous_format) for part_bX in table_BX.split(size)]

    def chunk(self, begin: int, end: int) -> Tensor:
        """``score_CB`` of the items begin (from 0) to end."""
        return self._bags(self.bag_IK[begin:end], None if self.count_I is None else self.count_I[begin:end])

    def of(self, item_B: Tensor) -> Tensor:
        """``score_B``: each user's score of one item, ids from 1."""
        row_B = item_B - 1
        count_B = None if self.count_I is None else self.count_I[row_B]
        return self._bags(self.bag_IK[row_B], count_B).diagonal().clone()

    def _bags(self, bag_CK: Tensor, count_C: Tensor | None) -> Tensor:
        found = [F.embedding_bag(bag_CK, table, mode="sum") for table in self.tables]
        score_CB = found[0] if len(found) == 1 else torch.cat(found, 1)
        return score_CB if count_C is None else score_CB / count_C[:, None]

"""Count prior of digits: a generator of codes starts from the counts of the items that the known digits leave.

    logit(v at digit k | known digits) += a_k * log(1 + C(v) / C)

``C(v)`` is the sum of the counts ``c(i)`` of all items that have the known digits, and v at digit k; ``c(i)`` and C are
those of ``models/count_prior.py``, without the user's own pairs in a training batch. ``a_k`` is trained. So the first
digit starts from the counts of all items that share it, and the last one from those of single items.

Legend: B histories, M targets or beams of a row, R rows of counts, S counts above zero, K digits, V codewords.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.count_prior import SCALE, CountPrior


class Counted(NamedTuple):
    """The counts above zero of R rows, such as histories."""

    row_S: Tensor
    code_SK: Tensor
    count_S: Tensor


class DigitPrior(CountPrior):
    """The counts, and a factor per digit."""

    code_RK: Tensor

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(catalog)
        self.factor = nn.Parameter(torch.ones(catalog.digits))
        self.codewords = catalog.codewords
        self.register_buffer("code_RK", catalog.code_RK, persistent=False)

    @torch.no_grad()
    def of_targets(self, batch: Batch, at_M: Tensor) -> Counted:
        """A row per position ``at_M`` of a training batch."""
        row_S, item_S, count_S = self.logs(batch, at_M).cells()
        return Counted(row_S, self.code_RK[item_S + 1].long(), count_S)

    @torch.no_grad()
    def of_histories(self, batch: Batch) -> Counted:
        """A row per history."""
        cell_S, count_S = self.counts.sparse_scores(batch)
        item_S, row_S = cell_S // batch.packing.sequences, cell_S % batch.packing.sequences
        return Counted(row_S, self.code_RK[item_S + 1].long(), count_S)

    def after_prefixes(self, counted: Counted, codes_RK: Tensor) -> Tensor:
        """``added_KRV``: to the logits of each digit after the digits before it, one target per row."""
        fits_S = torch.ones_like(counted.row_S, dtype=torch.bool)
        added = []
        for digit in range(codes_RK.shape[1]):
            added.append(self._added(counted, fits_S[:, None], digit, len(codes_RK)))
            fits_S = fits_S & (counted.code_SK[:, digit] == codes_RK[counted.row_S, digit])
        return torch.stack(added)[:, :, 0]

    def at_unknown(self, counted: Counted, codes_RMK: Tensor) -> Tensor:
        """``added_KRMV``: to the logits of each digit, given the known ones; -1 is unknown."""
        fits_SM = self._fitting(counted, codes_RMK)
        digits = range(codes_RMK.shape[2])
        return torch.stack([self._added(counted, fits_SM, digit, len(codes_RMK)) for digit in digits])

    def next_digit(self, counted: Counted, codes_BMk: Tensor) -> Tensor:
        """``added_BMV``: to the logits of the digit after the prefixes ``codes_BMk``."""
        return self._added(counted, self._fitting(counted, codes_BMk), codes_BMk.shape[2], len(codes_BMk))

    @staticmethod
    def _fitting(counted: Counted, codes_RMk: Tensor) -> Tensor:
        """``fits_SM``: the items with the known digits."""
        fits_SM = torch.ones(len(counted.row_S), codes_RMk.shape[1], dtype=torch.bool, device=codes_RMk.device)
        for digit, code_RM in enumerate(codes_RMk.unbind(2)):
            wanted_SM = code_RM[counted.row_S]
            fits_SM &= (wanted_SM < 0) | (wanted_SM == counted.code_SK[:, digit, None])
        return fits_SM

    def _added(self, counted: Counted, fits_SM: Tensor, digit: int, rows: int) -> Tensor:
        """``a_k log(1 + C(v) / C)`` of one digit, as ``added_RMV``."""
        shape = (rows, fits_SM.shape[1], self.codewords)
        s_X, m_X = fits_SM.nonzero(as_tuple=True)
        cell_X = (counted.row_S[s_X] * shape[1] + m_X) * shape[2] + counted.code_SK[s_X, digit]
        sum_Y = torch.zeros(shape[0] * shape[1] * shape[2], device=cell_X.device)
        sum_Y.index_add_(0, cell_X, counted.count_S[s_X].to(sum_Y.dtype))
        return self.factor[digit] * sum_Y.div_(SCALE).log1p_().view(shape)

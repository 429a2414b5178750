"""Counts of digits: each digit of a generator is a mixture of the model and of a count.

    P(v at digit k | known digits) = w C(v) / sum over u of C(u)  +  (1 - w) P_model(v at digit k | known digits)

``C(v)`` is the sum of the counts ``c(i)`` of all items that have the known digits, and v at digit k. ``c(i)`` is that
of ``models/count_prior.py``, without the user's own pairs in a training batch. Where no counted item has the known
digits, w is 0. With w = 1 the probability of an item's code is its part of all counts. The model learns most where the
count is wrong. A mixture of a language model and a memory of its training pairs: Khandelwal et al., ICLR 2020, who
choose w on validation, too. A trained w becomes too small, because a model knows the training targets better than later
ones (docs/results.md).

A product of both (as in ``models/count_prior.py``) does worse here: over several digits its normaliser depends on the
digits before, so items are not in the order of their counts.

Legend: B histories, M targets or beams of a row, R rows of counts, S counts above zero, K digits, V codewords.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_cli.config import Fraction
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import Model, Need
from genrec_cli.models.count_prior import Counts, check_rows
from genrec_cli.models.dense_side import DenseConfig, fit_graph
from genrec_cli.nn.dense_items import DenseItems

TINY = 1e-30


class Counted(NamedTuple):
    """The counts above zero of R rows, such as histories."""

    row_S: Tensor
    code_SK: Tensor
    count_S: Tensor


class DigitMixture(Counts):
    """The counts, and their weight."""

    code_RK: Tensor

    def __init__(self, catalog: Catalog, weight: float) -> None:
        super().__init__(catalog)
        self.weight = weight
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

    def mixed(self, logit_XV: Tensor, sum_XV: Tensor) -> Tensor:
        """``logp_XV`` of the mixture."""
        total_X1 = sum_XV.sum(-1, keepdim=True)
        weight_X1 = self.weight * (total_X1 > 0)
        counted_XV = weight_X1 * (sum_XV / total_X1.clamp_min(TINY))
        return (counted_XV + (1 - weight_X1) * logit_XV.float().softmax(-1)).clamp_min(TINY).log()

    def after_prefixes(self, counted: Counted, codes_RK: Tensor, logit_KRV: Tensor) -> Tensor:
        """``logp_KRV`` of each digit after the digits before it, one target per row."""
        sums, s_X = [], torch.arange(len(counted.row_S), device=codes_RK.device)
        for digit in range(codes_RK.shape[1]):
            sums.append(self._sums(counted, (s_X, torch.zeros_like(s_X)), digit, len(codes_RK), 1)[:, 0])
            s_X = s_X[counted.code_SK[s_X, digit] == codes_RK[counted.row_S[s_X], digit]]
        return self.mixed(logit_KRV, torch.stack(sums))

    def at_unknown(self, counted: Counted, codes_RMK: Tensor, logit_KRMV: Tensor) -> Tensor:
        """``logp_KRMV`` of each digit, given the known ones; -1 is unknown."""
        rows, beams, digits = codes_RMK.shape
        fitting = self._fitting(counted, codes_RMK)
        sum_KRMV = torch.stack([self._sums(counted, fitting, digit, rows, beams) for digit in range(digits)])
        return self.mixed(logit_KRMV, sum_KRMV)

    def next_digit(self, counted: Counted, codes_BMk: Tensor, logit_BMV: Tensor) -> Tensor:
        """``logp_BMV`` of the digit after the prefixes ``codes_BMk``."""
        rows, beams, digit = codes_BMk.shape
        return self.mixed(logit_BMV, self._sums(counted, self._fitting(counted, codes_BMk), digit, rows, beams))

    def _fitting(self, counted: Counted, codes_RMk: Tensor) -> tuple[Tensor, Tensor]:
        """``s_X`` and ``m_X``: the pairs of a count and a beam of its row whose known digits agree."""
        fits_SM = torch.ones(len(counted.row_S), codes_RMk.shape[1], dtype=torch.bool, device=codes_RMk.device)
        small = torch.int16 if self.codewords < 1 << 15 else torch.int32  # S x M codes: memory is the cost
        known = (codes_RMk >= 0).any(1).any(0).nonzero()[:, 0].tolist()
        for digit in known:
            wanted_SM = codes_RMk[:, :, digit].to(small).index_select(0, counted.row_S)
            fits_SM &= (wanted_SM < 0) | (wanted_SM == counted.code_SK[:, digit, None].to(small))
        s_X, m_X = fits_SM.nonzero(as_tuple=True)
        return s_X, m_X

    def _sums(self, counted: Counted, fitting: tuple[Tensor, Tensor], digit: int, rows: int, beams: int) -> Tensor:
        """``C(v)`` of one digit, as ``sum_RMV``."""
        s_X, m_X = fitting
        shape = (rows, beams, self.codewords)
        cell_X = (counted.row_S[s_X] * beams + m_X) * self.codewords + counted.code_SK[s_X, digit]
        sum_Y = torch.zeros(math.prod(shape), device=cell_X.device)
        sum_Y.index_add_(0, cell_X, counted.count_S[s_X].to(sum_Y.dtype))
        return sum_Y.view(shape)


class GeneratorConfig(DenseConfig):
    """What TIGER and MDGR may know besides codes."""

    count_weight: Fraction = 0.0
    """Weight of the counts of the items with the known digits, in a mixture with the model, digit by digit; needs
    vectors; 0: no counts. Such a run cannot read other items."""


class Generator(Model):
    """Base class of TIGER and MDGR: what its parts need, and their counts."""

    dense: DenseItems | None
    mixture: DigitMixture | None

    @classmethod
    def needs_of(cls, config: GeneratorConfig) -> frozenset[Need]:
        return cls.needs | config.dense_needs() | ({"vectors"} if config.count_weight else set())

    @classmethod
    def reads_content(cls, config: GeneratorConfig) -> bool:
        return not (config.free_vectors or config.count_weight)

    @classmethod
    def check(cls, config: Any, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        config.check_dense()
        if config.count_weight:
            check_rows("count_weight", train)

    def fit(self, catalog: Catalog, histories: Any) -> None:
        fit_graph(self.dense, catalog, histories)
        if self.mixture is not None:
            self.mixture.fit(catalog, histories)

    @staticmethod
    def mixture_of(config: GeneratorConfig, catalog: Catalog) -> DigitMixture | None:
        """The counts; None without them."""
        return DigitMixture(catalog, config.count_weight) if config.count_weight else None

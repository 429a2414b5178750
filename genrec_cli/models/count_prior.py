"""Count prior: the scores of a model's items start from those of a count.

    score(i) += a * log(1 + c(i) / C)

``c(i)`` is the score that ``models/neighbours.py`` gives item i after the history: transitions and text neighbours.
``a`` is a setting, to be chosen on validation: a trained one becomes too small, because a model knows the training
targets better than later ones (docs/results.md). A Transformer of width D keeps all transitions in vectors of rank D
and forgets rare ones; a count keeps each, so the model learns what the count does not say. The softmax of the sum is a
product of experts (Hinton, 2002), one of them counted; a memory of training pairs beside a language model: Khandelwal
et al., ICLR 2020.

In a training batch the counts hold the very pairs that are to be predicted. So the user's own pairs with later items
are subtracted (``models/own_pairs.py``). Otherwise the model would rely on counts that a new target lacks. The batch
has to hold the whole history for this, so rows of one target each (``train.windows = "each"``) are refused.

Legend: M positions with a target, I items, A ages, P items of all histories, E pairs, B histories.
"""

from typing import Any

import torch
from torch import Tensor, nn

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.neighbours import Neighbours, NeighboursConfig
from genrec_cli.models.own_pairs import own_pairs, without
from genrec_cli.models.transitions import Padded

SCALE = 0.05
"""C: a count of this size adds a * log 2 to a score."""


def check_rows(setting: str, train: Any) -> None:
    """Raises ConfigError for rows that do not hold the items after a target."""
    if train.windows == "each":
        problem = f"model.{setting} needs rows of several targets, not train.windows = each."
        raise ConfigError(problem, hint="--set train.windows=sliding")


class Counts(nn.Module):
    """The counts of ``neighbours``, also without the pairs that a training batch predicts. :meth:`fit` comes before the
    training; without it all counts are 0."""

    row_factor_R: Tensor
    column_factor_R: Tensor

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self.items, self.counts = catalog.items, Neighbours(NeighboursConfig(), catalog, max_length=1)
        for name in ("row_factor_R", "column_factor_R"):
            self.register_buffer(name, torch.ones(catalog.items + 1))

    def fit(self, catalog: Catalog, histories: Any) -> None:
        self.counts.fit(catalog, histories)
        config = self.counts.config
        rowsum_R, columnsum_R = Padded.of(histories, config).sums(self.items, config)
        self.row_factor_R.copy_(rowsum_R.clamp_min(1e-9) ** -config.row_power)
        self.column_factor_R.copy_(columnsum_R.clamp_min(1e-9) ** -config.column_power)

    @torch.no_grad()
    def logs(self, batch: Batch, at_M: Tensor) -> "CountLogs":
        """``log(1 + c / C)`` at the positions ``at_M`` of a training batch, without the pairs of the target."""
        config, packing = self.counts.config, batch.packing
        age_A = torch.arange(config.window, device=at_M.device)
        item_MA = batch.item_N[(at_M[:, None] - age_A).clamp_min(0)]
        past_MA = packing.position_N[at_M][:, None] >= age_A
        m_P, a_P = past_MA.nonzero(as_tuple=True)
        decay_P = torch.as_tensor(config.age_decay, device=at_M.device) ** a_P
        own, pairs = own_pairs(batch, at_M, config, self.row_factor_R, self.column_factor_R), []
        for table in self.counts.tables():
            p_E, item_E, weight_E = table.entries(item_MA[m_P, a_P])
            if table is self.counts.transitions:
                key_E = (m_P * config.window + a_P)[p_E] * (self.items + 1) + item_E
                weight_E = without(*own, key_E, weight_E)
            pairs.append((m_P[p_E], item_E - 1, decay_P[p_E] * weight_E))
        return CountLogs(pairs, self.items)


class CountPrior(Counts):
    """The counts, and their factor a."""

    def __init__(self, catalog: Catalog, factor: float) -> None:
        super().__init__(catalog)
        self.factor = factor

    def cells(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``cell_S = (item - 1) * B + history``, ascending and distinct, and what is added to their scores."""
        cell_S, count_S = self.counts.sparse_scores(batch)
        return cell_S, self.factor * (count_S / SCALE).log1p()


class CountLogs:
    """Rows of ``log(1 + c / C)``. Only some of them exist as an array at a time.

    Args:
        pairs: rows (ascending), items from 0, and parts of their counts, from 0. Parts of one cell add up.
    """

    def __init__(self, pairs: list[tuple[Tensor, Tensor, Tensor]], items: int) -> None:
        self.pairs, self.items = pairs, items

    def cells(self) -> tuple[Tensor, Tensor, Tensor]:
        """``row_S``, ``item_S`` (from 0) and ``count_S`` of all counts above zero."""
        m_E, item_E, part_E = (torch.cat(parts) for parts in zip(*self.pairs, strict=True))
        cell_S, place_E = (m_E * self.items + item_E).unique(return_inverse=True)
        count_S = torch.zeros(len(cell_S), device=cell_S.device).index_add_(0, place_E, part_E.float())
        cell_S, count_S = cell_S[count_S > 0], count_S[count_S > 0]
        return cell_S // self.items, cell_S % self.items, count_S

    def rows(self, begin: int, end: int) -> Tensor:
        """``log_mI`` of the rows from ``begin`` to ``end``."""
        count_X = torch.zeros((end - begin) * self.items, device=self.pairs[0][0].device)
        for m_E, item_E, part_E in self.pairs:
            low, high = torch.searchsorted(m_E, torch.tensor([begin, end], device=m_E.device)).tolist()
            cell_E = (m_E[low:high] - begin) * self.items + item_E[low:high]
            count_X.index_add_(0, cell_E, part_E[low:high].to(count_X.dtype))
        return count_X.div_(SCALE).log1p_().view(-1, self.items)

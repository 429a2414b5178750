"""Count prior: the scores of a model's items start from those of a count.

    score(i) += a * log(1 + c(i) / C)

``c(i)`` is the score that ``models/neighbours.py`` gives item i after the history: transitions and text neighbours.
``a`` is a setting, to be chosen on validation: a trained one becomes too small, because a model knows the training
targets better than later ones (docs/results.md). A Transformer of width D keeps all transitions in vectors of rank D
and forgets rare ones; a count keeps each, so the model learns what the count does not say. The softmax of the sum is a
product of experts (Hinton, 2002), one of them counted; a memory of training pairs beside a language model: Khandelwal
et al., ICLR 2020.

In a training batch the counts hold the very pairs that are to be predicted. So the pairs between the user's history and
later items are subtracted (leave-one-out). Otherwise the model would rely on counts that a new target lacks. The batch
has to hold the whole history for this, so rows of one target each (``train.windows = "each"``) are refused.

Legend: M positions with a target, I items, A ages, F places ahead, P items of all histories, E pairs, B histories.
"""

from typing import Any

import torch
from torch import Tensor, nn

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.neighbours import Neighbours, NeighboursConfig
from genrec_cli.models.transitions import Padded
from genrec_cli.nn.sparse_scores import sum_equal

SCALE = 0.05
"""C: a count of this size adds a * log 2 to a score."""
ROUNDING = 1e-4
"""A smaller part of a weight than this is no other user's: the smallest part of a user in a pair is near .01."""


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
        own, pairs = self._own(batch, at_M, item_MA, past_MA), []
        for table in self.counts.tables():
            p_E, item_E, weight_E = table.entries(item_MA[m_P, a_P])
            if table is self.counts.transitions:
                weight_E = _without(*own, p_E * (self.items + 1) + item_E, weight_E)
            pairs.append((m_P[p_E], item_E - 1, decay_P[p_E] * weight_E))
        return CountLogs(pairs, self.items)

    def _own(self, batch: Batch, at_M: Tensor, item_MA: Tensor, past_MA: Tensor) -> tuple[Tensor, Tensor]:
        """The user's own part of the transitions from each past item to the later items in the row: sorted distinct
        ``key_S = p * (I + 1) + item``, p counting the past items of all positions, and ``weight_S``. The weight of a
        user depends on the number of training items; here it is that of the row. A user with more items than a row has
        several rows: then this weight is a little too large, and pairs with items after the row are left in."""
        config, packing = self.counts.config, batch.packing
        assert batch.target_N is not None, "only a training batch has targets"
        ahead_F = torch.arange(config.window, device=at_M.device)
        length_M = packing.length_B[packing.sequence_N[at_M]]
        inside_MF = packing.position_N[at_M][:, None] + ahead_F < length_M[:, None]
        later_MF = batch.target_N[(at_M[:, None] + ahead_F).clamp_max(len(batch.target_N) - 1)] * inside_MF
        distance_AF = ahead_F[:, None] + ahead_F  # from the item of age a to the target of place f, less 1
        near_AF = (distance_AF < config.window) * torch.as_tensor(config.decay, device=at_M.device) ** distance_AF
        user_M = (length_M + 3).log2() ** -config.length_power  # the last target is an item of the history, too
        from_MA = past_MA * self.row_factor_R[item_MA] * user_M[:, None]
        to_MF = self.column_factor_R[later_MF] * (later_MF > 0)
        own_MAF = from_MA[:, :, None] * near_AF * to_MF[:, None, :]
        m_E, a_E, f_E = own_MAF.nonzero(as_tuple=True)
        p_MA = past_MA.flatten().cumsum(0).view_as(past_MA) - 1
        return sum_equal(p_MA[m_E, a_E] * (self.items + 1) + later_MF[m_E, f_E], own_MAF[m_E, a_E, f_E])


def _without(key_S: Tensor, own_S: Tensor, key_E: Tensor, weight_E: Tensor) -> Tensor:
    """The stored weights without the user's own parts; a pair that is not stored has nothing to subtract. Exactly 0 if
    the pair is of this user alone: a rounding error would be the only count of some digits, and tell the target."""
    if not len(key_S):
        return weight_E
    s_E = torch.searchsorted(key_S, key_E).clamp_max(len(key_S) - 1)
    rest_E = weight_E - own_S[s_E].to(weight_E.dtype) * (key_S[s_E] == key_E)
    return rest_E.masked_fill(rest_E < ROUNDING * weight_E, 0.0)


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

"""Beyond accuracy: what the lists of an evaluation hold, whether or not they hold the target.

Over the first k items of all lists:

* Coverage: the fraction of the catalogue that is in a list.
* Gini: the Gini coefficient of the counts of the items in the lists; 0: all items equally often, near 1: few items.
* Popularity: the mean training count of the listed items, the mean over users of the mean over a list. PopularityLift:
  its ratio to the same mean over the users' histories, less 1; above 0, lists are more popular than what users take
  (Abdollahpouri et al. 2019, arXiv 1907.13286, with a difference of means in place of groups).
* Novelty: mean self-information in bits, ``-log2`` of an item's fraction of the training interactions (Zhou et al.
  2010, PNAS 107), with one interaction more per item, so that items without training interactions have a value.
* Diversity: the mean cosine distance of the text vectors over the pairs of a list (Ziegler et al. 2005). From sums:
  the sum of all cosines is ``|sum of unit vectors|^2``. Items without a vector do not count.
* Cold: the fraction of the listed items without training interactions.

Per-user values are computed in chunks of users, so that a slice is a mean over its rows; only Coverage and Gini count
again.

Legend: U users, k length of a list, I items, E width of the vectors.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from genrec_cli.data.sequences import Histories

USERS = 1 << 14
"""Users of a chunk."""


class ListValues:
    """Values of the lists of all users, for the means of any slice.

    Args:
        item_Uk: item ids, best first; 0 after the last item.
        train_count_I: training interactions per item.
        consumed_U: mean training count of the items of each user's history.
        vec_IE: text vectors of the items; None: no Diversity.
    """

    def __init__(
        self, item_Uk: np.ndarray, train_count_I: np.ndarray, consumed_U: np.ndarray, vec_IE: np.ndarray | None = None
    ) -> None:
        self.item_Uk, self.train_count_I, self.consumed_U = item_Uk, train_count_I, consumed_U
        total = int(train_count_I.sum()) + len(train_count_I)
        information_I = -np.log2((train_count_I + 1) / total)
        columns = {"Popularity": train_count_I, "Novelty": information_I, "Cold": train_count_I == 0}
        tables = {name: np.concatenate([[0.0], value_I]) for name, value_I in columns.items()}
        parts: dict[str, list[np.ndarray]] = {name: [] for name in tables}
        for begin in range(0, len(item_Uk), USERS):
            item_bk = item_Uk[begin : begin + USERS]
            listed_b = np.maximum((item_bk > 0).sum(1), 1)
            for name, table_R in tables.items():
                parts[name].append(table_R[item_bk].sum(1) / listed_b)
        self.value_U = {name: np.concatenate(part) for name, part in parts.items()}
        if vec_IE is not None:
            self.value_U["Diversity"] = diversity(item_Uk, vec_IE)

    def means(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """All metrics over some users (None: all). Diversity is left out if no list has two items with vectors."""
        chosen: Any = slice(None) if rows is None else rows
        count_I = self._counts(self.item_Uk[chosen])
        found = {"Coverage": np.count_nonzero(count_I) / len(count_I), "Gini": gini(count_I)}
        for name, value_U in self.value_U.items():
            value_u = value_U[chosen]
            value_u = value_u[~np.isnan(value_u)]
            if len(value_u):
                found[name] = float(value_u.mean())
        consumed = float(self.consumed_U[chosen].mean())
        if consumed > 0:
            found["PopularityLift"] = found["Popularity"] / consumed - 1
        return {name: float(value) for name, value in found.items()}

    def _counts(self, item_uk: np.ndarray) -> np.ndarray:
        """How many lists hold each item, chunk by chunk."""
        count_R = np.zeros(len(self.train_count_I) + 1, np.int64)
        for begin in range(0, len(item_uk), USERS):
            count_R += np.bincount(item_uk[begin : begin + USERS].ravel(), minlength=len(count_R))
        return count_R[1:]


def gini(count_I: np.ndarray) -> float:
    """The Gini coefficient of counts; 0 if all are 0."""
    sorted_I, items = np.sort(count_I).astype(np.float64), len(count_I)
    total = sorted_I.sum()
    rank_I = np.arange(1, items + 1)
    return float(((2 * rank_I - items - 1) * sorted_I).sum() / (items * total)) if total else 0.0


def diversity(item_Uk: np.ndarray, vec_IE: np.ndarray) -> np.ndarray:
    """``value_U``: 1 less the mean cosine over the pairs of a list; NaN for fewer than two items with a vector."""
    table_IE = torch.from_numpy(vec_IE)
    length_I = torch.cat([part.float().norm(dim=1) for part in table_IE.split(USERS)])
    weight_R = F.pad(torch.where(length_I > 0, 1 / length_I.clamp_min(1e-12), 0), (1, 0))
    values = []
    for item_bk in torch.from_numpy(item_Uk.astype(np.int64)).split(USERS):
        weight_bk = weight_R[item_bk]
        sum_bE = F.embedding_bag((item_bk - 1).clamp_min(0), table_IE, per_sample_weights=weight_bk, mode="sum")
        count_b = (weight_bk > 0).sum(1)
        pairs_b = count_b * (count_b - 1)
        cosine_b = (sum_bE.square().sum(1) - count_b) / pairs_b.clamp_min(1)
        values.append(torch.where(pairs_b > 0, 1 - cosine_b, torch.nan).double().numpy())
    return np.concatenate(values) if values else np.zeros(0)


def consumed_popularity(
    histories: Histories, user_U: np.ndarray, at_U: np.ndarray, train_count_I: np.ndarray
) -> np.ndarray:
    """``value_U``: the mean training count of the items before each position, which is 1 or more."""
    values = []
    for begin in range(0, len(user_U), USERS):
        user_b, at_b = user_U[begin : begin + USERS], at_U[begin : begin + USERS].astype(np.int64)
        end_b = at_b.cumsum()
        start_b = histories.offset[user_b].astype(np.int64) - (end_b - at_b)
        item_N = histories.item[np.repeat(start_b, at_b) + np.arange(end_b[-1])]
        values.append(np.add.reduceat(train_count_I[item_N.astype(np.int64) - 1], end_b - at_b) / at_b)
    return np.concatenate(values) if values else np.zeros(0)


def table(result: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows for people: one row per metric, one column per protocol."""
    names = list(dict.fromkeys(name for values in result.values() for name in values))
    return ["beyond accuracy", *(labels[p] for p in result)], [[n, *(result[p].get(n) for p in result)] for n in names]

"""Planted labels: what a generated shop says about each interaction, for the items of sampled histories.

``labels.parquet`` beside the raw files has the columns ``user``, ``item`` (raw ids), ``noise`` and ``transition``. Only
the rows of the sampled users are kept, so memory does not depend on the size of the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from genrec_cli.data.batch import Batch
from genrec_cli.data.schema import ITEMS, USERS, read_table
from genrec_cli.errors import DataError

LABELS = "labels.parquet"
PLAN, NOISE, TRANSITION, FIRST = range(4)
"""Kinds of items in a history. PLAN: it continues the intent; NOISE: it is random; TRANSITION: it begins another
intent; FIRST: no item is before it."""
NAMED = {"noise": NOISE, "transition": TRANSITION}
"""The kinds that entropies are compared with; the items of PLAN are the negatives."""


@dataclass(frozen=True)
class Labels:
    """The labels of a data artifact; ``path`` is the file, ``data`` the folder of the artifact."""

    path: Path
    data: Path

    def kinds(self, batches: Sequence[Batch]) -> np.ndarray:
        """The kind of each packed item of batches of histories.

        Raises:
            DataError: an interaction has no label, or a user has an item twice.
        """
        user_N = torch.cat([batch.user_B[batch.packing.sequence_N] for batch in batches]).cpu().numpy()
        item_N = torch.cat([batch.item_N for batch in batches]).cpu().numpy() - 1
        position_N = torch.cat([batch.packing.position_N for batch in batches]).cpu().numpy()
        users, user_N = np.unique(user_N, return_inverse=True)
        key_L, kind_L, items = self._read(users)
        key_N = user_N.ravel() * items + item_N
        at_N = np.minimum(np.searchsorted(key_L, key_N), max(len(key_L) - 1, 0))
        if not len(key_L) or (key_L[at_N] != key_N).any() or (np.diff(key_L) == 0).any():
            hint = "Labels are for data that genrec preprocess made of these raw files"
            raise DataError(f"{self.path} does not have one label for each interaction of {self.data.name}.", hint=hint)
        return np.where(position_N == 0, FIRST, kind_L[at_N])

    def _read(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Sorted keys (place of the user in ``users`` x items + item), their kinds, and the number of items."""
        raw_user = read_table(self.data / "users.parquet", USERS, ["raw_id"])["raw_id"].take(pa.array(users))
        raw_user = raw_user.combine_chunks()
        raw_item = read_table(self.data / "items.parquet", ITEMS, ["raw_id"])["raw_id"].combine_chunks()
        keys, kinds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        try:
            for part in pq.ParquetFile(self.path).iter_batches(columns=["user", "item", "noise", "transition"]):
                part = part.filter(pc.is_in(part["user"], value_set=raw_user))
                item = pc.index_in(part["item"], value_set=raw_item)
                part, item = part.filter(item.is_valid()), item.drop_null()  # the k-core has not all items
                place = pc.index_in(part["user"], value_set=raw_user).to_numpy(zero_copy_only=False)
                noise, transition = (part[name].to_numpy(zero_copy_only=False) for name in ("noise", "transition"))
                keys.append(place.astype(np.int64) * len(raw_item) + item.to_numpy(zero_copy_only=False))
                kinds.append(np.select([noise, transition], [NOISE, TRANSITION], PLAN))
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DataError(f"{self.path} cannot be read as labels: {error}.") from None
        key_L, kind_L = np.concatenate(keys), np.concatenate(kinds)
        order = np.argsort(key_L, kind="stable")
        return key_L[order], kind_L[order], len(raw_item)


def auc(
    score_N: np.ndarray, positive_N: np.ndarray, negative_N: np.ndarray, weight_N: np.ndarray | None = None
) -> float | None:
    """Area under the ROC curve: the probability that a positive has a higher score than a negative, ties as one half.

    ``weight_N`` counts each item so many times. None without positives or without negatives.
    """
    weight_N = np.ones(len(score_N)) if weight_N is None else weight_N
    _, place_N = np.unique(score_N, return_inverse=True)  # equal scores are one place
    positive_S, negative_S = (np.bincount(place_N, weight_N * chosen_N) for chosen_N in (positive_N, negative_N))
    pairs = positive_S.sum() * negative_S.sum()
    below_S = negative_S.cumsum() - negative_S / 2
    return float((positive_S * below_S).sum() / pairs) if pairs else None


def areas(score_N: np.ndarray, kind_N: np.ndarray, weight_N: np.ndarray | None = None) -> dict[str, float | None]:
    """For each kind of :data:`NAMED`, the AUC of a score for items of this kind against those that follow the plan."""
    return {name: auc(score_N, kind_N == kind, kind_N == PLAN, weight_N) for name, kind in NAMED.items()}

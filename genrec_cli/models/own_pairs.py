"""Leave-one-out of counts: which part of the transitions between a history and its later items is of the user alone.

A training batch predicts pairs that the counts of ``models/transitions.py`` already hold. For a target after position m
every pair of the row that ends after m is left out, also where an item of the history occurs again later: with
``a x a y``, the transitions of a hold y for both targets. Pairs within the history stay, as in evaluation.

Legend: B rows, N packed items, X the same and the last target of each row, M positions with a target, A ages, W places
ahead, E pairs, Y pairs and an occurrence of their first item, Z the same at a position, S distinct keys, I items.
"""

import torch
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.models.transitions import TransitionsConfig
from genrec_cli.nn.packing import positions
from genrec_cli.nn.sparse_scores import stable_sort, sum_equal

ROUNDING = 1e-4
"""A smaller part of a weight than this is no other user's: the smallest part of a user in a pair is near .01."""


def own_pairs(
    batch: Batch, at_M: Tensor, config: TransitionsConfig, row_factor_R: Tensor, column_factor_R: Tensor
) -> tuple[Tensor, Tensor]:
    """Sorted distinct ``key_S = (m * A + age) * (I + 1) + item``, and ``weight_S`` of the user in the transitions from
    the item of that age to the other item, without the pairs that end in the history of m.

    The weight of a user depends on the number of training items; here it is that of the row. A user with more items
    than a row has several rows: then this weight is a little too large, and pairs with items after the row are left in.
    """
    packing, device = batch.packing, at_M.device
    assert batch.target_N is not None, "only a training batch has targets"
    row = packing.expand(suffix=1)
    item_X = torch.zeros_like(row.sequence_N)
    at_N = torch.arange(len(batch.item_N), device=device) + packing.sequence_N
    item_X[at_N] = batch.item_N
    item_X[at_N + 1] = torch.where(batch.target_N > 0, batch.target_N, item_X[at_N + 1])

    ahead_W = torch.arange(1, config.window + 1, device=device)
    inside_XW = row.position_N[:, None] + ahead_W < row.length_B[row.sequence_N][:, None]
    first_E, w_E = (inside_XW & (item_X > 0)[:, None]).nonzero(as_tuple=True)
    last_E = first_E + w_E + 1
    near_E = torch.as_tensor(config.decay, device=device) ** w_E
    from_E, to_E = torch.cat([first_E, last_E]), torch.cat([last_E, first_E])
    near_E, end_E = torch.cat([near_E, config.backward * near_E]), torch.cat([last_E, last_E])

    e_Y, at_Y = _occurrences(row.sequence_N * len(row_factor_R) + item_X, from_E)
    before_Y = at_Y < end_E[e_Y]
    e_Y, at_Y = e_Y[before_Y], at_Y[before_Y]
    age_A = torch.arange(config.window, device=device)
    y_Z, age_Z = (at_Y[:, None] + age_A < end_E[e_Y][:, None]).nonzero(as_tuple=True)
    e_Z = e_Y[y_Z]
    number_N = torch.full_like(batch.item_N, -1).index_copy_(0, at_M, torch.arange(len(at_M), device=device))
    m_Z = number_N[at_Y[y_Z] + age_Z - row.sequence_N[from_E[e_Z]]]
    learnt_Z = m_Z >= 0
    e_Z, age_Z, m_Z = e_Z[learnt_Z], age_Z[learnt_Z], m_Z[learnt_Z]

    user_B = (packing.length_B + 3).log2() ** -config.length_power  # the last target is an item of the history, too
    item_Z, other_Z = item_X[from_E[e_Z]], item_X[to_E[e_Z]]
    weight_Z = row_factor_R[item_Z] * user_B[row.sequence_N[from_E[e_Z]]] * near_E[e_Z] * column_factor_R[other_Z]
    real_Z = other_Z > 0
    key_Z = (m_Z * config.window + age_Z) * len(row_factor_R) + other_Z
    return sum_equal(key_Z[real_Z], weight_Z[real_Z])


def _occurrences(key_X: Tensor, from_E: Tensor) -> tuple[Tensor, Tensor]:
    """``e_Y`` and ``at_Y``: for each of the tokens ``from_E``, all tokens with its key."""
    sorted_X, order_X = stable_sort(key_X)
    _, group_X, count_G = torch.unique_consecutive(sorted_X, return_inverse=True, return_counts=True)
    group_E = torch.empty_like(group_X).index_copy_(0, order_X, group_X)[from_E]
    place_Y, e_Y = positions(count_G[group_E])
    return e_Y, order_X[(count_G.cumsum(0) - count_G)[group_E][e_Y] + place_Y]


def without(key_S: Tensor, own_S: Tensor, key_E: Tensor, weight_E: Tensor) -> Tensor:
    """The stored weights without the user's own parts; a pair that is not stored has nothing to subtract. Exactly 0 if
    the pair is of this user alone: a rounding error would be the only count of some digits, and tell the target."""
    if not len(key_S):
        return weight_E
    s_E = torch.searchsorted(key_S, key_E).clamp_max(len(key_S) - 1)
    rest_E = weight_E - own_S[s_E].to(weight_E.dtype) * (key_S[s_E] == key_E)
    return rest_E.masked_fill(rest_E < ROUNDING * weight_E, 0.0)

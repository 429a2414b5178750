"""Diverse lists by maximal marginal relevance, MMR (Carbonell and Goldstein, SIGIR 1998).

From the best items of a search, item after item is chosen by ``(1 - d) * relevance - d * similarity``. The relevance of
an item is its score, scaled to 0..1 over the items of the user; the similarity is the largest cosine of its text vector
with those chosen before. d = 0 leaves the list as it is.

Legend: B users, L items to choose from, k length of a list, E width of the vectors, R items and padding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.searches.base import TopK

CELLS = 1 << 25
"""Numbers of the vectors that are gathered at a time, which limits the users of a part."""


def diversified(top: TopK, vector_RE: Tensor, k: int, diversity: float) -> TopK:
    """The k items chosen from each list, in the order of the choice, with their scores.

    Args:
        top: the best items per user, k or more of them.
        vector_RE: vectors of length 1 (or 0), row i of item i; row 0 is padding.
        diversity: d, from 0 to 1.
    """
    users = max(CELLS // (top.item_Bk.shape[1] * vector_RE.shape[1]), 1)
    parts = zip(top.item_Bk.split(users), top.score_Bk.split(users), strict=True)
    items, scores = zip(*(_choose(TopK(*part), vector_RE, k, diversity) for part in parts), strict=True)
    return TopK(torch.cat(items), torch.cat(scores))


def _choose(top: TopK, vector_RE: Tensor, k: int, diversity: float) -> TopK:
    real_BL, vector_BLE = top.item_Bk > 0, vector_RE[top.item_Bk]
    finite_BL = top.score_Bk.masked_fill(~real_BL, 0)
    best_B1 = top.score_Bk[:, :1].masked_fill(~real_BL[:, :1], 0)
    worst_B1 = torch.where(real_BL, finite_BL, best_B1).amin(1, keepdim=True)
    relevance_BL = (finite_BL - worst_B1) / (best_B1 - worst_B1).clamp_min(torch.finfo(finite_BL.dtype).tiny)
    value_BL = ((1 - diversity) * relevance_BL).masked_fill(~real_BL, -torch.inf)
    similar_BL, chosen = torch.zeros_like(value_BL), []
    for number in range(min(k, value_BL.shape[1])):
        at_B1 = (value_BL - diversity * similar_BL).argmax(1, keepdim=True)
        chosen.append(at_B1)
        value_BL = value_BL.scatter(1, at_B1, -torch.inf)
        vector_B1E = vector_BLE.gather(1, at_B1[..., None].expand(-1, -1, vector_BLE.shape[2]))
        cosine_BL = (vector_BLE @ vector_B1E.transpose(1, 2)).squeeze(2)
        similar_BL = cosine_BL if number == 0 else torch.maximum(similar_BL, cosine_BL)
    at_Bk = torch.cat(chosen, 1)
    # After the last real item argmax gives any place: these are padding.
    over_Bk = torch.arange(at_Bk.shape[1], device=at_Bk.device) >= real_BL.sum(1, keepdim=True)
    item_Bk = top.item_Bk.gather(1, at_Bk).masked_fill(over_Bk, 0)
    return TopK(item_Bk, top.score_Bk.gather(1, at_Bk).masked_fill(over_Bk, -torch.inf))


def unit_vectors(vector_ID: Tensor) -> Tensor:
    """``vector_RE``: vectors of length 1 (a vector of zeros stays), after a row of zeros for padding."""
    return F.pad(F.normalize(vector_ID.float(), dim=1), (0, 0, 1, 0))

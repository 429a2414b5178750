"""Explains the recommendations of a model of masked history learning (MHL) for one history.

* The entropy at each item: from the pass without masks (MHL, equation 4).
* The prediction where an item is masked: reconstruction with all of the item's digits masked (equation 2).
* The effect of each item: the list after the history without it (leave one out).

Legend: T items of the history, I items of the catalogue, k length of a list.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.models.mhl import Mhl
from genrec_cli.nn.packing import Packing
from genrec_cli.searches.exhaustive import Exhaustive


class Explanation(NamedTuple):
    """The explanation of one history. Ranks are from 1.

    ``entropy_T``: in nats, the mean over digits. ``masked``: position, from 0, of the item of highest entropy;
    ``guess_k``: the predictions for it, best first; ``masked_rank``: the rank of the true item among all. Without
    history item t: the list ``without_Tk`` (no rows for a history of one item), the number of items of the full list
    in it (``kept_T``), and the rank of the target (``rank_T``).
    """

    entropy_T: Tensor
    masked: int
    guess_k: Tensor
    masked_rank: int
    without_Tk: Tensor
    kept_T: Tensor
    rank_T: Tensor


@torch.inference_mode()
def explain(
    model: Mhl, search: Exhaustive, item_T: Tensor, target: int, list_k: Tensor, *, guesses: int = 3
) -> Explanation:
    """Compute the whole explanation.

    Args:
        model: in evaluation mode.
        item_T: the history as the model reads it, item ids.
        target: the next item.
        list_k: the list of the model after the whole history (0: no item).
        guesses: number of predictions for the masked item.
    """
    batch = one_history(item_T)
    entropy_T = model.entropies(batch).mean(-1)
    masked = int(entropy_T.argmax())
    score_1I = reconstruction(model, search, batch, masked)
    masked_rank = int(ranks(search, score_1I, item_T[masked]))
    guess_k = search.top(score_1I, min(guesses, search.items)).item_Bk[0]
    without_TI = without_each(model, search, item_T)
    without_Tk = search.top(without_TI, len(list_k)).item_Bk
    kept_T = ((without_Tk[:, :, None] == list_k) & (list_k > 0)).any(1).sum(1)
    rank_T = ranks(search, without_TI, torch.full_like(kept_T, target))
    return Explanation(entropy_T, masked, guess_k, masked_rank, without_Tk, kept_T, rank_T)


def one_history(item_T: Tensor) -> Batch:
    """A batch of one history."""
    packing = Packing.of(np.array([len(item_T)])).to(item_T.device)
    return Batch(item_T, packing, torch.full_like(item_T[:1], -1))


def reconstruction(model: Mhl, search: Exhaustive, batch: Batch, at: int) -> Tensor:
    """``score_1I``: mean log-probability of each item's codes at one packed position with all its digits masked."""
    at_1 = torch.tensor([at], device=batch.item_N.device)
    mask_NK = torch.zeros(len(batch.item_N), model.digits, dtype=torch.bool, device=at_1.device)
    mask_NK[at] = model.maskable(batch)[at]
    return search.code_scores(model.reconstruct(batch, mask_NK, at_1))


def without_each(model: Mhl, search: Exhaustive, item_T: Tensor) -> Tensor:
    """``score_TI``: row t holds the scores after the history without item t, all in one packed batch.

    No earlier item, beyond what the model reads, takes the free position. A history of one item gives no rows.
    """
    length = len(item_T)
    if length < 2:
        return torch.zeros(0, search.items, device=item_T.device)
    step_T = torch.arange(length, device=item_T.device)
    rest_TR = step_T[:-1] + (step_T[:-1] >= step_T[:, None])
    packing = Packing.of(np.full(length, length - 1)).to(item_T.device)
    return search.scores(model, Batch(item_T[rest_TR].flatten(), packing, torch.full_like(item_T, -1)))


def ranks(search: Exhaustive, score_BI: Tensor, target_B: Tensor) -> Tensor:
    """Expected rank of each target from 1, ties counted half."""
    rank = search.rank(score_BI, target_B.expand(len(score_BI)))
    return rank.above_B + (rank.ties_B - 1) // 2 + 1


def most_influential_item(why: Explanation, rank: int) -> int | None:
    """The removal with the largest effect: fewest items kept, then the largest move of the target in the ranking.

    Moves are measured in ``1 / log2(rank + 1)``, so that 1 to 3 counts more than 401 to 403. The most recent of
    equals; None for a history of one item.
    """
    if len(why.kept_T) == 0:
        return None
    moved_T = np.abs(1 / np.log2(why.rank_T.cpu().numpy() + 1) - 1 / np.log2(rank + 1))
    return int(np.lexsort((-np.arange(len(moved_T)), -moved_T, why.kept_T.cpu().numpy()))[0])

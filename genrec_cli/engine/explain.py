"""Why a model of masked history learning recommends what it does: three questions to one history.

* How unsure is it at each item? Entropies of the clean pass (MHL, equation 4).
* What does it put where an item is hidden? Reconstruction with all of the item's digits masked (equation 2).
* What does each item contribute? The list once more without it.

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


class Why(NamedTuple):
    """The answers for one history."""

    entropy_T: Tensor
    """In nats, the mean over digits."""
    hidden: int
    """Place in the history, from 0, of the item that was hidden: the one of highest entropy."""
    guess_k: Tensor
    """Items that the model puts there, best first."""
    hidden_rank: int
    """Rank of the true item among all, from 1."""
    without_Tk: Tensor
    """Row t: the list without history item t. No rows for a history of one item."""
    kept_T: Tensor
    """How many items of the full list stay in it."""
    rank_T: Tensor
    """The target's rank without history item t."""


@torch.inference_mode()
def explain(model: Mhl, search: Exhaustive, item_T: Tensor, target: int, list_k: Tensor, *, guesses: int = 3) -> Why:
    """Ask all three questions.

    Args:
        model: in evaluation mode.
        item_T: the history as the model reads it, item ids.
        target: item that came next.
        list_k: what the model recommends from the whole history (0: no item).
        guesses: length of the list for the hidden item.
    """
    batch = one_history(item_T)
    entropy_T = item_entropies(model, batch)
    hidden = int(entropy_T.argmax())
    score_1I = reconstruction(model, search, batch, hidden)
    hidden_rank = ranks(search, score_1I, item_T[hidden])
    without_TI = without_each(model, search, item_T)
    without_Tk = search.top(without_TI, len(list_k)).item_Bk
    kept_T = ((without_Tk[:, :, None] == list_k) & (list_k > 0)).any(1).sum(1)
    rank_T = ranks(search, without_TI, torch.full_like(kept_T, target))
    guess_k = search.top(score_1I, min(guesses, search.items)).item_Bk[0]
    return Why(entropy_T, hidden, guess_k, int(hidden_rank), without_Tk, kept_T, rank_T)


def one_history(item_T: Tensor) -> Batch:
    """A batch that holds a single history."""
    packing = Packing.of(np.array([len(item_T)])).to(item_T.device)
    return Batch(item_T, packing, torch.full_like(item_T[:1], -1))


def item_entropies(model: Mhl, batch: Batch) -> Tensor:
    """``entropy_N`` of each item in nats: the mean over its digits, from the clean history."""
    return model.entropies(batch).mean(-1)


def reconstruction(model: Mhl, search: Exhaustive, batch: Batch, at: int) -> Tensor:
    """``score_1I``: mean log-probability of each item's codes at one packed place, all its digits hidden."""
    at_1 = torch.tensor([at], device=batch.item_N.device)
    mask_NK = torch.zeros(len(batch.item_N), model.digits, dtype=torch.bool, device=at_1.device)
    mask_NK[at] = model.maskable(batch)[at]
    h_1D = model.states(model.apply_mask(model.tokens(batch), mask_NK, batch), batch, at_1)
    return search.code_scores(model.logits(h_1D).log_softmax(-1).transpose(0, 1))


def without_each(model: Mhl, search: Exhaustive, item_T: Tensor) -> Tensor:
    """``score_TI``: row t is the whole catalogue's score after the history without item t, as one packed batch.

    The other items stay as they are: no earlier item, beyond what the model reads, moves up. A history of one
    item has nothing to be left without: no rows.
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
    found = search.rank(score_BI, target_B.expand(len(score_BI)))
    return found.above_B + (found.ties_B - 1) // 2 + 1


def strongest(why: Why, rank: int) -> int | None:
    """The removal that changes the list most: fewest items kept, then the target's rank moved furthest.

    Moves are measured in ``1 / log2(rank + 1)``, so that 1 to 3 counts more than 401 to 403. The most recent
    of equals; None for a history of one item.
    """
    if len(why.kept_T) == 0:
        return None
    gain_T = 1 / np.log2(why.rank_T.cpu().numpy() + 1)
    moved_T = np.abs(gain_T - 1 / np.log2(rank + 1))
    place_T = np.arange(len(moved_T))
    return int(np.lexsort((-place_T, -moved_T, why.kept_T.cpu().numpy()))[0])

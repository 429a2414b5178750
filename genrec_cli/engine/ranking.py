"""Where the target of each history stands: exactly, or within the lists of a decoder.

Two rankers with one face: :class:`ExactRanker` scores the whole catalogue, :class:`ListRanker` knows only what
a decoder lists. Training validates with the one that the model's own decoder asks for, and so do all commands
that rank.

Legend: B histories, k length of a list, L items that a decoder lists.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.decoders.base import Decoder, TopK
from genrec_cli.decoders.exhaustive import Exhaustive
from genrec_cli.decoders.rank import UNLISTED, Rank
from genrec_cli.decoders.twins import Cells, Twins, hold
from genrec_cli.models.base import CodeGenerator, Model

NO_ITEM, LEFT_OUT = -1, -2
"""In place of codes: of a list's empty place, and of a target that is not to be found."""
MOST_PAIRS = 1 << 24
"""Places of lists that are compared at a time."""


class Ranked(NamedTuple):
    """What is known of a batch's targets."""

    rank: Rank
    loss_B: Tensor
    """``-log p`` of each target, the mean over digits for a model of codes; NaN where nothing tells it."""
    top: TopK
    figures: dict[str, Tensor]
    """Figures of each history that the decoder adds, such as ``visited``."""


class Ranker(Protocol):
    """Ranks targets and makes lists with one model."""

    model: Model

    def rank(self, batch: Batch, target_B: Tensor, k: int, *, hidden: Cells | None = None) -> Ranked:
        """The targets' ranks and the k best items; ``hidden`` items are left out.

        A hidden target has the rank UNLISTED at both levels, though an item that is not hidden may have its
        codes: what is left out is not found. Other codes count as long as one of their items is left.
        """
        ...

    def lists(self, batch: Batch, k: int, *, hidden: Cells | None = None) -> TopK:
        """The k best items."""
        ...


class ExactRanker:
    """Scores every item of the catalogue."""

    def __init__(self, model: Model, catalog: Catalog) -> None:
        self.model, self.decoder = model, Exhaustive(catalog)

    def rank(self, batch: Batch, target_B: Tensor, k: int, *, hidden: Cells | None = None) -> Ranked:
        found = self.decoder.judge(self.decoder.scored(self.model, batch), target_B, k, hidden=hidden)
        return Ranked(found.rank, found.loss_B, found.top, {})

    def lists(self, batch: Batch, k: int, *, hidden: Cells | None = None) -> TopK:
        return self.decoder.top(self.decoder.scored(self.model, batch), k, hidden=hidden)


class ListRanker:
    """Asks a decoder. A target that it does not list has the rank UNLISTED."""

    def __init__(self, model: Model, decoder: Decoder, longest: int, catalog: Catalog) -> None:
        self.model, self.decoder, self.longest = model, decoder, longest
        self.items, self.twins = catalog.items, Twins(catalog.groups)

    def rank(self, batch: Batch, target_B: Tensor, k: int, *, hidden: Cells | None = None) -> Ranked:
        top, figures = self._decode(batch, k, hidden)
        loss_B = torch.full(target_B.shape, torch.nan, device=target_B.device)
        if isinstance(self.model, CodeGenerator):
            loss_B = self.model.target_loss(batch, target_B).float()
        group_I = self.twins.group_I
        code_BL = torch.where(top.item_Bk > 0, group_I[top.item_Bk - 1], NO_ITEM)
        code_B = group_I[target_B - 1]
        ties_B = self.twins.size_G[code_B] if hidden is None else self.twins.left(hidden, target_B)
        if hidden is not None:
            lost_B = hold(hidden, target_B)
            code_B, ties_B = code_B.masked_fill(lost_B, LEFT_OUT), ties_B.masked_fill(lost_B, 1)
        code_above_B = code_rank(code_BL, code_B, UNLISTED)
        one_B = torch.ones_like(code_above_B)
        if self.decoder.whole_codes:
            above_B = list_rank(code_BL, code_B, UNLISTED)
        else:
            above_B, ties_B = score_rank(top, target_B, UNLISTED)
        cut = TopK(top.item_Bk[:, :k], top.score_Bk[:, :k])
        return Ranked(Rank(above_B, ties_B, code_above_B, one_B), loss_B, cut, figures)

    def lists(self, batch: Batch, k: int, *, hidden: Cells | None = None) -> TopK:
        top, _ = self._decode(batch, k, hidden)
        return TopK(top.item_Bk[:, :k], top.score_Bk[:, :k])

    def _decode(self, batch: Batch, k: int, hidden: Cells | None) -> tuple[TopK, dict[str, Tensor]]:
        """All that the decoder lists, at least k wide, hidden items moved out."""
        top, figures = self.decoder.decode(batch, self.longest)
        top = top if hidden is None else without(hidden, top, self.items)
        short = max(k - top.item_Bk.shape[1], 0)
        return TopK(F.pad(top.item_Bk, (0, short)), F.pad(top.score_Bk, (0, short), value=-torch.inf)), figures


def make_ranker(model: Model, catalog: Catalog, kind: Any, config: Any) -> Ranker:
    """The ranker of a decoder class with its settings."""
    if kind.exact:
        return ExactRanker(model, catalog)
    return ListRanker(model, kind(model, catalog, config), kind.longest(config), catalog)


def without(hidden: Cells, top: TopK, items: int) -> TopK:
    """The lists without the hidden items of their users, the others moved up."""
    item_N, user_N = hidden
    row_B1 = torch.arange(len(top.item_Bk), device=top.item_Bk.device)[:, None] * (items + 1)
    hidden_Bk = torch.isin(row_B1 + top.item_Bk, user_N * (items + 1) + item_N)
    order_Bk = hidden_Bk.to(torch.int8).argsort(dim=1, stable=True)
    item_Bk = top.item_Bk.masked_fill(hidden_Bk, 0).gather(1, order_Bk)
    return TopK(item_Bk, top.score_Bk.masked_fill(hidden_Bk, -torch.inf).gather(1, order_Bk))


def list_rank(item_Bk: Tensor, target_B: Tensor, missing: int) -> Tensor:
    """First position of the target in each list, from 0; ``missing`` where it is not there."""
    hit_Bk = item_Bk == target_B[:, None]
    return torch.where(hit_Bk.any(1), hit_Bk.int().argmax(1), missing)


def score_rank(top: TopK, target_B: Tensor, missing: int) -> tuple[Tensor, Tensor]:
    """How many items of each list are above the target and how many tie with it, itself included, by score."""
    hit_Bk = top.item_Bk == target_B[:, None]
    hit_B = hit_Bk.any(1)
    own_B1 = top.score_Bk.gather(1, hit_Bk.int().argmax(1, keepdim=True))
    above_B, ties_B = (top.score_Bk > own_B1).sum(1), (top.score_Bk == own_B1).sum(1)
    return torch.where(hit_B, above_B, missing), torch.where(hit_B, ties_B, 1)


def code_rank(code_Bk: Tensor, target_B: Tensor, missing: int) -> Tensor:
    """The same at code level: items with equal codes count as one."""
    hit_Bk = code_Bk == target_B[:, None]
    new_Bk = torch.ones_like(hit_Bk)
    new_Bk[:, 1:] = ~(code_Bk[:, 1:, None] == code_Bk[:, None, :]).tril().any(-1)
    place_Bk = new_Bk.cumsum(1) - 1
    position_B = hit_Bk.int().argmax(1, keepdim=True)
    return torch.where(hit_Bk.any(1), place_Bk.gather(1, position_B)[:, 0], missing)


def recall_of(item_Uk: np.ndarray, exact_Uk: np.ndarray) -> float:
    """Share of the exact lists' places that the lists find."""
    rows = max(MOST_PAIRS // max(item_Uk.shape[1] ** 2, 1), 1)
    found = 0
    for begin in range(0, len(item_Uk), rows):
        item_Bk, exact_Bk = item_Uk[begin : begin + rows], exact_Uk[begin : begin + rows]
        hit_Bkk = (item_Bk[:, :, None] == exact_Bk[:, None, :]) & (item_Bk[:, :, None] > 0)
        found += int(hit_Bkk.any(1).sum())
    return found / exact_Uk.size

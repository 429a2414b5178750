"""Search by masked diffusion (MDGR, arXiv 2601.19501): from fully masked codes to items, in any order of digits.

Two stages. Each of the first ``warmup`` steps fills one digit; after that each step fills ``parallel`` digits, so that
K = 8 digits take 6 passes with the paper's 4 and 2. The beams are kept throughout. Only a summary of the paper is at
hand; where it is open, this file reads it so:

* a warm-up step: each beam fills the digit at which it is most confident, so that no two beams can set_group the same;
* a parallel step: each beam takes its most confident open digits (the highest log-probability of any code), and all
  combinations of their codes compete;
* a score is the sum of the log-probabilities at the moments of choice;
* equal assignments reached in different orders are one candidate with the better score;
* under the ``constraint`` a beam takes only codes that some item of the catalogue still has beside those it took.

No loop over users, beams or items. What competes is exact: a step keeps the best of all combinations, not of the
best few codes of each digit. As many candidates are ranked before equal ones are merged as can be equal: an
assignment of n digits has at most C(n, m) parents when m were filled. Only the beams make the search approximate.

Legend: B users, M beams, C candidates, K digits, V codewords, I items, m digits filled in a step, k length of a list.
"""

from math import comb
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.config import Count, Natural, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import MaskPredictor
from genrec_cli.searches import base
from genrec_cli.searches.base import ListSearch, TopK
from genrec_cli.searches.inverted_index import InvertedLists, Pairs

OPEN = -1
"""A digit that is still to be filled."""


class DiffusionConfig(Section):
    """The steps and the width of the search."""

    warmup: Natural = 4
    """R_warm: the first so many digits are filled one by one, each beam's most confident digit first."""
    parallel: Count = 2
    """m_par: digits filled in each step after that."""
    beams: base.Beams = 50
    """Partial items kept after each step."""
    constraint: bool = True
    """Whether only items of the catalogue are built. Off: codes of no item are left out at the end."""


class Beams(NamedTuple):
    """The partial items of each user, best first; a score of -inf marks a place that is empty."""

    score_BM: Tensor
    codes_BMK: Tensor
    key_BM: Tensor
    pairs: Pairs | None
    """Items that each beam may still set_group; None: nothing is filled yet, or there is no constraint."""


class Candidates(NamedTuple):
    """What competes for the next beams; those at -inf do not."""

    score_BC: Tensor
    parent_BC: Tensor
    digit_BCm: Tensor
    code_BCm: Tensor


class Diffusion(ListSearch):
    """The search for models that fill in masks."""

    Config = DiffusionConfig
    interface = MaskPredictor
    suffix = "-diffusion"

    def __init__(self, model: MaskPredictor, catalog: Catalog, config: DiffusionConfig) -> None:
        super().__init__(model, catalog, config)
        self.digits, self.index = catalog.digits, InvertedLists(catalog)

    @property
    def steps(self) -> list[int]:
        """How many digits each step fills."""
        warmup, parallel = min(self.config.warmup, self.digits), self.config.parallel
        return [1] * warmup + [min(parallel, self.digits - n) for n in range(warmup, self.digits, parallel)]

    @torch.no_grad()
    def search(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The items found for each history, k or more. The stat ``valid_fraction`` is the fraction of each user's beams
        that are items."""
        memory, users = self.model.read(batch), batch.packing.sequences
        device = batch.item_N.device
        beams = Beams(
            torch.zeros(users, 1, device=device),
            torch.full((users, 1, self.digits), OPEN, device=device),
            torch.zeros(users, 1, dtype=torch.long, device=device),
            None,
        )
        filled = 0
        for number in self.steps:
            logp_BMKV = self.model.fill(memory, beams.codes_BMK).float()
            if self.config.constraint:
                allowed_XKV = self.index.allowed(beams.pairs, beams.key_BM.numel())
                logp_BMKV = logp_BMKV.masked_fill(~allowed_XKV.view_as(logp_BMKV), -torch.inf)
            logp_BMKV = logp_BMKV.masked_fill((beams.codes_BMK != OPEN)[..., None], -torch.inf)
            filled += number
            # So many candidates hold enough different ones: each can have come from that many parents.
            enough = self.config.beams * min(comb(filled, number), beams.key_BM.shape[1])
            digit_BMm = logp_BMKV.amax(-1).topk(number).indices
            if self.config.constraint and number > 1:
                found = self.items(beams, logp_BMKV, digit_BMm)
            else:
                found = combinations(beams, logp_BMKV, digit_BMm, self.config.beams, enough)
            beams = self.select(beams, found)
        return self.lists(beams, k)

    def items(self, beams: Beams, logp_BMKV: Tensor, digit_BMm: Tensor) -> Candidates:
        """All combinations of codes that items still have: each item that a beam may set_group proposes its own."""
        users, width = beams.score_BM.shape
        pairs = self.index.everything(users) if beams.pairs is None else beams.pairs
        number_B = pairs.number_X.view(users, width).sum(1)
        user_P = pairs.candidate_P // width
        place_P = torch.arange(len(user_P), device=user_P.device) - (number_B.cumsum(0) - number_B)[user_P]
        shape = users, int(number_B.max())
        parent_BC, item_BC = user_P.new_zeros(shape), user_P.new_zeros(shape)
        real_BC = torch.zeros(shape, dtype=torch.bool, device=user_P.device)
        parent_BC[user_P, place_P] = pairs.candidate_P % width
        item_BC[user_P, place_P] = pairs.item_P
        real_BC[user_P, place_P] = True
        digit_BCm = pick(digit_BMm, parent_BC)
        code_BCm = self.index.codes_IK[item_BC].gather(2, digit_BCm).long()
        at_BCm = (parent_BC[..., None] * self.digits + digit_BCm) * self.index.codewords + code_BCm
        logp_BC = logp_BMKV.flatten(1).gather(1, at_BCm.flatten(1)).view(at_BCm.shape).sum(-1)
        score_BC = (beams.score_BM.gather(1, parent_BC) + logp_BC).masked_fill(~real_BC, -torch.inf)
        return Candidates(score_BC, parent_BC, digit_BCm, code_BCm)

    def select(self, beams: Beams, found: Candidates) -> Beams:
        """The best different candidates of each user."""
        key_BC = self.index.add(beams.key_BM.gather(1, found.parent_BC), found.digit_BCm, found.code_BCm)
        score_BC = once(found.score_BC, key_BC)
        score_BM, at_BM = score_BC.topk(min(self.config.beams, score_BC.shape[1]), dim=1)
        parent_BM = found.parent_BC.gather(1, at_BM)
        digit_BMm, code_BMm = pick(found.digit_BCm, at_BM), pick(found.code_BCm, at_BM)
        codes_BMK = pick(beams.codes_BMK, parent_BM).scatter(2, digit_BMm, code_BMm)
        pairs = None
        if self.config.constraint:
            first_B1 = torch.arange(len(parent_BM), device=parent_BM.device)[:, None] * beams.key_BM.shape[1]
            parent_X, alive_X = (parent_BM + first_B1).flatten(), (score_BM > -torch.inf).flatten()
            pairs = self.index.narrow(beams.pairs, parent_X, digit_BMm.flatten(0, 1), code_BMm.flatten(0, 1), alive_X)
        return Beams(score_BM, codes_BMK, key_BC.gather(1, at_BM), pairs)

    def lists(self, beams: Beams, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """All items of complete beams, those of equal codes one after the other, by number; at least k places."""
        users, width = beams.score_BM.shape
        alive_BM = beams.score_BM > -torch.inf
        group_BM = self.index.find(beams.codes_BMK.flatten(0, 1)).view(users, width).masked_fill(~alive_BM, -1)
        beam_P, item_P = self.index.members(group_BM.flatten())
        user_P = beam_P // width
        number_B = user_P.bincount(minlength=users)
        place_P = torch.arange(len(user_P), device=user_P.device) - (number_B.cumsum(0) - number_B)[user_P]
        shape = users, max(k, int(number_B.max()))
        item_Bk, score_Bk = item_P.new_zeros(shape), beams.score_BM.new_full(shape, -torch.inf)
        item_Bk[user_P, place_P] = item_P + 1
        score_Bk[user_P, place_P] = beams.score_BM.flatten()[beam_P]
        return TopK(item_Bk, score_Bk), {"valid_fraction": (group_BM >= 0).sum(1) / alive_BM.sum(1).clamp_min(1)}


def combinations(beams: Beams, logp_BMKV: Tensor, digit_BMm: Tensor, most: int, enough: int) -> Candidates:
    """The best combinations of codes at each beam's digits, without a look at the catalogue.

    No beam can place more than ``most``, so each keeps that many while digits are joined one by one.
    """
    codewords = logp_BMKV.shape[-1]
    score_BMC, code_BMCm = beams.score_BM[..., None], digit_BMm.new_zeros(*beams.score_BM.shape, 1, 0)
    for place in range(digit_BMm.shape[-1]):
        digit_BM1V = digit_BMm[..., place, None, None].expand(-1, -1, 1, codewords)
        top_BMc, own_BMc = logp_BMKV.gather(2, digit_BM1V)[:, :, 0].topk(min(most, codewords), dim=-1)
        joint_BMX = (score_BMC[..., None] + top_BMc[..., None, :]).flatten(2)
        score_BMC, at_BMC = joint_BMX.topk(min(most, joint_BMX.shape[-1]), dim=-1)
        before_BMCm = code_BMCm.gather(2, (at_BMC // top_BMc.shape[-1])[..., None].expand(-1, -1, -1, place))
        own_BMC = own_BMc.gather(2, at_BMC % top_BMc.shape[-1])
        code_BMCm = torch.cat([before_BMCm, own_BMC[..., None]], dim=-1)
    score_BX = score_BMC.flatten(1)
    score_BC, at_BC = score_BX.topk(min(enough, score_BX.shape[1]), dim=1)
    parent_BC = at_BC // score_BMC.shape[-1]
    return Candidates(score_BC, parent_BC, pick(digit_BMm, parent_BC), pick(code_BMCm.flatten(1, 2), at_BC))


def pick(x_BXm: Tensor, at_BC: Tensor) -> Tensor:
    """``x_BCm``: rows of each user."""
    return x_BXm.gather(1, at_BC[..., None].expand(-1, -1, x_BXm.shape[-1]))


def once(score_BC: Tensor, key_BC: Tensor) -> Tensor:
    """The scores with every candidate at -inf whose key a better one has."""
    order_BC = score_BC.argsort(dim=1, descending=True, stable=True)
    sorted_BC, by_BC = key_BC.gather(1, order_BC).sort(dim=1, stable=True)
    again_BC = F.pad(sorted_BC[:, 1:] == sorted_BC[:, :-1], (1, 0))
    return score_BC.masked_fill(torch.zeros_like(again_BC).scatter(1, order_BC.gather(1, by_BC), again_BC), -torch.inf)

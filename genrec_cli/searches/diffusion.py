"""Search by masked diffusion (MDGR, arXiv 2601.19501): from fully masked codes to items, in any order of digits.

Each of the first ``warmup`` steps fills one digit, each later step ``parallel`` digits: 6 passes for K = 8 digits with
the paper's 4 and 2. Only a summary of the paper is available; our readings:

* in a warm-up step each beam fills its most confident digit (the highest log-probability of any code);
* in a parallel step each beam fills its most confident digits, with all combinations of their codes;
* a score is the sum of the log-probabilities of the codes at the steps that filled them;
* equal assignments that were reached in different orders are one candidate with the best score;
* under the ``constraint`` a beam takes only codes of catalogue items that match its digits so far.

A step keeps the best of all combinations without a loop over users, beams or items; only the number of beams makes the
search approximate. Before equal candidates are merged, the top-k has room for all C(n, m) parents of an assignment.

Legend: B users, M beams, C candidates, K digits, V codewords, I items, m digits of a step, k length of a list.
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
from genrec_cli.nn.packing import positions
from genrec_cli.searches import base
from genrec_cli.searches.base import ListSearch, TopK
from genrec_cli.searches.inverted_index import InvertedLists, Pairs

OPEN = -1
"""A digit that is still masked."""


class DiffusionConfig(Section):
    """The steps and the width of the search."""

    warmup: Natural = 4
    """R_warm: the first digits are filled one by one, each beam's most confident digit first."""
    parallel: Count = 2
    """m_par: digits filled in each step after that."""
    beams: base.Beams = 50
    """Partial items kept after each step."""
    constraint: bool = True
    """Whether only items of the catalogue are built; false: codes of no item are dropped at the end."""


class Beams(NamedTuple):
    """The partial items of each user, best first; empty places have the score -inf."""

    score_BM: Tensor
    codes_BMK: Tensor
    key_BM: Tensor
    pairs: Pairs | None
    """The items that match each beam; None: no digit is filled, or there is no constraint."""


class Candidates(NamedTuple):
    """Candidates for the next beams; empty places have the score -inf."""

    score_BC: Tensor
    parent_BC: Tensor
    digit_BCm: Tensor
    code_BCm: Tensor


class Diffusion(ListSearch):
    """The search for models that predict masked codes."""

    Config = DiffusionConfig
    interface = MaskPredictor
    suffix = "-diffusion"

    def __init__(self, model: MaskPredictor, catalog: Catalog, config: DiffusionConfig) -> None:
        super().__init__(model, catalog, config)
        self.digits, self.index = catalog.digits, InvertedLists(catalog)

    @property
    def steps(self) -> list[int]:
        """The number of digits that each step fills."""
        warmup, parallel = min(self.config.warmup, self.digits), self.config.parallel
        return [1] * warmup + [min(parallel, self.digits - n) for n in range(warmup, self.digits, parallel)]

    @torch.no_grad()
    def search(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The items per history, k or more. The stat ``valid_fraction`` is the fraction of beams that are items."""
        memory, score_B1 = self.model.read(batch), torch.zeros(batch.packing.sequences, 1, device=batch.item_N.device)
        key_B1 = score_B1.long()
        beams = Beams(score_B1, torch.full_like(key_B1, OPEN)[..., None].repeat(1, 1, self.digits), key_B1, None)
        filled = 0
        for count in self.steps:
            logp_BMKV = self.model.fill(memory, beams.codes_BMK).float()
            if self.config.constraint:
                allowed_XKV = self.index.allowed(beams.pairs, beams.key_BM.numel())
                logp_BMKV = logp_BMKV.masked_fill(~allowed_XKV.view_as(logp_BMKV), -torch.inf)
            logp_BMKV = logp_BMKV.masked_fill((beams.codes_BMK != OPEN)[..., None], -torch.inf)
            filled += count
            digit_BMm = logp_BMKV.amax(-1).topk(count).indices
            if self.config.constraint and count > 1:
                candidates = self.items(beams, logp_BMKV, digit_BMm)
            else:
                # Each assignment can have this many parents, so this many candidates hold enough distinct ones.
                limit = self.config.beams * min(comb(filled, count), beams.key_BM.shape[1])
                candidates = combinations(beams, logp_BMKV, digit_BMm, self.config.beams, limit)
            beams = self.select(beams, candidates)
        return self.lists(beams, k)

    def items(self, beams: Beams, logp_BMKV: Tensor, digit_BMm: Tensor) -> Candidates:
        """One candidate per beam and item that matches it: the item's codes at the beam's digits."""
        users, width = beams.score_BM.shape
        pairs = self.index.everything(users) if beams.pairs is None else beams.pairs
        count_B = pairs.count_X.view(users, width).sum(1)
        parent_BC, item_BC = rows(count_B, int(count_B.max()), pairs.candidate_P % width, pairs.item_P)
        digit_BCm = pick(digit_BMm, parent_BC)
        code_BCm = self.index.codes_IK[item_BC].gather(2, digit_BCm).long()
        at_BCm = (parent_BC[..., None] * self.digits + digit_BCm) * self.index.codewords + code_BCm
        logp_BC = logp_BMKV.flatten(1).gather(1, at_BCm.flatten(1)).view(at_BCm.shape).sum(-1)
        empty_BC = torch.arange(item_BC.shape[1], device=item_BC.device) >= count_B[:, None]
        score_BC = (beams.score_BM.gather(1, parent_BC) + logp_BC).masked_fill(empty_BC, -torch.inf)
        return Candidates(score_BC, parent_BC, digit_BCm, code_BCm)

    def select(self, beams: Beams, candidates: Candidates) -> Beams:
        """The best distinct candidates of each user."""
        score_BC, parent_BC, digit_BCm, code_BCm = candidates
        key_BC = self.index.add(beams.key_BM.gather(1, parent_BC), digit_BCm, code_BCm)
        score_BM, at_BM = once(score_BC, key_BC).topk(min(self.config.beams, score_BC.shape[1]), dim=1)
        parent_BM = parent_BC.gather(1, at_BM)
        digit_BMm, code_BMm = pick(digit_BCm, at_BM), pick(code_BCm, at_BM)
        codes_BMK = pick(beams.codes_BMK, parent_BM).scatter(2, digit_BMm, code_BMm)
        pairs = None
        if self.config.constraint:
            first_B1 = torch.arange(len(parent_BM), device=parent_BM.device)[:, None] * beams.key_BM.shape[1]
            parent_X, alive_X = (parent_BM + first_B1).flatten(), (score_BM > -torch.inf).flatten()
            pairs = self.index.narrow(beams.pairs, parent_X, digit_BMm.flatten(0, 1), code_BMm.flatten(0, 1), alive_X)
        return Beams(score_BM, codes_BMK, key_BC.gather(1, at_BM), pairs)

    def lists(self, beams: Beams, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """All items of complete beams, those of equal codes in the order of their ids; at least k places."""
        users, width = beams.score_BM.shape
        alive_BM = beams.score_BM > -torch.inf
        group_BM = self.index.find(beams.codes_BMK.flatten(0, 1)).view(users, width).masked_fill(~alive_BM, -1)
        beam_P, item_P = self.index.members(group_BM.flatten())
        count_B = (beam_P // width).bincount(minlength=users)
        score_P = beams.score_BM.flatten()[beam_P]
        item_Bk, score_Bk = rows(count_B, max(k, int(count_B.max())), item_P + 1, score_P)
        top = TopK(item_Bk, score_Bk.masked_fill(item_Bk == 0, -torch.inf))
        return top, {"valid_fraction": (group_BM >= 0).sum(1) / alive_BM.sum(1).clamp_min(1)}


def combinations(beams: Beams, logp_BMKV: Tensor, digit_BMm: Tensor, per_beam: int, limit: int) -> Candidates:
    """The ``limit`` best combinations of codes at each beam's digits, whether or not they are items.

    Digits are joined one by one. At most ``per_beam`` combinations of a beam can be selected, so each keeps that many.
    """
    codewords = logp_BMKV.shape[-1]
    score_BMC, code_BMCm = beams.score_BM[..., None], digit_BMm.new_zeros(*beams.score_BM.shape, 1, 0)
    for place in range(digit_BMm.shape[-1]):
        digit_BM1V = digit_BMm[..., place, None, None].expand(-1, -1, 1, codewords)
        logp_BMc, next_BMc = logp_BMKV.gather(2, digit_BM1V)[:, :, 0].topk(min(per_beam, codewords), dim=-1)
        joint_BMX = (score_BMC[..., None] + logp_BMc[..., None, :]).flatten(2)
        score_BMC, at_BMC = joint_BMX.topk(min(per_beam, joint_BMX.shape[-1]), dim=-1)
        before_BMCm = code_BMCm.gather(2, (at_BMC // logp_BMc.shape[-1])[..., None].expand(-1, -1, -1, place))
        next_BMC = next_BMc.gather(2, at_BMC % logp_BMc.shape[-1])
        code_BMCm = torch.cat([before_BMCm, next_BMC[..., None]], dim=-1)
    score_BX = score_BMC.flatten(1)
    score_BC, at_BC = score_BX.topk(min(limit, score_BX.shape[1]), dim=1)
    parent_BC = at_BC // score_BMC.shape[-1]
    return Candidates(score_BC, parent_BC, pick(digit_BMm, parent_BC), pick(code_BMCm.flatten(1, 2), at_BC))


def pick(x_BXm: Tensor, at_BC: Tensor) -> Tensor:
    """``x_BCm``: rows of each user."""
    return x_BXm.gather(1, at_BC[..., None].expand(-1, -1, x_BXm.shape[-1]))


def rows(count_B: Tensor, width: int, *values: Tensor) -> list[Tensor]:
    """Ragged arrays, user by user, as padded arrays of B x width; padding is 0."""
    cells = positions(count_B)[::-1]
    return [value_P.new_zeros(len(count_B), width).index_put_(cells, value_P) for value_P in values]


def once(score_BC: Tensor, key_BC: Tensor) -> Tensor:
    """The scores with -inf at every candidate that has the key of a better one."""
    order_BC = score_BC.argsort(dim=1, descending=True, stable=True)
    sorted_BC, by_BC = key_BC.gather(1, order_BC).sort(dim=1, stable=True)
    again_BC = F.pad(sorted_BC[:, 1:] == sorted_BC[:, :-1], (1, 0))
    return score_BC.masked_fill(torch.zeros_like(again_BC).scatter(1, order_BC.gather(1, by_BC), again_BC), -torch.inf)

"""Graph-constrained decoding (RPG, arXiv 2506.05781, section 3.4; MHL's printed inference).

Items are nodes; each is linked to the items whose codes are most similar, ``mean over k of
(1 + cos(E^k_a, E^k_b)) / 2`` in the trained embeddings. From a few random items, each step looks at the
neighbours of the beam and keeps the best. It visits a fraction of the catalogue and is approximate:
``evaluate`` always prints its recall against exact decoding.

Here the graph is built with exact decoding itself: the similarities of one item to all others are a sum
over digits of look-ups, so an item stands in for a user, in chunks; no I x I array exists. Random starts
are a hash of (seed, user), so that a result depends neither on batches nor on devices.

Legend: B users, I items, K digits, V codewords, M beams, E edges, C candidates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.config import Count, Natural, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.decoders.base import TopK
from genrec_cli.decoders.exhaustive import Exhaustive
from genrec_cli.models.base import CodeScorer

CHUNK = 256
"""Items whose neighbours are searched at once: CHUNK x I similarities exist at a time."""


class GraphConfig(Section):
    """The size of graph and search."""

    beams: Count = 50
    """Items kept after each step."""
    edges: Count = 50
    """Neighbours of an item, itself included."""
    steps: Count = 3
    """Steps of propagation."""
    seed: Natural = 0
    """Decides each user's random starts."""


class Graph:
    """The graph over a catalogue under one trained model.

    Args:
        model: anything with ``code_vectors()``.
        catalog: on the model's device.

    Raises:
        ValueError: if items have fewer than K codes or digits share their codewords: text is not compared so.
    """

    Config = GraphConfig
    exact = False
    whole_codes = False
    face = CodeScorer

    def __init__(self, model: CodeScorer, catalog: Catalog, config: GraphConfig) -> None:
        if catalog.shared or catalog.padded:
            raise ValueError("the graph compares items digit by digit, which means nothing for text")
        self.model, self.config = model, config
        self.scorer = Exhaustive(catalog)
        self.neighbour_IE = self._build(model.code_vectors(), catalog)

    @torch.no_grad()
    def _build(self, vectors_KVD: Tensor, catalog: Catalog) -> Tensor:
        """Rows of the ``edges`` most similar items (from 0), each item first among its own."""
        edges = min(self.config.edges, catalog.items)
        unit_KVD = F.normalize(vectors_KVD.float(), dim=-1)
        similar_KVV = (torch.bmm(unit_KVD, unit_KVD.transpose(1, 2)) + 1) / 2
        digit_K = torch.arange(catalog.digits, device=vectors_KVD.device)
        found = []
        for begin in range(0, catalog.items, CHUNK):
            codes_CK = catalog.codes_IK[begin : begin + CHUNK]
            score_CI = self.scorer.code_scores(similar_KVV[digit_K, codes_CK])
            own_C = torch.arange(begin, begin + len(codes_CK), device=score_CI.device)
            score_CI[torch.arange(len(own_C), device=own_C.device), own_C] = 2.0  # itself first, also among twins
            found.append(score_CI.topk(edges, dim=1).indices)
        return torch.cat(found)

    @staticmethod
    def longest(config: GraphConfig) -> int:
        """A list is the last beam."""
        return config.beams

    def decode(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The best k items found for each history, and how many distinct items were ``visited``."""
        top, visited_B = self.search(self.model.code_logprobs(batch), batch.user_B, k)
        return top, {"visited": visited_B}

    @torch.no_grad()
    def search(self, logp_BKV: Tensor, user_B: Tensor, k: int) -> tuple[TopK, Tensor]:
        """The best k items found, and the number of distinct items visited by each user.

        Raises:
            ValueError: if k exceeds the number of beams.
        """
        if k > self.config.beams:
            raise ValueError(f"a list of {k} items needs at least {k} beams, not {self.config.beams}")
        items = len(self.neighbour_IE)
        beams = min(self.config.beams, items)
        table_BX = logp_BKV.flatten(1)
        beam_BM = starts(user_B, beams, items, self.config.seed)
        score_BM = torch.zeros_like(beam_BM, dtype=table_BX.dtype)
        seen_BI = torch.zeros(len(user_B), items, dtype=torch.bool, device=beam_BM.device)
        seen_BI.scatter_(1, beam_BM, True)
        for _ in range(self.config.steps):
            candidate_BC = self.neighbour_IE[beam_BM].flatten(1).sort(dim=1).values
            seen_BI.scatter_(1, candidate_BC, True)
            token_BCK = self.scorer.bag_IK[candidate_BC].long()
            score_BC = table_BX.gather(1, token_BCK.flatten(1)).view(token_BCK.shape).mean(-1)
            again_BC = F.pad(candidate_BC[:, 1:] == candidate_BC[:, :-1], (1, 0))
            score_BC = score_BC.masked_fill(again_BC, -torch.inf)
            score_BM, index_BM = score_BC.topk(min(beams, score_BC.shape[1]), dim=1)
            # A row with fewer distinct candidates than beams is filled with copies of its best one.
            index_BM = torch.where(score_BM > -torch.inf, index_BM, index_BM[:, :1])
            beam_BM = candidate_BC.gather(1, index_BM)
        item_BM = torch.where(score_BM > -torch.inf, beam_BM + 1, 0)
        short = max(k - item_BM.shape[1], 0)
        top = TopK(F.pad(item_BM[:, :k], (0, short)), F.pad(score_BM[:, :k], (0, short), value=-torch.inf))
        return top, seen_BI.sum(1)


def starts(user_B: Tensor, beams: int, items: int, seed: int) -> Tensor:
    """``beams`` pseudo-random items (from 0) of each user: a 32-bit hash of (seed, user, number)."""
    number_M = torch.arange(beams, device=user_B.device)
    x_BM = (user_B[:, None] * 0x9E3779B1 + number_M * 0x85EBCA6B + seed * 0xC2B2AE35) & 0xFFFFFFFF
    for factor in (0x7FEB352D, 0x846CA68B):  # two multiply-xorshift rounds spread neighbouring numbers
        x_BM = x_BM ^ (x_BM >> 16)
        x_BM = (x_BM * factor) & 0xFFFFFFFF
    return (x_BM ^ (x_BM >> 15)) % items

"""Graph-constrained decoding (RPG, arXiv 2506.05781, section 3.4; MHL's printed inference).

Items are nodes; each is linked to the items whose codes are most similar, ``mean over k of
(1 + cos(E^k_a, E^k_b)) / 2`` in the trained embeddings. From a few random items, each step looks at the
neighbours of the beam and keeps the best. It visits a fraction of the catalogue and is approximate:
``evaluate`` always prints its recall against exact decoding.

How the neighbours are found is the matter of :mod:`neighbours`. Random starts are a hash of (seed, user), so that
a result depends neither on batches nor on devices.

Legend: B users, I items, K digits, V codewords, M beams, E edges, C candidates.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.config import Count, Natural, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.decoders.base import TopK
from genrec_cli.decoders.exhaustive import Exhaustive
from genrec_cli.decoders.neighbours import Similarity, exact_neighbours, inverted_neighbours, neighbour_recall
from genrec_cli.models.base import CodeScorer

EXACT_UP_TO = 200_000
"""Items up to which neighbours are found exactly unless told otherwise: minutes on two processor cores."""
SAMPLE = 256
"""Items on which the neighbours of an inverted file are compared with the exact ones."""


class GraphConfig(Section):
    """The size of graph and search."""

    beams: Count = 50
    """Items kept after each step."""
    edges: Count = 50
    """Neighbours of an item, itself included."""
    steps: Count = 3
    """Steps of propagation."""
    seed: Natural = 0
    """Decides each user's random starts, and the lists of the inverted file."""
    neighbours: Literal["auto", "exact", "inverted"] = "auto"
    """How neighbours are found: exact; inverted: candidates from an inverted file; auto: that above 200,000 items."""
    reduced: Count = 256
    """inverted: width of an item's short vector, shared out among the digits."""
    probes: Count = 16
    """inverted: lists searched for the neighbours of one list's items."""


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
        self.figures: dict[str, float] = {}
        """What its construction measured: ``neighbour_recall`` of an inverted file."""
        self.neighbour_IE = self._build(Similarity(model.code_vectors(), catalog, self.scorer))

    @torch.no_grad()
    def _build(self, similarity: Similarity) -> Tensor:
        """Rows of the ``edges`` most similar items (from 0, int32), each item first among its own."""
        config, items = self.config, self.scorer.items
        edges = min(config.edges, items)
        if config.neighbours == "exact" or (config.neighbours == "auto" and items <= EXACT_UP_TO):
            return exact_neighbours(similarity, edges)
        how = {"width": config.reduced, "probes": config.probes}
        neighbour_IE = inverted_neighbours(similarity, edges, **how, seed=config.seed)
        found = neighbour_recall(similarity, neighbour_IE, sample=min(SAMPLE, items), seed=config.seed)
        self.figures["neighbour_recall"] = found
        return neighbour_IE

    @staticmethod
    def longest(config: GraphConfig) -> int:
        """A list is the last beam."""
        return config.beams

    def decode(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The best k items found for each history, and how many distinct items were ``visited``."""
        top, visited_B = self.search(self.model.code_logprobs(batch), batch.user_B, k)
        measured = {name: torch.full(visited_B.shape, value) for name, value in self.figures.items()}
        return top, {"visited": visited_B, **measured}

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
        seen = [beam_BM.int()]
        for _ in range(self.config.steps):
            candidate_BC = self.neighbour_IE[beam_BM].flatten(1).sort(dim=1).values
            seen.append(candidate_BC)
            token_BCK = self.scorer.bag_IK[candidate_BC].long()
            score_BC = table_BX.gather(1, token_BCK.flatten(1)).view(token_BCK.shape).mean(-1)
            score_BC = score_BC.masked_fill(~new(candidate_BC), -torch.inf)
            score_BM, index_BM = score_BC.topk(min(beams, score_BC.shape[1]), dim=1)
            # A row with fewer distinct candidates than beams is filled with copies of its best one.
            index_BM = torch.where(score_BM > -torch.inf, index_BM, index_BM[:, :1])
            beam_BM = candidate_BC.gather(1, index_BM).long()
        item_BM = torch.where(score_BM > -torch.inf, beam_BM + 1, 0)
        short = max(k - item_BM.shape[1], 0)
        top = TopK(F.pad(item_BM[:, :k], (0, short)), F.pad(score_BM[:, :k], (0, short), value=-torch.inf))
        return top, new(torch.cat(seen, 1).sort(dim=1).values).sum(1)


def new(sorted_BC: Tensor) -> Tensor:
    """Which entries of ascending rows are not the one before again."""
    return F.pad(sorted_BC[:, 1:] != sorted_BC[:, :-1], (1, 0), value=True)


def starts(user_B: Tensor, beams: int, items: int, seed: int) -> Tensor:
    """``beams`` pseudo-random items (from 0) of each user: a 32-bit hash of (seed, user, number)."""
    number_M = torch.arange(beams, device=user_B.device)
    x_BM = (user_B[:, None] * 0x9E3779B1 + number_M * 0x85EBCA6B + seed % 2**32 * 0xC2B2AE35) & 0xFFFFFFFF
    for factor in (0x7FEB352D, 0x846CA68B):  # two multiply-xorshift rounds spread neighbouring numbers
        x_BM = x_BM ^ (x_BM >> 16)
        x_BM = (x_BM * factor) & 0xFFFFFFFF
    return (x_BM ^ (x_BM >> 15)) % items

"""Graph search (RPG, arXiv 2506.05781, section 3.4; the inference that MHL prints).

The nodes are the items; each has edges to the items with the most similar codes (:mod:`neighbours`). From random items,
each step scores the neighbours of the beam and keeps the best. The search visits a fraction of the catalogue and is
approximate: ``evaluate`` prints its recall against the exhaustive search.

Random starts are a hash of (seed, user), so that a result does not depend on batches or devices.

Legend: B users, I items, K digits, V codewords, M beams, E edges, C candidates.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from genrec_cli.config import Natural, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import UsageError
from genrec_cli.models.base import CodeScorer, scores_items
from genrec_cli.searches.base import Beams, ListSearch, TopK
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.searches.neighbours import neighbours

LOOK_UPS = 1 << 26
"""Look-ups of digits per part of a batch (8 bytes each), which limits the users of a part."""


class GraphConfig(Section):
    """The size of the graph and of the search."""

    beams: Beams = 50
    """Items kept after each step."""
    edges: Annotated[int, Field(ge=1, le=1_000)] = 50
    """Neighbours of an item, itself included."""
    steps: Annotated[int, Field(ge=1, le=100)] = 3
    """Steps of propagation."""
    seed: Natural = 0
    """Seed of the random starts."""


class Graph(ListSearch):
    """The graph of a catalogue under one trained model."""

    Config = GraphConfig
    interface = CodeScorer
    suffix = "-graph"
    whole_codes = False

    def __init__(self, model: CodeScorer, catalog: Catalog, config: GraphConfig) -> None:
        super().__init__(model, catalog, config)
        if scores_items(model):
            problem = "The graph search reads scores of codes only, and this model also has an item head."
            raise UsageError(problem, hint="--search exhaustive")
        self.scorer = Exhaustive(catalog)
        with torch.no_grad():
            edges = min(config.edges, catalog.items)
            self.neighbour_IE = neighbours(model.code_vectors(), catalog, self.scorer, edges)

    def search(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The best k items found per history; the stat ``visited`` is the number of distinct items visited."""
        top, visited_B = self.walk(self.model.code_logprobs(batch), batch.user_B, k)
        return top, {"visited": visited_B}

    @torch.no_grad()
    def walk(self, logp_BKV: Tensor, user_B: Tensor, k: int) -> tuple[TopK, Tensor]:
        """The best k items found, and the number of distinct items visited per user."""
        items, edges = self.neighbour_IE.shape
        beams = min(self.config.beams, items)
        users = max(LOOK_UPS // (beams * edges * max(logp_BKV.shape[1], self.config.steps)), 1)
        parts = zip(logp_BKV.split(users), user_B.split(users), strict=True)
        item_BM, score_BM, visited_B = map(torch.cat, zip(*(self._walk(*part, beams) for part in parts), strict=True))
        short = max(k - item_BM.shape[1], 0)
        return TopK(F.pad(item_BM[:, :k], (0, short)), F.pad(score_BM[:, :k], (0, short), value=-torch.inf)), visited_B

    def _walk(self, logp_BKV: Tensor, user_B: Tensor, beams: int) -> tuple[Tensor, Tensor, Tensor]:
        """``item_BM``, ``score_BM`` and ``visited_B`` after all steps."""
        table_BX = logp_BKV.flatten(1)
        beam_BM = starts(user_B, beams, len(self.neighbour_IE), self.config.seed)
        score_BM = torch.zeros_like(beam_BM, dtype=table_BX.dtype)
        visited = [beam_BM.int()]
        for _ in range(self.config.steps):
            candidate_BC = self.neighbour_IE[beam_BM].flatten(1).sort(dim=1).values
            visited.append(candidate_BC)
            token_BCK = self.scorer.table.bag_IK[candidate_BC].long()
            score_BC = table_BX.gather(1, token_BCK.flatten(1)).view(token_BCK.shape).mean(-1)
            score_BC = score_BC.masked_fill(~new(candidate_BC), -torch.inf)
            score_BM, index_BM = score_BC.topk(min(beams, score_BC.shape[1]), dim=1)
            # With fewer distinct candidates than beams, the other beams are copies of the best one.
            index_BM = torch.where(score_BM > -torch.inf, index_BM, index_BM[:, :1])
            beam_BM = candidate_BC.gather(1, index_BM).long()
        visited_B = new(torch.cat(visited, 1).sort(dim=1).values).sum(1)
        return torch.where(score_BM > -torch.inf, beam_BM + 1, 0), score_BM, visited_B


def new(sorted_BC: Tensor) -> Tensor:
    """Which entries of ascending rows differ from the previous entry."""
    return F.pad(sorted_BC[:, 1:] != sorted_BC[:, :-1], (1, 0), value=True)


def starts(user_B: Tensor, beams: int, items: int, seed: int) -> Tensor:
    """``beams`` pseudo-random items (from 0) per user: a 32-bit hash of (seed, user, beam)."""
    beam_M = torch.arange(beams, device=user_B.device)
    x_BM = (user_B[:, None] * 0x9E3779B1 + beam_M * 0x85EBCA6B + seed % 2**32 * 0xC2B2AE35) & 0xFFFFFFFF
    for factor in (0x7FEB352D, 0x846CA68B):  # two multiply-xorshift rounds
        x_BM = ((x_BM ^ (x_BM >> 16)) * factor) & 0xFFFFFFFF
    return (x_BM ^ (x_BM >> 15)) % items

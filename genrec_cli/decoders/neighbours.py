"""The most similar items of each item: the edges of the decoding graph, found exactly or by an inverted file.

Two items are as similar as their codes' embeddings: ``mean over k of (1 + cos(E^k_a, E^k_b)) / 2`` (RPG, arXiv
2506.05781, section 3.4), a sum of look-ups in a table of K x V x V.

Exactly, an item stands in for a user of exhaustive decoding. That is a pass over the catalogue for every few
items, so its cost grows with the square of the catalogue. The inverted file of :mod:`inverted` proposes
candidates by short vectors, whose similarities come from the same table; here they are ranked by the table
itself, so only candidates that were never proposed can be missed.

Legend: I items, K digits, V codewords, D width, C items looked up at once, E edges, N candidates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.data.catalog import Catalog
from genrec_cli.decoders.exhaustive import Exhaustive
from genrec_cli.decoders.inverted import InvertedFile, nearest
from genrec_cli.decoders.leaders import first

CHUNK = 256
"""Items whose neighbours are searched at once: the tables of similarities to their codes are CHUNK x K x V."""
CANDIDATES = 4
"""Candidates that are ranked exactly for each edge."""
LOOK_UPS = 1 << 24
"""Look-ups in the table that are prepared at once."""


class Similarity:
    """How similar the items of a catalogue are.

    Args:
        vectors_KVD: embeddings of the codes, as trained.
    """

    def __init__(self, vectors_KVD: Tensor, catalog: Catalog, scorer: Exhaustive) -> None:
        unit_KVD = F.normalize(vectors_KVD.float(), dim=-1)
        self.cosine_KVV = torch.bmm(unit_KVD, unit_KVD.transpose(1, 2))
        self.codes_IK, self.scorer = catalog.codes_IK, scorer

    def exact(self, item_C: Tensor, edges: int) -> Tensor:
        """``neighbour_CE`` of some items (from 0): each first among its own, then by similarity, then by id."""
        digit_K = torch.arange(len(self.cosine_KVV), device=item_C.device)
        table_CKV = (self.cosine_KVV[digit_K, self.codes_IK[item_C].long()] + 1) / 2
        own = item_C + 1, torch.arange(len(item_C), device=item_C.device)
        top = self.scorer.top(self.scorer.code_scored(table_CKV), edges - 1, hidden=own)
        return torch.cat([item_C[:, None], top.item_Bk - 1], 1)

    def ranked(self, item_C: Tensor, candidate_CN: Tensor, edges: int) -> Tensor:
        """The same among candidates; a row of too few is filled with the item itself."""
        digits, codewords = len(self.cosine_KVV), self.cosine_KVV.shape[1]
        digit_K = torch.arange(digits, device=item_C.device)
        row_CK = (digit_K * codewords + self.codes_IK[item_C]) * codewords
        candidate_CN = candidate_CN.sort(1).values  # equals stand in order of their ids
        look_up_MK = (row_CK[:, None] + self.codes_IK[candidate_CN]).flatten(0, 1)
        score_CN = F.embedding_bag(look_up_MK, self.cosine_KVV.view(-1, 1), mode="sum").view(candidate_CN.shape)
        score_CN = score_CN.masked_fill(candidate_CN == item_C[:, None], -torch.inf)
        best_CE = first(score_CN, min(edges - 1, candidate_CN.shape[1]))
        found_CE = candidate_CN.gather(1, best_CE)
        found_CE = torch.where(score_CN.gather(1, best_CE) > -torch.inf, found_CE, item_C[:, None])
        short = edges - 1 - found_CE.shape[1]
        return torch.cat([item_C[:, None], found_CE, item_C[:, None].expand(-1, short)], 1)


def exact_neighbours(similarity: Similarity, edges: int) -> Tensor:
    """``neighbour_IE`` (int32, items from 0) of the whole catalogue."""
    item_I = torch.arange(len(similarity.codes_IK), device=similarity.codes_IK.device)
    return torch.cat([similarity.exact(item_C, edges).int() for item_C in item_I.split(CHUNK)])


def inverted_neighbours(similarity: Similarity, edges: int, *, width: int, probes: int, seed: int) -> Tensor:
    """``neighbour_IE`` (int32, items from 0) from candidates of an inverted file.

    Args:
        width: of the reduced vectors, all digits together.
        probes: lists that are searched for the items of one.
    """
    codes_IK = similarity.codes_IK
    file = InvertedFile(reduced(similarity.cosine_KVV, width), codes_IK, seed=seed)
    neighbour_IE = torch.empty(len(codes_IK), edges, dtype=torch.int32, device=codes_IK.device)
    size = max(LOOK_UPS // (CANDIDATES * edges * codes_IK.shape[1]), 1)
    for item_M, candidate_MN in nearest(file, CANDIDATES * edges, probes=probes):
        for item_C, candidate_CN in zip(item_M.split(size), candidate_MN.split(size), strict=True):
            neighbour_IE[item_C] = similarity.ranked(item_C, candidate_CN, edges).int()
    return neighbour_IE


def reduced(cosine_KVV: Tensor, width: int) -> Tensor:
    """``vec_KVW``, W = width // K: vectors whose products are the best approximation of rank W to the cosines."""
    size = min(max(width // len(cosine_KVV), 1), cosine_KVV.shape[1])
    value_KV, vector_KVV = torch.linalg.eigh(cosine_KVV)  # ascending
    return vector_KVV[:, :, -size:] * value_KV[:, None, -size:].clamp_min(0).sqrt()


def neighbour_recall(similarity: Similarity, neighbour_IE: Tensor, *, sample: int, seed: int) -> float:
    """Share of the exact neighbours (without the item itself) that the graph has, over a sample of items."""
    generator = torch.Generator().manual_seed(seed)
    item_C = torch.randint(0, len(neighbour_IE), (sample,), generator=generator).to(neighbour_IE.device)
    edges = neighbour_IE.shape[1]
    if edges < 2:
        return 1.0
    hits = [
        (neighbour_IE[item_c][:, 1:, None] == similarity.exact(item_c, edges)[:, None, 1:]).any(2).float().mean(1)
        for item_c in item_C.split(CHUNK)
    ]
    return float(torch.cat(hits).mean())

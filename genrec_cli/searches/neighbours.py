"""The most similar items of each item: the edges of the graph, found exactly and chunk by chunk.

The similarity of two items is that of their codes' embeddings: ``mean over k of (1 + cos(E^k_a, E^k_b)) / 2`` (RPG,
arXiv 2506.05781, section 3.4), a sum of look-ups in a table of K x V x V. So an item takes the place of a user in the
exhaustive search. That is a pass over the catalogue for every few items: the cost grows with the square of the
catalogue, the memory does not.

Legend: I items, K digits, V codewords, D width, C items looked up at once, E edges.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.data.catalog import Catalog
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.exhaustive import Exhaustive

CHUNK = 256
"""Items whose neighbours are searched at once: the tables of similarities to their codes are CHUNK x K x V."""


def neighbours(vectors_KVD: Tensor, catalog: Catalog, scorer: Exhaustive, edges: int) -> Tensor:
    """``neighbour_IE`` (int32, items from 0): each item first in its own row, then by similarity, then by id.

    Args:
        vectors_KVD: embeddings of the codes, as trained.
    """
    unit_KVD = F.normalize(vectors_KVD.float(), dim=-1)
    similarity_KVV = (torch.bmm(unit_KVD, unit_KVD.transpose(1, 2)) + 1) / 2
    digit_K = torch.arange(catalog.digits, device=similarity_KVV.device)
    found = []
    for item_C in torch.arange(catalog.items, device=similarity_KVV.device).split(CHUNK):
        scores = scorer.code_scored(similarity_KVV[digit_K, catalog.codes_IK[item_C].long()])
        itself = Excluded(item_C + 1, torch.arange(len(item_C), device=item_C.device))
        other_CE = scorer.top(scores, edges - 1, excluded=itself).item_Bk - 1
        found.append(torch.cat([item_C[:, None], other_CE], 1).int())
    return torch.cat(found)

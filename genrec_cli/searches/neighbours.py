"""The most similar items of each item: the edges of the graph, by exhaustive search.

The similarity of two items is ``mean over k of (1 + cos(E^k_a, E^k_b)) / 2`` (RPG, arXiv 2506.05781, section 3.4), a
sum of look-ups in a table of K x V x V: each item is searched for like a user. The time is quadratic in the catalogue,
the memory is linear.

Legend: I items, K digits, V codewords, D width, C items of a chunk, E edges.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.data.catalog import Catalog
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.exhaustive import Exhaustive

CHUNK = 256
"""Items per pass over the catalogue; their tables of similarities are CHUNK x K x V."""


def neighbours(vectors_KVD: Tensor, catalog: Catalog, scorer: Exhaustive, edges: int) -> Tensor:
    """``neighbour_IE`` (int32, items from 0): in each row the item itself, then others by similarity, then by id."""
    assert catalog.codes_IK is not None
    unit_KVD = F.normalize(vectors_KVD.float(), dim=-1)
    similarity_KVV = (torch.bmm(unit_KVD, unit_KVD.transpose(1, 2)) + 1) / 2
    digit_K = torch.arange(catalog.digits, device=similarity_KVV.device)
    rows = []
    for item_C in torch.arange(catalog.items, device=similarity_KVV.device).split(CHUNK):
        scores = scorer.code_scored(similarity_KVV[digit_K, catalog.codes_IK[item_C].long()])
        itself = Excluded(item_C + 1, torch.arange(len(item_C), device=item_C.device))
        other_CE = scorer.top(scores, edges - 1, excluded=itself).item_Bk - 1
        rows.append(torch.cat([item_C[:, None], other_CE], 1).int())
    return torch.cat(rows)

"""An inverted file: items in lists by their nearest of many centroids, so that neighbours share few lists.

Items of a list look for neighbours together, in the lists whose centroids are nearest to that of their own: one
matrix product a list. FAISS would do the same, but evaluation runs where only torch is.

Legend: I items, K digits, V codewords, W width of a digit's vectors, D = K x W, L lists, P probes, M items of a
list, N candidates.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

SAMPLE = 64
"""Items for each list from which the centroids are learned."""
ROUNDS = 10
"""Of k-means. More change the lists' borders, which are crossed by probing anyway."""
CELLS = 1 << 24
"""Products that exist at a time."""


class InvertedFile:
    """Items in lists, twice the root of the catalogue in number.

    Args:
        vec_KVW: vectors of the codes; an item's vector is those of its codes, one after the other.
    """

    def __init__(self, vec_KVW: Tensor, codes_IK: Tensor, *, seed: int) -> None:
        self.vec_KVW, self.codes_IK = vec_KVW, codes_IK
        items, device = len(codes_IK), codes_IK.device
        lists = max(min(round(2 * math.sqrt(items)), items), 1)
        drawn_S = torch.randperm(items, generator=torch.Generator().manual_seed(seed))[: SAMPLE * lists].to(device)
        self.centroid_LD = k_means(self.vectors(drawn_S), lists)
        item_I = torch.arange(items, device=device)
        size = max(CELLS // lists, 1)
        list_I = torch.cat([closest(self.vectors(item_C), self.centroid_LD) for item_C in item_I.split(size)])
        self.item_I = list_I.argsort(stable=True)
        """Items (from 0) of all lists, one list after the other."""
        self.number_L = torch.bincount(list_I, minlength=lists)

    def vectors(self, item_C: Tensor) -> Tensor:
        """``vec_CD`` of some items (from 0)."""
        digit_K = torch.arange(len(self.vec_KVW), device=item_C.device)
        return self.vec_KVW[digit_K, self.codes_IK[item_C].long()].flatten(1)


def closest(vec_CD: Tensor, centroid_LD: Tensor) -> Tensor:
    """``list_C``: the centroid at the smallest Euclidean distance from each vector."""
    return torch.addmm(-centroid_LD.square().sum(1) / 2, vec_CD, centroid_LD.t()).argmax(1)


def k_means(vec_SD: Tensor, lists: int) -> Tensor:
    """``centroid_LD``, from the first vectors by Lloyd's rounds; a centroid that nothing is close to stays."""
    centroid_LD = vec_SD[:lists].clone()
    size = max(CELLS // lists, 1)
    for _ in range(ROUNDS):
        list_S = torch.cat([closest(vec_CD, centroid_LD) for vec_CD in vec_SD.split(size)])
        number_L1 = torch.bincount(list_S, minlength=lists)[:, None]
        mean_LD = torch.zeros_like(centroid_LD).index_add_(0, list_S, vec_SD) / number_L1.clamp_min(1)
        centroid_LD = torch.where(number_L1 > 0, mean_LD, centroid_LD)
    return centroid_LD


def nearest(file: InvertedFile, number: int, *, probes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``item_M`` and ``candidate_MN``, list by list: items by the largest product of vectors, at most ``number``."""
    end_L = file.number_L.cumsum(0)
    part = [file.item_I[end - size : end] for end, size in zip(end_L.tolist(), file.number_L.tolist(), strict=True)]
    centroid_LD = file.centroid_LD
    for own, centroid_D in enumerate(centroid_LD):
        if len(part[own]) == 0:
            continue
        distance_L = (centroid_LD - centroid_D).square().sum(1)
        near_P = distance_L.topk(min(probes, len(centroid_LD)), largest=False).indices.tolist()
        other_N = torch.cat([part[near] for near in near_P])
        vec_ND = file.vectors(other_N)
        for item_M in part[own].split(max(CELLS // len(other_N), 1)):
            product_MN = file.vectors(item_M) @ vec_ND.t()
            yield item_M, other_N[product_MN.topk(min(number, len(other_N)), dim=1).indices]

"""Beam search inside the catalogue, for models that write codes digit after digit (TIGER, arXiv 2305.05065).

A beam is a node of the catalogue's trie: it can only be extended by codes that lead to an item, so that every
list is full and every code valid. Two beams never meet, since a node has one parent. Log-probabilities of digits
are added; with as many beams as the catalogue has codes no prefix is ever dropped and the search is exact.

Legend: B users, M beams, W children of the widest node, V codewords, k list length.
"""

from typing import ClassVar

import torch
from torch import Tensor

from genrec_cli.config import Count, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.decoders.base import TopK
from genrec_cli.decoders.trie import Trie
from genrec_cli.models.base import PrefixScorer


class BeamConfig(Section):
    """The breadth of the search."""

    beams: Count = 50
    """Prefixes kept after each digit; also the longest list."""
    renormalise: bool = False
    """Share each digit's probability among the codes that lead to an item, so that an item's is its true one;
    off: what the model gives to codes that lead nowhere is lost."""


class Beam:
    """The search for one trained model and its catalogue, which is on the model's device.

    Raises:
        ValueError: if items have fewer than K codes.
    """

    Config = BeamConfig
    exact = False
    face = PrefixScorer
    whole_codes: ClassVar[bool] = True

    def __init__(self, model: PrefixScorer, catalog: Catalog, config: BeamConfig) -> None:
        if catalog.padded:
            raise ValueError("beams end at the last digit, and some items of these codes have fewer")
        self.model, self.config = model, config
        self.trie = Trie(catalog)

    @staticmethod
    def longest(config: BeamConfig) -> int:
        """A beam is a code, and each code has an item at least."""
        return config.beams

    @torch.no_grad()
    def decode(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The k best items found for each history: items of the best code by id, then those of the next. A score
        is the log-probability of an item's codes. The figure ``codes`` counts those that were scored to the end.

        Raises:
            ValueError: if k exceeds the number of beams.
        """
        if k > self.config.beams:
            raise ValueError(f"a list of {k} items needs at least {k} beams, not {self.config.beams}")
        prefixes = self.model.prefixes(batch)
        logp_BMV = prefixes.first()
        score_BM = torch.zeros_like(logp_BMV[..., 0])
        node_BM = torch.zeros_like(score_BM, dtype=torch.long)
        for digit, level in enumerate(self.trie.levels):
            child_BMW, code_BMW, real_BMW = self.trie.children(digit, node_BM)
            logp_BMW = logp_BMV.gather(2, code_BMW).masked_fill(~real_BMW, -torch.inf)
            if self.config.renormalise:
                logp_BMW = logp_BMW - logp_BMW.logsumexp(-1, keepdim=True)
            score_BX = (score_BM[..., None] + logp_BMW).flatten(1)
            beams = min(self.config.beams, score_BX.shape[1], len(level.code))
            score_BM, at_BM = score_BX.topk(beams, dim=1)
            node_BM = child_BMW.flatten(1).gather(1, at_BM)
            if digit + 1 < len(self.trie.levels):
                logp_BMV = prefixes.extend(at_BM // level.widest, code_BMW.flatten(1).gather(1, at_BM))
        scored_B = (score_BX > -torch.inf).sum(1)
        node_BM, order_BM = node_BM.sort(dim=1)  # then equal scores come in the order of codes
        score_BM, again_BM = score_BM.gather(1, order_BM).sort(dim=1, descending=True, stable=True)
        item_Bk, beam_Bk = self.trie.items(node_BM.gather(1, again_BM), score_BM > -torch.inf, k)
        score_Bk = torch.where(item_Bk > 0, score_BM.gather(1, beam_Bk), -torch.inf)
        return TopK(item_Bk, score_Bk), {"codes": scored_B}

"""Beam search in the catalogue's trie, for models that generate codes digit by digit (TIGER, arXiv 2305.05065).

A beam is a node of the trie, and is extended only by codes that lead to an item: every list is full and every code
valid. A score is the sum of the log-probabilities of the digits. With as many beams as the catalogue has codes it is
exact.

Legend: B users, M beams, W children of the widest node, X = M x W extensions, V codewords, k length of a list.
"""

import torch
from torch import Tensor

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.base import PrefixScorer
from genrec_cli.searches.base import Beams, ListSearch, TopK
from genrec_cli.searches.trie import Trie


class BeamConfig(Section):
    """The width of the search."""

    beams: Beams = 50
    """Prefixes kept after each digit; also the longest list."""


class Beam(ListSearch):
    """Beam search for one trained model and its catalogue."""

    Config = BeamConfig
    interface = PrefixScorer
    suffix = "-beam"

    def __init__(self, model: PrefixScorer, catalog: Catalog, config: BeamConfig) -> None:
        super().__init__(model, catalog, config)
        self.trie = Trie(catalog)

    @torch.no_grad()
    def search(self, batch: Batch, k: int) -> tuple[TopK, dict[str, Tensor]]:
        """The k best items per history; the items of a code are in the order of their ids. The stat ``codes`` is the
        number of complete codes that were scored."""
        prefixes = self.model.prefixes(batch)
        logp_BMV = prefixes.first()
        score_BM = torch.zeros_like(logp_BMV[..., 0])
        node_BM = torch.zeros_like(score_BM, dtype=torch.long)
        for digit, level in enumerate(self.trie.levels):
            child_BMW, code_BMW, real_BMW = self.trie.children(digit, node_BM)
            logp_BMW = logp_BMV.gather(2, code_BMW).masked_fill(~real_BMW, -torch.inf)
            score_BX = (score_BM[..., None] + logp_BMW).flatten(1)
            beams = min(self.config.beams, score_BX.shape[1], len(level.code))
            score_BM, at_BM = score_BX.topk(beams, dim=1)
            node_BM = child_BMW.flatten(1).gather(1, at_BM)
            if digit + 1 < len(self.trie.levels):
                logp_BMV = prefixes.extend(at_BM // level.widest, code_BMW.flatten(1).gather(1, at_BM))
        scored_B = (score_BX > -torch.inf).sum(1)
        node_BM, order_BM = node_BM.sort(dim=1)  # equal scores are listed in the order of codes
        score_BM, best_BM = score_BM.gather(1, order_BM).sort(dim=1, descending=True, stable=True)
        item_Bk, beam_Bk = self.trie.items(node_BM.gather(1, best_BM), score_BM > -torch.inf, k)
        score_Bk = torch.where(item_Bk > 0, score_BM.gather(1, beam_Bk), -torch.inf)
        return TopK(item_Bk, score_Bk), {"codes": scored_B}

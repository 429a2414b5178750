"""Item head: a score per item beside the scores of its codes.

    score(i) = mean over k of log P^k(code_k(i) | h)  +  mix * cos(g(h), x_i) / tau

``x_i`` is the item's vector at the input: its pooled codes and its dense side (``nn/dense_items.py``). ``g`` is a
residual head like that of a digit. It is trained by the softmax cross-entropy over the catalogue, next to the losses of
the codes. The digits are predicted independently of each other, so they cannot tell which of two items with similar
codes follows an item; the item head can, and with free vectors it remembers single transitions. LIGER (Yang et al.
2024, arXiv 2411.18814) scores candidates of its generator in this way; here all items are scored by the sum.

Legend: M positions, I items, K digits, D width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.nn.code_bags import CodeBags
from genrec_cli.nn.codes import CodeEmbedding, CodeHeads
from genrec_cli.nn.dense_items import DenseItems
from genrec_cli.nn.item_cross_entropy import Added, item_cross_entropy
from genrec_cli.nn.losses import Loss


class ItemHead(nn.Module):
    """The scores of the items with codes ``codes_IK`` (negative: padding) in the table of ``codes``."""

    scale_I1: Tensor

    def __init__(self, codes_IK: Tensor, codes: CodeEmbedding, temperature: float) -> None:
        super().__init__()
        self.temperature, self.residual = temperature, CodeHeads(1, codes.table.embedding_dim)
        real_IK = codes_IK >= 0
        token_IK = codes.tokens(codes_IK.long()).masked_fill(~real_IK, -1)
        self.bags = CodeBags(token_IK, len(codes.table.weight))
        self.register_buffer("scale_I1", codes.scale / real_IK.sum(1, keepdim=True), persistent=False)

    def reset(self) -> None:
        self.residual.reset()

    def queries(self, h_MD: Tensor) -> Tensor:
        """``query_MD``, whose dot products with :meth:`vectors` are ``cos / tau``."""
        return F.normalize(self.residual(h_MD)[0], dim=-1) / self.temperature

    def vectors(self, codes: CodeEmbedding, dense: DenseItems | None) -> Tensor:
        """``unit_ID``: the vectors of all items, as at the input, of length 1."""
        x_ID = self.bags(codes.table.weight) * self.scale_I1
        return F.normalize(x_ID if dense is None else x_ID + dense(), dim=-1)

    def loss(self, h_MD: Tensor, unit_ID: Tensor, column_M: Tensor, added: tuple[Added, float] | None = None) -> Loss:
        """``column_M``: the next items, from 0; -1 is ignored. ``added``: as of :func:`item_cross_entropy`."""
        return item_cross_entropy(self.queries(h_MD), unit_ID, column_M, added=added)

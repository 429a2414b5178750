"""RecJPQ: joint product quantisation of item embeddings (Petrov and Macdonald, WSDM 2024, arXiv 2312.06165).

An item's embedding is the concatenation of K sub-vectors of width D / K, one for each of its codes; the same K tables
of V sub-vectors serve the input and the output. So the score of an item is a sum of look-ups:

    score(i) = sum over k of S^k[code_k(i)],    S^k = E^k h^k

K V dot products per history and then additions; no array of items x D exists, neither in the loss nor in the search.
The codes come from a decomposition of the training interactions (tokenizer ``svd``), not from texts; any other codes
work too. K, the number of splits, is that of the codes:

    genrec tokenize --tokenizer svd --codebooks 8

Legend: M positions with a target, m those of a chunk, I items, K splits (digits), V codewords, D width, d = D / K.

:class:`JointlyQuantised` replaces the item table of any item model whose scores are dot products with the vectors of
``self.item``; a class that names it before the model is that model with RecJPQ, without biases of items. The one
registered is SASRec, the paper's first backbone; its other two, BERT4Rec and GRU4Rec, work too. Refused are models
with cosine scores (HSTU), as the norm of an item's vector is no sum of look-ups, and with a second table for the scores
(HGN, Caser).

Deviations from the authors' code: softmax cross-entropy over the whole catalogue by default; ``loss = "bce"`` is that
of their SASRec, and ``"gbce"`` that of gSASRec. SASRec's deviations (models/sasrec.py). D is 128, not 512.

The trap: the authors compare it with a SASRec that has a second table for its output, so "compression helps" compares
models of unlike size; here SASRec has one table. K decides both the components of the SVD and the splits.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Need
from genrec_cli.models.item_model import ItemModel
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.nn.chunks import CHUNK, limit, sum_over_chunks
from genrec_cli.nn.code_bags import CodeBags
from genrec_cli.nn.digit_scores import TABLE
from genrec_cli.nn.item_cross_entropy import ScoresCrossEntropy
from genrec_cli.nn.losses import Loss


class JointlyQuantised(ItemModel):
    """An item model whose item table consists of shared sub-vectors. Interface: DigitScorer."""

    needs: ClassVar[frozenset[Need]] = frozenset({"codes"})
    item: "SplitEmbedding"

    def __init_subclass__(cls, **options: Any) -> None:
        """Raises TypeError for a backbone that scores other vectors than those of its item table."""
        super().__init_subclass__(**options)
        for base in cls.__mro__[cls.__mro__.index(JointlyQuantised) + 1 : cls.__mro__.index(ItemModel)]:
            config: type[Section] | None = vars(base).get("Config")
            if "item_vectors" in vars(base) or (config and config.model_fields["output"].default != "tied"):
                raise TypeError(f"{base.__name__} scores other vectors than those of its item table")
        cls.needs = frozenset().union(*(vars(base).get("needs", ()) for base in cls.__mro__))

    @classmethod
    def check(cls, config: Any, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if catalog is not None and catalog.padded:
            hint = "genrec tokenize --tokenizer svd    and then --codes"
            raise ConfigError("RecJPQ needs K codes of every item, and some items have fewer, as texts do.", hint=hint)

    def item_table(self, catalog: Catalog, extra: int) -> nn.Module:
        return SplitEmbedding(catalog, self.config.width, extra)

    def item_bias(self, items: int) -> None:
        """None: a bias per item is no sum of look-ups."""

    def item_vectors(self) -> Tensor:
        """``E_ID``, materialised. Neither training nor search calls it."""
        return self.item(torch.arange(self.items, device=self.code_RK.device))

    def vectors_of(self, column_X: Tensor) -> Tensor:
        return cast(Tensor, self.item(column_X))

    def digit_scores(self, batch: Batch) -> Tensor:
        return self.item.split_scores(self.queries(batch)).permute(2, 0, 1)

    def catalogue_loss(self, h_MD: Tensor, column_M: Tensor) -> Loss:
        """The cross-entropy, in chunks of positions whose tables and scores fit into a cache."""
        device, item = h_MD.device, self.item
        rows = max(limit(CHUNK, device) // self.items, 1)
        if device.type == "cpu":
            rows = max(min(rows, TABLE // (4 * item.digits * item.codewords)), 16)
        column = column_M.split(rows)

        def loss(chunk: int, shared: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
            score_Im = item.bags(split_scores(shared[0], parts[0]).flatten(0, 1))
            return ScoresCrossEntropy.apply(score_Im, column[chunk])

        total = sum_over_chunks(loss, [len(part) for part in column], [item.centroids()], [h_MD])
        return Loss(total, (column_M >= 0).sum().to(total.dtype))


class SplitEmbedding(nn.Module):
    """Vectors of items, counted from 0, as K sub-vectors side by side; special tokens after the last item have rows of
    their own."""

    token_RK: Tensor

    def __init__(self, catalog: Catalog, width: int, extra: int = 0) -> None:
        super().__init__()
        assert catalog.codes_IK is not None
        self.digits, self.codewords = catalog.digits, catalog.codewords
        if width % self.digits:
            raise ValueError(f"the codes per item ({self.digits}) must divide the width ({width})")
        coded, device = self.digits * self.codewords, catalog.codes_IK.device
        token_IK = catalog.codes_IK.int() + torch.arange(0, coded, self.codewords, device=device, dtype=torch.int32)
        special = coded + torch.arange(extra * self.digits, device=device, dtype=torch.int32)
        self.table = nn.Embedding(coded + len(special), width // self.digits)
        self.register_buffer("token_RK", torch.cat([token_IK, special.view(extra, self.digits)]), persistent=False)
        self.bags = CodeBags(token_IK, coded)

    @property
    def weight(self) -> Tensor:
        """All sub-vectors, for a backbone that initialises its item table."""
        return self.table.weight

    def forward(self, column_X: Tensor) -> Tensor:
        return self.table(self.token_RK[column_X]).flatten(-2)

    def centroids(self) -> Tensor:
        """``E_KVd``"""
        return self.table.weight[: self.digits * self.codewords].unflatten(0, (self.digits, -1))

    def split_scores(self, h_MD: Tensor) -> Tensor:
        return split_scores(self.centroids(), h_MD)


def split_scores(centroid_KVd: Tensor, h_MD: Tensor) -> Tensor:
    """``score_KVM`` in fp32: the dot product of each split of a state with each sub-vector of this split."""
    return torch.bmm(centroid_KVd, h_MD.unflatten(1, (len(centroid_KVd), -1)).permute(1, 2, 0)).float()


class RecJpq(JointlyQuantised, SasRec):
    """SASRec with RecJPQ's item table."""

    Config: ClassVar[type[Section]] = SasRecConfig

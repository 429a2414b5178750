"""S3-Rec: SASRec after self-supervised pre-training on items, attributes and segments (Zhou et al., CIKM 2020, arXiv
2008.07873).

Two models, two runs: ``s3rec-pretrain`` learns four tasks with a bidirectional Transformer, and ``s3rec`` is SASRec,
which starts from the weights of that run (``--init-from``). With h the states of a row whose masked items are [MASK]:

* AAP, associated attribute prediction (equation 5): the attributes of an unmasked item, by ``sigmoid(E_a . W h)``;
* MIP, masked item prediction (equation 7): a masked item, by ``E_i . W h``;
* MAP, masked attribute prediction (equation 9): the attributes of a masked item, as in AAP with a matrix of its own;
* SP, segment prediction (equation 11): ``-log sigmoid(c . W s - c . W s')``, where c is the last state of the row
  without a segment, s that of the segment alone, and s' that of the segment of another row.

The trap: a fine-tuning that loads no weights is SASRec under another name. So ``train`` refuses ``s3rec`` without a run
of ``s3rec-pretrain``, unless ``model.from_scratch`` is true; then it is SASRec to the last bit.

Deviations from the authors' code: one row per user, in place of one per target, with new masks in each epoch. [MASK]
after the history predicts the last training item (the losses "next" and "map"); the authors always mask the last item
of a row. "next" and "mask" are both MIP. Losses are means over items, and sums over attributes; theirs are sums over
items too, so AAP, which has four times as many items as MAP, weighs more there. MIP is cross-entropy over the
catalogue by default; ``loss = "bpr"`` is the paper's pair, without the second sigmoid, which saturates. The segment of
a row is made from its mask: it begins at a masked item and has as many items as are masked, at most half of the row.
Segments never hold validation or test items; negatives may, as nothing is known of these. The authors' segments hold
them, and their negatives do not. The segment of another row is that of the row before it in the same process and
micro-batch, so SP depends on their sizes. "next" and "mask" have the whole weight of MIP each, so MIP weighs twice as
much beside MAP as in the paper. Pre-norm blocks by default, and item embeddings are multiplied by sqrt(D) at the
input, as SASRec's are.

Legend: B histories, N packed items, X packed tokens with [MASK] after each history, M chosen items, A attributes, D
width.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.config import NonNegative, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Masking, Need
from genrec_cli.models.item_model import ItemModel
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.nn import losses
from genrec_cli.nn.losses import Loss
from genrec_cli.nn.packing import Packing, take
from genrec_cli.nn.transformer import Transformer, initialise


class S3RecConfig(SasRecConfig):
    """SASRec's Transformer; its sizes and ``train.max_length`` must be those of the pre-training."""

    from_scratch: bool = False
    """Train without --init-from; this is SASRec."""


class S3Rec(SasRec):
    """The fine-tuning. Interface: DotScorer."""

    Config: ClassVar[type[Section]] = S3RecConfig
    pretrained_by = "s3rec-pretrain"
    pretrained_with = ("width", "layers", "heads", "inner", "activation", "norm", "graph_edges")


class S3RecPretrainConfig(SasRecConfig):
    """SASRec's Transformer, and the weights of the four losses."""

    aap_weight: NonNegative = 0.2
    """Weight of associated attribute prediction."""
    mip_weight: NonNegative = 1.0
    """Weight of masked item prediction."""
    map_weight: NonNegative = 1.0
    """Weight of masked attribute prediction."""
    sp_weight: NonNegative = 0.5
    """Weight of segment prediction."""


class S3RecPretrain(ItemModel):
    """The pre-training. Interface: DotScorer; [MASK] after a history scores the next item."""

    Config: ClassVar[type[Section]] = S3RecPretrainConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"attributes"})
    masking: ClassVar[Masking] = "random"
    causal = False
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "train": {"lr": 1e-3, "warmup_steps": 200, "weight_decay": 0.01, "windows": "recent", "select": "last"}
        | {"epochs": 100, "eval_every": 10},
        # All epochs: 1,000 evaluations without improvement never happen.
        "curriculum": {"preset": "r", "ratio": 0.2, "budget": "printed", "patience": 1000},
    }
    attribute_RA: Tensor

    def __init__(self, config: S3RecPretrainConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length, extra=1)  # the last row is [MASK]
        self.register_buffer("attribute_RA", catalog.attribute_RA, persistent=False)
        options: dict[str, Any] = {"residual_dropout": config.dropout, "causal": False, "norm": config.norm}
        self.backbone = Transformer(config, max_length + 1, scale=math.sqrt(config.width), **options)
        self.attribute = nn.Embedding(catalog.attributes, config.width)
        self.aap, self.mip, self.map, self.sp = (nn.Linear(config.width, config.width) for _ in range(4))
        initialise(self)

    @classmethod
    def check(cls, config: S3RecPretrainConfig, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if config.loss != "ce" and train.windows != "recent":
            problem = f"model.loss = {config.loss} needs a sampled item for each item that may be masked."
            raise ConfigError(problem, hint="--set train.windows=recent, or --set model.loss=ce")
        if not any((config.aap_weight, config.mip_weight, config.map_weight, config.sp_weight)):
            raise ConfigError("The weights of all four losses are 0.", hint="--set model.mip_weight=1")
        if config.sp_weight and train.micro_batch_size == 1:
            problem = "Segment prediction compares the segments of several rows, and train.micro_batch_size is 1."
            raise ConfigError(problem, hint="--set train.micro_batch_size=8, or --set model.sp_weight=0")

    def encode(self, batch: Batch, hidden_N: Tensor) -> tuple[Tensor, Tensor]:
        """``h_ND`` of the items, some of which are replaced by [MASK], and ``h_BD`` of [MASK] after each history."""
        packing = batch.packing.expand(suffix=1)
        token_N = torch.arange(len(batch.item_N), device=batch.item_N.device) + batch.packing.sequence_N
        item_X = torch.full_like(packing.sequence_N, self.items)
        item_X[token_N] = torch.where(hidden_N, self.items, batch.item_N - 1)
        h_XD = self.backbone(self.item(item_X), packing)
        return take(h_XD, token_N), take(h_XD, packing.last_B)

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        """At ``last_B`` alone: the state of [MASK] after each history."""
        return self.mip(self.encode(batch, torch.zeros_like(batch.item_N, dtype=torch.bool))[1])

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        assert batch.target_N is not None, "only a training batch has targets"
        weight, last_B = self._weights(masked=mask is not None), batch.packing.last_B
        mask_N = torch.zeros_like(batch.item_N, dtype=torch.bool) if mask is None else mask[:, 0]
        masked_M, seen_M = mask_N.nonzero()[:, 0], (~mask_N).nonzero()[:, 0]
        h_ND, h_BD = self.encode(batch, mask_N)
        h_MD, masked, target_B = take(h_ND, masked_M), batch.item_N[masked_M], batch.target_N[last_B]
        found = {"next": self._mip(h_BD, target_B, batch.negative_MS, last_B)}
        if "mask" in weight:
            found["mask"] = self._mip(h_MD, masked, batch.negative_MS, masked_M)
        if "aap" in weight:
            found["aap"] = self._attributes(self.aap(take(h_ND, seen_M)), batch.item_N[seen_M])
        if "map" in weight:
            found["map"] = self._attributes(self.map(torch.cat([h_MD, h_BD])), torch.cat([masked, target_B]))
        if "sp" in weight:
            found["sp"] = self._segments(batch, mask_N)
        return {name: loss._replace(weight=weight.get(name, 0.0)) for name, loss in found.items()}

    def counts(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Tensor]:
        assert batch.target_N is not None, "only a training batch has targets"
        packing = batch.packing
        mask_N = torch.zeros_like(batch.item_N, dtype=torch.bool) if mask is None else mask[:, 0]
        counts = {"next": (batch.target_N[packing.last_B] > 0).sum(), "mask": mask_N.sum(), "aap": (~mask_N).sum()}
        counts["map"] = counts["mask"] + packing.sequences
        counts["sp"] = torch.full_like(counts["mask"], len(_rows_of(segments(mask_N, packing), packing)))
        return {name: counts[name] for name in self._weights(masked=mask is not None)}

    def _weights(self, *, masked: bool) -> dict[str, float]:
        """The weights of the trained losses, by name."""
        config = self.config
        weights = {"next": config.mip_weight, "aap": config.aap_weight, "map": config.map_weight}
        weights |= {"mask": config.mip_weight, "sp": config.sp_weight} if masked else {}
        return {name: weight for name, weight in weights.items() if weight}

    def _mip(self, h_MD: Tensor, item_M: Tensor, negative_NS: Tensor | None, at_M: Tensor) -> Loss:
        return self.item_loss(self.mip(h_MD), item_M, self._drawn(negative_NS, at_M))

    def _drawn(self, negative_NS: Tensor | None, at_M: Tensor) -> Tensor | None:
        """The sampled items of some positions; one row, if all positions share them."""
        return negative_NS if negative_NS is None or self.shared_negatives else negative_NS[at_M]

    def _attributes(self, h_MD: Tensor, item_M: Tensor) -> Loss:
        """Binary cross-entropy of every attribute, summed; without an array of M x attributes for the truth."""
        logit_MX = (h_MD @ self.attribute.weight.t()).float()
        attribute_MA = self.attribute_RA[item_M]
        own_MA = logit_MX.gather(1, (attribute_MA - 1).clamp_min(0)).masked_fill(attribute_MA == 0, 0.0)
        return losses.loss_of(F.softplus(logit_MX).sum() - own_MA.sum(), len(item_M))

    def _segments(self, batch: Batch, mask_N: Tensor) -> Loss:
        """SP of all rows with a segment; the other segment is that of the row before."""
        segment_N = segments(mask_N, batch.packing)
        row_M = _rows_of(segment_N, batch.packing)
        states = []
        for hidden_N in (segment_N, ~segment_N):
            item_ND = self.item(torch.where(hidden_N, self.items, batch.item_N - 1))
            states.append(take(self.backbone(item_ND, batch.packing, batch.packing.last_B), row_M))
        without_MD, alone_MD = states
        query_MD = self.sp(without_MD)
        other_M = (query_MD * alone_MD.roll(1, 0)).sum(-1)
        return losses.bpr((query_MD * alone_MD).sum(-1), other_M[:, None])


def segments(mask_N: Tensor, packing: Packing) -> Tensor:
    """``segment_N``: one run of items per row, made from the mask alone. It begins at one of the k masked items, chosen
    by the sum of their positions, and has k items, at most half of the row; it is moved back where the row ends."""
    row_N, zero_B = packing.sequence_N, torch.zeros_like(packing.length_B)
    count_B = zero_B.index_add(0, row_N, mask_N.long())
    chosen_B = zero_B.index_add(0, row_N, mask_N * packing.position_N) % count_B.clamp_min(1)
    rank_N = mask_N.cumsum(0) - 1 - (count_B.cumsum(0) - count_B)[row_N]
    first_B = zero_B.index_add(0, row_N, packing.position_N * (mask_N & (rank_N == chosen_B[row_N])))
    length_B = torch.minimum(count_B, packing.length_B // 2)
    first_N = torch.minimum(first_B, packing.length_B - length_B)[row_N]
    return (packing.position_N >= first_N) & (packing.position_N < first_N + length_B[row_N])


def _rows_of(segment_N: Tensor, packing: Packing) -> Tensor:
    """The rows with a segment; none if there is only one, as it has no other segment."""
    row_M = torch.unique_consecutive(packing.sequence_N[segment_N])
    return row_M if len(row_M) > 1 else row_M[:0]

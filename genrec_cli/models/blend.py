"""Blend: a mixture of trained models over the catalogue. ``genrec blend`` makes it; nothing is trained by gradient.

Each part gives a distribution over all items: ``p(i) = softmax(score(i) / temperature)``. A count model has the score
``log(count score)``, and ``floor`` of its probability is spread evenly, because most of its scores are 0. The blend is
``sum of weight * p`` ("sum") or ``exp(sum of weight * log p)`` ("product"; Hinton, Training products of experts by
minimizing contrastive divergence, 2002). A bucket of histories may have weights of its own.

Legend: B histories, I items, C items of a chunk, P parts, G buckets.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Model
from genrec_cli.nn.packing import Packing

if TYPE_CHECKING:
    from genrec_cli.searches.scores import Scores

CHUNK = 1 << 14
"""Items per chunk of the pass that normalises the scores."""
Form = Literal["sum", "product"]
"""How distributions are mixed: a weighted sum of probabilities, or of their logarithms."""


@dataclass(frozen=True)
class Part:
    """A model of a blend: ``scored`` gives the scores of the catalogue, by histories of at most ``max_length`` items.
    ``counts``: scores from 0, of a model that was not trained by gradient."""

    scored: "Callable[[Batch], Scores]"
    max_length: int
    counts: bool = False
    temperature: float = 1.0
    floor: float = 0.0

    def distribution(self, batch: Batch) -> "Distribution":
        return Distribution(self, self.scored(recent(batch, self.max_length)))


class Distribution:
    """Log-probabilities of one part, by chunks of items. One pass over the catalogue normalises them."""

    def __init__(self, part: Part, scores: "Scores") -> None:
        self.part, self.scores = part, scores
        total_B = torch.full((scores.users,), -torch.inf, device=scores.device)
        for begin in range(0, scores.items, CHUNK):
            logit_CB = self._logits(scores.chunk(begin, begin + CHUNK))
            total_B = torch.logaddexp(total_B, logit_CB.logsumexp(0))
        self.total_B = total_B

    def _logits(self, score_X: Tensor) -> Tensor:
        return (score_X.log() if self.part.counts else score_X) / self.part.temperature

    def _logprobs(self, score_X: Tensor) -> Tensor:
        logp_X = self._logits(score_X) - self.total_B
        if not self.part.floor:
            return logp_X
        logp_X = logp_X.nan_to_num(nan=-torch.inf)  # a history without any count
        spread = torch.full_like(logp_X, math.log(self.part.floor / self.scores.items))
        return torch.logaddexp(logp_X + math.log1p(-self.part.floor), spread)

    def chunk(self, begin: int, end: int) -> Tensor:
        """``logp_CB``"""
        return self._logprobs(self.scores.chunk(begin, end))

    def of(self, item_B: Tensor) -> Tensor:
        """``logp_B``"""
        return self._logprobs(self.scores.of(item_B))


@dataclass(frozen=True)
class Mixing:
    """How the parts are mixed. ``edges`` divide histories into buckets: by their length, or by the training count of
    their last item; without edges all histories are in bucket 0."""

    form: Form
    weight_GP: tuple[tuple[float, ...], ...]
    by: Literal["none", "length", "count"] = "none"
    edges: tuple[int, ...] = ()

    def bucket(self, batch: Batch, train_count_I: Tensor) -> Tensor:
        """``bucket_B`` of the histories."""
        value_B = batch.packing.length_B
        if self.by == "count":
            value_B = train_count_I[batch.item_N[batch.packing.last_B] - 1]
        return torch.bucketize(
            value_B, torch.tensor(self.edges, device=value_B.device, dtype=value_B.dtype), right=True
        )

    def weights(self, bucket_B: Tensor) -> Tensor:
        """``weight_PB``"""
        return torch.tensor(self.weight_GP, device=bucket_B.device)[bucket_B].t()


def mixed(form: str, logp_PX: Tensor, weight_PX: Tensor) -> Tensor:
    """The scores of a mixture; a part of weight 0 has no influence, whatever its log-probabilities are."""
    if form == "sum":
        return torch.logsumexp(logp_PX + weight_PX.log(), 0)
    return (logp_PX * weight_PX).where(weight_PX > 0, 0.0).sum(0)


class BlendScores:
    """``Scores`` (``searches/scores.py``) of a blend, by chunks of items; no array of users x items exists."""

    def __init__(self, parts: Sequence[Distribution], form: str, weight_PB: Tensor) -> None:
        scores = parts[0].scores
        self.parts, self.form, self.weight_PB, self.logprobs = parts, form, weight_PB, form == "sum"
        self.users, self.items, self.device = scores.users, scores.items, scores.device

    def chunk(self, begin: int, end: int) -> Tensor:
        logp_PCB = torch.stack([part.chunk(begin, end) for part in self.parts])
        return mixed(self.form, logp_PCB, self.weight_PB[:, None, :])

    def of(self, item_B: Tensor) -> Tensor:
        return mixed(self.form, torch.stack([part.of(item_B) for part in self.parts]), self.weight_PB)


class Blend(Model):
    """Interface: ChunkScorer. ``stages/blend.py`` sets the parts; without any, all items have equal scores."""

    Config: ClassVar[type[Section]] = Section
    trainable: ClassVar[bool] = False

    def __init__(self, config: Section, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.items, self.train_count_I = catalog.items, catalog.train_count_I
        self.parts: list[Part] = [Part(self._equal, max_length)]
        self.mixing = Mixing("sum", ((1.0,),))

    @classmethod
    def check(cls, config: Any, train: Any, catalog: Catalog | None = None) -> None:
        raise ConfigError("A blend is made from trained runs.", hint="genrec blend RUN RUN")

    def fit(self, catalog: Catalog, histories: Any) -> None:
        """Does nothing: the parts are trained."""

    def chunked_scores(self, batch: Batch) -> BlendScores:
        weight_PB = self.mixing.weights(self.mixing.bucket(batch, self.train_count_I))
        parts = [part.distribution(batch) for part in self.parts]
        return BlendScores(parts, self.mixing.form, weight_PB)

    def item_scores(self, batch: Batch) -> Tensor:
        return self.chunked_scores(batch).chunk(0, self.items).t()

    def _equal(self, batch: Batch) -> Any:
        return _Equal(batch.packing.sequences, self.items, batch.item_N.device)


@dataclass(frozen=True)
class _Equal:
    """The scores of a blend without parts."""

    users: int
    items: int
    device: torch.device
    logprobs: bool = False

    def chunk(self, begin: int, end: int) -> Tensor:
        return torch.zeros(min(end, self.items) - begin, self.users, device=self.device)

    def of(self, item_B: Tensor) -> Tensor:
        return torch.zeros(len(item_B), device=self.device)


def recent(batch: Batch, max_length: int) -> Batch:
    """The batch with the last ``max_length`` items of each history; the batch itself if none is longer."""
    packing = batch.packing
    if packing.grid.longest <= max_length:
        return batch
    kept_N = packing.length_B[packing.sequence_N] - packing.position_N <= max_length
    cut = Packing.of(packing.length_B.clamp_max(max_length).cpu().numpy()).to(batch.item_N.device)
    time_N, next_N = (None if x is None else x[kept_N] for x in (batch.time_N, batch.next_time_N))
    return replace(batch, item_N=batch.item_N[kept_N], packing=cut, time_N=time_N, next_time_N=next_N)

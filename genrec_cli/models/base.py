"""The model contract: tensors in, losses or scores out.

A model implements at least one *scorer interface*; the search that it is paired with declares which one it needs.

* :class:`ItemScorer`: one score per item of the catalogue (:class:`DotScorer`: a dot product; :class:`SparseScorer`: 0
  for most items; :class:`ChunkScorer`: by chunks of items),
* :class:`DigitScorer`: K tables of scores over codewords, whose sum over digits is an item's score
  (:class:`CodeScorer`: the tables are log-probabilities; :class:`CodeAndItemScorer`: and each item has a dot product),
* :class:`CodeGenerator`: digits that depend on each other, so that a search is needed: :class:`PrefixScorer` gives the
  distribution of each digit after the digits before it, :class:`MaskPredictor` predicts masked codes in any order.

Legend: B histories, N packed items, M positions with a target, I items, K digits, V codewords, D width.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeGuard, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.nn.losses import Loss

if TYPE_CHECKING:
    from genrec_cli.searches.scores import Scores

Need = Literal["codes", "vectors", "attributes", "times", "users"]
"""Data that a model may need. codes, vectors, attributes: tensors of the ``Catalog``; times: ``Batch.time_N``; users:
``Catalog.users`` and ``Batch.user_B``."""
Masking = Literal["none", "random", "entropy", "target"]
"""Masks that a model can be trained with. random: over the history; entropy: the same, and the model has ``entropies``;
target: over the digits of each target."""


class Model(nn.Module):
    """Base class. The header of a subclass's file names its paper, its equations and its deviations."""

    Config: ClassVar[type[Section]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    trainable: ClassVar[bool] = True
    """Whether the model is trained by gradient; if not, :meth:`fit` is all of its training."""
    pretrained_by: ClassVar[str] = ""
    """Name of the model whose run a training must start from, unless ``model.from_scratch`` is true."""
    pretrained_with: ClassVar[tuple[str, ...]] = ()
    """Settings of [model] that must be those of that run, as ``train.max_length`` must."""
    causal: bool = True
    """Whether the state at an item depends only on this item and the items before it."""
    search: ClassVar[str] = "exhaustive"
    """Name of the default search of validation and of all commands."""
    masking: ClassVar[Masking] = "none"
    graph_capturable: bool = False
    """Whether a training step without a mask has no host-device synchronisation, so that CUDA can capture it as a
    graph. Such a step has padding rows with the target 0, which its losses must ignore."""
    negatives: int = 0
    """Sampled items per target of a training batch (``Batch.negative_MS``)."""
    shared_negatives: bool = False
    """Whether all targets of a batch have the same sampled items."""
    defaults: ClassVar[dict[str, dict[str, Any]]] = {}
    """Section -> key -> value: this model's own defaults."""
    code_RK: Tensor
    """Of models that need codes: the tensor of the catalogue."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, given, known in (("needs", cls.needs, Need), ("masking", {cls.masking}, Masking)):
            if unknown := set(given) - set(get_args(known)):
                raise TypeError(f"{cls.__name__}.{name} has {unknown}; possible are {get_args(known)}")

    def __init__(self, config: Section, catalog: Catalog, *, max_length: int) -> None:
        super().__init__()
        if "codes" in self.needs:
            self.register_buffer("code_RK", catalog.code_RK, persistent=False)

    @classmethod
    def needs_of(cls, config: Any) -> frozenset[Need]:
        """What the model needs under ``[model]``: ``needs``, and what single settings add, such as times. Codes are
        always or never needed."""
        return cls.needs

    @classmethod
    def reads_content(cls, config: Any) -> bool:
        """Whether the model knows items by their codes or vectors alone, so that a run can read other items; else it
        knows them by id."""
        return bool(cls.needs & {"codes", "vectors"})

    @classmethod
    def check(cls, config: Any, train: Any, catalog: Catalog | None = None) -> None:
        """Raise ConfigError if the sections ``[model]`` and ``[train]`` do not fit each other or the catalogue. Without
        ``catalog`` a command is only planned; the check is repeated with it."""
        causal = getattr(config, "causal", cls.causal)
        if not causal and cls.masking in ("none", "target") and train.windows != "each":
            problem = f"This encoder sees later items: with train.windows = {train.windows} it would see its targets."
            option = ", or --set model.causal=true" if "causal" in cls.Config.model_fields else ""
            raise ConfigError(problem, hint=f"--set train.windows=each{option}")

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        """The losses of a training batch by name, among them "next"; the engine adds them with their weights. ``mask``
        is drawn before the pass, of the kind ``masking``; None in a phase without masks."""
        raise TypeError(f"{type(self).__name__} is not trained by gradient")

    def counts(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The counts of the trained losses, without a pass: gradient accumulation divides each part by their total."""
        target = self.target_codes(batch) + 1 if "codes" in self.needs else targets(batch)[1]
        return {"next": (target > 0).sum()}

    def maskable(self, batch: Batch) -> Tensor:
        """``candidate_NK``: the codes of the history that a mask may cover; one column for a model of items."""
        if "codes" in self.needs:
            return self.code_RK[batch.item_N] >= 0
        return torch.ones(len(batch.item_N), 1, dtype=torch.bool, device=batch.item_N.device)

    def fit(self, catalog: Catalog, histories: Any) -> None:
        """Learn without gradients from flat arrays ``item``, ``offset``, ``train_end`` of all users
        (``data/sequences.py``); only the first ``train_end`` items per user are for training. Called once before the
        training by gradient, or in place of it (``trainable = False``). Most models have nothing to learn in this way.
        """

    def codes_of(self, item_X: Tensor) -> Tensor:
        """Codes of items (ids from 1; 0, padding, has zeros) as int64, with one more dimension of K."""
        return self.code_RK[item_X].long()

    def target_codes(self, batch: Batch, at_M: Tensor | None = None) -> Tensor:
        """``code_MK`` of the targets at packed positions (default: ``learn_M``); -1 in padding rows."""
        target_M = targets(batch, at_M)[1]
        return self.codes_of(target_M).masked_fill(target_M[:, None] == 0, -1)


def targets(batch: Batch, at_M: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Packed positions ``at_M`` (default: all with a target) and their ``target_M`` (ids from 1; 0 in padding rows)."""
    at_M = batch.learn_M if at_M is None else at_M
    assert at_M is not None and batch.target_N is not None, "only a training batch has targets"
    return at_M, batch.target_N[at_M]


# ---- scorer interfaces -----------------------------------------------------------------------------


@runtime_checkable
class ItemScorer(Protocol):
    """A model that scores items."""

    def item_scores(self, batch: Batch) -> Tensor:
        """``score_BI``: column i is item i + 1; higher is better."""


@runtime_checkable
class DotScorer(ItemScorer, Protocol):
    """An item scorer whose scores are dot products; a search may compute them in chunks of items."""

    def queries(self, batch: Batch) -> Tensor:
        """``h_BD``, to be multiplied with the vector of each item."""

    def item_vectors(self) -> Tensor:
        """``E_ID``: row i is item i + 1."""


@runtime_checkable
class SparseScorer(ItemScorer, Protocol):
    """An item scorer with score 0 for most items; the search reads the other scores, and no B x I array exists."""

    def sparse_scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``cell_S = (item - 1) * B + row of the batch``, ascending and distinct, and ``score_S``."""


@runtime_checkable
class ChunkScorer(ItemScorer, Protocol):
    """An item scorer that makes its scores in chunks of items by itself, so that no B x I array exists."""

    def chunked_scores(self, batch: Batch) -> "Scores":
        """The scores of the catalogue (``searches/scores.py``)."""


@runtime_checkable
class DigitScorer(Protocol):
    """A model whose score of an item is the sum over digits of table entries."""

    def digit_scores(self, batch: Batch) -> Tensor:
        """``score_BKV``: entry (k, v) is added to the score of each item whose code at digit k is v."""


@runtime_checkable
class CodeScorer(Protocol):
    """A model that gives K independent distributions over codewords per history."""

    def code_logprobs(self, batch: Batch) -> Tensor:
        """``logp_BKV``: log-probabilities, normalised over V. An item's score is their mean over its digits."""

    def code_vectors(self) -> Tensor:
        """``E_KVD`` as trained (``E_VD`` if the digits share it): the graph search measures similarity by it."""


@runtime_checkable
class CodeAndItemScorer(CodeScorer, Protocol):
    """A code scorer that can also score items by themselves; see :func:`scores_items`."""

    by_item: bool
    """Whether it does. Then items of equal codes have different scores."""

    def code_logprobs_and_queries(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``logp_BKV`` and ``query_BD``: an item's score is the mean of its log-probabilities plus the dot product of
        the query with the item's vector."""

    def item_vectors(self) -> Tensor:
        """``E_ID``: row i is item i + 1."""


@runtime_checkable
class AddedScorer(Protocol):
    """A model that adds something to some of the scores that it gives by another interface, such as counts."""

    def added_scores(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Cells as of a :class:`SparseScorer` and what is added to their scores; None: nothing is."""


def scores_items(model: object) -> TypeGuard[CodeAndItemScorer]:
    """Whether a code scorer scores items by themselves, too."""
    return isinstance(model, CodeAndItemScorer) and model.by_item


def tells_apart(model: object) -> bool:
    """Whether items of equal codes have scores of their own: those of items, or counts that are added."""
    return scores_items(model) or getattr(model, "prior", None) is not None


@runtime_checkable
class CodeGenerator(Protocol):
    """A model whose digits depend on each other, so that a search explores the catalogue."""

    def target_loss(self, batch: Batch, target_B: Tensor) -> Tensor:
        """``loss_B``: the mean over digits of ``-log p`` of the target's codes; the model's header defines p."""


@runtime_checkable
class EntropyModel(Protocol):
    """A model with ``masking = "entropy"``: it gives its uncertainty at each code of a history."""

    def entropies(self, batch: Batch) -> Tensor:
        """``entropy_NK`` in nats, without gradient; padding codes have the mean of their item's other codes."""

    def maskable(self, batch: Batch) -> Tensor: ...


@runtime_checkable
class Reconstructor(Protocol):
    """A model with a mask loss, which predicts masked codes of a history. A model of items has one code per item: the
    item, from 0."""

    def reconstruct(self, batch: Batch, mask_NK: Tensor, at_M: Tensor) -> Tensor:
        """``logp_MKV`` at packed positions ``at_M`` of a history whose codes ``mask_NK`` are masked."""

    def maskable(self, batch: Batch) -> Tensor: ...


class Prefixes(Protocol):
    """The beams of a batch of histories, with a KV cache: each call computes one new token per beam."""

    def first(self) -> Tensor:
        """``logp_B1V`` of the first digit; each history starts with one beam, the empty prefix."""

    def extend(self, parent_BM: Tensor, code_BM: Tensor) -> Tensor:
        """``logp_BMV`` of the next digit; beam m is the earlier beam ``parent_BM[b, m]`` and one more code. A beam may
        be the parent of any number of beams; M may differ from call to call."""


@runtime_checkable
class PrefixScorer(CodeGenerator, Protocol):
    """A model that generates codes from the first digit to the last; ``target_loss`` is teacher-forced."""

    def prefixes(self, batch: Batch) -> Prefixes:
        """Encode the histories once; the result gives at most K log-probabilities per beam."""


@runtime_checkable
class MaskPredictor(CodeGenerator, Protocol):
    """A model that predicts masked codes of the next item, in any order. M candidates (beams) per history."""

    def read(self, batch: Batch) -> Any:
        """Encode B histories once; only :meth:`fill` reads the result."""

    def fill(self, memory: Any, codes_BMK: Tensor) -> Tensor:
        """``logp_BMKV``, normalised over V, of each digit given the known digits. Every candidate has at least one
        masked code, -1. The output at known digits has no meaning."""

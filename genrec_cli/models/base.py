"""The model contract: tensors in, losses or scores out.

A model offers at least one *scorer interface*. A search and a model are matched by that interface before any work
starts:

* :class:`ItemScorer`: one score for each item of the catalogue (:class:`DotScorer`: as a dot product;
  :class:`SparseScorer`: 0 for most items),
* :class:`DigitScorer`: K tables of scores over codewords, whose sum over digits is an item's score
  (:class:`CodeScorer`: the tables are log-probabilities),
* :class:`CodeGenerator`: codes that depend on each other, so that a search is needed:
  :class:`PrefixScorer` gives the distribution of each digit after the digits before it,
  :class:`MaskPredictor` predicts missing codes in any order.

Legend: B histories, N packed items, M positions with a target, I items, K digits, V codewords, D width.
"""

from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.nn.losses import Loss

Need = Literal["codes", "vectors", "attributes", "times", "users"]
"""What a model may ask of the data. codes, vectors, attributes: tensors of the ``Catalog``; times: ``Batch.time_N``;
users: ``Catalog.users`` and ``Batch.user_B``."""
Masking = Literal["none", "random", "entropy", "target"]
"""What a model can be trained with. random: masks over the history; entropy: the same, and it can say how uncertain it
is (``entropies``); target: masks over the digits of each target."""


class Model(nn.Module):
    """Base class. The header of a subclass's file names its paper, its equations and its deviations."""

    Config: ClassVar[type[Section]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    trainable: ClassVar[bool] = True
    """False: :meth:`fit` is called once in place of training by gradient."""
    causal: bool = True
    """Whether the state at an item depends only on this item and the items before it."""
    search: ClassVar[str] = "exhaustive"
    """Name of the search that validation and all commands use by default."""
    masking: ClassVar[Masking] = "none"
    graph_capturable: bool = False
    """Whether a training step without a mask never synchronises with the device, so that CUDA can capture it as a
    graph. Such a step gets padding rows whose targets are item 0, and its losses must ignore them."""
    negatives: int = 0
    """Sampled items per target that a training batch must bring (``Batch.negative_MS``)."""
    defaults: ClassVar[dict[str, dict[str, Any]]] = {}
    """Section -> key -> value that suit this model better than the general defaults."""
    code_RK: Tensor
    """Of models that need codes: the catalogue's tensor itself."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, given, known in (("needs", cls.needs, Need), ("masking", {cls.masking}, Masking)):
            if unknown := set(given) - set(get_args(known)):
                raise TypeError(f"{cls.__name__}.{name} holds {unknown}; known are {get_args(known)}")

    def __init__(self, config: Section, catalog: Catalog, *, max_length: int) -> None:
        super().__init__()
        if "codes" in self.needs:
            self.register_buffer("code_RK", catalog.code_RK, persistent=False)

    @classmethod
    def check(cls, config: Any, train: Any, catalog: Catalog | None = None) -> None:
        """Refuse settings that do not fit each other, before any work.

        Args:
            config, train: the sections ``[model]`` and ``[train]``.
            catalog: None while a command is only planned; the check is made again once the catalogue is read.

        Raises:
            ConfigError: with the setting to change.
        """
        causal = getattr(config, "causal", cls.causal)
        if not causal and cls.masking in ("none", "target") and train.windows != "each":
            raise ConfigError(
                f"This encoder sees later items, so that train.windows = {train.windows} would show it its targets.",
                hint="--set train.windows=each"
                + (", or --set model.causal=true" if "causal" in cls.Config.model_fields else ""),
            )

    # ---- training --------------------------------------------------------------------------------

    def losses(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Loss]:
        """The losses of a training batch by name, among them "next"; the engine weighs and adds them.

        Args:
            mask: drawn before the pass; what it masks, ``masking`` says. None where the phase has no mask.
        """
        raise TypeError(f"{type(self).__name__} is not trained by gradient")

    def counts(self, batch: Batch, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The counts of the trained losses, without a pass: gradient accumulation divides each part by their total."""
        if "codes" in self.needs:
            return {"next": (self.target_codes(batch) >= 0).sum()}
        return {"next": (batch.target_N[batch.learn_M] > 0).sum()}

    def maskable(self, batch: Batch) -> Tensor:
        """``candidate_NK``: what a mask over the history may hide. One column for a model of items."""
        if "codes" in self.needs:
            return self.code_RK[batch.item_N] >= 0
        return torch.ones(len(batch.item_N), 1, dtype=torch.bool, device=batch.item_N.device)

    def fit(self, catalog: Catalog, histories: Any) -> None:
        """Learn without gradients (``trainable = False``).

        Args:
            histories: flat arrays ``item``, ``offset``, ``train_end`` of all users (``data/sequences.py``); only the
                first ``train_end`` items of a user are for training.
        """
        raise TypeError(f"{type(self).__name__} is trained by gradient")

    # ---- codes -----------------------------------------------------------------------------------

    def codes_of(self, item_X: Tensor) -> Tensor:
        """Codes of items (ids from 1; 0, padding, has zeros) as int64, with one more dimension of K."""
        return self.code_RK[item_X].long()

    def target_codes(self, batch: Batch, at_M: Tensor | None = None) -> Tensor:
        """``code_MK`` of the items to learn (at ``learn_M`` by default); -1 for padding rows, which have no target."""
        target_M = batch.target_N[batch.learn_M if at_M is None else at_M]
        return self.codes_of(target_M).masked_fill(target_M[:, None] == 0, -1)


# ---- scorer interfaces -----------------------------------------------------------------------------


@runtime_checkable
class ItemScorer(Protocol):
    """A model that scores items."""

    def item_scores(self, batch: Batch) -> Tensor:
        """``score_BI``: column i belongs to item i + 1; higher is better."""
        ...


@runtime_checkable
class DotScorer(ItemScorer, Protocol):
    """An item scorer whose scores are dot products: a search may ask for some items at a time."""

    def queries(self, batch: Batch) -> Tensor:
        """``h_BD``: the vector that each item's vector is multiplied with."""
        ...

    def item_vectors(self) -> Tensor:
        """``E_ID``: row i belongs to item i + 1."""
        ...


@runtime_checkable
class SparseScorer(ItemScorer, Protocol):
    """An item scorer that gives most items score 0: the search asks for the others alone, and no B x I array exists."""

    def sparse_scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``cell_S = (item - 1) * B + row of the batch``, ascending and each once, and ``score_S``; the others
        are 0."""
        ...


@runtime_checkable
class DigitScorer(Protocol):
    """A model whose score of an item is the sum over digits of table entries."""

    def digit_scores(self, batch: Batch) -> Tensor:
        """``score_BKV``: entry (k, v) is added to the score of each item whose code at digit k is v."""
        ...


@runtime_checkable
class CodeScorer(Protocol):
    """A model that gives, for each history, K independent distributions over codewords."""

    def code_logprobs(self, batch: Batch) -> Tensor:
        """``logp_BKV``: log-probabilities, normalised over V. An item's score is their mean over its digits."""
        ...

    def code_vectors(self) -> Tensor:
        """``E_KVD`` as trained (``E_VD`` if the digits share it): the decoding graph's measure of similarity."""
        ...


@runtime_checkable
class CodeGenerator(Protocol):
    """A model whose digits depend on each other: nothing scores a whole catalogue, a search explores it."""

    def target_loss(self, batch: Batch, target_B: Tensor) -> Tensor:
        """``loss_B``: the mean over digits of ``-log p`` of the target's codes; the model's header says how."""
        ...


@runtime_checkable
class EntropyModel(Protocol):
    """A model with ``masking = "entropy"``: it knows how uncertain it is at each code of a history."""

    def entropies(self, batch: Batch) -> Tensor:
        """``entropy_NK`` in nats, without gradient; padding codes have the mean of their item's other codes."""
        ...

    def maskable(self, batch: Batch) -> Tensor: ...


class Prefixes(Protocol):
    """The beams of a batch of histories, grown digit by digit with cached keys and values: each call computes one new
    token per beam."""

    def first(self) -> Tensor:
        """``logp_B1V`` of the first digit: each history starts with one beam, the empty prefix."""
        ...

    def extend(self, parent_BM: Tensor, code_BM: Tensor) -> Tensor:
        """``logp_BMV`` of the next digit, where beam m is the earlier beam ``parent_BM[b, m]`` and one code more.

        A beam may be the parent of many beams or of none; M may differ from call to call.
        """
        ...


@runtime_checkable
class PrefixScorer(CodeGenerator, Protocol):
    """A model that generates an item's codes from the first digit to the last; ``target_loss`` conditions each digit
    on the true digits before it."""

    def prefixes(self, batch: Batch) -> Prefixes:
        """Encode the histories once; log-probabilities are then asked of the result, at most K times."""
        ...


@runtime_checkable
class MaskPredictor(CodeGenerator, Protocol):
    """A model that predicts masked codes of the next item, in any order. M candidates (beams) per history."""

    def read(self, batch: Batch) -> Any:
        """Encode B histories once; only the model looks inside the result."""
        ...

    def fill(self, memory: Any, codes_BMK: Tensor) -> Tensor:
        """``logp_BMKV``, normalised over V, of each digit given the known digits; -1 marks a masked code.

        Every candidate has at least one -1. The output at known digits has no meaning.
        """
        ...

"""What a model is to the rest of the house: tensors in, losses or scores out.

A model offers at least one *face*; decoders and models are matched by face before any work starts:

* :class:`ItemScorer`: one score for each item of the catalogue (:class:`DotScorer`: as a dot product),
* :class:`CodeScorer`: K independent distributions over codewords,
* :class:`CodeGenerator`: codes that depend on each other, so that only a decoder's search finds the best:
  :class:`PrefixScorer` gives the distribution of each digit after the digits before it,
  :class:`MaskFiller` fills in missing codes in any order.

Legend: B histories, N packed items, I items, K digits, V codewords, D width.
"""

from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from genrec_cli.config import Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.nn.losses import Loss


class Choose(Protocol):
    """What the curriculum hands to a model that masks."""

    needs_entropy: bool
    """Whether the policy looks at the entropies; without them ``entropy_NK`` may be None."""

    def __call__(
        self, entropy_NK: Tensor | None, batch: Batch, digits: int, *, real_NK: Tensor | None = None
    ) -> Tensor:
        """``mask_NK``: which codes of which packed items to hide; only ``real_NK`` ones where some are padding."""
        ...


class Hide(Protocol):
    """What ``curriculum/noise.py`` hands to a model that learns to fill in the digits of its targets."""

    def __call__(self, target_MK: Tensor, codes_NK: Tensor, batch: Batch) -> Tensor:
        """``mask_MK``: which codes of each target to hide, at least one; ``codes_NK`` are the histories'."""
        ...


class Model(nn.Module):
    """Base class. A subclass names its paper, its equations and its deviations in the file's header."""

    Config: ClassVar[type[Section]]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Of {"codes"}: what the catalogue must hold."""
    trainable: ClassVar[bool] = True
    causal: bool = True
    """Whether the state at an item depends only on it and what stands before it."""
    decoder: ClassVar[str] = "exhaustive"
    """The decoder by name that validation uses and every command that is told no other."""
    masks: ClassVar[bool] = False
    """Whether the model calls ``choose``, so that a curriculum phase with a mask makes sense."""
    noised: ClassVar[bool] = False
    """Whether ``choose`` is a ``Hide``: the model's targets lose digits as the section [noise] says."""
    static: bool = False
    """Whether a training step on batches with dummy rows (``Batch.rounded``) asks its device for no size and leaves
    those rows out of its losses, so that CUDA can record and replay it."""
    defaults: ClassVar[dict[str, dict[str, Any]]] = {}
    """Section -> key -> value that suit this model better than the general defaults."""
    code_RK: Tensor
    """Of models that need codes: the catalogue's tensor itself."""

    def __init__(self, config: Section, catalog: Catalog, *, max_length: int) -> None:
        super().__init__()
        if "codes" in self.needs:
            self.register_buffer("code_RK", catalog.code_RK, persistent=False)

    def codes_of(self, item_X: Tensor) -> Tensor:
        """Codes of items (ids from 1; 0, padding, has zeros) as int64: one dimension more, of K."""
        return self.code_RK[item_X].long()

    def refuse_several(self, batch: Batch) -> None:
        """A ConfigError for rows of several targets, which an encoder that sees later items would give away."""
        if len(batch.learn_M) != batch.packing.sequences:
            raise ConfigError(
                "An encoder that sees later items learns one target a row, and these rows have more.",
                hint="--set train.windows=each, or --set model.causal=true",
            )

    def target_codes(self, batch: Batch, learn_M: Tensor) -> Tensor:
        """``code_MK`` of the items to learn at some positions; -1 where a dummy row has none."""
        target_M = batch.target_N[learn_M]
        code_MK = self.codes_of(target_M)
        return code_MK.masked_fill(target_M[:, None] == 0, -1) if batch.rounded else code_MK

    def losses(self, batch: Batch, choose: Choose | None = None) -> dict[str, Loss]:
        """The losses of a training batch by name; the engine weighs and sums them."""
        raise TypeError(f"{type(self).__name__} is not trained by gradient")

    def fit(self, catalog: Catalog) -> None:
        """Learn without gradients (``trainable = False``)."""
        raise TypeError(f"{type(self).__name__} is trained by gradient")


@runtime_checkable
class ItemScorer(Protocol):
    """A model that scores items."""

    def item_scores(self, batch: Batch) -> Tensor:
        """``score_BI``: column i belongs to item i + 1; higher is better."""
        ...


@runtime_checkable
class DotScorer(ItemScorer, Protocol):
    """An item scorer whose scores are dot products: a decoder may then ask for some items at a time."""

    def queries(self, batch: Batch) -> Tensor:
        """``h_BD``: what an item's vector is multiplied with."""
        ...

    def item_vectors(self) -> Tensor:
        """``E_ID``: row i belongs to item i + 1."""
        ...


@runtime_checkable
class CodeScorer(Protocol):
    """A model that gives, for each history, K independent distributions over codewords."""

    def code_logprobs(self, batch: Batch) -> Tensor:
        """``logp_BKV``: log-probabilities, normalised over V."""
        ...

    def code_vectors(self) -> Tensor:
        """``E_KVD`` as trained (``E_VD`` if the digits share it): the decoding graph's measure of similarity."""
        ...


@runtime_checkable
class CodeGenerator(Protocol):
    """A model whose digits depend on each other: nothing scores a whole catalogue, a decoder searches it."""

    def target_loss(self, batch: Batch, target_B: Tensor) -> Tensor:
        """``loss_B``: the mean over digits of ``-log p`` of the target's codes; how, the model's header says."""
        ...


# ---- digit after digit ---------------------------------------------------------------------------------


class Prefixes(Protocol):
    """The beams of a batch of histories, grown digit by digit. It keeps what a further digit needs: each call
    works on one new token a beam and on nothing that an earlier call has seen."""

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
    """A model that generates an item's codes from the first digit to the last; ``target_loss`` takes each digit
    after the true ones before it."""

    def prefixes(self, batch: Batch) -> Prefixes:
        """Read the histories once; log-probabilities are then asked of what it returns, K times at most."""
        ...


# ---- any digit, given any others -----------------------------------------------------------------------


@runtime_checkable
class MaskFiller(CodeGenerator, Protocol):
    """A model that fills in codes of the next item, in any order. M candidates (beams) a history.

    A history is read once; every later question about it uses that memory.
    """

    def read(self, batch: Batch) -> Any:
        """The memory of B histories; only the model looks inside."""
        ...

    def fill(self, memory: Any, codes_BMK: Tensor) -> Tensor:
        """``logp_BMKV``, normalised over V, of each digit given the known ones; -1 is a code to be found.

        Every candidate has at least one -1. What stands at known digits means nothing.
        """
        ...

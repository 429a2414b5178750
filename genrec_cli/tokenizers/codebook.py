"""Base class of the tokenizers with codebooks: PCA, an optional transform, quantisation, and one file.

vec_ID -> PCA -> reduced_IP -> encode -> x_IS -> assign -> codes_IK
codes_IK -> reconstruct -> x_IS -> decode_space -> reduced_IP
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from genrec_cli.config import Section, Seed
from genrec_cli.errors import DataError
from genrec_cli.tokenizers.base import MAX_DIGITS, Need
from genrec_cli.tokenizers.collisions import Policy
from genrec_cli.tokenizers.kmeans import MAX_CODEWORDS, check_codewords, one_thread
from genrec_cli.tokenizers.pca import Pca

FILE = "codebook.safetensors"
PCA_SHAPES = {"pca.mean": "D", "pca.components": "PD", "pca.scale": "P"}


class CodesConfig(Section):
    """Settings of all tokenizers with K codebooks of V codewords."""

    codebooks: int = Field(32, ge=1, le=MAX_DIGITS)
    """K: codes per item."""
    codewords: int = 256
    """V: codewords per codebook, 2 to 4,096 and at most the number of training items."""
    collisions: Policy = "none"
    """Items with equal codes: none keeps them, digit numbers them in one more digit, reassign moves them apart."""
    seed: Seed = 0
    """Seed of k-means or of random codes."""


class CodebookConfig(CodesConfig):
    """Settings of all tokenizers with learned codebooks."""

    pca: int = Field(128, ge=1)
    """Width after PCA. Vectors of a lower rank, as of few items, keep this rank; for pq and opq its largest multiple of
    K."""
    pca_fit: Literal["train", "all"] = "train"
    """Items that PCA is fitted on: those with training interactions, or all (as in RPG's code)."""


class CodebookTokenizer(ABC):
    """Fits and quantises on one thread, because sums over several threads depend on their number."""

    Config: ClassVar[type[CodebookConfig]]
    needs: ClassVar[frozenset[Need]] = frozenset({"vectors"})
    what: ClassVar[str]
    """Content of the file for messages, for example ``an OPQ codebook``."""
    parts: ClassVar[Mapping[str, str]] = {}
    """Stored tensors beside PCA and centroids: name -> dimensions; ``rotation`` with ``PP`` is ``rotation_PP``."""
    centroid_dimensions: ClassVar[str] = "KVS"
    """``KVP`` where codewords are as wide as the vectors after PCA."""
    centroids_KVS: np.ndarray
    """The codebooks (float32)."""
    divides: ClassVar[bool] = False
    """Whether K must divide the width after PCA."""

    def __init__(self, config: CodebookConfig) -> None:
        self.config = config

    @abstractmethod
    def learn(self, train_NP: np.ndarray) -> None:
        """Fit the transform and ``centroids_KVS`` on training items after PCA."""

    def encode(self, reduced_IP: np.ndarray) -> np.ndarray:
        """``x_IS``: the transformed vectors, which are quantised."""
        return reduced_IP

    def decode_space(self, x_IS: np.ndarray) -> np.ndarray:
        """``reduced_IP``: the inverse transform."""
        return x_IS

    @abstractmethod
    def assign(self, x_IS: np.ndarray) -> np.ndarray:
        """``codes_IK`` as uint16."""

    @abstractmethod
    def reconstruct(self, codes_IK: np.ndarray) -> np.ndarray:
        """``x_IS`` reconstructed from the codes."""

    @abstractmethod
    def nearest_codes(self, x_NS: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
        """``codes_NMK`` of up to ``many`` nearest codes, and ``cost_NM``: their squared distances, ascending."""

    @classmethod
    def shapes(cls, names: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Name -> dimensions of the tensors beside PCA and centroids in a file that holds ``names``."""
        return cls.parts

    @classmethod
    def fits(cls, size: Mapping[str, int]) -> bool:
        """Whether the sizes of different dimensions are consistent."""
        return True

    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors to store beside PCA and centroids."""
        return {name: getattr(self, f"{name}_{letters}") for name, letters in self.parts.items()}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Set the attributes that :meth:`tensors` reads."""
        for name, letters in self.parts.items():
            setattr(self, f"{name}_{letters}", tensors[name])

    def fit(self, vec_ID: np.ndarray, train_I: np.ndarray) -> None:
        """Fit on the rows where ``train_I`` is true. Raises UsageError if V or K is not possible."""
        check_codewords(self.config.codewords, int(np.count_nonzero(train_I)))
        with one_thread():
            fitted_ND = vec_ID if self.config.pca_fit == "all" else vec_ID[train_I]
            self.pca = Pca.fit(fitted_ND, self.config.pca, multiple=self.config.codebooks if self.divides else 1)
            self.learn(self.pca.transform(vec_ID[train_I]))

    def reduced(self, vec_ID: np.ndarray) -> np.ndarray:
        """``reduced_IP``: the vectors after PCA."""
        return self.pca.transform(vec_ID)

    def codes(self, vec_ID: np.ndarray) -> np.ndarray:
        """``codes_IK`` as uint16."""
        with one_thread():
            return self.assign(self.encode(self.reduced(vec_ID)))

    def decode(self, codes_IK: np.ndarray) -> np.ndarray:
        """``decoded_IP``: the reconstructed vectors after PCA."""
        return self.decode_space(self.reconstruct(codes_IK))

    def nearest(self, vec_ND: np.ndarray, codes_NK: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
        """``codes_NMK`` and ``cost_NM`` of the codes nearest to each vector; ``codes_NK`` is not used."""
        return self.nearest_codes(self.encode(self.reduced(vec_ND)), many)

    def save(self, folder: Path) -> None:
        """Write ``codebook.safetensors``: PCA, transform and centroids, all float32."""
        from safetensors.numpy import save_file

        tensors = {**self.pca.tensors(), **self.tensors(), "centroids": self.centroids_KVS}
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The tokenizer that :meth:`save` wrote, without its fitting options. Raises DataError for another file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(folder / FILE)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{folder / FILE} cannot be read: {error}.") from None
        shapes = {**PCA_SHAPES, **cls.shapes(list(tensors)), "centroids": cls.centroid_dimensions}
        sound = all(t.dtype == np.float32 and np.isfinite(t).all() for t in tensors.values())
        if set(tensors) != set(shapes) or not sound:
            raise DataError(f"{folder / FILE} is not {cls.what}: it needs {', '.join(sorted(shapes))}, finite float32.")
        size = sizes(tensors, shapes)
        if size is None or not 2 <= size["V"] <= MAX_CODEWORDS or not cls.fits(size):
            shown = ", ".join(f"{name} {tensor.shape}" for name, tensor in sorted(tensors.items()))
            raise DataError(f"{folder / FILE} holds tensors that do not fit together: {shown}.")
        loaded = cls(cls.Config(codebooks=size["K"], codewords=size["V"], pca=size["P"]))
        loaded.pca, loaded.centroids_KVS = Pca.from_tensors(tensors), tensors["centroids"]
        loaded.restore(tensors)
        return loaded


def sizes(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[str]]) -> dict[str, int] | None:
    """The size of each dimension; None if two tensors disagree, one is empty, or one has another rank."""
    size: dict[str, int] = {}
    for name, letters in shapes.items():
        if tensors[name].ndim != len(letters) or not tensors[name].size:
            return None
        for letter, length in zip(letters, tensors[name].shape, strict=True):
            if size.setdefault(letter, length) != length:
                return None
    return size

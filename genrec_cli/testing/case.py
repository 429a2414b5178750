"""The model, data and training loop that the tests of the contract suite are made of.

Seeds are fixed and there is no dropout unless a test sets it, so that numbers can be compared.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from genrec_cli.config import validate
from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.curriculum.phases import CurriculumConfig, Mask
from genrec_cli.curriculum.target_masks import NoiseConfig, TargetMasks
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import EvalBatch, Histories, Rows, Windows, eval_batches
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.engine.progress import Callbacks
from genrec_cli.engine.ranking import make_ranker
from genrec_cli.engine.step import MaskSampler
from genrec_cli.models.base import CodeGenerator, CodeScorer, DigitScorer, ItemScorer, Model
from genrec_cli.registry import load
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.testing.data import FixedMasks, make_catalog, make_histories

LENGTHS = [5, 9, 3, 14, 6, 4, 7, 12]
CPU = torch.device("cpu")


class ModelCase:
    """A model under test, with small sizes."""

    kind: ClassVar[type[Model]]
    settings: ClassVar[dict[str, Any]] = {}
    """Settings of the model beside small sizes and no dropout."""
    windows: ClassVar[Windows | None] = None
    """Training rows; default: those of the model's defaults."""
    max_length: ClassVar[int] = 8
    catalog_options: ClassVar[dict[str, Any]] = {}
    """Arguments of ``make_catalog``."""
    learns: ClassVar[dict[str, Any]] = {"epochs": 12, "batch_size": 32, "lr": 1e-2}
    """Section [train] with which the model learns an order. Empty: the catalogue does not tell items apart."""
    overfits_in: ClassVar[int] = 80
    """Steps in which the model learns one batch by heart."""

    def requires(self, condition: bool, reason: str) -> None:
        if not condition:
            pytest.skip(reason)

    def requires_training(self) -> None:
        self.requires(self.kind.trainable, "learns without gradients")

    def config(self, **changes: Any) -> Any:
        fields = self.kind.Config.model_fields
        values: dict[str, Any] = {name: 0.0 for name in fields if name.endswith("dropout")}
        values |= {"width": 16, "heads": 2, "inner": 32, "layers": 2, "decoder_layers": 1, "head_width": 8} | changes
        values = {name: value for name, value in values.items() if name in fields}
        return validate(self.kind.Config, "model", values | self.settings)

    def catalog(self) -> Catalog:
        return make_catalog(**self.catalog_options)

    def build(self, *, seed: int = 0, catalog: Catalog | None = None, **changes: Any) -> Model:
        torch.manual_seed(seed)
        catalog = catalog or self.catalog()
        model = self.kind(self.config(**changes), catalog, max_length=self.max_length)
        model.fit(catalog, make_histories(LENGTHS, catalog.items))
        return model

    def histories(self) -> Histories:
        return make_histories(LENGTHS, 30)

    def rows(self, histories: Histories, default: Windows = "sliding") -> Rows:
        windows = self.windows or self.kind.defaults.get("train", {}).get("windows", default)
        return Rows.of(histories, max_length=self.max_length, windows=windows)

    def batch(self, default: Windows = "sliding", *, bucketed: bool = False) -> Batch:
        """A training batch of all rows."""
        rows = self.rows(histories := self.histories(), default)
        return self.with_negatives(rows.batch(histories, np.arange(len(rows)), bucketed=bucketed))

    def one_history(self, items: int = 30) -> Batch:
        """A training batch of one history that learns at every position."""
        histories = make_histories([9], items)
        rows = Rows.of(histories, max_length=self.max_length, windows="recent")
        return self.with_negatives(rows.batch(histories, np.array([0])))

    def with_negatives(self, batch: Batch) -> Batch:
        model, generator = self.build(), torch.Generator().manual_seed(0)
        return batch.with_negatives(model.negatives, 30, generator, shared=model.shared_negatives)

    def known(self, batch_size: int = 99) -> Iterator[EvalBatch]:
        """Batches of histories to continue."""
        histories = self.histories()
        return eval_batches(histories, *histories.targets("test"), max_length=self.max_length, batch_size=batch_size)

    def samplers(self) -> list[MaskSampler | None]:
        """A mask sampler for each way in which the model may be trained."""
        generator, masking, digits = torch.Generator().manual_seed(0), self.kind.masking, self.catalog().digits
        if masking == "target":
            configs = [{"preset": preset} for preset in ("random", "curriculum", "curriculum-history")]
            return [TargetMasks(validate(NoiseConfig, "noise", c), digits, generator).at(0.5) for c in configs]
        masks: dict[str, list[Mask]] = {"random": ["random"], "entropy": ["random", "entropy"]}
        return [HistoryMasks(m, "token", 0.5, "printed", generator) for m in masks.get(masking, [])] or [None]

    @torch.no_grad()
    def scores(self, model: Model, batch: Batch) -> Tensor:
        """``score_BI`` of the whole catalogue: by exact search, or item by item from a model that generates."""
        if isinstance(model, (ItemScorer, CodeScorer, DigitScorer)):
            return Exhaustive(self.catalog()).scores(model, batch)
        assert isinstance(model, CodeGenerator)
        rows, items = batch.packing.sequences, range(1, self.catalog().items + 1)
        return -torch.stack([model.target_loss(batch, torch.full((rows,), item)) for item in items], dim=1)

    def loop(
        self,
        folder: Path,
        histories: Histories,
        train: dict[str, Any],
        *,
        fixed: bool = False,
        dropout: float = 0.0,
        callbacks: Callbacks | None = None,
    ) -> Loop:
        """A training loop; ``fixed``: without any random draw in its steps."""
        folder.mkdir(exist_ok=True)
        masking = {"random": "r", "entropy": "r-e-inf"}.get(self.kind.masking, "inf")
        phases = {"preset": "r"} if fixed and masking != "inf" else {"preset": masking, "max_epochs": 1}
        model = self.build(width=16, dropout=dropout, attention_dropout=dropout)
        defaults = {key: value for key, value in self.kind.defaults.get("train", {}).items() if key == "optimizer"}
        defaults |= {"windows": self.rows(histories).windows, "max_length": self.max_length}
        catalog, search = self.catalog(), load("search", self.kind.search)
        settings = search.Config(**({"beams": 10} if "beams" in search.Config.model_fields else {}))
        config = validate(TrainConfig, "train", defaults | train)
        curriculum = validate(CurriculumConfig, "curriculum", {"ratio": 0.3, **phases})
        options: dict[str, Any] = {"callbacks": callbacks, "noise": validate(NoiseConfig, "noise", {"ramp": 0.1})}
        options |= {"make_ranker": partial(make_ranker, model, catalog, search, settings)}
        loop = Loop(model, catalog, histories, config, curriculum, CPU, folder, **options)
        if fixed and self.kind.masking != "none":
            loop.sampler = FixedMasks  # type: ignore[method-assign]
        return loop


def mask_of(sampler: MaskSampler | None, model: Model, batch: Batch) -> Tensor | None:
    return None if sampler is None else sampler(model, batch)


def total_loss(model: Model, batch: Batch, mask: Tensor | None = None) -> Tensor:
    """The loss whose gradient training takes."""
    losses = [loss for loss in model.losses(batch, mask).values() if loss.weight]
    return torch.stack([loss.weight * loss.sum / loss.count for loss in losses]).sum()

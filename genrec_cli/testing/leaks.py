"""Tests that a model does not see what it has to predict: later items, masked items, targets."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.models.base import Model
from genrec_cli.testing.case import ModelCase
from genrec_cli.testing.data import all_codes


class LeakTests(ModelCase):
    def test_the_future_does_not_leak(self) -> None:
        """Items after a position do not change the loss at this position; the items up to it do."""
        self.requires_training()
        model, batch, at = self.build().eval(), self.one_history(), 2
        self.requires(model.causal, "reads both directions")
        negative = batch.negative_MS
        if negative is not None and not model.shared_negatives:
            negative = negative[[at]]
        batch = replace(batch, learn_M=torch.tensor([at]), negative_MS=negative)
        before = model.losses(batch)["next"].sum
        for place, item in enumerate(batch.item_N.tolist()):
            changed = replace(batch, item_N=fill(batch.item_N, place, item % 30 + 1))
            same = torch.isclose(model.losses(changed)["next"].sum, before, atol=1e-6, rtol=1e-6)
            assert bool(same) == (place > at), place

    def test_masked_items_do_not_leak(self) -> None:
        """Each item of the catalogue in turn is at the masked place. If the model does not see which one, it gives them
        the probabilities of one distribution, whose sum is 1."""
        self.requires(self.kind.masking in ("random", "entropy"), "has no masks over the history")
        self.requires(not self.catalog_options, "its catalogue does not have every code")
        catalog, batch = all_codes(), self.one_history(25)
        model = self.build(catalog=catalog).eval()
        self.requires(not model.negatives, "has no distribution over this catalogue")
        for place in (0, 3, len(batch.item_N) - 1):
            mask_NK = torch.zeros_like(model.maskable(batch))
            mask_NK[place] = True
            items = [fill(batch.item_N, place, item) for item in range(1, catalog.items + 1)]
            total = sum(probability(model, replace(batch, item_N=item_N), mask_NK) for item_N in items)
            assert total == pytest.approx(1, abs=1e-4), f"place {place}"

    def test_targets_do_not_leak(self) -> None:
        """Each item of the catalogue in turn is the last target: their probabilities are of one distribution."""
        self.requires_training()
        self.requires(
            not {"count_factor", "count_weight"} & set(self.settings),
            "leaves each target out of the counts that it starts from",
        )
        catalog, batch = all_codes(), self.one_history(25)
        model = self.build(catalog=catalog).eval()
        self.requires(not (model.negatives or self.catalog_options), "has no distribution over this catalogue")
        last = len(batch.item_N) - 1
        targets = [fill(torch.zeros_like(batch.item_N), last, item) for item in range(1, catalog.items + 1)]
        batch = replace(batch, learn_M=torch.tensor([last]))
        total = sum(probability(model, replace(batch, target_N=target_N)) for target_N in targets)
        assert total == pytest.approx(1, abs=1e-4)


def fill(item_N: Tensor, place: int, item: int) -> Tensor:
    """A copy with an item at a place."""
    return item_N.index_fill(0, torch.tensor([place]), item)


def probability(model: Model, batch: Batch, mask: Tensor | None = None) -> float:
    """Of what a batch has to predict: its masked codes, or its only target."""
    losses = model.losses(batch, mask)
    return float(torch.exp(-losses.get("mask", losses["next"]).sum.detach()))

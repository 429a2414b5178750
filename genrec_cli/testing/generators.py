"""Tests of models that generate codes: their distributions over digits, against the loss of the target."""

import pytest
import torch

from genrec_cli.models.base import MaskPredictor, Model, PrefixScorer
from genrec_cli.searches.beam import Beam, BeamConfig
from genrec_cli.testing.case import LENGTHS, ModelCase


class GeneratorTests(ModelCase):
    def test_digits_after_prefixes_add_up_to_the_loss_of_the_target(self) -> None:
        """A beam as wide as the catalogue lists every item, with the score that the model gives it as a target."""
        model, catalog = self.build().eval(), self.catalog()
        if not isinstance(model, PrefixScorer):
            pytest.skip("does not generate digit after digit")
        batch = next(self.known()).batch
        top, _ = Beam(model, catalog, BeamConfig(beams=30)).decode(batch, 30)
        assert (top.item_Bk.sort(dim=1).values == torch.arange(1, 31)).all()
        expected = catalog.digits * self.scores(model, batch).gather(1, top.item_Bk - 1)
        torch.testing.assert_close(top.score_Bk, expected, atol=1e-4, rtol=1e-5)

    @torch.no_grad()
    def test_probabilities_of_a_digit_add_up_to_one_on_every_beam(self) -> None:
        model, rows = self.build().eval(), len(LENGTHS)
        if not isinstance(model, PrefixScorer):
            pytest.skip("does not generate digit after digit")
        beams, one = torch.zeros(rows, 3, dtype=torch.long), torch.ones(rows, 1)
        prefixes = model.prefixes(next(self.known()).batch)
        torch.testing.assert_close(prefixes.first().exp().sum(-1), one)
        torch.testing.assert_close(prefixes.extend(beams, beams).exp().sum(-1), one.expand(rows, 3))

    @torch.no_grad()
    def test_masks_are_filled_by_known_digits_and_not_by_other_candidates(self) -> None:
        model, known = self.build().eval(), next(self.known())
        if not (isinstance(model, MaskPredictor) and isinstance(model, Model)):
            pytest.skip("predicts no masked codes")
        codes_BMK = torch.tensor([[-1, 3, -1, 5], [2, -1, 7, 0]]).repeat(len(LENGTHS), 1, 1)
        other = codes_BMK.clone()
        other[..., 3] = 6
        memory = model.read(known.batch)
        logp_BMKV = model.fill(memory, codes_BMK)
        torch.testing.assert_close(logp_BMKV.exp().sum(-1), torch.ones(codes_BMK.shape))
        changed = model.fill(memory, other) - logp_BMKV
        assert (changed[:, :, :2].abs().amax((-1, -2)) > 1e-6).all(), "digits 0 and 1"
        torch.testing.assert_close(model.fill(memory, codes_BMK[:, 1:]), logp_BMKV[:, 1:])
        torch.testing.assert_close(model.fill(memory, codes_BMK.flip(1)), logp_BMKV.flip(1))
        logp_BKV = model.fill(memory, torch.full_like(codes_BMK[:, :1], -1))[:, 0]
        code_BK1 = model.codes_of(known.target_B)[..., None]
        loss_B = model.target_loss(known.batch, known.target_B)
        torch.testing.assert_close(loss_B, -logp_BKV.gather(2, code_BK1).mean((1, 2)))

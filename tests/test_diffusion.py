"""Decoding by diffusion against a slow reference that keeps one Python dictionary a candidate, and what it promises."""

from itertools import product

import pytest
import torch
from conftest import make_catalog, make_histories

from genrec_cli.config import validate
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import eval_batches
from genrec_cli.models.base import MaskPredictor
from genrec_cli.models.mdgr import Mdgr, MdgrConfig
from genrec_cli.nn.packing import Packing
from genrec_cli.searches.diffusion import Diffusion, DiffusionConfig, once

CASES = [(0, 1), (0, 2), (0, 3), (1, 2), (2, 1), (2, 3), (4, 2), (9, 1)]
"""R_warm and m_par."""


class Made:
    """A filler whose distributions depend on the user and on all known codes, by random tables."""

    def __init__(self, users: int, digits: int, codewords: int, *, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.user_UKV = 2 * torch.randn(users, digits, codewords, generator=random)
        self.pair_KVKV = torch.randn(digits, codewords + 1, digits, codewords, generator=random)
        self.passes = 0

    def read(self, batch: Batch) -> torch.Tensor:
        return batch.user_B

    def fill(self, memory: torch.Tensor, codes_BMK: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        digit_K = torch.arange(codes_BMK.shape[-1])
        told_BMKV = self.pair_KVKV[digit_K, codes_BMK].sum(2)
        return (self.user_UKV[memory][:, None] + told_BMKV).log_softmax(-1)

    def target_loss(self, batch: Batch, target_B: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def users(number: int) -> Batch:
    return Batch(torch.ones(number, dtype=torch.long), Packing.of([1] * number), torch.arange(number))


def slow(
    model: MaskPredictor, catalog: Catalog, config: DiffusionConfig, user: int, k: int
) -> tuple[list, list, float]:
    """One user, one dictionary (digit -> code) a candidate: items, scores and the valid share."""
    items = [tuple(codes) for codes in catalog.codes_IK.tolist()]
    K, V = catalog.digits, catalog.codewords

    def possible(known: dict[int, int]) -> bool:
        return not config.constraint or any(all(item[d] == c for d, c in known.items()) for item in items)

    beams: list[tuple[float, dict[int, int]]] = [(0.0, {})]
    step = 0
    while len(beams[0][1]) < K:
        found: dict[tuple, tuple[float, dict[int, int]]] = {}
        for score, known in beams:
            codes = torch.tensor([[[known.get(d, -1) for d in range(K)]]])
            logp = model.fill(torch.tensor([user]), codes)[0, 0].tolist()
            unknown = [d for d in range(K) if d not in known]
            fits = {d: [c for c in range(V) if possible(known | {d: c})] for d in unknown}
            number = 1 if step < config.warmup else config.parallel
            sure = sorted(unknown, key=lambda d: max(logp[d][c] for c in fits[d]), reverse=True)[:number]
            extensions = [dict(zip(sure, c, strict=True)) for c in product(*(fits[d] for d in sure))]
            for more in extensions:
                new = known | more
                total = score + sum(logp[d][c] for d, c in more.items())
                name = tuple(sorted(new.items()))
                if possible(new) and (name not in found or total > found[name][0]):
                    found[name] = total, new
        beams = sorted(found.values(), key=lambda pair: pair[0], reverse=True)[: config.beams]
        step += 1
    ranked = []
    valid = 0
    for score, known in beams:
        same = [i + 1 for i, item in enumerate(items) if item == tuple(known[d] for d in range(K))]
        valid += bool(same)
        ranked += [(i, score) for i in same]
    return [i for i, _ in ranked][:k], [s for _, s in ranked][:k], valid / len(beams)


@pytest.mark.parametrize("constraint", [True, False])
@pytest.mark.parametrize("warmup, parallel", CASES)
def test_the_decoder_does_what_its_slow_twin_does(warmup: int, parallel: int, constraint: bool) -> None:
    catalog = make_catalog(200, 4, 6)
    config = DiffusionConfig(warmup=warmup, parallel=parallel, beams=12, constraint=constraint)
    model = Made(3, 4, 6)
    top, figures = Diffusion(model, catalog, config).decode(users(3), 10)
    for user in range(3):
        items, scores, share = slow(model, catalog, config, user, 10)
        assert [i for i in top.item_Bk[user].tolist() if i][:10] == items
        torch.testing.assert_close(top.score_Bk[user][: len(scores)], torch.tensor(scores))
        assert float(figures["valid_fraction"][user]) == pytest.approx(share)


def test_eight_digits_take_six_passes() -> None:
    model = Made(2, 8, 10)
    Diffusion(model, make_catalog(50, 8, 10), DiffusionConfig()).decode(users(2), 5)
    assert model.passes == 6


def test_what_is_listed_is_in_the_catalogue_and_distinct() -> None:
    catalog = make_catalog(200, 8, 12)
    config = DiffusionConfig(beams=30)
    top, figures = Diffusion(Made(5, 8, 12), catalog, config).decode(users(5), 30)
    assert (top.item_Bk[:, :30] > 0).all(), "200 items, so 30 beams are filled"
    assert all(len(set(row[:30])) == 30 for row in top.item_Bk.tolist())
    assert (figures["valid_fraction"] == 1).all()
    assert (top.score_Bk.diff() <= 0)[:, :29].all()


def test_without_the_constraint_most_of_a_sparse_code_space_is_no_item() -> None:
    config = DiffusionConfig(beams=30, constraint=False)
    top, figures = Diffusion(Made(5, 8, 12), make_catalog(200, 8, 12), config).decode(users(5), 30)
    assert (figures["valid_fraction"] < 0.5).all()
    assert ((top.item_Bk > 0).sum(1) <= 30 * figures["valid_fraction"] + 1).all()


def test_items_of_equal_codes_stand_side_by_side_with_one_score() -> None:
    catalog = make_catalog(12, 3, 4)
    catalog.codes_IK[[4, 7, 9]] = catalog.codes_IK[4].clone()
    top, _ = Diffusion(Made(1, 3, 4), catalog, DiffusionConfig(beams=12)).decode(users(1), 12)
    listed = top.item_Bk[0].tolist()
    place = listed.index(5)
    assert listed[place : place + 3] == [5, 8, 10]
    assert len(set(top.score_Bk[0, place : place + 3].tolist())) == 1


def test_a_list_longer_than_the_beams_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 11 beams, not 10"):
        Diffusion(Made(1, 3, 4), make_catalog(12, 3, 4), DiffusionConfig(beams=10)).decode(users(1), 11)


def test_equal_keys_keep_the_best_score() -> None:
    score = torch.tensor([[1.0, 3.0, 2.0, 5.0]])
    key = torch.tensor([[7, 7, 9, 9]])
    assert once(score, key).tolist() == [[-torch.inf, 3.0, -torch.inf, 5.0]]


def test_a_trained_model_is_decoded_alike_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    catalog, histories = make_catalog(30, 4, 8), make_histories([5, 9, 3, 14], 30)
    settings = {"width": 16, "heads": 2, "inner": 32, "layers": 1, "decoder_layers": 1}
    model = Mdgr(validate(MdgrConfig, "model", settings), catalog, max_length=8).eval()
    decoder = Diffusion(model, catalog, DiffusionConfig(warmup=2, beams=8))
    user, at = histories.targets("test")
    (whole,) = eval_batches(histories, user, at, max_length=8, batch_size=9)
    top, _ = decoder.decode(whole.batch, 5)
    for known in eval_batches(histories, user, at, max_length=8, batch_size=1):
        alone, _ = decoder.decode(known.batch, 5)
        row = int((whole.batch.user_B == known.batch.user_B).nonzero())
        assert torch.equal(alone.item_Bk[0, :5], top.item_Bk[row, :5])
        torch.testing.assert_close(alone.score_Bk[0, :5], top.score_Bk[row, :5])

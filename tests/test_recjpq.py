"""RecJPQ and its codes: scores by look-ups, SASRec as its special case, other backbones, and the decomposition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories
from scipy.sparse import csr_array
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli.config import validate
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.codes_table import CodesTable
from genrec_cli.data.sequences import Rows
from genrec_cli.engine.ranking import ExactRanker
from genrec_cli.errors import ConfigError, UsageError
from genrec_cli.models.bert4rec import Bert4Rec
from genrec_cli.models.bsarec import BsaRec
from genrec_cli.models.caser import Caser
from genrec_cli.models.fdsa import Fdsa
from genrec_cli.models.gru4rec import Gru4Rec
from genrec_cli.models.hgn import Hgn
from genrec_cli.models.hstu import Hstu
from genrec_cli.models.recjpq import JointlyQuantised, RecJpq
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.models.vqrec import VqRec
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.tokenizers.svd import SvdConfig, SvdTokenizer, bins

SIZES = {"width": 8, "layers": 1, "heads": 2, "inner": 16, "dropout": 0.0, "attention_dropout": 0.0}


def build(kind, catalog: Catalog, **settings: object):
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name in kind.Config.model_fields}
    model = kind(validate(kind.Config, "model", {**sizes, **settings}), catalog, max_length=8).eval()
    torch.nn.init.normal_(model.item.table.weight if hasattr(model.item, "table") else model.item.weight)
    return model


def batch():
    histories = make_histories([5, 9, 3, 12], 30)
    rows = Rows.of(histories, max_length=8, windows="recent")
    return rows.batch(histories, np.arange(len(rows)))


# ---- the model -----------------------------------------------------------------------------------


def test_look_ups_are_dot_products_with_materialised_vectors(catalog: Catalog) -> None:
    model = build(RecJpq, catalog)
    table_KVd, rows = model.item.centroids(), catalog.codes_IK.tolist()
    vector_ID = torch.stack([torch.cat([table_KVd[k, code] for k, code in enumerate(codes)]) for codes in rows])
    assert torch.equal(model.item_vectors(), vector_ID)
    expected_BI = model.queries(batch()) @ vector_ID.t()
    torch.testing.assert_close(Exhaustive(catalog).scores(model, batch()), expected_BI, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss, negatives", [("ce", 1), ("gbce", 4)])
@pytest.mark.parametrize("chunked", [False, True])
def test_losses_and_gradients_are_those_of_materialised_vectors(
    catalog: Catalog, monkeypatch, loss: str, negatives: int, chunked: bool
) -> None:
    monkeypatch.setattr("genrec_cli.models.recjpq.TABLE", 1 if chunked else 1 << 20)
    model = build(RecJpq, catalog, loss=loss, negatives=negatives)
    h_MD, target_M = torch.randn(40, 8), torch.randint(0 if loss == "ce" else 1, 31, (40,))
    negative_MS = torch.randint(1, 31, (40, negatives))
    found = []
    for kind in (RecJpq, Materialised):
        model.__class__ = kind
        states = h_MD.clone().requires_grad_()
        result = model.item_loss(states, target_M, negative_MS)
        found.append([result.sum, result.count, *torch.autograd.grad(result.sum, [states, model.item.table.weight])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


class Materialised(RecJpq):
    """The same with an array of all item vectors."""

    catalogue_loss = SasRec.catalogue_loss
    vectors_of = SasRec.vectors_of


def test_nothing_materialises_the_item_vectors(catalog: Catalog, monkeypatch) -> None:
    def refuse(self) -> None:
        raise AssertionError("all item vectors")

    monkeypatch.setattr(JointlyQuantised, "item_vectors", refuse)
    model, data = build(RecJpq, catalog), batch()
    model.losses(data)["next"].sum.backward()
    with torch.no_grad():
        ranker = ExactRanker(model, catalog)
        ranker.begin()
        ranker.rank(data, torch.arange(1, data.packing.sequences + 1), 5)
        ranker.lists(data, 5)


def test_as_many_splits_as_dimensions_and_a_bin_per_item_is_sasrec() -> None:
    """Codes that name the item, in every split of width 1."""
    catalog = Catalog.of(torch.zeros(30, dtype=torch.long), torch.arange(30)[:, None].repeat(1, 8), 30)
    ours, theirs = build(RecJpq, catalog), build(SasRec, catalog)
    weights = {name: weight for name, weight in ours.state_dict().items() if name != "item.table.weight"}
    theirs.load_state_dict({**weights, "item.weight": ours.item.table.weight.view(8, 30).t()})
    data = batch()
    torch.testing.assert_close(Exhaustive(catalog).scores(ours, data), theirs.item_scores(data), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.losses(data)["next"].sum, theirs.losses(data)["next"].sum)


@pytest.mark.parametrize("backbone", [SasRec, BsaRec, Gru4Rec, Bert4Rec, Fdsa])
def test_other_backbones_score_by_look_ups(catalog: Catalog, backbone, monkeypatch) -> None:
    class Jpq(JointlyQuantised, backbone):
        pass

    assert Jpq.needs == {"codes"} | backbone.needs
    model = build(Jpq, catalog)
    assert not {"bias", "item.weight"} & set(model.state_dict())
    expected_BI = model.queries(batch()) @ model.item_vectors().t()
    torch.testing.assert_close(Exhaustive(catalog).scores(model, batch()), expected_BI, atol=1e-5, rtol=1e-5)
    monkeypatch.delattr(JointlyQuantised, "item_vectors")
    mask = torch.ones(len(batch().item_N), 1, dtype=torch.bool) if model.masking == "random" else None
    losses = model.losses(batch(), mask)
    gradient = torch.autograd.grad(sum(loss.sum for loss in losses.values()), model.item.table.weight)[0]
    special = len(model.item.token_RK) - catalog.items  # [MASK] has sub-vectors of its own
    assert gradient.abs().sum() > 0 and (not special or gradient[-4 * special :].abs().sum() > 0)


@pytest.mark.parametrize("backbone", [Hstu, Hgn, Caser, VqRec])
def test_backbones_with_other_item_vectors_are_refused(backbone) -> None:
    with pytest.raises(TypeError, match=f"{backbone.__name__} scores other vectors"):
        type("Jpq", (JointlyQuantised, backbone), {})


def test_codes_that_do_not_fit_are_refused(catalog: Catalog) -> None:
    with pytest.raises(ValueError, match=r"codes per item \(4\) must divide the width \(10\)"):
        build(RecJpq, catalog, width=10)
    from genrec_cli.engine.optim import TrainConfig

    with pytest.raises(ConfigError, match="some items have fewer"):
        RecJpq.check(SasRecConfig(), TrainConfig(), make_catalog(padded=True, shared=True))


# ---- the codes -----------------------------------------------------------------------------------


def interactions(users: int = 60, items: int = 40, seed: int = 0) -> csr_array:
    random = np.random.default_rng(seed)
    dense = (random.random((users, items)) < 0.05 + 0.3 * random.random(items)).astype(np.float32)
    dense[:, -2:] = 0
    return csr_array(dense)


def svd(matrix: csr_array, **settings: object) -> SvdTokenizer:
    tokenizer = SvdTokenizer(SvdConfig(**{"codebooks": 3, "codewords": 8, **settings}))
    tokenizer.fit(interactions_UI=matrix, train_I=np.asarray(matrix.sum(axis=0)).ravel() > 0)
    return tokenizer


def test_codes_are_quantiles_of_numpy_s_decomposition_up_to_sign(monkeypatch) -> None:
    monkeypatch.setattr("genrec_cli.tokenizers.svd.NOISE", 0.0)
    matrix = interactions()
    codes_IK = svd(matrix).codes(interactions_UI=matrix)
    assert codes_IK.dtype == np.uint16 and codes_IK.shape == (40, 3)
    factor_IK = np.linalg.svd(matrix.toarray().astype(np.float64), full_matrices=False)[2][:3].T
    for k in range(3):
        rank_I = factor_IK[:38, k].argsort().argsort()
        upward = np.abs(codes_IK[:38, k] - rank_I * 8 // 38) <= 1
        downward = np.abs(codes_IK[:38, k] - (37 - rank_I) * 8 // 38) <= 1
        assert upward.all() or downward.all()
        assert np.bincount(codes_IK[:38, k], minlength=8).tolist() in (
            np.bincount(bins(factor_IK[:38, [k]], np.ones(38, bool), 8)[:, 0], minlength=8).tolist(),
            np.bincount(bins(-factor_IK[:38, [k]], np.ones(38, bool), 8)[:, 0], minlength=8).tolist(),
        )


def test_the_seed_decides_where_the_interactions_do_not() -> None:
    matrix = interactions()
    first, again, other = (svd(matrix, seed=seed).codes(matrix) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert (first[:38] != other[:38]).mean() < 0.05, "noise alone moves few items"


def test_items_of_equal_interactions_are_spread_over_the_bins() -> None:
    equal = csr_array(np.ones((5, 64), np.float32))
    assert np.bincount(svd(equal, codebooks=1).codes(equal)[:, 0]).tolist() == [8] * 8


def test_bins_have_equal_numbers_of_training_items() -> None:
    value_I1 = np.random.default_rng(0).normal(size=(64, 1))
    assert (np.bincount(bins(value_I1, np.ones(64, bool), 16)[:, 0]) == 4).all()


def test_too_many_components_are_an_error() -> None:
    with pytest.raises(UsageError, match="at most 39"):
        svd(interactions(), codebooks=40)


def test_from_interactions_to_recommendations(tmp_path: Path) -> None:
    for words in (SMALL_SHOP, ["preprocess", "--k-core", "2"]):
        assert genrec(tmp_path, *words).code == 0
    made = genrec(tmp_path, "tokenize", "--tokenizer", "svd", "--codebooks", "4", "--codewords", "16")
    codes_IK = CodesTable.read(made.path).codes_IK
    assert made.path.name.startswith("svd4x16-") and made.manifest["inputs"].keys() == {"data"}
    assert codes_IK.shape[1] == 4 and codes_IK.max() == 15
    run = genrec(tmp_path, "train", "--model", "recjpq", "--epochs", "1", *TINY)
    assert run.code == 0, run.err
    assert genrec(tmp_path, "evaluate", "--run", "recjpq-s0").code == 0
    assert genrec(tmp_path, "tokenize", "--tokenizer", "svd", "--collisions", "reassign", "--codewords", "8").code == 0
    refused = genrec(tmp_path, "train", "--model", "recjpq", "--codes", made.path, "--set", "model.width=18")
    assert refused.code == 3 and "must divide the width" in refused.err

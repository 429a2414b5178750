"""VQ-Rec: pooled vectors by loops, ties of equal codes, SASRec as its special case, and a transfer."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_catalog, make_histories
from safetensors.torch import load_file
from shop import TINY, genrec, small_codes

from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Rows
from genrec_cli.engine.checkpoint import BEST
from genrec_cli.engine.ranking import ExactRanker
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.models.vqrec import VqRec, VqRecConfig
from genrec_cli.nn.code_bags import CodeBags

SIZES = {"width": 8, "layers": 1, "heads": 2, "inner": 16, "dropout": 0.0, "attention_dropout": 0.0}


def vqrec(catalog: Catalog, **settings: object) -> VqRec:
    torch.manual_seed(0)
    return VqRec(VqRecConfig(**{**SIZES, **settings}), catalog, max_length=8).eval()


def batch():
    histories = make_histories([5, 9, 3, 12], 30)
    rows = Rows.of(histories, max_length=8, windows="recent")
    return rows.batch(histories, np.arange(len(rows)))


@pytest.mark.parametrize("text", [False, True])
def test_item_vectors_are_those_of_a_loop(text: bool) -> None:
    catalog = make_catalog(padded=text, shared=text)
    model = vqrec(catalog, input_scale=1)
    table = model.item.codes.table.weight.detach()
    pooled = []
    for codes in catalog.codes_IK.tolist():
        rows = [code if text else digit * 8 + code for digit, code in enumerate(codes) if code >= 0]
        pooled.append(sum(table[row] for row in rows) / len(rows))
    pooled_ID = torch.stack(pooled)
    torch.testing.assert_close(model.item(torch.arange(30)), pooled_ID)
    torch.testing.assert_close(model.item_vectors(), F.normalize(pooled_ID, dim=-1))


@pytest.mark.parametrize("padded", [False, True])
def test_the_gradient_of_bags_is_that_of_indexing(padded: bool) -> None:
    code_IK = make_catalog(padded=padded).codes_IK.long()
    token_IK = (code_IK + torch.arange(4) * 8).masked_fill(code_IK < 0, -1)
    table_RC = torch.randn(32, 5, requires_grad=True)
    weight_IC = torch.randn(30, 5)
    found_IC = CodeBags(token_IK, 32)(table_RC)
    expected_IC = (table_RC[token_IK.clamp_min(0)] * (token_IK >= 0)[..., None]).sum(1)
    torch.testing.assert_close(found_IC, expected_IC)
    (found,) = torch.autograd.grad((found_IC * weight_IC).sum(), table_RC)
    (expected,) = torch.autograd.grad((expected_IC * weight_IC).sum(), table_RC)
    torch.testing.assert_close(found, expected)


def test_equal_codes_have_equal_scores() -> None:
    model = vqrec(make_catalog())
    score_BI = model.item_scores(batch())
    assert torch.equal(score_BI[:, 0], score_BI[:, 1])
    assert not torch.isclose(score_BI[:, 0], score_BI[:, 2]).any()


def test_targets_of_equal_codes_tie_whatever_the_rounding() -> None:
    """A chunk of a matrix product may round otherwise than the score of the target alone."""
    catalog, model = make_catalog(), vqrec(make_catalog(), temperature=0.001)
    ranker = ExactRanker(model, catalog)
    with torch.no_grad():
        ranker.begin()
        for noise in (0.0, 1e-6):
            ranker.vector_ID[1] *= 1 + noise
            for target in (1, 2):
                rank = ranker.rank(batch(), torch.full((batch().packing.sequences,), target), 5).kept.rank
                assert (rank.ties_B == 2).all() and (rank.code_ties_B == 1).all()


def test_one_code_per_item_is_sasrec_with_cosine_scores() -> None:
    catalog = Catalog.of(torch.zeros(30, dtype=torch.long), torch.arange(30)[:, None], 30)
    ours, theirs = vqrec(catalog), SasRec(SasRecConfig(**SIZES), catalog, max_length=8).eval()
    theirs.load_state_dict(
        {name.replace("item.codes.table", "item"): weight for name, weight in ours.state_dict().items()}
    )
    h_BD, vector_ID = theirs.queries(batch()), theirs.item_vectors()
    cosine_BI = F.cosine_similarity(h_BD[:, None], vector_ID[None], dim=-1)
    torch.testing.assert_close(ours.item_scores(batch()), cosine_BI / 0.07, atol=1e-4, rtol=1e-4)
    next_loss = ours.losses(batch())["next"]
    at_M = batch().learn_M
    cosine_MI = F.cosine_similarity(theirs.states(batch(), at_M)[:, None], vector_ID[None], dim=-1)
    expected = F.cross_entropy(cosine_MI / 0.07, batch().target_N[at_M] - 1, reduction="sum")
    torch.testing.assert_close(next_loss.sum, expected, atol=1e-3, rtol=1e-4)


def test_it_starts_from_a_run_and_trains_its_encoder(tmp_path: Path) -> None:
    small_codes(tmp_path)
    words = ["train", "--model", "vqrec", "--epochs", "1", *TINY]
    assert genrec(tmp_path, *words, "--label", "first").code == 0
    second = genrec(tmp_path, *words, "--init-from", "first")
    assert second.code == 0, second.err
    assert "parameters start from first" in second.err and "keep their initial" not in second.err
    moved = load_file(second.path / BEST)
    start = load_file(next((tmp_path / "synthetic" / "runs").glob("first-*")) / BEST)
    encoder = [name for name in start if name.startswith("backbone.")]
    assert encoder and not any(torch.equal(moved[name], start[name]) for name in encoder), "the encoder is not frozen"
    assert genrec(tmp_path, "evaluate", "--run", "first").code == 0

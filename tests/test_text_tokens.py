"""Items of fewer than K codes, and digits that share one table: text in place of semantic IDs."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_catalog
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli.artifacts import Workspace
from genrec_cli.config import validate
from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.codes_table import NO_CODE, NO_CODE_ON_DISK, CodesTable
from genrec_cli.data.sequences import eval_batches
from genrec_cli.engine.explain import reconstruction
from genrec_cli.errors import DataError
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.nn.classifier import entropy
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.searches.graph import Graph, GraphConfig
from genrec_cli.stages.load import load_catalog
from genrec_cli.tokenizers.text import TextConfig, TextTokenizer

KINDS = {"padded": {"padded": True}, "shared": {"shared": True}, "text": {"padded": True, "shared": True}}
QUIET = {"width": 16, "heads": 2, "inner": 32, "dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture(params=KINDS)
def kind(request) -> dict[str, bool]:
    return KINDS[request.param]


@pytest.fixture
def text() -> Catalog:
    return make_catalog(**KINDS["text"])


def mhl(catalog: Catalog, **options) -> Mhl:
    torch.manual_seed(0)
    model = Mhl(validate(MhlConfig, "model", QUIET | options), catalog, max_length=8)
    torch.nn.init.normal_(model.codes.table.weight)
    torch.nn.init.normal_(model.heads.linear.weight, std=0.1)
    return model


def every(policy="random", granularity="token", ratio=0.5, budget="rounded") -> HistoryMasks:
    return HistoryMasks(policy, granularity, ratio, budget, torch.Generator().manual_seed(0))


@pytest.fixture
def batch(histories, rows):
    return rows.batch(histories, np.arange(len(rows)))


# ---- against loops -------------------------------------------------------------------------------


def test_an_item_is_the_mean_of_its_own_codes(text, kind):
    catalog = make_catalog(**kind)
    model = mhl(catalog)
    found = model.codes(model.codes.tokens(catalog.codes_IK))
    for codes, pooled in zip(catalog.codes_IK.tolist(), found, strict=True):
        rows = [code if catalog.shared else digit * 8 + code for digit, code in enumerate(codes) if code >= 0]
        torch.testing.assert_close(pooled, model.codes.scale * model.codes.table.weight[rows].mean(0))


def test_decoding_is_a_mean_over_each_items_own_codes(kind):
    catalog = make_catalog(**kind)
    logp_BKV = torch.randn(3, 4, 8).log_softmax(-1)
    found = Exhaustive(catalog).code_scores(logp_BKV)
    for user in range(3):
        for item, codes in enumerate(catalog.codes_IK.tolist()):
            own = [float(logp_BKV[user, digit, code]) for digit, code in enumerate(codes) if code >= 0]
            assert float(found[user, item]) == pytest.approx(sum(own) / len(own), abs=1e-6)
    assert torch.equal(found[:, 0], found[:, 1]), "equal codes tie to the last bit"
    rank = Exhaustive(catalog).rank(found, torch.tensor([1, 1, 1]))
    assert (rank.ties_B >= 2).all() and (rank.code_ties_B == rank.ties_B - 1).all()


@pytest.mark.parametrize("name", ["rpg", "mhl"])
def test_padding_is_neither_predicted_nor_counted(text, name, batch):
    kind, section = {"rpg": (Rpg, RpgConfig), "mhl": (Mhl, MhlConfig)}[name]
    model = kind(section(**QUIET), text, max_length=8).eval()
    logit_KMV = model.logits(model.states(model.tokens(batch), batch, batch.learn_M)).log_softmax(-1)
    total, count = 0.0, 0
    for place, item in enumerate(batch.target_N[batch.learn_M].tolist()):
        for digit, code in enumerate(text.codes_IK[item - 1].tolist()):
            if code >= 0:
                total -= float(logit_KMV[digit, place, code].detach())
                count += 1
    loss = model.losses(batch)["next"]
    assert loss.count == count < len(batch.learn_M) * 4
    assert float(loss.sum.detach()) == pytest.approx(total, rel=1e-5)


def test_reconstruction_counts_masked_codes_alone(text, batch):
    model = mhl(text)
    real_NK = model.maskable(batch)
    mask_NK = real_NK & (torch.rand(real_NK.shape) < 0.4)
    h_ND = model.states(model.apply_mask(model.tokens(batch), mask_NK, batch), batch)
    logp_KNV = model.logits(h_ND).log_softmax(-1)
    codes_NK = text.codes_IK[batch.item_N - 1]
    places = mask_NK.nonzero().tolist()
    expected = -sum(float(logp_KNV[k, n, codes_NK[n, k]].detach()) for n, k in places)
    loss = model.losses(batch, mask_NK)["mask"]
    assert loss.count == len(places)
    assert float(loss.sum.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("extra", [1, 3])
def test_more_padding_changes_nothing(text, extra, batch, histories):
    """The same items with more digits that none of them has."""
    codes_IK = torch.nn.functional.pad(text.codes_IK, (0, extra), value=-1)
    wide = Catalog.of(text.train_count_I, codes_IK, text.codewords, shared=True)
    small, large = mhl(text).eval(), mhl(wide).eval()
    weights = large.state_dict()
    for name, value in small.state_dict().items():
        if name.startswith("heads"):
            weights[name][: len(value)] = value
        elif name == "codes.table.weight":
            weights[name][:8] = value[:8]
        else:
            weights[name] = value
    large.load_state_dict(weights)
    one, other = small.losses(batch)["next"], large.losses(batch)["next"]
    assert one.count == other.count
    torch.testing.assert_close(one.sum, other.sum)
    user, at = histories.targets("test")
    known = next(eval_batches(histories, user, at, max_length=8, batch_size=99)).batch
    torch.testing.assert_close(Exhaustive(text).scores(small, known), Exhaustive(wide).scores(large, known))
    entropies = [m.entropies(known).mean(-1) for m in (small, large)]
    torch.testing.assert_close(*entropies)


@pytest.mark.parametrize("policy", ["random", "entropy"])
@pytest.mark.parametrize("granularity", ["token", "item", "mixed"])
@pytest.mark.parametrize("next_on", ["masked", "clean"])
def test_padding_is_never_masked(text, policy, granularity, next_on, batch):
    model = mhl(text, next_on=next_on)
    real_NK = model.maskable(batch)
    mask_NK = every(policy, granularity, 1.0)(model, batch)
    losses = model.losses(batch, mask_NK)
    assert torch.equal(mask_NK, real_NK), "a ratio of one hides all there is and nothing else"
    masked = losses["masked_fraction"]
    assert losses["mask"].count == masked.sum == masked.count == real_NK.sum()


def test_the_budget_counts_codes_that_are_there(text, batch):
    real_NK = mhl(text).maskable(batch)
    mask_NK = every("entropy", "token", 0.5, "rounded").sample(batch.packing, real_NK, torch.rand(real_NK.shape))
    zero_B = torch.zeros(batch.packing.sequences)
    number_B, all_B = (zero_B.index_add(0, batch.packing.sequence_N, m.sum(1).float()) for m in (mask_NK, real_NK))
    assert ((number_B - 0.5 * all_B).abs() < 1).all()


@pytest.mark.parametrize("source", ["printed", "predictive"])
def test_entropies_ignore_padding(text, source, batch):
    model = mhl(text, entropy_source=source)
    real_NK = model.maskable(batch)
    found = model.entropies(batch)
    for entropies, real in zip(found, real_NK, strict=True):
        assert float(entropies.mean()) == pytest.approx(float(entropies[real].mean()), abs=1e-5)
    if source == "printed":
        everywhere = entropy(model.logits(model.states(model.tokens(batch), batch)).log_softmax(-1)).t()
        torch.testing.assert_close(found[real_NK], everywhere[real_NK])


def test_a_hidden_item_hides_its_own_codes(text, batch):
    model, place = mhl(text).eval(), 3
    token_NK = model.tokens(batch).clone()
    codes = text.codes_IK[int(batch.item_N[place]) - 1]
    for digit in np.flatnonzero(codes >= 0):
        token_NK[place, digit] = 8 + int(batch.packing.position_N[place]) * 4 + int(digit)
    logp_BKV = model.logits(model.states(token_NK, batch)[[place]]).log_softmax(-1).transpose(0, 1)
    found = reconstruction(model, Exhaustive(text), batch, place)
    torch.testing.assert_close(found, Exhaustive(text).code_scores(logp_BKV), atol=1e-5, rtol=1e-5)


def test_the_graph_is_for_digits_with_a_meaning_each(kind):
    catalog = make_catalog(**kind)
    with pytest.raises(ValueError, match="means nothing for text"):
        Graph(mhl(catalog), catalog, GraphConfig())


# ---- the tokenizer -------------------------------------------------------------------------------

TITLES = [f"Rose {name} Soap, {size} oz" for name in ("Water", "Garden", "Hip", "Gold") for size in (2, 4, 16)]
TITLES += ["Crème brûlée 石鹸", None, ""]


def fitted(**options) -> TextTokenizer:
    tokenizer = TextTokenizer(TextConfig(**{"codebooks": 12, "codewords": 300} | options))
    tokenizer.fit(TITLES, np.array([True] * 12 + [False] * 3))
    return tokenizer


def test_a_title_is_its_first_subwords():
    codes_IK = fitted().codes(TITLES)
    whole_IK = fitted(codebooks=64).codes(TITLES)
    assert codes_IK.shape == (15, 12) and codes_IK.max() < 300
    assert np.array_equal(codes_IK, whole_IK[:, :12])
    for title, codes in zip(TITLES[:13], whole_IK, strict=False):
        assert (np.diff((codes >= 0).astype(int)) <= 0).all(), "padding stands behind"
        assert fitted().bpe.decode(codes[codes >= 0].tolist()).strip() == title
    assert whole_IK[0, 0] == whole_IK[5, 0] and whole_IK[0, 1] != whole_IK[5, 1]
    assert (whole_IK[13:, 0] == 0).all() and (whole_IK[13:, 1:] == -1).all(), "no title is a code of its own"
    assert (whole_IK[12] >= 0).sum() > 12, "bytes for what training never saw"


def test_only_training_titles_are_learned_from():
    other = TextTokenizer(TextConfig(codebooks=12, codewords=300))
    other.fit([*TITLES[:12], "Crème Crème Crème", "brûlée brûlée", "x"], np.array([True] * 12 + [False] * 3))
    assert other.bpe.to_str() == fitted().bpe.to_str()
    with pytest.raises(DataError, match="No training item has a title"):
        other.fit(TITLES, np.array([False] * 13 + [True] * 2))


def test_facts_are_counted():
    facts = fitted().facts(TITLES)
    length_I = (fitted(codebooks=64).codes(TITLES) >= 0).sum(1)
    assert facts["mean_length"] == pytest.approx(length_I.mean())
    assert facts["untitled_fraction"] == pytest.approx(2 / 15)
    assert facts["cut_fraction"] == pytest.approx((length_I > 12).mean())
    assert facts["padding_fraction"] == pytest.approx((fitted().codes(TITLES) < 0).mean())


def test_other_processes_give_the_same_codes():
    script = (
        "import hashlib, json, sys, numpy as np\n"
        "from genrec_cli.tokenizers.text import TextConfig, TextTokenizer\n"
        "titles = json.loads(sys.argv[1]); t = TextTokenizer(TextConfig(codebooks=12, codewords=300))\n"
        "t.fit(titles, np.arange(15) < 12); print(json.dumps([t.codes(titles).tolist(), t.bpe.to_str()]))"
    )
    words, found = [sys.executable, "-c", script, json.dumps(TITLES)], set()
    for threads in ("1", "4"):
        env = {"RAYON_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path)}
        found.add(subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout)
    assert {*map(str.strip, found)} == {json.dumps([fitted().codes(TITLES).tolist(), fitted().bpe.to_str()])}


# ---- the commands --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("text")
    for words in (SMALL_SHOP, ["preprocess"], ["tokenize", "--tokenizer", "text", "--codewords", "400"]):
        assert genrec(root, *words).code == 0
    return root


def test_titles_become_codes_without_vectors(root):
    answer = genrec(root, "tokenize", "--tokenizer", "text", "--codewords", "400")
    assert answer.path.name.startswith("text32x400-") and not (answer.path.parents[1] / "vectors").exists()
    assert answer.manifest["inputs"].keys() == {"data"} and "encoder" not in answer.manifest["config"]
    quality = json.loads((answer.path / "quality.json").read_text())
    assert quality["padding_fraction"] > 0 and "reconstruction_error" not in quality
    stored = np.stack(pq.read_table(answer.path / "codes.parquet")["codes"].to_numpy())
    assert [digit["used"] for digit in quality["digits"]] == [
        len(set(column[column != NO_CODE_ON_DISK].tolist())) for column in stored.T
    ]
    ws = Workspace(root)
    codes = ws.find("synthetic", "codes")
    catalog = load_catalog({"data": ws.input(codes, "data"), "codes": codes})
    assert catalog.shared and catalog.padded and catalog.codewords == 400
    assert catalog.code_RK.dtype == torch.int16 and not catalog.code_RK[0].any()
    assert np.array_equal(catalog.codes_IK.numpy(), np.where(stored == NO_CODE_ON_DISK, -1, stored.astype(int)))


@pytest.mark.parametrize(("option", "value"), [("--encoder", "lsa"), ("--codebook-from", "text"), ("--pca", "8")])
def test_options_for_vectors_are_refused(root, option, value):
    answer = genrec(root, "tokenize", "--tokenizer", "text", option, value)
    assert answer.code in (2, 3) and option.strip("-") in answer.err.replace("tokenizer.", "")


def test_a_run_on_text_is_trained_evaluated_and_explained(root):
    for model in ("rpg", "mhl"):
        assert genrec(root, "train", "--model", model, "--epochs", "1", *TINY).path
    result = genrec(root, "evaluate", "--run", "mhl-s0").manifest["result"]
    assert 0 < result["metrics"]["kept"]["Recall@10"] < 1
    refused = genrec(root, "evaluate", "--run", "rpg-s0", "--search", "graph")
    assert refused.code == 2 and "means nothing for text" in refused.err
    cases = genrec(root, "case-study", "mhl-s0", "--users", "1").path / "cases.md"
    assert "Prediction where the item of highest entropy" in cases.read_text()


def test_an_item_without_any_code_is_refused(root, tmp_path):
    ws = Workspace(root)
    codes = ws.find("synthetic", "codes")
    table = CodesTable.read(codes.path)
    elsewhere = dataclasses.replace(codes, path=tmp_path)
    codes_IK = table.codes_IK.copy()
    codes_IK[7] = NO_CODE
    CodesTable(codes_IK, table.codewords, shared=True).write(tmp_path)
    with pytest.raises(DataError, match="without any code"):
        load_catalog({"data": ws.input(codes, "data"), "codes": elsewhere})
    CodesTable(codes_IK, table.codewords).write(tmp_path)
    with pytest.raises(DataError, match="the code 65535"):
        load_catalog({"data": ws.input(codes, "data"), "codes": elsewhere})

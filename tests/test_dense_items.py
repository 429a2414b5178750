"""The dense side of code models: vectors, losses and ranks by loops, what masks hide, and the commands."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_catalog, make_histories, recent_batch
from shop import TINY, genrec, small_codes
from torch import Tensor

from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Rows, eval_batches
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.engine.ranking import ExactRanker
from genrec_cli.errors import ConfigError, UsageError
from genrec_cli.models.base import CodeAndItemScorer, DotScorer, scores_items
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.nn.horizons import later_targets
from genrec_cli.searches.graph import Graph, GraphConfig

SIZES = {"width": 8, "layers": 1, "heads": 2, "inner": 16, "dropout": 0.0, "attention_dropout": 0.0}
DENSE = {"dense_input": True, "free_vectors": True, "item_weight": 0.5, "item_mix": 0.3, "temperature": 0.1}


def rpg(catalog: Catalog, **settings: object) -> Rpg:
    """A model all of whose parameters are random."""
    torch.manual_seed(0)
    model = Rpg(RpgConfig(**{**SIZES, **settings}), catalog, max_length=8).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def item_vectors(model: Rpg, catalog: Catalog) -> Tensor:
    """``x_ID`` by a loop over items: pooled codes, text, free vector."""
    width, rows = 8, model.codes.table.weight
    text_IE = catalog.vector_RE[1:] - catalog.vector_RE[1:].mean(0)
    vectors = []
    for item, codes in enumerate(catalog.codes_IK.tolist()):
        tokens = [code + (0 if catalog.shared else digit * 8) for digit, code in enumerate(codes) if code >= 0]
        pooled = model.codes.scale * sum(rows[token] for token in tokens) / len(tokens)
        text = model.dense.projection.weight @ (text_IE[item] / text_IE[item].norm()) * width**0.5
        vectors.append(pooled + text + width**0.5 * model.dense.free.weight[item])
    return torch.stack(vectors)


@pytest.mark.parametrize("text", [False, True])
def test_item_vectors_are_those_of_a_loop_at_the_input_and_in_the_head(text: bool) -> None:
    catalog = make_catalog(padded=text, shared=text)
    model, seen = rpg(catalog, **DENSE), []
    expected_ID = item_vectors(model, catalog)
    torch.testing.assert_close(model.item_vectors(), F.normalize(expected_ID, dim=-1))
    batch = recent_batch([5, 9, 3])
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.code_logprobs(batch)
    torch.testing.assert_close(seen[0], expected_ID[batch.item_N - 1])


def test_the_dense_side_starts_with_the_size_of_the_codes_and_free_vectors_at_zero() -> None:
    torch.manual_seed(0)
    catalog = make_catalog(items=500)
    model = Rpg(
        RpgConfig(**{**SIZES, "width": 64}, **{"dense_input": True, "free_vectors": True}), catalog, max_length=8
    )
    assert not model.dense.free.weight.any()
    dense, pooled = model.dense(), model.codes(model.codes.tokens(model.code_RK[1:].long()))
    assert 0.7 < (dense.std() / pooled.std()).item() < 1.4


def test_the_loss_of_the_item_head_is_that_of_a_loop() -> None:
    catalog, batch = make_catalog(), recent_batch([5, 9, 3, 12])
    model = rpg(catalog, **DENSE)
    h_ND = model.states(model.tokens(batch), batch)
    weight, bias = model.item_head.residual.linear.weight, model.item_head.residual.linear.bias
    total = 0.0
    for at in batch.learn_M.tolist():
        query = h_ND[at] + F.silu(weight @ h_ND[at] + bias)
        score_I = F.cosine_similarity(query[None], item_vectors(model, catalog)) / 0.1
        total -= score_I.log_softmax(0)[batch.target_N[at] - 1]
    loss = model.losses(batch)["item"]
    assert loss.weight == 0.5 and loss.count == len(batch.learn_M)
    torch.testing.assert_close(loss.sum, total)


def test_the_alignment_is_that_of_a_loop() -> None:
    catalog, batch = make_catalog(), recent_batch([5, 9, 3, 12])
    model = rpg(catalog, align_weight=2.0, temperature=0.1)
    h_ND, text_IE = model.states(model.tokens(batch), batch), catalog.vector_RE[1:] - catalog.vector_RE[1:].mean(0)
    total = 0.0
    for at in batch.learn_M.tolist():
        score_I = F.cosine_similarity((model.alignment.projection.weight @ h_ND[at])[None], text_IE) / 0.1
        total -= score_I.log_softmax(0)[batch.target_N[at] - 1]
    loss = model.losses(batch)["align"]
    assert loss.weight == 2.0 and loss.count == len(batch.learn_M)
    torch.testing.assert_close(loss.sum, total)


def test_ranks_and_losses_of_the_sum_are_those_of_all_scores() -> None:
    """Items 1 and 2 have equal codes and do not tie."""
    catalog, histories = make_catalog(), make_histories([5, 9, 3, 12], 30)
    model = rpg(catalog, **DENSE)
    (known,) = eval_batches(histories, *histories.targets("test"), max_length=8, batch_size=9)
    logp_BKV = model.code_logprobs_and_queries(known.batch)[0]
    torch.testing.assert_close(logp_BKV, model.code_logprobs(known.batch))
    code_IK = catalog.codes_IK.long()
    score_BI = torch.stack([logp_BKV[:, k, code_IK[:, k]] for k in range(4)]).mean(0)
    unit_ID = F.normalize(item_vectors(model, catalog), dim=-1)
    h_BD = model.states(model.tokens(known.batch), known.batch, known.batch.packing.last_B)
    cosine_BI = F.normalize(model.item_head.residual(h_BD)[0], dim=-1) @ unit_ID.t()
    score_BI = score_BI + 0.3 * cosine_BI / 0.1
    ranker = ExactRanker(model, catalog)
    ranker.begin()
    target_B = torch.tensor([1, 2, 7, 30])
    found = ranker.rank(known.batch, target_B, 30)
    score_B1 = score_BI.gather(1, target_B[:, None] - 1)
    rank = found.kept.rank
    assert torch.equal(rank.above_B, (score_BI > score_B1 + 1e-6).sum(1)) and (rank.ties_B == 1).all()
    assert torch.equal(rank.code_above_B, rank.above_B)
    torch.testing.assert_close(found.loss_B, -score_BI.log_softmax(1).gather(1, target_B[:, None] - 1)[:, 0])
    assert torch.equal(found.kept.top.item_Bk, score_BI.argsort(1, descending=True) + 1)


def test_item_vectors_are_computed_once_for_an_evaluation() -> None:
    catalog, batch = make_catalog(), recent_batch([5, 9])
    model, calls = rpg(catalog, **DENSE), []
    model.item_head.register_module("bags", Counted(model.item_head.bags, calls))
    ranker = ExactRanker(model, catalog)
    ranker.begin()
    for _ in range(3):
        ranker.lists(batch, 5)
    assert len(calls) == 1


class Counted(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module, calls: list) -> None:
        super().__init__()
        self.inner, self.calls = inner, calls

    def forward(self, *args: Tensor) -> Tensor:
        self.calls.append(1)
        return self.inner(*args)


def test_only_an_item_head_makes_a_scorer_of_items() -> None:
    catalog = make_catalog()
    plain, dense = rpg(catalog), rpg(catalog, **DENSE)
    assert isinstance(plain, CodeAndItemScorer) and not scores_items(plain) and scores_items(dense)
    assert not isinstance(dense, DotScorer)
    with pytest.raises(UsageError, match="item head"):
        Graph(dense, catalog, GraphConfig())


def test_settings_add_needs_and_only_what_they_name() -> None:
    assert Rpg.needs_of(RpgConfig()) == {"codes"} == Mhl.needs_of(MhlConfig(free_vectors=True, item_weight=1))
    assert Rpg.needs_of(RpgConfig(dense_input=True)) == {"codes", "vectors"} == Mhl.needs_of(MhlConfig(align_weight=1))
    plain = replace(make_catalog(), vector_RE=None)
    assert {name.partition(".")[0] for name in rpg(plain).state_dict()} == {"codes", "backbone", "heads"}
    assert "item_head.residual.linear.weight" in rpg(plain, item_weight=1.0).state_dict()


def test_a_masked_item_has_no_dense_side() -> None:
    """One masked digit is enough: the text would name it."""
    catalog, batch = make_catalog(), recent_batch([6])
    settings = MhlConfig(**SIZES, **{**DENSE, "item_weight": 0.0})
    states = []
    for change in (0.0, 1.0):
        changed = replace(catalog, vector_RE=catalog.vector_RE.clone())
        others = catalog.vector_RE[1:] - catalog.vector_RE[1:].mean(0)
        torch.manual_seed(0)
        model = Mhl(settings, changed, max_length=8).eval()
        assert model.dense is not None
        model.dense.text_RE[batch.item_N[2]] += change * others[0].norm()
        for digits in (1, 4):
            mask_NK = torch.zeros(len(batch.item_N), 4, dtype=torch.bool)
            mask_NK[2, :digits] = True
            token_NK = model.apply_mask(model.tokens(batch), mask_NK, batch)
            states.append((model.states(token_NK, batch), model.states(model.tokens(batch), batch)))
    for before, after in zip(states[:2], states[2:], strict=True):
        assert torch.equal(before[0], after[0]) and not torch.equal(before[1][2:], after[1][2:])


@pytest.mark.parametrize("stride", [1, 3])
def test_later_targets_and_their_losses_are_those_of_a_loop(stride: int) -> None:
    histories = make_histories([5, 9, 3, 16, 12], 30)
    rows = Rows.of(histories, max_length=6, windows="sliding", stride=stride)
    batch = rows.batch(histories, np.arange(len(rows)))
    model = rpg(make_catalog(), horizons=3, horizon_decay=0.5)
    h_ND = model.states(model.tokens(batch), batch)
    sequence_N, losses, counts = batch.packing.sequence_N.tolist(), model.losses(batch), model.counts(batch)
    for later in (1, 2):
        total, count, expected = 0.0, 0, []
        for at in batch.learn_M.tolist():
            place = at + later
            inside = place < len(sequence_N) and sequence_N[place] == sequence_N[at]
            target = int(batch.target_N[place]) if inside else 0
            expected.append(target)
            if target:
                state_D = model.horizons(h_ND[at][None])[later - 1, 0]
                logp_KV = model.logits(state_D[None]).log_softmax(-1)[:, 0]
                total -= logp_KV[torch.arange(4), model.code_RK[target].long()].sum()
                count += 4
        found_M = later_targets(batch.target_N, batch.packing, batch.learn_M, later)
        assert found_M.tolist() == expected and any(expected)
        loss = losses[f"next_{later + 1}"]
        assert loss.weight == 0.5**later and loss.count == count == counts[f"next_{later + 1}"]
        torch.testing.assert_close(loss.sum, total)


def test_rows_of_one_target_have_no_later_target() -> None:
    with pytest.raises(ConfigError, match="several targets"):
        Rpg.check(RpgConfig(horizons=2), TrainConfig(windows="each"))


def test_the_commands(tmp_path: Path) -> None:
    root = small_codes(tmp_path)
    options = [f"model.{name}={str(value).lower()}" for name, value in DENSE.items()]
    words = ["train", "--model", "rpg", "--epochs", "1", *TINY, *(word for o in options for word in ("--set", o))]
    trained = genrec(root, *words)
    assert set(trained.manifest["inputs"]) == {"data", "codes", "vectors"}
    assert genrec(root, "evaluate", "--run", "rpg-s0").code == 0
    graph = genrec(root, "evaluate", "--run", "rpg-s0", "--search", "graph")
    assert graph.code == 2 and "--search exhaustive" in graph.err
    onnx = genrec(root, "export", "rpg-s0", "--to", tmp_path / "out", "--onnx")
    assert onnx.code == 2 and "item head" in onnx.err
    exported = genrec(root, "export", "rpg-s0", "--to", tmp_path / "out")
    assert (exported.path / "vectors.safetensors").exists() or any(exported.path.glob("vectors*"))

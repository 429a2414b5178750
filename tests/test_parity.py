"""Fast paths against their slow or foreign twins."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories
from sklearn.metrics import ndcg_score
from torch.nn.functional import logsigmoid
from twins import copy_bert

from genrec_cli.data.sequences import Rows, eval_batches
from genrec_cli.engine import metrics
from genrec_cli.engine.optim import autocast
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.nn.attention import SelfAttention
from genrec_cli.nn.codes import CodeHeads, cosine_logits, residual_heads
from genrec_cli.nn.losses import sampled_cross_entropy
from genrec_cli.nn.packing import Packing, take
from genrec_cli.nn.transformer import Transformer
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.exhaustive import Exhaustive, _chunks
from genrec_cli.searches.graph import Graph, GraphConfig, starts
from genrec_cli.searches.rank import UNLISTED


def test_post_norm_blocks_that_read_both_directions_equal_bert():
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 9}
    theirs = BertModel(BertConfig(vocab_size=2, **sizes, **options), add_pooling_layer=False).eval()
    config = SasRecConfig(width=16, layers=2, heads=4, inner=40, dropout=0.0, attention_dropout=0.0)
    ours = Transformer(config, 9, causal=False, norm="post", epsilon=1e-12)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.3)
        theirs.embeddings.token_type_embeddings.weight.zero_()
    copy_bert(ours, theirs)
    packing = Packing.of(np.array([3, 5, 9]))
    x_ND = torch.randn(17, 16)
    real_BT = packing.grid.real_BT()
    expected = theirs(inputs_embeds=packing.grid.pad(x_ND), attention_mask=real_BT.long()).last_hidden_state
    torch.testing.assert_close(ours(x_ND, packing), packing.grid.pack(expected), atol=1e-5, rtol=1e-5)
    at_M = torch.tensor([0, 7, 16])
    torch.testing.assert_close(ours(x_ND, packing, at_M), ours(x_ND, packing)[at_M])


def test_blocks_equal_gpt2():
    from transformers import GPT2Config, GPT2Model

    theirs = GPT2Model(
        GPT2Config(
            vocab_size=2,
            n_positions=9,
            n_embd=16,
            n_layer=2,
            n_head=4,
            n_inner=40,
            activation_function="gelu_new",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ).eval()
    sizes = RpgConfig(width=16, layers=2, heads=4, inner=40, dropout=0.0, attention_dropout=0.0)
    ours = Transformer(sizes, 9)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
        ours.position.weight.copy_(theirs.wpe.weight)
        for block, twin in zip(ours.blocks, theirs.h, strict=True):
            pairs = [
                (block.norm_attention, twin.ln_1, False),
                (block.attention.qkv, twin.attn.c_attn, True),
                (block.attention.output, twin.attn.c_proj, True),
                (block.norm_mlp, twin.ln_2, False),
                (block.mlp[0], twin.mlp.c_fc, True),
                (block.mlp[2], twin.mlp.c_proj, True),
            ]
            for mine, other, transposed in pairs:
                mine.weight.copy_(other.weight.t() if transposed else other.weight)
                mine.bias.copy_(other.bias)
        ours.norm.weight.copy_(theirs.ln_f.weight)
        ours.norm.bias.copy_(theirs.ln_f.bias)
    lengths = np.array([5, 9, 1, 7])
    packing = Packing.of(lengths)
    x_ND = torch.randn(int(lengths.sum()), 16)
    padded = packing.grid.pad(x_ND)
    mask = torch.arange(9) < packing.length_B[:, None]
    expected = theirs(inputs_embeds=padded, attention_mask=mask.long()).last_hidden_state
    found = ours(x_ND, packing)
    torch.testing.assert_close(found, packing.grid.pack(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x_ND, packing, packing.last_B), found[packing.last_B], atol=1e-5, rtol=1e-5)


def test_packing_equals_loops():
    lengths = [3, 1, 4]
    packing = Packing.of(np.array(lengths))
    x_ND = torch.randn(8, 2)
    padded = packing.grid.pad(x_ND)
    start = 0
    for b, length in enumerate(lengths):
        assert torch.equal(padded[b, :length], x_ND[start : start + length])
        start += length
    assert torch.equal(packing.grid.pack(padded), x_ND)
    assert packing.position_N.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert packing.last_B.tolist() == [2, 3, 7]
    with pytest.raises(ValueError, match="length 1"):
        Packing.of(np.array([2, 0]))


def test_two_grids_equal_one_in_values_and_gradients():
    """Sorted lengths are laid out as short and long sequences; attention must not notice."""
    lengths = np.array([1, 2, 2, 3, 3, 9])
    packing = Packing.of(lengths)
    assert [part.longest for part in packing.parts] == [3, 9]
    torch.manual_seed(0)
    found = []
    for causal in (True, False):
        attention = SelfAttention(8, 2, causal=causal)
        for layout in (packing, replace(packing, parts=(packing.grid,))):
            x_ND = torch.randn(20, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
            attention(x_ND, layout, torch.tensor([0, 4, 10, 19])).square().sum().backward()
            found.append((x_ND.grad, attention.qkv.weight.grad.clone()))
            attention.zero_grad()
        for one, two in zip(*found, strict=True):
            torch.testing.assert_close(one, two)
        found.clear()


def test_take_and_pad_have_the_gradients_of_indexing():
    packing = Packing.of(np.array([2, 4, 1]))
    x_ND = torch.randn(7, 3, requires_grad=True, dtype=torch.double)
    real = packing.grid.real_BT()[..., None]
    assert torch.autograd.gradcheck(lambda x: packing.grid.pad(x) * real, x_ND)
    assert torch.autograd.gradcheck(lambda x: packing.grid.pack(packing.grid.pad(x) * real), x_ND)
    assert torch.autograd.gradcheck(lambda x: take(x, torch.tensor([5, 0, 3])), x_ND)


def test_grouped_heads_equal_all_heads():
    heads = CodeHeads(3, 8)
    torch.nn.init.normal_(heads.linear.weight)
    h_ND = torch.randn(5, 8)
    everywhere = heads(h_ND)
    at_KP = torch.tensor([[0, 4], [1, 1], [3, 2]])
    weight_KDD, bias_K1D = heads.weights()
    for here in (slice(0, 3), slice(0, 1), slice(1, 3)):
        own_kPD = residual_heads(weight_KDD[here], bias_K1D[here], h_ND[at_KP[here]])
        for k, own_PD in zip(range(3)[here], own_kPD, strict=True):
            torch.testing.assert_close(own_PD, everywhere[k, at_KP[k]])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-4), ("bf16", 5e-2)])
def test_cosine_logits_and_their_gradients_equal_the_formula(shared, precision, tolerance):
    """The gradient is written out by hand; autograd's own, by way of the formula, is its slow reference."""
    torch.manual_seed(0)
    state_NKD = torch.randn(5, 3, 64, requires_grad=True)
    vectors = torch.randn(*(() if shared else (3,)), 7, 64, requires_grad=True)
    weight_KNV = torch.randn(3, 5, 7)
    with autocast(torch.device("cpu"), precision):
        found_KNV = cosine_logits(state_NKD.transpose(0, 1), vectors, 0.07)
    expected_KNV = (
        torch.nn.functional.cosine_similarity(
            state_NKD.transpose(0, 1)[:, :, None], vectors.expand(3, 7, 64)[:, None], dim=-1
        )
        / 0.07
    )
    assert found_KNV.dtype == torch.float32
    torch.testing.assert_close(found_KNV, expected_KNV, atol=tolerance, rtol=tolerance)
    for one, other in zip(
        torch.autograd.grad((found_KNV * weight_KNV).sum(), (state_NKD, vectors)),
        torch.autograd.grad((expected_KNV * weight_KNV).sum(), (state_NKD, vectors)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_a_state_of_length_zero_has_a_finite_gradient():
    state_KND = torch.zeros(1, 2, 4, requires_grad=True)
    cosine_logits(state_KND, torch.randn(1, 3, 4), 0.07).sum().backward()
    assert state_KND.grad.isfinite().all()


def test_rpg_loss_equals_loops_over_users_and_digits():
    catalog, histories = make_catalog(), make_histories([5, 7, 4], 30)
    torch.manual_seed(0)
    model = Rpg(RpgConfig(width=16, heads=2, inner=32, dropout=0.0, attention_dropout=0.0), catalog, max_length=8)
    torch.nn.init.normal_(model.heads.linear.weight, std=0.2)
    rows = Rows.of(histories, max_length=8, windows="sliding")
    loss = model.losses(rows.batch(histories, np.arange(3)))["next"]
    total, count = 0.0, 0
    for u in range(3):
        items = histories.item[histories.offset[u] :][: histories.train_end[u]].astype(int)
        single = rows.batch(histories, np.array([u]))
        h = model.states(model.tokens(single), single)
        for t in range(len(items) - 1):
            for k in range(4):
                weight = model.heads.linear.weight.view(4, 16, 16)[k]
                g = h[t] + torch.nn.functional.silu(weight @ h[t])
                logits = torch.nn.functional.cosine_similarity(g[None], model.code_vectors()[k], dim=-1) / 0.07
                total -= logits.log_softmax(0)[catalog.codes_IK[items[t + 1] - 1, k]]
                count += 1
    assert loss.count == count
    torch.testing.assert_close(loss.sum, total, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bce", "sampled"])
def test_sasrec_sampled_losses_are_finite_and_learn(kind):
    catalog, histories = make_catalog(), make_histories([6] * 8, 30)
    config = SasRecConfig(width=16, heads=2, inner=16, loss=kind, negatives=5, dropout=0.0, attention_dropout=0.0)
    model = SasRec(config, catalog, max_length=8)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.arange(8))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.losses(batch.with_negatives(model.negatives, 30, generator))["next"]
        (loss.sum / loss.count).backward()
        optimizer.step()
        values.append(float(loss.sum.detach() / loss.count))
    assert np.mean(values[-5:]) < 0.6 * np.mean(values[:5])


@pytest.mark.parametrize("kind", ["bce", "sampled"])
def test_sasrec_sampled_losses_equal_loops_and_spare_the_target(kind):
    """With three items every third draw is the target: it is no negative, neither in the loss nor in the gradient."""
    items, negatives, histories = 3, 4, make_histories([7] * 6, 3)
    config = SasRecConfig(width=8, heads=2, inner=8, loss=kind, negatives=negatives, dropout=0, attention_dropout=0)
    model = SasRec(config, make_catalog(items), max_length=8)
    torch.nn.init.normal_(model.item.weight)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.arange(6))
    batch = batch.with_negatives(model.negatives, items, torch.Generator().manual_seed(3))
    loss, drawn_MS = model.losses(batch)["next"], batch.negative_MS - 1
    assert drawn_MS.shape == (len(batch.learn_M), negatives)
    column_M = batch.target_N[batch.learn_M] - 1
    assert 0.1 < (drawn_MS == column_M[:, None]).float().mean() < 0.6
    h_MD, total = model.states(batch, batch.learn_M), 0.0
    for h, target, drawn in zip(h_MD, column_M.tolist(), drawn_MS.tolist(), strict=True):
        positive, others = h @ model.item.weight[target], [h @ model.item.weight[s] for s in drawn if s != target]
        if kind == "bce":
            total -= logsigmoid(positive) + sum(logsigmoid(-other) for other in others) / negatives
        else:
            weight = math.log(items / negatives)
            total -= torch.stack([positive, *(other + weight for other in others)]).log_softmax(0)[0]
    torch.testing.assert_close(loss.sum, total)
    table = model.item.weight
    gradient, expected = (torch.autograd.grad(value, table, retain_graph=True)[0] for value in (loss.sum, total))
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_sampled_softmax_estimates_that_of_the_catalogue():
    torch.manual_seed(0)
    score_I, target = torch.randn(40), 7
    whole = -score_I.log_softmax(0)[target]
    drawn_MS = torch.randint(0, 40, (2000, 30))
    negative_MS = score_I[drawn_MS].masked_fill(drawn_MS == target, -torch.inf)
    loss = sampled_cross_entropy(score_I[target].expand(2000), negative_MS, items=40)
    assert float(loss.sum / loss.count) == pytest.approx(float(whole), abs=0.05)


def test_code_scores_equal_a_gather():
    catalog = make_catalog(50, 6, 8)
    logp = torch.randn(3, 6, 8).log_softmax(-1)
    scores = Exhaustive(catalog).code_scores(logp)
    for b in range(3):
        for i in range(50):
            expected = sum(logp[b, k, catalog.codes_IK[i, k]] for k in range(6)) / 6
            torch.testing.assert_close(scores[b, i], expected)
    assert torch.equal(scores[:, 0], scores[:, 1]), "items with equal codes must tie to the last bit"


def test_rank_equals_sorting():
    catalog = make_catalog(40)
    scores = torch.randint(0, 6, (7, 40)).float()
    scores[:, 1] = scores[:, 0]
    target = torch.randint(1, 41, (7,))
    rank = Exhaustive(catalog).rank(scores, target)
    groups = catalog.groups
    for b in range(7):
        own = scores[b, target[b] - 1]
        assert rank.above_B[b] == sum(s > own for s in scores[b])
        assert rank.ties_B[b] == sum(s == own for s in scores[b])
        assert rank.code_above_B[b] == len({int(g) for g, s in zip(groups, scores[b], strict=True) if s > own})


def test_excluding_seen_items_moves_them_behind_everything():
    catalog, histories = make_catalog(), make_histories([6, 9], 30)
    user, at = histories.targets("test")
    known = next(eval_batches(histories, user, at, max_length=4, batch_size=9, exclude_seen=True))
    decoder, last_B = Exhaustive(catalog), known.batch.item_N[known.batch.packing.last_B]
    excluded = Excluded(*known.seen)
    ranked = decoder.rank_targets(torch.zeros(2, 30), last_B, 30, excluded=excluded)
    found = ranked.left_out
    for b, u in enumerate(known.batch.user_B):
        seen = set(histories.item[histories.offset[u] :][: at[u]].tolist())  # all that was before, not what is read
        left = [item for item in range(1, 31) if item not in seen]
        assert found.top.item_Bk[b].tolist() == left + [0] * len(seen), "equal scores stand in order of their ids"
        assert (found.top.score_Bk[b] == -torch.inf).sum() == len(seen)
    assert (found.rank.above_B == UNLISTED).all(), "an excluded target is never a hit"
    assert ranked.kept.top.item_Bk[0].tolist() == list(range(1, 31)) and (ranked.kept.rank.ties_B == 30).all()
    torch.testing.assert_close(ranked.loss_B, torch.full((2,), 30.0).log(), msg="the loss counts every item")
    assert torch.equal(found.top.item_Bk, decoder.top(torch.zeros(2, 30), 30, excluded=excluded).item_Bk)


def test_runs_of_a_device_that_is_neither_processor_nor_cuda():
    """As long as on CUDA: mps."""
    scores = SimpleNamespace(users=4, items=100, device=torch.device("mps"))
    assert _chunks(scores) == _chunks(SimpleNamespace(users=4, items=100, device=torch.device("cuda")))


def test_metrics_equal_scikit_learn_and_average_over_ties():
    random = np.random.default_rng(0)
    scores = random.permutation(60).reshape(3, 20).astype(float)
    target = np.array([4, 11, 0])
    above = (scores > scores[np.arange(3), target][:, None]).sum(1)
    relevance = np.eye(20)[target]
    for cutoff in (1, 5, 10):
        found = metrics.per_user("NDCG", cutoff, above, np.ones(3, int)).mean()
        assert found == pytest.approx(ndcg_score(relevance, scores, k=cutoff))
    tied = metrics.per_user("Recall", 5, np.array([3]), np.array([4]))
    assert tied[0] == pytest.approx(2 / 4), "ranks 3, 4, 5, 6 are equally likely; two of them are hits"
    assert metrics.parse("r@5") == ("Recall", 5)


def test_metrics_equal_ir_measures():
    import ir_measures

    above = np.array([0, 3, 30, 9])
    run = [ir_measures.ScoredDoc(str(u), str(i), -float(i)) for u in range(4) for i in range(40)]
    qrels = [ir_measures.Qrel(str(u), str(a), 1) for u, a in enumerate(above)]
    theirs = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.R @ 10, ir_measures.RR @ 10], qrels, run)
    ours = {name: value.mean() for name, value in metrics.table(above, np.ones(4, int), [10]).items()}
    assert sorted(theirs.values()) == pytest.approx(sorted(ours.values()))


class Fixed:
    """A model that is only its code vectors."""

    def __init__(self, vectors):
        self.vectors = vectors

    def code_vectors(self):
        return self.vectors


def test_graph_neighbours_equal_the_dense_matrix():
    catalog = make_catalog(60, 4, 8)
    vectors = torch.randn(4, 8, 5)
    graph = Graph(Fixed(vectors), catalog, GraphConfig(beams=10, edges=7))
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    similar = (torch.einsum("kvd,kwd->kvw", unit, unit) + 1) / 2
    codes = catalog.codes_IK.long()
    dense = torch.stack([similar[k][codes[:, k]][:, codes[:, k]] for k in range(4)]).mean(0)
    for i in range(60):
        assert graph.neighbour_IE[i, 0] == i
        found = dense[i, graph.neighbour_IE[i]].sort(descending=True).values
        torch.testing.assert_close(found, dense[i].topk(7).values)


def test_a_graph_that_reaches_everything_is_exact():
    catalog = make_catalog(60, 4, 8)
    logp = torch.randn(5, 4, 8).log_softmax(-1)
    graph = Graph(Fixed(torch.randn(4, 8, 5)), catalog, GraphConfig(beams=60, edges=60, steps=1))
    top, visited = graph.walk(logp, torch.arange(5), 10)
    exact = Exhaustive(catalog)
    torch.testing.assert_close(top.score_Bk, exact.top(exact.code_scores(logp), 10).score_Bk)
    assert (visited == 60).all()
    assert all(len(set(row.tolist())) == 10 for row in top.item_Bk)


def test_graph_starts_depend_on_seed_and_user_alone():
    alone = starts(torch.tensor([7]), 20, 1000, 3)
    among = starts(torch.tensor([1, 7, 9]), 20, 1000, 3)
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(alone, starts(torch.tensor([7]), 20, 1000, 4))
    assert torch.equal(alone, starts(torch.tensor([7]), 20, 1000, 3 + 2**40)), "32 bits of a seed are hashed"
    spread = starts(torch.arange(2000), 50, 1000, 0).flatten().bincount(minlength=1000)
    assert spread.min() > 50 and spread.max() < 160, "starts are spread evenly over the catalogue"

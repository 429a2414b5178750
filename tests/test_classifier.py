"""The loss of codes at chosen pairs, digits all at once or chunk by chunk, against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_cli.nn import chunks
from genrec_cli.nn.chunks import even_chunks, sum_over_chunks
from genrec_cli.nn.classifier import CodeClassifier, round_width
from genrec_cli.nn.codes import CodeEmbedding, CodeHeads, cosine_logits

N, K, V, D = 9, 5, 7, 8
RUNS = {"at once": None, "two digits a chunk": 2 * N * V, "a digit a chunk": 1}


def made(shared: bool):
    torch.manual_seed(0)
    heads = CodeHeads(K, D)
    torch.nn.init.normal_(heads.linear.weight, std=0.3)
    torch.nn.init.normal_(heads.linear.bias, std=0.3)
    vectors = torch.randn(*(() if shared else (K,)), V, D, requires_grad=True)
    h_ND = torch.randn(N, D, requires_grad=True)
    mask_NK = torch.rand(N, K) < torch.tensor([0.2, 0.9, 0.0, 0.5, 1.0])
    return heads, vectors, h_ND, torch.randint(0, V, (N, K)), mask_NK


def by_loops(heads, vectors, h_ND, code_NK, mask_NK):
    logp_KNV = cosine_logits(heads(h_ND), vectors, 0.5).log_softmax(-1)
    return -sum(logp_KNV[k, n, code_NK[n, k]] for n, k in mask_NK.nonzero().tolist())


def gradients(total, heads, vectors, h_ND):
    return torch.autograd.grad(3 * total, [h_ND, vectors, *heads.parameters()])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("most", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("where", ["everywhere", "at"])
def test_loss_and_gradients_equal_loops(where, most, shared, monkeypatch):
    if most is not None:
        monkeypatch.setitem(chunks.AT_ONCE, "cpu", 0)
        monkeypatch.setitem(chunks.CHUNK, "cpu", most)
    heads, vectors, h_ND, code_NK, mask_NK = made(shared)
    made_of = CodeClassifier(heads, vectors, 0.5)
    if where == "at":
        total = made_of.loss_at(h_ND, code_NK, mask_NK)
    else:
        total = made_of.loss(h_ND, code_NK.masked_fill(~mask_NK, -1))
    expected = by_loops(heads, vectors, h_ND, code_NK, mask_NK)
    torch.testing.assert_close(total, expected)
    for one, other in zip(
        gradients(total, heads, vectors, h_ND), gradients(expected, heads, vectors, h_ND), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_nothing_masked_is_no_loss_and_no_gradient():
    heads, vectors, h_ND, code_NK, mask_NK = made(shared=False)
    total = CodeClassifier(heads, vectors, 0.5).loss_at(h_ND, code_NK, torch.zeros_like(mask_NK))
    assert total == 0
    if total.requires_grad:
        assert all((g == 0).all() for g in gradients(total, heads, vectors, h_ND))


def test_logits_of_two_runs_never_exist_together(monkeypatch):
    """What the pass keeps between its forward and its backward half is gradients, not logits."""
    monkeypatch.setitem(chunks.AT_ONCE, "cpu", 0)
    monkeypatch.setitem(chunks.CHUNK, "cpu", 1)
    heads, vectors, h_ND, code_NK, _ = made(shared=False)
    kept: list[torch.Size] = []

    def keep(x):
        kept.append(x.shape)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        total = CodeClassifier(heads, vectors, 0.5).loss(h_ND, code_NK)
    saved = [tuple(x.shape) for x in total.grad_fn.saved_tensors]
    assert saved == [(N, D), (K, V, D), (K, D, D), (K, 1, D)]


def test_without_gradients_runs_keep_nothing(monkeypatch):
    monkeypatch.setitem(chunks.AT_ONCE, "cpu", 0)
    monkeypatch.setitem(chunks.CHUNK, "cpu", 1)
    heads, vectors, h_ND, code_NK, _ = made(shared=False)
    expected = CodeClassifier(heads, vectors, 0.5).loss(h_ND, code_NK)
    monkeypatch.setattr(torch.autograd, "grad", None)  # nor are gradients made only to be thrown away
    with torch.no_grad():
        total = CodeClassifier(heads, vectors, 0.5).loss(h_ND, code_NK)
    assert not total.requires_grad
    torch.testing.assert_close(total, expected.detach())


@pytest.mark.parametrize("most", RUNS.values(), ids=RUNS)
def test_in_fp16_a_smaller_scale_ends_an_overflow(most, monkeypatch):
    """Long states of one direction and short vectors: gradients of the sum are beyond fp16 and those of a share are
    not. A GradScaler that lowers its scale must get there."""
    if most is not None:
        monkeypatch.setitem(chunks.AT_ONCE, "cpu", 0)
        monkeypatch.setitem(chunks.CHUNK, "cpu", most)
    torch.manual_seed(0)
    heads, h_ND = CodeHeads(K, D), torch.ones(64, D, requires_grad=True)
    heads.reset()
    vectors = (1e-3 * torch.randn(K, V, D)).requires_grad_()
    code_NK = torch.zeros(64, K, dtype=torch.long)
    with torch.autocast("cpu", torch.float16):
        total = CodeClassifier(heads, vectors, 0.03).loss(h_ND, code_NK)
    for scale, fits in ((1.0, False), (2.0**-8, True)):
        found = torch.autograd.grad(scale * total, [h_ND, vectors, *heads.parameters()], retain_graph=True)
        assert all(g.isfinite().all() for g in found) == fits


def test_a_run_sees_its_own_digits_alone():
    seen = []

    def loss(chunk, shared, parts):
        seen.append((chunk, *(tuple(x.shape) for x in parts)))
        return (shared[0].sum() * parts[0]).sum()

    whole, split = torch.ones(2, requires_grad=True), torch.arange(5.0, requires_grad=True)
    total = sum_over_chunks(loss, [2, 3], [whole], [split])
    assert seen == [(0, (2,)), (1, (3,))] and total == 20
    assert [g.tolist() for g in torch.autograd.grad(total, [whole, split])] == [[10.0, 10.0], [2.0] * 5]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.none() | st.integers(1, 200))
def test_runs_of_digits_waste_at_most_a_quarter(number, most):
    chunks, first = even_chunks(number, max_pairs=most), 0
    assert sum(chunks) == len(number) and min(chunks) >= 1
    for size in chunks:
        part, first = number[first : first + size], first + size
        assert 0.75 * size * max(part) <= sum(part)
        assert most is None or size == 1 or size * max(part) <= most
    assert even_chunks([7] * 16) == [16], "even digits are one product"
    assert even_chunks([7] * 16, max_pairs=30) == [4] * 4


def test_widths_have_few_values_and_waste_little():
    widths = [round_width(n) for n in range(5000)]
    assert all(n <= width <= n * 17 / 16 for n, width in enumerate(widths))
    assert len(set(widths)) <= 16 * 13


def test_the_scaled_mean_of_codes_has_the_size_of_a_scaled_embedding():
    torch.manual_seed(0)
    codes = CodeEmbedding(16, 32, 64, scale=None)
    torch.nn.init.normal_(codes.table.weight, std=0.02)
    token_NK = codes.tokens(torch.randint(0, 32, (500, 16)))
    expected = codes.table.weight[token_NK].sum(1) / 16**0.5 * 64**0.5
    torch.testing.assert_close(codes(token_NK), expected)
    assert codes(token_NK).std().item() == pytest.approx(0.02 * 64**0.5, rel=0.05)

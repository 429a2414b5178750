"""The softmax cross-entropy over the catalogue: loss and gradients, in chunks, in bf16, with a part added."""

import pytest
import torch
import torch.nn.functional as F

from genrec_cli.nn import chunks, item_cross_entropy
from genrec_cli.nn.item_cross_entropy import _in_chunks

M, ITEMS, WIDTH = 11, 7, 4


class Part:
    """A part of the scores of M x I."""

    def __init__(self) -> None:
        self.all_MI = torch.randn(M, ITEMS)

    def rows(self, begin: int, end: int) -> torch.Tensor:
        return self.all_MI[begin:end]


def made(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """States and item vectors, with gradients."""
    torch.manual_seed(seed)
    return torch.randn(M, WIDTH, requires_grad=True), torch.randn(ITEMS, WIDTH, requires_grad=True)


COLUMN_M = torch.tensor([3, -1, 0, 6, 3, 1, -1, -1, 2, 5, 4])


@pytest.mark.parametrize("rows", [32, 4, 1])
@pytest.mark.parametrize("with_part", [False, True])
def test_loss_and_gradients_in_chunks_are_those_of_the_whole_softmax(rows, with_part, monkeypatch):
    monkeypatch.setattr(item_cross_entropy, "ROWS", rows)
    monkeypatch.setattr(item_cross_entropy, "SCORES", 1)
    monkeypatch.setitem(chunks.AT_ONCE, "cpu", 0)
    monkeypatch.setitem(chunks.CHUNK, "cpu", rows * ITEMS)
    inputs, part = made(), Part()
    h_MD, vectors_ID = inputs
    score_MI = h_MD @ vectors_ID.t() + (0.7 * part.all_MI if with_part else 0)
    expected = F.cross_entropy(score_MI, COLUMN_M, ignore_index=-1, reduction="sum")
    added = (part, 0.7) if with_part else None
    gradients = torch.autograd.grad(3 * expected, inputs)
    loss = item_cross_entropy.item_cross_entropy(h_MD, vectors_ID, COLUMN_M, added=added)
    assert loss.count == 8
    for total in (loss.sum, _in_chunks(h_MD, vectors_ID, COLUMN_M, added)):
        torch.testing.assert_close(total, expected)
        for found, wanted in zip(torch.autograd.grad(3 * total, inputs), gradients, strict=True):
            torch.testing.assert_close(found, wanted)


def test_bf16_products_have_float32_sums_and_nearly_the_same_gradients():
    h_MD, vectors_ID = made()
    exact = item_cross_entropy.item_cross_entropy(h_MD, vectors_ID, COLUMN_M)
    wanted = torch.autograd.grad(exact.sum, [h_MD, vectors_ID])
    with torch.autocast("cpu", torch.bfloat16):
        near = item_cross_entropy.item_cross_entropy(h_MD, vectors_ID, COLUMN_M)
    assert near.sum.dtype == near.count.dtype == torch.float32
    assert near.sum.item() == pytest.approx(exact.sum.item(), rel=0.02)
    for found, exact_gradient in zip(torch.autograd.grad(near.sum, [h_MD, vectors_ID]), wanted, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact_gradient, atol=0.05, rtol=0.05)


def test_states_in_bf16_have_a_loss_in_float32_and_a_gradient_in_bf16():
    h_MD, vectors_ID = made()
    half_MD = h_MD.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = item_cross_entropy.item_cross_entropy(half_MD, vectors_ID, COLUMN_M)
    (gradient,) = torch.autograd.grad(loss.sum, [half_MD])
    assert loss.sum.dtype == torch.float32 and gradient.dtype == torch.bfloat16


def test_fp16_computes_its_gradients_in_the_backward_pass(monkeypatch):
    """The scale of the GradScaler is known only there: without it, small gradients are 0 in fp16."""
    monkeypatch.setattr(item_cross_entropy._ItemCrossEntropy, "apply", lambda *_: pytest.fail("no scale"))
    h_MD, vectors_ID = made()
    with torch.autocast("cpu", torch.float16):
        loss = item_cross_entropy.item_cross_entropy(h_MD, vectors_ID, COLUMN_M)
    assert torch.isfinite(torch.autograd.grad(loss.sum, [vectors_ID])[0]).all()


def test_large_scores_do_not_overflow_and_positions_without_a_target_have_no_gradient():
    h_MD, vectors_ID = made()
    large_MD = (h_MD.detach() * 1e4).requires_grad_()
    loss = item_cross_entropy.item_cross_entropy(large_MD, vectors_ID, COLUMN_M)
    (gradient,) = torch.autograd.grad(loss.sum, [large_MD])
    assert torch.isfinite(loss.sum) and torch.isfinite(gradient).all()
    assert not gradient[COLUMN_M < 0].any() and gradient[COLUMN_M >= 0].any()


def test_no_targets_have_no_loss():
    h_MD, vectors_ID = made()
    none = item_cross_entropy.item_cross_entropy(h_MD[:0], vectors_ID, COLUMN_M[:0])
    assert none.sum == 0 and none.count == 0

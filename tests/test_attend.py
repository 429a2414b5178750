"""Dropout's masks and the written-out attention product against torch's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from genrec_cli.nn.attend import attend
from genrec_cli.nn.attention import SelfAttention
from genrec_cli.nn.causal_grid import causal_packing
from genrec_cli.nn.dropout import LEVELS, Dropout, dropout
from genrec_cli.nn.packing import Packing, by_head

NEXT_TO_NOTHING = 1e-9
"""A share that drops no cell, but takes the path of training."""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dropout_drops_its_share_and_keeps_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 501, dtype=dtype).t()  # 200,400 cells, rows that are not contiguous
    dropped = dropout(x, 0.3)
    assert dropped.shape == x.shape and dropped.dtype == dtype
    rounded = round(0.3 * LEVELS) / LEVELS
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rounded), dtype=dtype).item()}
    zero = (dropped == 0).double()
    assert abs(zero.mean().item() - 0.3) < 0.005
    assert abs(dropped.double().mean().item() - 1) < 0.01
    for axis in (0, 1):  # no row and no column is special
        assert (zero.mean(axis) - 0.3).abs().max() < 0.12


def test_cells_drop_independently_of_their_neighbours() -> None:
    """Four cells come from one draw: pairs at distance 1 to 4 fall together as often as chance has it."""
    torch.manual_seed(1)
    zero = dropout(torch.ones(200_000), 0.4) == 0
    for distance in (1, 2, 3, 4):
        together = (zero[distance:] & zero[:-distance]).double().mean().item()
        assert abs(together - 0.16) < 0.005


def test_gradients_drop_and_scale_like_their_cells() -> None:
    x = torch.randn(37, 5, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.5)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, (y / x).detach())
    assert set(gradient.unique().tolist()) == {0.0, 2.0}


def test_the_generator_decides_and_infinite_cells_can_drop() -> None:
    x = torch.full((1000,), torch.inf)
    torch.manual_seed(3)
    first = dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x, 0.5))
    assert not torch.equal(first, dropout(x, 0.5))
    assert set(first.tolist()) == {0.0, torch.inf}


def test_a_module_drops_in_training_alone() -> None:
    module, x = Dropout(0.5), torch.ones(64)
    assert (module(x) == 0).any()
    assert module.eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert (dropout(x, 1.0) == 0).all()


@pytest.mark.parametrize("kind", ["all", "causal", "seen", "bias"])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_written_out_product_is_torchs(kind: str, scale: float | None) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    seen = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    mask = {"seen": seen[:, None, None], "bias": torch.randn(1, 2, 5, 5, dtype=torch.float64)}.get(kind)
    bias = mask.requires_grad_() if kind == "bias" else None
    learned = [q, k, v] + ([bias] if bias is not None else [])
    both = [
        attend(q, k, v, mask, dropout_p=share, causal=kind == "causal", scale=scale) for share in (0, NEXT_TO_NOTHING)
    ]
    torch.testing.assert_close(*both)
    weight = torch.randn_like(both[0])
    for one, other in zip(*(torch.autograd.grad((x * weight).sum(), learned) for x in both), strict=True):
        torch.testing.assert_close(one, other)


def test_bf16_stays_near_fp32() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 40, 64) for _ in range(3))
    exact = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    rough = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), dropout_p=NEXT_TO_NOTHING, causal=True)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("lengths", [[1, 3, 4], [4, 4], [2, 2, 9, 1]])
def test_heads_are_laid_out_as_by_padding(lengths: list[int]) -> None:
    torch.manual_seed(0)
    grid = Packing.of(lengths).grid
    x_ND = torch.randn(sum(lengths), 3 * 6, dtype=torch.float64, requires_grad=True)
    real_BT = grid.real_BT()
    for part_BHTd, part_BTD in zip(grid.sides(x_ND, 2, 3), grid.pad(x_ND).chunk(3, dim=-1), strict=True):
        torch.testing.assert_close(part_BHTd, by_head(part_BTD, 2))
        weight = torch.randn_like(part_BHTd) * real_BT[:, None, :, None]  # nothing real reads padding
        one, other = (
            torch.autograd.grad((x * weight).sum(), x_ND, retain_graph=True)[0]
            for x in (part_BHTd, by_head(part_BTD, 2))
        )
        torch.testing.assert_close(one, other)
        assert torch.equal(grid.join(part_BHTd), grid.pack(part_BTD))
    x_NKD = x_ND.view(-1, 3, 6)
    digits_BHQd = grid.digits(x_NKD, 2)
    torch.testing.assert_close(digits_BHQd, by_head(grid.pad(x_NKD).flatten(1, 2), 2))
    assert torch.equal(grid.join(digits_BHQd, 3), x_NKD)
    assert torch.autograd.gradcheck(lambda x: grid.join(grid.digits(x.view(-1, 3, 6), 2) * 2, 3), x_ND)


@pytest.mark.parametrize("lengths", [[3, 3, 3], [1, 2, 5, 7], [1] * 30 + [9]])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_at_the_last_items_is_that_at_all_items(lengths: list[int], causal: bool) -> None:
    """Without training, ``last_B`` itself takes the path of the last items; its copy takes that of all positions."""
    torch.manual_seed(0)
    layer, packing = SelfAttention(12, 3, causal=causal).double().eval(), Packing.of(np.array(lengths))
    torch.nn.init.normal_(layer.qkv.bias)
    found = []
    for at_B in (packing.last_B, packing.last_B.clone()):
        x_ND = torch.randn(sum(lengths), 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        h_BD = layer(x_ND.requires_grad_(), packing, at_B)
        found.append((h_BD.detach(), torch.autograd.grad(h_BD.square().sum(), x_ND)[0]))
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference)


def test_attention_at_the_last_items_skips_the_padding_of_an_exported_graph() -> None:
    torch.manual_seed(0)
    layer, packing = SelfAttention(12, 3).eval(), causal_packing(torch.tensor([2, 5, 1]), 5)
    x_ND = torch.randn(15, 12)
    torch.testing.assert_close(layer(x_ND, packing, packing.last_B), layer(x_ND, packing, packing.last_B.clone()))

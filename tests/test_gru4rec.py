"""GRU4Rec against torch's GRU on each history alone, and the loss BPR-max against its formula."""

import numpy as np
import pytest
import torch
from conftest import make_catalog, recent_batch

from genrec_cli.config import validate
from genrec_cli.models.gru4rec import Gru4Rec, Gru4RecConfig
from genrec_cli.nn.gru import packed_gru
from genrec_cli.nn.losses import bpr, bpr_max, generalised_bce
from genrec_cli.nn.packing import Packing

SIZES = {"width": 6, "hidden": 10, "layers": 2, "dropout": 0.0}


def build(**settings) -> Gru4Rec:
    torch.manual_seed(0)
    return Gru4Rec(validate(Gru4RecConfig, "model", SIZES | settings), make_catalog(), max_length=8).eval()


@torch.no_grad()
def test_packed_histories_give_what_each_gives_alone() -> None:
    model, data = build(), recent_batch([5, 9, 4, 12])
    torch.nn.init.normal_(model.bias)
    everything = torch.arange(len(data.item_N))
    found = model.states(data, everything)
    for history in range(data.packing.sequences):
        at = data.packing.sequence_N == history
        h_1TH, _ = model.gru(model.item(data.item_N[at] - 1)[None])
        expected = torch.cat([model.projection(h_1TH[0]), torch.ones(int(at.sum()), 1)], dim=1)
        torch.testing.assert_close(found[at], expected, atol=1e-6, rtol=1e-5)
    h_BE = model.queries(data)
    expected_BI = h_BE[:, :-1] @ model.item.weight.t() + model.bias
    torch.testing.assert_close(model.item_scores(data), expected_BI, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[3, 1, 5, 3], [4, 4], [1]])
def test_the_packed_recurrence_and_its_gradient_are_torchs(lengths: list[int]) -> None:
    torch.manual_seed(0)
    gru, packing = torch.nn.GRU(4, 6, 2, batch_first=True), Packing.of(np.array(lengths))
    x_ND = torch.randn(sum(lengths), 4, requires_grad=True)
    weight_NH = torch.randn(sum(lengths), 6)
    padded = packing.grid.pack(gru(packing.grid.pad(x_ND))[0])
    found = []
    for h_NH in (packed_gru(gru, x_ND, packing), padded):
        found.append([h_NH, *torch.autograd.grad((h_NH * weight_NH).sum(), [x_ND, *gru.parameters()])])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_history_in_two_parts_gives_the_states_of_the_whole() -> None:
    """The state after an item is all that the later items read."""
    model, data = build(), recent_batch([9])
    whole_NH = model.states(data, torch.arange(len(data.item_N)))
    first_1TH, state = model.gru(model.item(data.item_N[:4] - 1)[None])
    second_1TH, _ = model.gru(model.item(data.item_N[4:] - 1)[None], state)
    both_NH = model.projection(torch.cat([first_1TH, second_1TH], dim=1)[0])
    torch.testing.assert_close(whole_NH[:, :-1], both_NH, atol=1e-6, rtol=1e-5)


def test_bpr_max_equals_its_formula() -> None:
    random = np.random.default_rng(0)
    positive, negative = random.normal(size=4), random.normal(size=(4, 3))
    negative[1, 2] = -np.inf  # a draw of the target
    total = 0.0
    for r, n in zip(positive, negative, strict=True):
        n = n[n > -np.inf]
        p = np.exp(n) / np.exp(n).sum()
        total += -np.log((p / (1 + np.exp(n - r))).sum()) + 0.5 * (p * n**2).sum()
    loss = bpr_max(torch.tensor(positive), torch.tensor(negative), regularisation=0.5)
    np.testing.assert_allclose(loss.sum.item(), total, rtol=1e-5)
    assert loss.count == 4


def test_bpr_and_gbce_equal_their_formulas() -> None:
    random = np.random.default_rng(1)
    positive, negative = random.normal(size=5), random.normal(size=(5, 4))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    pairs = -np.log(sigmoid(positive[:, None] - negative)).mean(1).sum()
    assert bpr(torch.tensor(positive), torch.tensor(negative)).sum.item() == pytest.approx(pairs, rel=1e-5)
    items, t = 41, 0.6
    alpha = 4 / (items - 1)
    beta = alpha * ((1 - 1 / alpha) * t + 1 / alpha)  # equation 12
    total = -(np.log(sigmoid(positive) ** beta).sum() + np.log(1 - sigmoid(negative)).sum()) / 5  # equation 13
    loss = generalised_bce(torch.tensor(positive), torch.tensor(negative), items=items, t=t)
    assert loss.sum.item() == pytest.approx(total, rel=1e-5)


def test_without_a_bias_scores_are_plain_products() -> None:
    model, data = build(bias=False), recent_batch([5, 9, 4, 12])
    assert model.item_vectors() is model.item.weight
    assert model.states(data, data.packing.last_B).shape == (data.packing.sequences, 6)

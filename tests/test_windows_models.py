"""Models of the last L items: windows, Caser's convolutions and HGN's gates against loops."""

import pytest
import torch
from conftest import make_catalog, make_histories, recent_batch

from genrec_cli.config import validate
from genrec_cli.errors import ConfigError
from genrec_cli.models.caser import Caser, CaserConfig
from genrec_cli.models.hgn import Hgn, HgnConfig
from genrec_cli.nn.recent import recent, user_vectors

L, D = 4, 6


def build(kind, config, **settings):
    torch.manual_seed(0)
    settings = {"width": D, "window": L, "dropout": 0.0} | settings
    model = kind(validate(config, "model", settings), make_catalog(), max_length=8).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def windows(data) -> list[list[int]]:
    """The last items of each position, by loops; without padding."""
    found = []
    for at in range(len(data.item_N)):
        begin = at - int(data.packing.position_N[at])
        found.append(data.item_N[max(begin, at - L + 1) : at + 1].tolist())
    return found


def test_windows_are_the_last_items_of_each_position() -> None:
    data = recent_batch([5, 9, 4, 12])
    found = recent(data.item_N, data.packing, torch.arange(len(data.item_N)), L).tolist()
    assert found == [[0] * (L - len(items)) + items for items in windows(data)]


def test_unknown_users_have_the_zero_vector() -> None:
    data = recent_batch([5, 9, 4, 12])
    table_UD = torch.randn(10, D)
    user_B = torch.tensor([3, -1, 0, 9])
    found = user_vectors(table_UD, user_B, data.packing, data.packing.last_B)
    assert torch.equal(found[[0, 2, 3]], table_UD[[3, 0, 9]])
    assert (found[1] == 0).all()


@pytest.mark.parametrize("users", [False, True])
@torch.no_grad()
def test_caser_equals_convolutions_over_explicit_windows(users: bool) -> None:
    model, data = build(Caser, CaserConfig, horizontal=3, vertical=2, users=users), recent_batch([5, 9, 4, 12])
    found = model.states(data, torch.arange(len(data.item_N)))
    for position, items in enumerate(windows(data)):
        image_LD = torch.zeros(L, D)
        image_LD[L - len(items) :] = model.item.weight[torch.tensor(items) - 1]
        outputs = []
        for height, filters in enumerate(model.horizontal, 1):
            weight_HhD = filters.weight.view(3, height, D)
            places = [
                torch.einsum("hrd,rd->h", weight_HhD, image_LD[top : top + height]) + filters.bias
                for top in range(L - height + 1)
                if top + height - 1 >= L - len(items)  # the last row of the place holds an item
            ]
            outputs.append(torch.stack(places).relu().amax(0))
        outputs.append(torch.einsum("vl,ld->vd", model.vertical.weight, image_LD).flatten())
        z = model.dense(torch.cat(outputs)).relu()
        torch.testing.assert_close(found[position, :D], z, atol=1e-5, rtol=1e-4)
        if users:
            user = model.user.weight[data.user_B[data.packing.sequence_N[position]]]
            assert torch.equal(found[position, D : 2 * D], user)
        assert found[position, -1] == 1
    expected_BI = found[data.packing.last_B, :-1] @ model.output.weight.t() + model.bias
    torch.testing.assert_close(model.item_scores(data), expected_BI, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind, config", [(Caser, CaserConfig), (Hgn, HgnConfig)])
def test_places_before_the_first_item_teach_no_item(kind, config) -> None:
    """They look up item 1, which no history has here."""
    model, data = build(kind, config), recent_batch([5, 4])
    data.item_N[:] = 2 + torch.arange(len(data.item_N))
    model.states(data, torch.arange(len(data.item_N))).sum().backward()
    assert model.item.weight.grad[1:].any() and not model.item.weight.grad[0].any()


@pytest.mark.parametrize("users", [False, True])
@torch.no_grad()
def test_hgn_equals_its_gates_by_loops(users: bool) -> None:
    model, data = build(Hgn, HgnConfig, users=users), recent_batch([5, 9, 4, 12])
    found = model.states(data, torch.arange(len(data.item_N)))
    for position, items in enumerate(windows(data)):
        user = model.user.weight[data.user_B[data.packing.sequence_N[position]]] if users else None
        gates, gated = [], []
        for place, item in enumerate(items, L - len(items)):
            s = model.item.weight[item - 1]
            feature = model.feature_gate(s) + (model.user_gate(user) if users else 0)
            gated.append(s * feature.sigmoid())
            instance = model.instance_gate(gated[-1]) + (model.user_instance(user)[place] if users else 0)
            gates.append(instance.sigmoid())
        pooled = sum(g * x for g, x in zip(gates, gated, strict=True)) / sum(gates)
        h = pooled + model.item.weight[torch.tensor(items) - 1].sum(0) + (user if users else 0)
        torch.testing.assert_close(found[position, :D], h, atol=1e-5, rtol=1e-4)
    expected_BI = found[data.packing.last_B, :D] @ model.output.weight.t() + model.bias
    torch.testing.assert_close(model.item_scores(data), expected_BI, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_hgn_without_its_gates_is_a_factorised_chain() -> None:
    model, data = build(Hgn, HgnConfig), recent_batch([5, 9, 4, 12])
    for gate in (model.feature_gate, model.instance_gate):
        gate.weight.zero_()
    model.feature_gate.bias.fill_(50.0)  # sigmoid 1
    h_BD = model.queries(data)
    for row, at in enumerate(data.packing.last_B.tolist()):
        vectors = model.item.weight[torch.tensor(windows(data)[at]) - 1]
        torch.testing.assert_close(h_BD[row, :D], vectors.sum(0) + vectors.mean(0), atol=1e-5, rtol=1e-4)


def test_gates_and_user_vectors_are_trained() -> None:
    model = build(Hgn, HgnConfig, users=True)
    model.losses(recent_batch([5, 9, 4, 12]))["next"].sum.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind, config", [(Caser, CaserConfig), (Hgn, HgnConfig)])
def test_a_user_without_training_rows_has_the_zero_vector(kind, config) -> None:
    histories = make_histories([3, 5, 9, 4], 30)  # the first has one training item
    model = kind(validate(config, "model", {"users": True, "width": D}), make_catalog(), max_length=8)
    model.fit(make_catalog(), histories)
    assert not model.user.weight[0].any()


def test_caser_with_users_has_wide_item_vectors() -> None:
    model = build(Caser, CaserConfig, users=True)
    assert model.item_vectors().shape == (30, 2 * D + 1)
    with pytest.raises(ConfigError, match="separate"):
        Caser.check(
            validate(CaserConfig, "model", {"users": True, "output": "tied"}), type("T", (), {"windows": "sliding"})
        )

"""FDSA: its attention over attributes by hand, its fields, and what is left of it without features."""

from dataclasses import replace

import pytest
import torch
from conftest import make_catalog
from twins import copy_encoder

from genrec_cli.config import validate
from genrec_cli.data.batch import Batch
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import ConfigError
from genrec_cli.models.fdsa import Fdsa, FdsaConfig
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.nn.packing import Packing

SMALL = {"width": 8, "heads": 2, "inner": 16, "dropout": 0.0, "attention_dropout": 0.0}
LENGTHS = [2, 5, 6]


def made(**settings) -> Fdsa:
    torch.manual_seed(0)
    model = Fdsa(validate(FdsaConfig, "model", SMALL | settings), make_catalog(), max_length=8)
    with torch.no_grad():
        model.attention.weight.mul_(50)
        model.attribute.weight.mul_(50)
    return model


def batch() -> Batch:
    item_N = torch.randint(1, 31, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    return Batch(item_N, Packing.of(torch.tensor(LENGTHS).numpy()), torch.full((len(LENGTHS),), -1))


@pytest.mark.parametrize("fields", [None, ("brand",), ("category", "brand"), ()])
def test_features_equal_attention_by_loops(fields: tuple[str, ...] | None) -> None:
    model, catalog = made(fields=fields), make_catalog()
    found_ND, kinds = model.feature_vectors(torch.arange(1, 31)), set()
    for item in range(1, 31):
        chosen = []
        for attribute, field in zip(catalog.attribute_RA[item].tolist(), catalog.field_RA[item].tolist(), strict=True):
            if attribute and (fields is None or catalog.fields[field] in fields):
                chosen.append(model.attribute.weight[attribute - 1])
        kinds.add(len(chosen))
        expected = torch.zeros(8)
        if chosen:
            power = torch.stack([(model.attention.weight[0] * row).sum().exp() for row in chosen])
            expected = sum(weight * row for weight, row in zip(power / power.sum(), chosen, strict=True))
        torch.testing.assert_close(found_ND[item - 1], expected)
    assert kinds == ({0} if fields == () else {0, 1, 2}), "items without, with one and with two attributes"


def test_an_item_without_attributes_has_no_gradient_through_attention() -> None:
    model = made()
    without = (model.attribute_RA[1:] == 0).all(1).nonzero()[:, 0] + 1
    assert len(without)
    model.feature_vectors(without).sum().backward()
    assert not model.attribute.weight.grad.any() and not model.attention.weight.grad.any()


@pytest.mark.parametrize("norm", ["pre", "post"])
@torch.no_grad()
def test_states_are_those_of_two_encoders_of_torch(norm: str) -> None:
    model, history = made(norm=norm).eval(), batch()
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    rows, states = history.item_N.split(LENGTHS), []
    for item_T in rows:
        position_TD, side = model.sequence.position.weight[: len(item_T)], []
        for ours, x_TD in ((model.sequence, model.item(item_T - 1)), (model.features, model.feature_vectors(item_T))):
            sizes = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "dropout": 0.0, "activation": "gelu"}
            layer = torch.nn.TransformerEncoderLayer(**sizes, batch_first=True, norm_first=norm == "pre")
            final = torch.nn.LayerNorm(8) if norm == "pre" else None
            theirs = torch.nn.TransformerEncoder(layer, 2, norm=final, enable_nested_tensor=False).eval()
            copy_encoder(ours, theirs)
            x_TD = x_TD * 8**0.5 + position_TD
            causal_TT = torch.nn.Transformer.generate_square_subsequent_mask(len(item_T))
            side.append(theirs((ours.norm(x_TD) if norm == "post" else x_TD)[None], mask=causal_TT)[0])
        states.append(model.norm(model.fusion(torch.cat(side, dim=1))))
    at_M = torch.arange(len(history.item_N))
    torch.testing.assert_close(model.states(history, at_M), torch.cat(states), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_without_the_feature_side_it_is_sasrec_and_a_linear_layer(norm: str) -> None:
    model, history = made(norm=norm).eval(), batch()
    sasrec = SasRec(validate(SasRecConfig, "model", SMALL | {"norm": norm}), make_catalog(), max_length=8).eval()
    sasrec.item.load_state_dict(model.item.state_dict())
    sasrec.backbone.load_state_dict(model.sequence.state_dict())
    with torch.no_grad():
        model.fusion.weight[:, 8:] = 0
    at_M = torch.arange(len(history.item_N))
    linear = torch.nn.functional.linear(sasrec.states(history, at_M), model.fusion.weight[:, :8], model.fusion.bias)
    torch.testing.assert_close(model.states(history, at_M), model.norm(linear))


def test_both_transformers_add_one_position_table_or_two() -> None:
    names = {name for name, _ in made().named_parameters()}
    assert "sequence.position.weight" in names and "features.position.weight" not in names
    assert "features.position.weight" in {name for name, _ in made(shared_positions=False).named_parameters()}
    model = made(shared_positions=False).eval()
    shared = made().eval()
    weights = {name: value for name, value in model.state_dict().items() if name != "features.position.weight"}
    shared.load_state_dict(weights)
    at_M = torch.arange(sum(LENGTHS))
    assert not torch.allclose(model.states(batch(), at_M), shared.states(batch(), at_M))
    model.features.position.load_state_dict(model.sequence.position.state_dict())
    torch.testing.assert_close(model.states(batch(), at_M), shared.states(batch(), at_M))


def test_an_unknown_field_is_named() -> None:
    config, train = validate(FdsaConfig, "model", {"fields": ["brand", "colour"]}), TrainConfig()
    Fdsa.check(config, train)
    with pytest.raises(ConfigError, match="'colour'") as refused:
        Fdsa.check(config, train, make_catalog())
    assert "brand, category" in refused.value.hint
    Fdsa.check(config, train, replace(make_catalog(), fields=("colour", "brand")))

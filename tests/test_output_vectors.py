"""The item vectors of the scores: those of the input, a table of their own, or the sum of both."""

import pytest
import torch
from conftest import make_catalog, make_histories

from genrec_cli.errors import ConfigError
from genrec_cli.models.bert4rec import Bert4Rec, Bert4RecConfig
from genrec_cli.models.caser import Caser, CaserConfig
from genrec_cli.models.recjpq import RecJpq
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.models.vqrec import VqRec, VqRecConfig

CATALOG = make_catalog()


def sasrec(output: str, **settings: int) -> SasRec:
    torch.manual_seed(0)
    return SasRec(SasRecConfig(width=16, output=output, **settings), CATALOG, max_length=8)


def test_tied_separate_and_sum() -> None:
    assert sasrec("tied").output is None
    separate, both = sasrec("separate"), sasrec("sum")
    assert separate.item_vectors() is separate.output.weight
    assert torch.equal(both.item_vectors(), both.item.weight + both.output.weight)
    assert not torch.equal(both.output.weight, both.item.weight)


def test_the_loss_reaches_the_tables_that_are_scored() -> None:
    for output in ("tied", "separate", "sum"):
        model = sasrec(output)
        model.item_vectors().sum().backward()
        reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert reached == {"tied": {"item.weight"}, "separate": {"output.weight"}}.get(
            output, {"item.weight", "output.weight"}
        )


def test_special_tokens_and_biases_beside_the_sum() -> None:
    model = Bert4Rec(Bert4RecConfig(width=16, output="sum"), CATALOG, max_length=8)
    vector_ID = model.item_vectors()
    assert vector_ID.shape == (CATALOG.items, 17), "a column of biases, no row of [MASK]"
    assert torch.equal(vector_ID[:, :-1], model.item.weight[:-1] + model.output.weight)


def test_the_graph_is_in_both_tables() -> None:
    model = sasrec("sum", graph_edges=4)
    model.fit(CATALOG, make_histories([5, 9, 3, 14, 6, 4, 7, 12] * 4, CATALOG.items))
    assert model.output.weight_IE.any() and torch.equal(model.output.neighbour_IE, model.item.neighbour_IE)
    assert torch.equal(model.item_vectors(), model.item.vectors() + model.output.vectors())


def test_items_made_from_codes_have_no_second_table() -> None:
    for model, config in ((VqRec, VqRecConfig(output="sum")), (RecJpq, SasRecConfig(output="separate"))):
        with pytest.raises(ConfigError, match="from codes"):
            model.check(config, None)


def test_user_vectors_of_caser_need_a_table_of_their_width() -> None:
    for output in ("tied", "sum"):
        with pytest.raises(ConfigError, match="twice as wide"):
            Caser.check(CaserConfig(users=True, output=output), None)
    assert Caser(CaserConfig(width=16, users=True), CATALOG, max_length=8).output.weight.shape[1] == 32

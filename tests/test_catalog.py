"""Codes of items are held once, in few bytes, by the catalogue and everything that is built on it."""

import pyarrow as pa
import pytest
import torch
from conftest import make_catalog
from test_work import Allocated

from genrec_cli.data.catalog import NO_CODE, Catalog
from genrec_cli.models.base import Model
from genrec_cli.models.mdgr import Mdgr, MdgrConfig
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.models.tiger import Tiger, TigerConfig
from genrec_cli.searches import inverted_index
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.searches.inverted_index import InvertedLists
from genrec_cli.searches.trie import Trie
from genrec_cli.stages.load import fields_of

ITEMS, K, V = 20_000, 8, 6
CODES = (ITEMS + 1) * K * 2
"""Bytes of all codes at two bytes each."""
SMALL = {"width": 8, "heads": 2, "inner": 8, "layers": 1}
MODELS = {
    "rpg": (Rpg, RpgConfig(**SMALL)),
    "mhl": (Mhl, MhlConfig(**SMALL)),
    "tiger": (Tiger, TigerConfig(**SMALL, head_width=4, user_tokens=4)),
    "mdgr": (Mdgr, MdgrConfig(**SMALL)),
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return make_catalog(ITEMS, K, V)


def build(name: str, catalog: Catalog) -> Model:
    kind, config = MODELS[name]
    return kind(config, catalog, max_length=10)


@pytest.mark.parametrize(("codewords", "kind"), [(256, torch.int16), (32_768, torch.int16), (32_769, torch.int32)])
def test_the_smallest_type_holds_every_code(codewords, kind):
    codes_IK = torch.tensor([[0, codewords - 1], [codewords - 1, NO_CODE]])
    catalog = Catalog.of(torch.ones(2), codes_IK, codewords)
    assert catalog.code_RK.dtype == kind
    assert torch.equal(catalog.codes_IK.long(), codes_IK) and catalog.code_RK[0].tolist() == [0, 0]
    assert catalog.codes_IK.untyped_storage().data_ptr() == catalog.code_RK.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_shares_the_tensor_of_its_catalogue(name, catalog):
    with Allocated() as made:
        model = build(name, catalog.to(torch.device("cpu"))).to(torch.device("cpu"))
    assert model.code_RK.data_ptr() == catalog.code_RK.data_ptr()
    assert made.largest <= CODES // 2, "looking for missing codes makes a byte for each; nothing makes more"
    buffers = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in model.buffers()}
    assert CODES <= sum(buffers.values()) <= 1.01 * CODES
    assert not any("code_RK" in key for key in model.state_dict()), "no checkpoint holds it"
    item_N = torch.tensor([3, 0, ITEMS])
    codes_NK = model.codes_of(item_N)
    assert codes_NK.dtype == torch.int64 and codes_NK[1].tolist() == [0] * K
    assert torch.equal(codes_NK[[0, 2]], catalog.codes_IK[[2, ITEMS - 1]].long())


@pytest.mark.parametrize("index", [Exhaustive, Trie, InvertedLists])
def test_no_index_of_a_decoder_makes_codes_of_eight_bytes(index, catalog, monkeypatch):
    monkeypatch.setattr(inverted_index, "CHUNK", 1000)
    with Allocated() as made:
        index(catalog)
    assert made.largest <= 4 * ITEMS * K
    with Allocated() as wide:
        catalog.codes_IK.long()
    assert wide.largest == 8 * ITEMS * K, "the counter sees such a tensor"


def test_lists_by_code_hold_each_item_under_each_of_its_codes(catalog):
    lists = InvertedLists(catalog)
    for digit, code in ((0, 0), (3, 5), (K - 1, V - 1)):
        start, number = lists.start_C[digit * V + code], lists.count_C[digit * V + code]
        own = (catalog.codes_IK[:, digit] == code).nonzero()[:, 0]
        assert torch.equal(lists.item_X[start : start + number].long(), own)


def test_the_field_of_an_attribute_is_the_word_before_the_colon():
    names = pa.array(["brand: Canon", "category: a: b", None, "brand: Nikon", "loose"])
    field_X, fields = fields_of(names)
    assert [fields[place] for place in field_X.tolist()] == ["brand", "category", "", "brand", "loose"]
    assert fields_of(pa.array([], pa.string()))[1] == ()

"""Warm start and freezing: which weights are loaded from another run, what is refused, and what does not move."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shop import TINY, Answer, genrec, small_codes

from genrec_cli.artifacts import Workspace
from genrec_cli.engine.checkpoint import BEST, save_weights
from genrec_cli.engine.warm_start import freeze, warm_start
from genrec_cli.errors import ConfigError

STILL = ["--set", "train.lr=1e-30"]
"""A learning rate that moves no weight."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    root = small_codes(tmp_path_factory.mktemp("shop"))
    assert train(root, "rpg").code == 0
    return root


def train(root: Path, model: str, *words: str) -> Answer:
    words = (*words,) if "--codes" in words else (*words, "--codes", "opq4x16-lsa")
    return genrec(root, "train", "--model", model, "--curriculum", "inf", *TINY, "--epochs", "1", *words)


def weights(answer: Answer) -> dict[str, torch.Tensor]:
    return load_file(answer.path / BEST)


@pytest.fixture(scope="module")
def source(shop: Path) -> dict[str, torch.Tensor]:
    return weights(train(shop, "rpg"))


def test_a_run_starts_from_the_weights_of_another_and_records_it(shop, source):
    answer = train(shop, "rpg", "--seed", "1", "--init-from", "rpg-s0", *STILL)
    assert all(torch.equal(value, source[name]) for name, value in weights(answer).items())
    run = Workspace(shop).find("synthetic", "runs", "rpg-s0")
    assert answer.manifest["inputs"]["init"]["digest"] == run.digest
    other = weights(train(shop, "rpg", "--seed", "1", *STILL))
    assert not torch.equal(other["codes.table.weight"], source["codes.table.weight"])


@pytest.mark.parametrize("same_codes", [True, False])
def test_common_leading_rows_are_loaded_with_the_same_codes_only(shop, source, same_codes):
    """MHL's table of codes has rows of mask tokens after those of RPG's."""
    words = []
    if not same_codes:
        tokenize = ["tokenize", "--tokenizer", "pq", "--codebooks", "4", "--codewords", "16"]
        words = ["--codes", genrec(shop, *tokenize).path]
    loaded = weights(train(shop, "mhl", "--init-from", "rpg-s0", *STILL, *words))
    rows = source["codes.table.weight"]
    table = loaded["codes.table.weight"]
    assert len(table) > len(rows)
    assert torch.equal(table[: len(rows)], rows) == same_codes
    assert torch.equal(loaded["heads.linear.weight"], source["heads.linear.weight"]), "a shape that fits is loaded"


def test_mdgr_starts_from_the_table_the_blocks_and_the_heads_of_rpg(shop, source):
    layers = ["--set", "model.activation=gelu_tanh", "--set", "train.valid_users=8"]
    loaded = weights(train(shop, "mdgr", "--init-from", "rpg-s0", *STILL, *layers))
    rows = len(source["codes.table.weight"])
    assert all(torch.equal(loaded[name][: len(value)], value) for name, value in source.items())
    assert rows < len(loaded["codes.table.weight"]) and any(name.startswith("backbone.") for name in source)


def test_mdgr_keeps_its_own_mask_embeddings(shop):
    """MHL's table has a mask token per digit and position, MDGR's one per digit, of the size of a state."""
    layers = ["--set", "model.activation=gelu_tanh", "--set", "train.valid_users=8"]
    masked = weights(train(shop, "mhl", "--seed", "5"))["codes.table.weight"]
    cold, warm = (
        weights(train(shop, "mdgr", *STILL, *layers, *more))["codes.table.weight"]
        for more in ([], ["--init-from", "mhl-s5", "--label", "warm"])
    )
    rows = 4 * 16
    assert len(masked) > len(cold) > rows
    assert torch.equal(warm[:rows], masked[:rows]) and torch.equal(warm[rows:], cold[rows:])


def test_a_run_without_a_fitting_weight_is_refused(shop):
    assert genrec(shop, "train", "--model", "popular").code == 0
    answer = train(shop, "rpg", "--seed", "2", "--init-from", "popular-s0")
    assert answer.code == 3 and "No parameter" in answer.err and "--init-from takes" in answer.err
    assert not list((shop / "synthetic" / "runs").glob("rpg-s2-*/manifest.json"))


def test_frozen_parameters_do_not_move(shop, source):
    trained = weights(train(shop, "rpg", "--seed", "3", "--init-from", "rpg-s0", "--freeze", "codes.*"))
    moved = {name for name, value in trained.items() if not torch.equal(value, source[name])}
    assert moved == {name for name in source if not name.startswith("codes.")}


@pytest.mark.parametrize("pattern, message", [("nothing.*", "matches no parameter"), ("*", "no parameter to train")])
def test_a_pattern_that_freezes_nothing_or_everything_is_refused(shop, pattern, message):
    answer = train(shop, "rpg", "--freeze", pattern)
    assert answer.code == 3 and message in answer.err


def test_weights_are_loaded_by_name_and_shape(tmp_path):
    def model(rows: int, width: int) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"table": torch.nn.Embedding(rows, width), "head": torch.nn.Linear(4, 2)})

    given = model(6, 4)
    save_weights(tmp_path / "weights.safetensors", given)
    for rows, width, same_ids, loaded in ((6, 4, False, 6), (9, 4, True, 6), (3, 4, True, 3), (9, 4, False, 0)):
        target = model(rows, width)
        before = target["table"].weight.detach().clone()
        result = warm_start(target, tmp_path / "weights.safetensors", same_ids=same_ids)
        assert ("table.weight" in result.loaded) == (loaded > 0) and "head.weight" in result.loaded
        assert torch.equal(target["table"].weight[:loaded], given["table"].weight[:loaded])
        assert torch.equal(target["table"].weight[loaded:], before[loaded:])
    assert warm_start(model(6, 5), tmp_path / "weights.safetensors", same_ids=True).kept == ["table.weight"]
    of_data = torch.nn.ModuleDict({"item": torch.nn.Embedding(6, 4), "head": torch.nn.Linear(4, 2)})
    save_weights(tmp_path / "items.safetensors", of_data)
    result = warm_start(of_data, tmp_path / "items.safetensors", same_ids=False, same_data=False)
    assert result.kept == ["item.weight"] and "head.bias" in result.loaded
    with pytest.raises(ConfigError, match="No parameter"):
        warm_start(torch.nn.Linear(4, 2), tmp_path / "weights.safetensors", same_ids=True)


def test_frozen_parameters_are_named():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert freeze(model, ("0.*", "*.bias")) == ["0.weight", "0.bias", "1.bias"]
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["1.weight"]

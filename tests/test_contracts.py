"""The contract suite over the registry. A new model gets these tests by its line in the registry."""

from typing import Any, ClassVar

import pytest
from probes import BlindBert, NoMaskBert

from genrec_cli import registry
from genrec_cli.testing import ModelContract

VARIANTS: dict[str, dict[str, Any]] = {
    "tiger, one pass": {"settings": {"causal": True}, "windows": "sliding"},
    "tiger, pooled": {
        "settings": {"causal": True, "pooled": True, "last_state": True, "classifier": "cosine", "user_tokens": 0},
        "windows": "sliding",
        "learns": {"epochs": 8, "batch_size": 16, "lr": 1e-2, "optimizer": "adamw"},
    },
    "mdgr, both directions": {"settings": {"causal": False}, "windows": "each"},
    "mdgr, plain": {"settings": {"digit_heads": False, "input_scale": 1.0, "learn_temperature": True}},
    "sasrec, bce": {"settings": {"loss": "bce", "negatives": 3}},
    "sasrec, bpr": {"settings": {"loss": "bpr", "negatives": 3}},
    "sasrec, sampled": {"settings": {"loss": "sampled", "negatives": 3}},
    "gru4rec, sampled": {"settings": {"loss": "sampled", "negatives": 8, "shared_negatives": True}},
    "sasrec, gbce": {
        "settings": {"loss": "gbce", "negatives": 3},
        "learns": {"epochs": 24, "batch_size": 16, "lr": 1e-2},
    },
    "sasrec, graph and counts": {"settings": {"graph_edges": 4, "count_factor": 2.0, "output": "sum"}},
    "hstu, separate": {"settings": {"output": "separate"}},
    "bert4rec, graph": {"settings": {"graph_edges": 4}, "learns": {"epochs": 24, "batch_size": 16, "lr": 1e-2}},
    "gru4rec, bpr_max": {"settings": {"loss": "bpr_max", "negatives": 8}, "learns": {"epochs": 24, "lr": 1e-2}},
    "caser, users": {"settings": {"users": True}},
    "caser, tied": {"settings": {"output": "tied"}},
    "hgn, users": {"settings": {"users": True}},
    "hstu, times": {"settings": {"time_bias": True}},
    "vqrec, text": {"catalog_options": {"padded": True, "shared": True}, "learns": {}},
    "vqrec, counts": {"settings": {"count_factor": 2.0}, "learns": {}},
    "recjpq, gbce": {"settings": {"loss": "gbce", "negatives": 8}, "learns": {}},  # 60 epochs; SASRec's takes 24
    "bsarec, both directions": {"settings": {"causal": False}, "windows": "each"},
    "rpg, text": {"catalog_options": {"padded": True, "shared": True}, "learns": {}},
    "rpg, dense": {"settings": {"dense_input": True, "free_vectors": True, "item_weight": 1.0}},
    "rpg, counts": {"settings": {"item_weight": 1.0, "count_factor": 2.0}},
    "rpg, horizons": {"settings": {"horizons": 3, "align_weight": 0.5}},
    "rpg, dense text": {
        "settings": {"dense_input": True, "item_weight": 1.0},
        "catalog_options": {"padded": True, "shared": True},
    },
    "mhl, dense": {"settings": {"dense_input": True, "item_weight": 1.0, "align_weight": 0.5, "horizons": 2}},
    "mhl, ours": {"settings": {"next_masked": False, "entropy_mode": "eval", "entropy_relative": True}},
    "tiger, dense with counts": {
        "settings": {"pooled": True, "dense_input": True, "free_vectors": True, "graph_edges": 4, "count_weight": 0.1},
        "learns": {"epochs": 8, "batch_size": 64, "lr": 0.1},
    },
    "mdgr, dense with counts": {
        "settings": {"dense_input": True, "free_vectors": True, "graph_edges": 4, "count_weight": 0.1},
        "learns": {"epochs": 20, "batch_size": 32, "lr": 1e-2},
        "overfits_in": 400,
    },
    "mhl, text": {"catalog_options": {"padded": True, "shared": True}, "learns": {}},
}
"""Settings or catalogues under which a model works in another way."""
TUNED: dict[str, dict[str, Any]] = {
    "tiger": {"learns": {"epochs": 8, "batch_size": 64, "lr": 0.1}},
    "mdgr": {"learns": {"epochs": 20, "batch_size": 32, "lr": 1e-2}},
    "bert4rec": {"learns": {"epochs": 24, "batch_size": 16, "lr": 1e-2}},
    "s3rec-pretrain": {"learns": {"epochs": 30, "batch_size": 16, "lr": 1e-2}},
}
"""What a model needs to learn an order in little time."""


def contract(name: str) -> type[ModelContract]:
    model = name.partition(",")[0]
    members = {"kind": registry.load("model", model), "__module__": __name__}
    if name in VARIANTS:  # slow, and the same code for all settings of a model
        members["test_two_processes_learn_what_one_learns"] = None
        members["test_a_stopped_run_ends_with_the_bits_of_an_unbroken_one"] = None
    title = "Test" + "".join(word.title() for word in name.replace(",", "").replace("-", " ").split())
    return type(title, (ModelContract,), members | TUNED.get(model, {}) | VARIANTS.get(name, {}))


for _name in [*registry.names("model"), *VARIANTS]:
    _made = contract(_name)
    globals()[_made.__name__] = _made


class TestBert(ModelContract):
    """A bidirectional model of masked items passes."""

    kind = BlindBert
    learns: ClassVar = {"epochs": 24, "batch_size": 16, "lr": 1e-2}


def test_a_model_that_sees_its_masked_items_is_found():
    class Cheat(ModelContract):
        kind = NoMaskBert

    with pytest.raises(AssertionError, match="place 0"):
        Cheat().test_masked_items_do_not_leak()


def test_a_model_that_sees_its_targets_is_found():
    from probes import LooksAhead

    class Cheat(ModelContract):
        kind = LooksAhead

    with pytest.raises(AssertionError):
        Cheat().test_the_future_does_not_leak()


def test_an_unknown_need_is_an_error():
    from genrec_cli.models.item_model import ItemModel

    with pytest.raises(TypeError, match="vibes"):
        type("Wrong", (ItemModel,), {"needs": frozenset({"vibes"})})

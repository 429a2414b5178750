"""What a model needs of the data: it gets all that it declares, and is refused before any work where it is missing."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from shop import SMALL_SHOP, genrec

from genrec_cli import registry
from genrec_cli.models.item_model import ItemModel
from genrec_cli.stages import doctor


class Curious(ItemModel):
    """Reads everything that a model can ask for; its states are those of the items."""

    needs: ClassVar = frozenset({"times", "attributes", "vectors", "users"})
    seen: ClassVar[dict] = {}

    def __init__(self, config, catalog, *, max_length):
        super().__init__(config, catalog, max_length=max_length)
        assert catalog.vector_RE.shape[0] == catalog.attribute_RA.shape[0] == catalog.items + 1
        assert not catalog.vector_RE[0].any() and not catalog.attribute_RA[0].any()
        assert 0 < int(catalog.attribute_RA.max()) <= catalog.attributes
        self.users = catalog.users

    def states(self, batch, at_M):
        assert len(batch.time_N) == len(batch.item_N) and batch.time_N.dtype == torch.int64
        within_N = batch.packing.position_N[1:] > 0
        assert (batch.time_N.diff()[within_N] >= 0).all(), "a user's items are in the order of time"
        assert ((batch.user_B >= -1) & (batch.user_B < self.users)).all()
        Curious.seen = {"users": set(batch.user_B.tolist()), "times": batch.time_N.max()}
        return self.item(batch.item_N - 1)[at_M]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(registry.TABLE["model"], "curious", f"{__name__}:Curious")


def test_a_model_gets_what_it_needs(tmp_path: Path) -> None:
    for words in (SMALL_SHOP, ["preprocess"], ["tokenize", "--encoder", "lsa", "--codebooks", "4", "--codewords", "8"]):
        assert genrec(tmp_path, *words).code == 0
    answer = genrec(tmp_path, "train", "--model", "curious", "--set", "model.width=16", "--epochs", "1")
    assert answer.code == 0, answer.err
    assert set(answer.manifest["inputs"]) == {"data", "vectors"}
    assert Curious.seen["times"] > 10**9, "seconds since 1970"
    assert genrec(tmp_path, "evaluate", "--run", "curious-s0").code == 0
    history = tmp_path / "new.csv"
    items = next((tmp_path / "synthetic" / "data").glob("*/items.parquet"))
    history.write_text(f"user,item\nsomebody,{pq.read_table(items)['raw_id'][0].as_py()}\n")
    refused = genrec(tmp_path, "recommend", "--run", "curious-s0", "--history", history)
    assert refused.code == 2 and "reads times" in refused.err


@pytest.mark.parametrize("missing, hint", [("times", "--time-col"), ("attributes", "--items FILE")])
def test_a_model_is_refused_before_work_where_the_data_lack_what_it_needs(
    tmp_path: Path, monkeypatch, missing: str, hint: str
) -> None:
    monkeypatch.setattr(Curious, "needs", frozenset({missing}))
    random = np.random.default_rng(0)
    rows = [f"u{user},i{item}" for user in range(30) for item in random.permutation(20)[:8]]
    time = "" if missing == "times" else ",timestamp"
    lines = [f"user_id,item_id{time}", *(f"{row},{10**9 + n}" if time else row for n, row in enumerate(rows))]
    (log := tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    assert genrec(tmp_path, "preprocess", "--dataset", "mine", "--interactions", log).code == 0
    answer = genrec(tmp_path, "train", "--dataset", "mine", "--model", "curious", "--epochs", "1")
    assert answer.code == 2 and hint in answer.err
    assert not (tmp_path / "mine" / "runs").exists()


@pytest.mark.parametrize("flags", [set(), {"avx512_bf16"}])
def test_a_cpu_that_emulates_bf16_is_named(tmp_path: Path, monkeypatch, flags: set[str]) -> None:
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: flags)
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(tmp_path, *words).code == 0
    answer = genrec(tmp_path, "train", "--model", "popular", "--precision", "bf16", "--device", "cpu")
    assert answer.code == 0 and ("emulates bf16" in answer.err) == (not flags)

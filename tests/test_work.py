"""Work is counted, not timed: multiplications, bytes, Python calls. So a slow path fails a test on any machine."""

import gc
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.data.batch import Batch
from genrec_cli.data.sequences import Rows, eval_batches
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.ranking import ExactRanker
from genrec_cli.models.base import Model
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.exhaustive import Exhaustive

ITEMS, K, V, D, HEADS, INNER, T = 40, 4, 8, 16, 2, 24, 20
SMALL = {"width": D, "heads": HEADS, "inner": INNER, "dropout": 0.1, "attention_dropout": 0.1}
SKEWED = [4] * 60 + [22] * 4
"""Training lengths 2 (60 users) and 20 (4 users): 1 and 19 positions. Padded, 64 x 19 cells for 136 positions."""
EVEN = [21] * 64
"""No padding at all."""


class Allocated(TorchDispatchMode):
    """Bytes of all tensors that operations make (not of views), and of the largest one."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        owned = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in owned:
                self.total += x.numel() * x.element_size()
                self.largest = max(self.largest, x.numel() * x.element_size())
        return out


def batch_of(lengths: list[int]) -> Batch:
    histories = make_histories(lengths, ITEMS)
    rows = Rows.of(histories, max_length=T, windows="sliding")
    return rows.batch(histories, np.arange(len(rows)))


def step(model: Model, batch: Batch, sampler: HistoryMasks | None = None) -> None:
    losses = model.losses(batch, sampler and sampler(model, batch))
    sum(loss.sum for loss in losses.values() if loss.weight).backward()


def small_model(kind: type = Rpg, config: type = RpgConfig) -> Model:
    torch.manual_seed(0)
    return kind(config(**SMALL), make_catalog(ITEMS, K, V), max_length=T).train()


def test_the_counter_counts_a_linear_layer_as_by_hand():
    layer, x = torch.nn.Linear(5, 7), torch.randn(3, 5, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 3 * (2 * 3 * 5 * 7)  # forward, gradient of x, gradient of the weight


@pytest.mark.parametrize("lengths", [SKEWED, EVEN])
def test_a_training_step_of_rpg_multiplies_as_often_as_the_formula_says(lengths):
    """N positions in the first block, M targets in the last, their grids in attention: nothing else."""
    model, batch = small_model(), batch_of(lengths)
    n, m = len(batch.item_N), len(batch.learn_M)
    grids = sum(part.length_B.numel() * part.longest**2 for part in batch.packing.parts)
    forward = 2 * n * 3 * D * D + 2 * 2 * grids * D + 2 * n * (D * D + 2 * D * INNER)
    forward += 2 * n * 3 * D * D + 2 * 2 * grids * D + 2 * m * (D * D + 2 * D * INNER)
    forward += 2 * m * K * D * D + 2 * m * K * D * V
    with FlopCounterMode(display=False) as counter:
        step(model, batch)
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize("name", ["rpg", "sasrec", "mhl"])
def test_bytes_of_a_training_step_follow_valid_positions(name):
    """Short histories beside long ones allocate no more per position than histories without any padding."""
    masked = name == "mhl"
    sampler = HistoryMasks("random", "token", 0.3, "rounded", torch.Generator().manual_seed(0)) if masked else None
    spent = {}
    for label, lengths in {"skewed": SKEWED * 4, "even": EVEN * 4, "more": EVEN * 8}.items():
        torch.manual_seed(0)
        kinds = {"rpg": (Rpg, RpgConfig), "mhl": (Mhl, MhlConfig), "sasrec": (SasRec, SasRecConfig)}
        model = small_model(*kinds[name])
        batch = batch_of(lengths)
        with Allocated() as made:
            step(model, batch, sampler)
        spent[label] = (made.total, len(batch.item_N))
    per_position = {label: total / positions for label, (total, positions) in spent.items()}
    assert per_position["skewed"] < 1.3 * per_position["even"]
    assert per_position["more"] == pytest.approx(per_position["even"], rel=0.1), "bytes grow with positions, not faster"


def test_a_training_step_keeps_few_bytes_for_its_gradients():
    """Saved for the backward pass: at most four copies of a target's K states and three of its K x V logits."""
    saved: dict[int, int] = {}

    def save(x: torch.Tensor) -> torch.Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    batch = batch_of(EVEN)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
        model = small_model()
        losses = model.losses(batch)
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    held = sum(size for pointer, size in saved.items() if pointer not in weights)
    n, m = len(batch.item_N), len(batch.learn_M)
    heads = m * K * (4 * D + 3 * V)
    block = 6 * n * D + 4 * n * INNER + 3 * sum(p.length_B.numel() * p.longest**2 for p in batch.packing.parts) * HEADS
    assert losses["next"].sum.isfinite()
    assert held < 4 * (heads + 2 * block)


def test_exact_decoding_makes_nothing_larger_than_users_by_items():
    users, items, digits, codewords = 16, 8000, 16, 16
    decoder = Exhaustive(make_catalog(items, digits, codewords))
    logp = torch.randn(users, digits, codewords).log_softmax(-1)
    with Allocated() as made:
        decoder.top(decoder.code_scores(logp), 10)
    assert made.largest <= 1.1 * users * items * 4, "items may be rounded up to a block"
    assert made.total <= 8 * users * items * 4, "a gather alone would make digits = 16 times as much"


# ---- Python calls ----------------------------------------------------------------------------------


def calls(work: Callable[[], object]) -> int:
    """Python and C functions that a piece of work calls, seen by the interpreter; a first run fills caches.

    The minimum of three counts, without the callbacks of garbage collection.
    """
    seen = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal seen
        seen += event in ("call", "c_call")

    work()
    counts = []
    gc.disable()
    before = sys.getprofile()
    try:
        for _ in range(3):
            seen = 0
            sys.setprofile(count)
            work()
            sys.setprofile(before)
            counts.append(seen)
    finally:
        sys.setprofile(before)
        gc.enable()
    return min(counts)


def of_users(users: int) -> dict[str, Callable[[], object]]:
    """Parts of the hot path over a count of users in one batch."""
    lengths = [5, 9, 6, 14] * (users // 4)
    histories, catalog = make_histories(lengths, ITEMS), make_catalog(ITEMS, K, V)
    rows = Rows.of(histories, max_length=T, windows="sliding")
    user, at = histories.targets("test")
    model, batch = small_model().eval(), rows.batch(histories, np.arange(len(rows)))
    masks = HistoryMasks("entropy", "mixed", 0.3, "rounded", torch.Generator().manual_seed(0))
    entropy = torch.rand(len(batch.item_N), K)
    decoder, device = Exhaustive(catalog), torch.device("cpu")

    def known() -> list:
        return list(eval_batches(histories, user, at, max_length=T, batch_size=users, exclude_seen=True))

    (one,) = known()
    score = torch.randn(users, ITEMS)

    def decode() -> None:
        decoder.top(decoder.code_scored(torch.randn(users, K, V)), 10, excluded=Excluded(*one.seen))
        decoder.rank(score, one.target_B)

    return {
        "rows": lambda: Rows.of(histories, max_length=T, windows="sliding"),
        "batch": lambda: rows.batch(histories, np.arange(len(rows))),
        "eval_batches": known,
        "masks": lambda: masks.sample(batch.packing, entropy > 0, entropy),
        "losses": lambda: model.losses(batch),
        "decode": decode,
        "evaluate": lambda: evaluate(ExactRanker(model, catalog), [one], device, k=10).means([5, 10]),
    }


def test_no_python_call_for_each_user():
    few, many = of_users(64), of_users(256)
    assert calls(lambda: [abs(x) for x in range(64)]) < calls(lambda: [abs(x) for x in range(256)]), "it does count"
    assert {name: calls(work) for name, work in few.items()} == {name: calls(work) for name, work in many.items()}

"""What each of several processes does in the tests, and one process alone for comparison.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/two_processes.py FOLDER
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
from conftest import make_catalog, make_histories
from safetensors.torch import save_file

from genrec_cli import distributed
from genrec_cli.artifacts import Plan
from genrec_cli.config import Section
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.data.sequences import eval_batches
from genrec_cli.engine.evaluation import evaluate, gathered
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.engine.progress import Callbacks
from genrec_cli.engine.ranking import ExactRanker
from genrec_cli.errors import Interrupted
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.process_group import current_group
from genrec_cli.stages import encode as stage
from genrec_cli.testing.data import FixedMasks

CONFIG = TrainConfig(epochs=2, batch_size=8, lr=1e-2, warmup_steps=2, max_length=8, clip=0.5)
MASKS = CurriculumConfig(preset="r", ratio=0.3)
KINDS = {"rpg": (Rpg, RpgConfig), "mhl": (Mhl, MhlConfig), "sasrec": (SasRec, SasRecConfig)}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rpg": ("rpg", {}),
    "sasrec": ("sasrec", {"weight_decay": 0.1}),
    "masks": ("mhl", {}),
    "in parts": ("mhl", {"batch_size": 16, "micro_batch_size": 3}),
    "a row for two": ("rpg", {"batch_size": 35}),
}
"""Name -> model, changes to CONFIG. 36 rows: in the last case each epoch ends with a batch of one row."""


def make_loop(folder: Path, name: str, *, dropout: float, report: Callbacks | None = None, **changes: Any) -> Loop:
    """A loop over 36 training rows; without dropout, masks do not depend on draws either."""
    torch.manual_seed(0)
    catalog, histories = make_catalog(), make_histories([5, 9, 6, 14, 6, 4, 7, 12] * 3, 30)
    kind, section = KINDS[name]
    small = {"width": 16, "heads": 2, "inner": 32, "dropout": dropout, "attention_dropout": dropout}
    model = kind(section(**small), catalog, max_length=8)
    config = CONFIG.model_copy(update=changes)
    curriculum = MASKS if name == "mhl" else CurriculumConfig(preset="inf")
    folder.mkdir(exist_ok=True)
    loop = Loop(model, catalog, histories, config, curriculum, torch.device("cpu"), folder, callbacks=report)
    if name == "mhl" and not dropout:
        loop.sampler = FixedMasks
    return loop


def play(folder: Path, case: str) -> None:
    """Train without any draw; write this rank's first gradients and last weights, and the log."""
    name, changes = CASES[case]
    loop = make_loop(folder / case, name, dropout=0.0, **changes)
    first: dict[str, torch.Tensor] = {}

    def note(*_: Any) -> None:
        if not first:
            first.update({f"gradient.{n}": p.grad.clone() for n, p in loop.model.named_parameters()})

    loop.step.optimizer.register_step_pre_hook(note)
    counters = loop.run()
    weights = {f"weight.{n}": p.detach().clone() for n, p in loop.model.named_parameters()}
    save_file(first | weights, folder / case / f"rank{current_group().rank}.safetensors")
    (folder / case / f"log{current_group().rank}.json").write_text(json.dumps([counters.rows, counters.positions]))


def stopping(step: int) -> Callbacks:
    """Requests a stop at a check, in the last process only: the others must stop too."""
    checks = iter(range(1, 10_000))
    return Callbacks(stop_requested=lambda: next(checks) == step and current_group().rank == current_group().world - 1)


def resume(folder: Path) -> None:
    """With dropout and drawn masks: an unbroken run, a broken one that goes on, and one for a single process."""
    make_loop(folder / "whole", "mhl", dropout=0.2, ema=0.9).run()
    for name in ("broken", "left"):
        try:
            make_loop(folder / name, "mhl", dropout=0.2, ema=0.9, report=stopping(7)).run()
        except Interrupted:
            continue
        raise AssertionError("the request of the last process had no effect")
    make_loop(folder / "broken", "mhl", dropout=0.2, ema=0.9).run()


class BatchEncoder:
    """An encoder whose vectors depend on their batch; it may be killed after some batches."""

    label, batch_size, frozen, config = "batch-encoder", 4, True, Section()
    facts: ClassVar = {"device": "cpu"}

    def __init__(self, batches: int | None = None) -> None:
        self.batches, self.max_batches = 0, batches

    def external(self) -> dict[str, str]:
        return {}

    def open(self) -> tuple[Callable[[Sequence[str]], np.ndarray], int]:
        return self._batch, 3

    def _batch(self, texts: Sequence[str]) -> np.ndarray:
        assert 1 <= len(texts) <= 4 and all(text.strip() for text in texts)
        if self.batches == self.max_batches:
            raise KeyboardInterrupt
        self.batches += 1
        lengths = [len(text) for text in texts]
        return np.array([[n, sum(lengths), hash(tuple(lengths)) % 1000] for n in lengths], np.float32)


def some_texts(seed: int = 0) -> list[str]:
    """46 texts in no order, some of them blank: 11 batches, of which the last has 3 texts."""
    lengths = np.random.default_rng(seed).integers(1, 40, 43).tolist()
    texts = ["x" * length for length in lengths]
    return [*texts[:20], "", " ", *texts[20:], ""]


def encode_some(folder: Path, encoder: BatchEncoder, texts: list[str] | None = None) -> np.ndarray:
    """``vec_ID`` in parts of two batches: six of them."""
    texts = some_texts() if texts is None else texts
    plan = Plan("any", "vectors", "batch-encoder", 1, {})
    with mock.patch("genrec_cli.stages.encode.BATCHES", 2):
        return stage.encode(encoder, texts, [str(row) for row in range(len(texts))], plan, folder)


def encode(folder: Path) -> None:
    """All texts; then again with the last three parts gone, so that five of the 11 batches are missing."""
    vec_ID = encode_some(folder / "parts", BatchEncoder())
    if current_group().main:
        np.save(folder / "vectors.npy", vec_ID)
        for number in (3, 4, 5):
            (folder / "parts" / f"{number:06}.safetensors").unlink()
    current_group().barrier()
    encoder = BatchEncoder()
    again_ID = encode_some(folder / "parts", encoder)
    batches = int(current_group().all_reduce_sum(torch.tensor(encoder.batches)))
    if current_group().main:
        assert batches == 5 and np.array_equal(again_ID, vec_ID)


def score(folder: Path) -> None:
    """Score every user once, in any process."""
    loop = make_loop(folder / "score", "rpg", dropout=0.0)
    user, at = loop.histories.targets("test")
    shard = {"first": current_group().rank, "every": current_group().world}
    batches = eval_batches(loop.histories, user, at, max_length=8, batch_size=5, exclude_seen=True, **shard)
    outcome = gathered(evaluate(ExactRanker(loop.model, loop.catalog), batches, loop.device, k=4))
    if current_group().main:
        columns = {"user": outcome.user, "target": outcome.target, "loss": outcome.loss}
        for protocol, ranks in outcome.ranks.items():
            columns |= {f"{protocol}_{name}": value for name, value in ranks._asdict().items()}
        assert len(columns) == 15, "both protocols"
        np.savez(folder / "outcome.npz", **columns)


def collectives() -> None:
    """Each collective of the process group against its expected result."""
    group, world = current_group(), current_group().world
    assert group.all_reduce_sum(torch.tensor([1.0, group.rank])).tolist() == [world, world * (world - 1) / 2]
    assert group.all_reduce_max(group.rank, -group.rank) == [world - 1, 0]
    assert group.any(group.rank == world - 1, False) == [True, False]
    assert group.weighted_mean({"a": float(group.rank)}, weight=1 + group.rank) == {"a": {1: 0.0, 2: 2 / 3}[world]}
    parts = group.gather(np.full((group.rank, 2), group.rank, np.int64))
    assert [part.shape for part in parts] == ([(n, 2) for n in range(world)] if group.main else [])
    tensor = torch.tensor([float(group.rank)])
    group.broadcast([tensor])
    assert float(tensor) == 0
    draws = group.all_reduce_sum(torch.nn.functional.one_hot(torch.tensor(group.seed(5) % 97), 97))
    assert int(draws.max()) == 1, "each rank has its own random stream"
    assert group.seed(5) == 5 or not group.main


def everything(folder: Path) -> None:
    """All of the above, in this process or in each of several."""
    distributed.LARGE = 100  # some of these small gradients have their own all-reduce, some are concatenated
    collectives()
    for case in CASES:
        play(folder, case)
    resume(folder)
    encode(folder)
    score(folder)


if __name__ == "__main__":
    with distributed.joined():
        everything(Path(sys.argv[1]))

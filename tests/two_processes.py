"""What the tests of several processes do in each of them, and what one process does alone for comparison.

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
    """Train without any draw; leaves this rank's first gradients and last weights, and the log."""
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
    """Asks to stop at a look, in the last process only: the others have to learn of it."""
    looks = iter(range(1, 10_000))
    return Callbacks(stop_requested=lambda: next(looks) == step and current_group().rank == current_group().world - 1)


def resume(folder: Path) -> None:
    """With dropout and drawn masks: an unbroken run, a broken one that goes on, and one for a single process."""
    make_loop(folder / "whole", "mhl", dropout=0.2).run()
    for name in ("broken", "left"):
        try:
            make_loop(folder / name, "mhl", dropout=0.2, report=stopping(7)).run()
        except Interrupted:
            continue
        raise AssertionError("nobody heard the last process")
    make_loop(folder / "broken", "mhl", dropout=0.2).run()


class Neighbourly:
    """An encoder whose vectors tell the batch they were made in; it may be killed after some batches."""

    label, batch_size, frozen, config = "neighbourly", 4, True, Section()
    facts: ClassVar = {"device": "cpu"}

    def __init__(self, batches: int | None = None) -> None:
        self.batches, self.most = 0, batches

    def external(self) -> dict[str, str]:
        return {}

    def open(self) -> tuple[Callable[[Sequence[str]], np.ndarray], int]:
        return self._batch, 3

    def _batch(self, texts: Sequence[str]) -> np.ndarray:
        assert 1 <= len(texts) <= 4 and all(text.strip() for text in texts)
        if self.batches == self.most:
            raise KeyboardInterrupt
        self.batches += 1
        lengths = [len(text) for text in texts]
        return np.array([[n, sum(lengths), hash(tuple(lengths)) % 1000] for n in lengths], np.float32)


def some_texts(seed: int = 0) -> list[str]:
    """46 texts in no order, some of them blank: 11 batches, of which the last has 3 texts."""
    lengths = np.random.default_rng(seed).integers(1, 40, 43).tolist()
    texts = ["x" * length for length in lengths]
    return [*texts[:20], "", " ", *texts[20:], ""]


def encode_some(folder: Path, encoder: Neighbourly, texts: list[str] | None = None) -> np.ndarray:
    """``vec_ID`` in parts of two batches: six of them."""
    texts = some_texts() if texts is None else texts
    plan = Plan("any", "vectors", "neighbourly", 1, {})
    with mock.patch("genrec_cli.stages.encode.BATCHES", 2):
        return stage.encode(encoder, texts, [str(row) for row in range(len(texts))], plan, folder)


def encode(folder: Path) -> None:
    """All texts; then again with the last three parts gone, so that five of the 11 batches are missing."""
    vec_ID = encode_some(folder / "parts", Neighbourly())
    if current_group().main:
        np.save(folder / "vectors.npy", vec_ID)
        for number in (3, 4, 5):
            (folder / "parts" / f"{number:06}.safetensors").unlink()
    current_group().barrier()
    encoder = Neighbourly()
    again_ID = encode_some(folder / "parts", encoder)
    batches = int(current_group().sum(torch.tensor(encoder.batches)))
    if current_group().main:
        assert batches == 5 and np.array_equal(again_ID, vec_ID)


def score(folder: Path) -> None:
    """Every user once, whichever process scores."""
    loop = make_loop(folder / "score", "rpg", dropout=0.0)
    user, at = loop.histories.targets("test")
    turns = {"first": current_group().rank, "every": current_group().world}
    batches = eval_batches(loop.histories, user, at, max_length=8, batch_size=5, exclude_seen=True, **turns)
    outcome = gathered(evaluate(ExactRanker(loop.model, loop.catalog), batches, loop.device, k=4))
    if current_group().main:
        columns = {"user": outcome.user, "target": outcome.target, "loss": outcome.loss}
        for protocol, ranks in outcome.ranks.items():
            columns |= {f"{protocol}_{name}": value for name, value in ranks._asdict().items()}
        assert len(columns) == 15, "both protocols"
        np.savez(folder / "outcome.npz", **columns)


def talk() -> None:
    """The words that ranks have for each other, against what they must come to."""
    ranks, world = current_group(), current_group().world
    assert ranks.sum(torch.tensor([1.0, ranks.rank])).tolist() == [world, world * (world - 1) / 2]
    assert ranks.most(ranks.rank, -ranks.rank) == [world - 1, 0]
    assert ranks.agree(ranks.rank == world - 1, False) == [True, False]
    assert ranks.mean({"a": float(ranks.rank)}, weight=1 + ranks.rank) == {"a": {1: 0.0, 2: 2 / 3}[world]}
    parts = ranks.gather(np.full((ranks.rank, 2), ranks.rank, np.int64))
    assert [part.shape for part in parts] == ([(n, 2) for n in range(world)] if ranks.main else [])
    tensor = torch.tensor([float(ranks.rank)])
    ranks.align([tensor])
    assert float(tensor) == 0
    draws = ranks.sum(torch.nn.functional.one_hot(torch.tensor(ranks.seed(5) % 97), 97))
    assert int(draws.max()) == 1, "each rank has a stream of its own"
    assert ranks.seed(5) == 5 or not ranks.main


def everything(folder: Path) -> None:
    """All of it, in this process or in each of several."""
    distributed.LARGE = 100  # some of these small gradients are sent by themselves, some together
    talk()
    for case in CASES:
        play(folder, case)
    resume(folder)
    encode(folder)
    score(folder)


if __name__ == "__main__":
    with distributed.joined():
        everything(Path(sys.argv[1]))

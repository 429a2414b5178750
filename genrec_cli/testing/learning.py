"""Tests that a model learns, resumes to the same bits, and learns the same on two processes as on one."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from genrec_cli.data.sequences import eval_batches
from genrec_cli.distributed import TorchGroup
from genrec_cli.engine.checkpoint import BEST, LAST, read_weights
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.optim import TrainConfig, make_optimizer
from genrec_cli.engine.progress import Callbacks
from genrec_cli.errors import Interrupted
from genrec_cli.process_group import set_group
from genrec_cli.testing.case import CPU, LENGTHS, ModelCase, total_loss
from genrec_cli.testing.data import make_histories

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How processes start. A fork server imports torch once, which takes as long as a short training."""
if START == "forkserver":
    multiprocessing.set_forkserver_preload([__name__])


class LearningTests(ModelCase):
    def test_overfits_eight_users(self) -> None:
        self.requires_training()
        model, batch = self.build(width=32), self.batch("recent")
        optimizer = make_optimizer(model, TrainConfig(lr=1e-2))
        before = float(total_loss(model, batch).detach())
        for _ in range(self.overfits_in):
            optimizer.zero_grad()
            loss = total_loss(model, batch)
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.3 * before

    @pytest.mark.parametrize("ordered", [True, False])
    def test_learns_an_order_and_nothing_where_there_is_none(self, ordered: bool, tmp_path: Path) -> None:
        """Each item has one successor, or items are drawn at random: then more hits than by chance are a leak."""
        self.requires_training()
        self.requires(not ordered or bool(self.learns), "its catalogue does not tell items apart")
        users, items = 160, 30
        length = np.random.default_rng(0).integers(5, 13, users)
        histories = make_histories(length.tolist(), items)
        if ordered:
            step = np.arange(len(histories.item)) - np.repeat(histories.offset, length)
            histories.item[:] = (np.repeat(histories.item[histories.offset], length) + step) % items + 1
        train = (
            {"warmup_steps": 10, "eval_every": self.learns["epochs"], **self.learns} if self.learns else {"epochs": 4}
        )
        loop = self.loop(tmp_path / "run", histories, train)
        loop.run()
        batches = eval_batches(histories, *histories.targets("test"), max_length=self.max_length, batch_size=64)
        hits = evaluate(loop.make_ranker(), batches, CPU).means([5])["Recall@5"] * users
        chance = users * 5 / items
        if ordered:
            assert hits > 3 * chance
        else:  # a binomial draw: chance exceeds five standard deviations once in three million
            assert hits < chance + 5 * chance**0.5

    @pytest.mark.parametrize("ema", [0.0, 0.9])
    def test_a_stopped_run_ends_with_the_bits_of_an_unbroken_one(self, ema: float, tmp_path: Path) -> None:
        self.requires_training()
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        histories = make_histories(LENGTHS * 3, 30)
        train = {"epochs": 3, "batch_size": 16, "lr": 1e-2, "warmup_steps": 5, "ema": ema}
        self.loop(whole, histories, train, dropout=0.2).run()
        for stop in (2, 3):
            checks = iter(range(1, 1000))
            callbacks = Callbacks(stop_requested=lambda stop=stop, checks=checks: next(checks) == stop)  # type: ignore[misc]
            with pytest.raises(Interrupted):
                self.loop(broken, histories, train, dropout=0.2, callbacks=callbacks).run()
        self.loop(broken, histories, train, dropout=0.2).run()
        for file in (BEST, LAST):
            torch.testing.assert_close(read_weights(broken / file), read_weights(whole / file), rtol=0, atol=0)

    def test_two_processes_learn_what_one_learns(self, tmp_path: Path) -> None:
        """The difference of the weights is small beside their change in the training."""
        self.requires_training()
        self.requires("sp_weight" not in self.kind.Config.model_fields, "it compares the segments of a process")
        start = self.train_fixed(tmp_path / "one")
        (tmp_path / "two").mkdir()
        start_processes(train_as_rank, (type(self), tmp_path / "two"), nprocs=2, start_method=START)
        one, two = (read_weights(tmp_path / name / BEST) for name in ("one", "two"))
        change, difference = (torch.cat([(one[n] - of[n]).flatten() for n in start]).norm() for of in (start, two))
        assert difference < 1e-3 * change

    def train_fixed(self, folder: Path) -> dict[str, torch.Tensor]:
        """A short training without any random draw in its steps; the parameters before it."""
        train: dict[str, Any] = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "warmup_steps": 0}
        loop = self.loop(folder, make_histories(LENGTHS * 2, 30), train, fixed=True)
        start = {name: parameter.detach().clone() for name, parameter in loop.model.named_parameters()}
        loop.run()
        return start


def train_as_rank(rank: int, contract: type[LearningTests], folder: Path) -> None:
    """Call ``contract().train_fixed(folder)`` as one of two processes."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    set_group(TorchGroup(rank, 2, rank, store))
    contract().train_fixed(folder)
    dist.destroy_process_group()

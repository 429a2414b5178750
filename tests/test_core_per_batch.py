"""Evaluation batches on the cores of a CPU, one core for each."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories

from genrec_cli.data.sequences import eval_batches
from genrec_cli.engine.core_per_batch import core_per_batch
from genrec_cli.engine.evaluation import evaluate, recommend
from genrec_cli.engine.ranking import ExactRanker
from genrec_cli.models.sasrec import SasRec, SasRecConfig

CPU = torch.device("cpu")


@pytest.fixture
def two_cores(set_threads: Callable[[int], None]) -> None:
    set_threads(2)


def test_each_batch_has_a_thread_with_one_core_and_the_modes_of_the_caller(two_cores: None) -> None:
    both = threading.Barrier(2, timeout=30)

    def work(batch: int) -> tuple[int, int, bool, bool]:
        both.wait()  # ends only if two batches are worked on at a time
        low = torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
        return batch, torch.get_num_threads(), torch.is_inference_mode_enabled(), low

    with torch.autocast("cpu", torch.bfloat16):
        assert list(core_per_batch(work, range(6), CPU)) == [(batch, 1, True, True) for batch in range(6)]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("batches", [0, 1])
def test_fewer_batches_than_cores_keep_all_cores(two_cores: None, batches: int) -> None:
    found = list(core_per_batch(lambda batch: torch.get_num_threads(), range(batches), CPU))
    assert found == [2] * batches


def test_an_error_is_raised_and_the_cores_come_back(two_cores: None) -> None:
    def work(batch: int) -> None:
        raise ValueError(f"batch {batch}")

    with pytest.raises(ValueError, match="batch 0"):
        list(core_per_batch(work, range(9), CPU))
    assert torch.get_num_threads() == 2


def test_lists_and_ranks_are_those_of_one_core(two_cores: None) -> None:
    torch.manual_seed(0)
    items, histories = 90, make_histories([4 + n % 9 for n in range(70)], 90)
    model = SasRec(SasRecConfig(width=8), make_catalog(items, 2, 4), max_length=8).eval()
    ranker, (user, at) = ExactRanker(model, make_catalog(items, 2, 4)), histories.targets("test")
    found = []
    for cores in (2, 1):
        torch.set_num_threads(cores)
        ticks: list[int] = []
        options = {"max_length": 8, "batch_size": 8, "exclude_seen": True}
        row, item, score = recommend(ranker, eval_batches(histories, user, at, **options), CPU, k=5, tick=ticks.append)
        outcome = evaluate(ranker, eval_batches(histories, user, at, **options), CPU, k=5)
        assert ticks == [8] * 8 + [6]
        found.append((row, item, score, outcome.user, outcome.loss, *outcome.ranks["left_out"]))
    for ours, reference in zip(*found, strict=True):
        assert np.array_equal(ours, reference) or np.allclose(ours, reference, rtol=1e-5)

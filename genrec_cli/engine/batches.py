"""Training batches of an epoch on the host; a thread prepares each one during the step before it."""

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from genrec_cli.data.batch import Batch
from genrec_cli.data.sequences import Histories, Rows
from genrec_cli.engine.graphs import FlatBatch
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.process_group import ProcessGroup


class Prepared(NamedTuple):
    """The part of one step's batch that this process computes."""

    parts: list[Batch] | FlatBatch  # micro-batches, or one batch for a captured step
    positions: int  # items that the global batch reads, over all processes
    counted: bool
    """False where an epoch's last batch has fewer rows than there are processes: then this process repeats a row, whose
    losses must not count."""


class TrainingBatches:
    """Global batches of rows: sharded over processes, cut into micro-batches, bucketed for CUDA graphs."""

    def __init__(self, rows: Rows, histories: Histories, config: TrainConfig, group: ProcessGroup) -> None:
        self.rows, self.histories, self.config, self.group = rows, histories, config, group
        self.waited = 0.0  # seconds in which :meth:`epoch` waited for a batch

    def __len__(self) -> int:
        """Steps per epoch."""
        return -(-len(self.rows) // self.config.batch_size)

    def epoch(self, number: int, first: int, last: int, *, captured: bool = False) -> Generator[Prepared, None, None]:
        """The batches of the steps ``first`` to ``last - 1`` of an epoch."""
        order, size = self.rows.order(self.config.seed, number), self.config.batch_size

        def prepare(step: int) -> Prepared:
            return self.prepare(order[step * size : (step + 1) * size], captured=captured)

        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(prepare, first)
            for step in range(first, last):
                started = time.perf_counter()
                batch = ahead.result()
                self.waited += time.perf_counter() - started
                if step + 1 < last:
                    ahead = pool.submit(prepare, step + 1)
                yield batch

    def prepare(self, rows: np.ndarray, *, captured: bool = False) -> Prepared:
        """This process's part of a global batch of rows."""
        spans = self.rows.spans(self.histories, rows)
        positions = int(spans.length.sum())
        if captured:
            batch = self.rows.batch_of(self.histories, spans, bucketed=True)
            return Prepared(FlatBatch.of(batch), positions, True)
        counted = self.group.rank < len(rows)
        if not self.group.single:  # sharded by length, so that no process gets only long rows
            by_length = np.argsort(spans.length, kind="stable")
            spans = spans.take(by_length[self.group.rank :: self.group.world] if counted else by_length[:1])
        size = self.config.micro_batch_size or len(spans.length)
        cuts = np.split(np.arange(len(spans.length)), range(size, len(spans.length), size))
        return Prepared([self.rows.batch_of(self.histories, spans.take(cut)) for cut in cuts], positions, counted)

"""What runs the preparation of a log: polars on this machine, or Spark.

k-core, numbering, order, split and statistics are written once, as lazy Narwhals frames over integers. An engine
says how a frame is read, run and kept; everything that an engine is handed or gives back in memory is as large as
the users or the items, never as the interactions.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import narwhals as nw
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_cli.data.shuffle import mixed
from genrec_cli.errors import UsageError

ENGINES = ("polars", "spark")
SHARD = 4 * 2**20
"""Rows that polars sorts or compares at a time."""
BATCH = 2**20
"""Rows read or written at a time."""

Step = Callable[[nw.LazyFrame], nw.LazyFrame]


class Engine(Protocol):
    """Runs lazy frames. What it keeps lies in a scratch folder, one folder of Parquet files a frame."""

    scratch: Path

    def scan(self, path: Path) -> nw.LazyFrame:
        """The frame kept in a folder, or a Parquet file."""
        ...

    def collect(self, frame: nw.LazyFrame) -> pl.DataFrame:
        """A result as large as the users or the items."""
        ...

    def write(self, frame: nw.LazyFrame) -> Path:
        """Run a frame and keep its rows, in its order."""
        ...

    def write_by_user(self, frame: nw.LazyFrame, step: Step, users: int | None = None) -> Path:
        """Keep ``step(frame)``, where the step may be taken for some of the users at a time.

        Args:
            step: never compares rows of different users, except to sort them by ``user`` first.
            users: the column ``user`` holds ids from 1 to this, and they are kept in order; None: any whole
                numbers, in any order.
        """
        ...


class PolarsEngine:
    """The streaming engine of polars; what needs all rows of a user goes shard by shard of users."""

    def __init__(self, scratch: Path, *, shard: int = SHARD) -> None:
        self.scratch, self.shard, self.kept = scratch, shard, 0

    def scan(self, path: Path) -> nw.LazyFrame:
        return nw.from_native(pl.scan_parquet(path))

    def collect(self, frame: nw.LazyFrame) -> pl.DataFrame:
        return frame.to_native().collect(engine="streaming", optimizations=_PLAN)

    def write(self, frame: nw.LazyFrame) -> Path:
        folder = self._folder()
        self._sink(frame, folder / "part-00000.parquet")
        return folder

    def write_by_user(self, frame: nw.LazyFrame, step: Step, users: int | None = None) -> Path:
        whole = self.write(frame)
        shards = -(-height(whole) // self.shard)
        if shards <= 1:
            return self.write(step(self.scan(whole)))
        cut, done = self._folder(), self._folder()
        split_by_user(batches(whole), users, [cut / f"part-{number:05}.parquet" for number in range(shards)])
        discard(whole)
        for path in sorted(cut.iterdir()):
            self._sink(step(self.scan(path)), done / path.name)
            path.unlink()
        return done

    def _folder(self) -> Path:
        self.kept += 1
        folder = self.scratch / f"frame-{self.kept:03}"
        folder.mkdir()
        return folder

    def _sink(self, frame: nw.LazyFrame, path: Path) -> None:
        frame.to_native().sink_parquet(path, compression="lz4", engine="streaming", optimizations=_PLAN)


_PLAN = pl.QueryOptFlags(comm_subplan_elim=False)
"""A common part of a plan would be held in memory; reading it twice costs less."""


class SparkEngine:
    """A Spark session: that of ``spark-submit``, or one on this machine. Scratch must be a folder all workers see."""

    def __init__(self, scratch: Path) -> None:
        try:
            from pyspark.sql import SparkSession
        except ImportError:
            raise UsageError(
                "The engine 'spark' needs pyspark, and it is not installed.", hint="pip install 'genrec-cli[spark]'"
            ) from None
        self.scratch, self.kept = scratch.resolve(), 0
        try:
            self.session = SparkSession.builder.appName("genrec").getOrCreate()
        except (RuntimeError, OSError) as error:
            raise UsageError(
                f"Spark does not start: {error}.", hint="It needs Java 17 or newer; see JAVA_HOME"
            ) from None

    def scan(self, path: Path) -> nw.LazyFrame:
        return nw.from_native(self.session.read.parquet(path.resolve().as_uri()))

    def collect(self, frame: nw.LazyFrame) -> pl.DataFrame:
        found = pl.from_arrow(frame.to_native().toArrow())
        assert isinstance(found, pl.DataFrame)
        return found

    def write(self, frame: nw.LazyFrame) -> Path:
        self.kept += 1
        folder = self.scratch / f"frame-{self.kept:03}"
        frame.to_native().write.parquet(folder.as_uri())
        return folder

    def write_by_user(self, frame: nw.LazyFrame, step: Step, users: int | None = None) -> Path:
        return self.write(step(frame))


def open_engine(name: str, scratch: Path) -> Engine:
    """An engine by name; ``scratch`` is an empty folder of its own."""
    if name not in ENGINES:
        raise UsageError(f"There is no engine '{name}'.", hint=f"--engine {' or '.join(ENGINES)}")
    return PolarsEngine(scratch) if name == "polars" else SparkEngine(scratch)


def parts(path: Path) -> list[Path]:
    """The Parquet files of a kept frame in the order of its rows."""
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def height(path: Path) -> int:
    """Rows of a kept frame."""
    return sum(pq.read_metadata(part).num_rows for part in parts(path))


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a kept frame in order, some at a time."""
    for part in parts(path):
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(BATCH)


def discard(path: Path) -> None:
    """Delete a kept frame that is of no more use."""
    for part in path.iterdir():
        part.unlink()
    path.rmdir()


def split_by_user(rows: Iterator[pa.RecordBatch], users: int | None, paths: list[Path]) -> None:
    """Distribute rows over files, all rows of a user in one; with ``users``, in the order of the users."""
    with ExitStack() as stack:
        writers: list[pq.ParquetWriter] = []
        for batch in rows:
            if not writers:
                writers = [stack.enter_context(pq.ParquetWriter(p, batch.schema, compression="lz4")) for p in paths]
            user = batch.column("user").to_numpy().astype(np.int64)
            shard = mixed(user) % len(paths) if users is None else (user - 1) * len(paths) // users
            order = np.argsort(shard.astype(np.uint16), kind="stable")
            ends = np.cumsum(np.bincount(shard.astype(np.int64), minlength=len(paths)))
            ordered = batch.take(pa.array(order))
            for writer, begin, end in zip(writers, np.r_[0, ends[:-1]].tolist(), ends.tolist(), strict=True):
                if end > begin:
                    writer.write_batch(ordered.slice(begin, end - begin))

"""The engines that preprocess a log: polars on this machine, or Spark.

k-core, ids, order, split and statistics are written once, as lazy Narwhals frames over integers. An engine reads,
runs and stores frames; in memory it gives and takes at most as many rows as there are users or items.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

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


class Engine(ABC):
    """Runs lazy frames and stores them in a scratch folder, one folder of Parquet files per frame."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self._frames = scratch, 0

    @abstractmethod
    def scan(self, path: Path) -> nw.LazyFrame:
        """The frame of a folder or of a Parquet file."""

    @abstractmethod
    def collect(self, frame: nw.LazyFrame) -> pl.DataFrame:
        """The rows of a frame, at most as many as there are users or items."""

    @abstractmethod
    def write(self, frame: nw.LazyFrame) -> Path:
        """Run a frame and store its rows in order."""

    def write_by_user(self, frame: nw.LazyFrame, step: Step, users: int | None = None) -> Path:
        """Store ``step(frame)``, which may be computed for some users at a time.

        Args:
            step: never compares rows of different users, except to sort them by ``user`` first.
            users: the largest id in the column ``user``, which stays in order; None: any integers, in any order.
        """
        return self.write(step(frame))

    def _folder(self) -> Path:
        self._frames += 1
        return self.scratch / f"frame-{self._frames:03}"


class PolarsEngine(Engine):
    """The streaming engine of polars; steps by user run shard by shard of users."""

    def __init__(self, scratch: Path, *, shard: int = SHARD) -> None:
        super().__init__(scratch)
        self.shard = shard

    def scan(self, path: Path) -> nw.LazyFrame:
        return nw.from_native(pl.scan_parquet(path))

    def collect(self, frame: nw.LazyFrame) -> pl.DataFrame:
        result: pl.DataFrame = frame.to_native().collect(engine="streaming", optimizations=_PLAN)
        return result

    def write(self, frame: nw.LazyFrame) -> Path:
        folder = self._folder()
        folder.mkdir()
        self._sink(frame, folder / "part-00000.parquet")
        return folder

    def write_by_user(self, frame: nw.LazyFrame, step: Step, users: int | None = None) -> Path:
        whole = self.write(frame)
        shards = -(-height(whole) // self.shard)
        if shards <= 1:
            return self.write(step(self.scan(whole)))
        cut, done = self._folder(), self._folder()
        cut.mkdir()
        done.mkdir()
        split_by_user(batches(whole), users, [cut / f"part-{number:05}.parquet" for number in range(shards)])
        discard(whole)
        for path in sorted(cut.iterdir()):
            self._sink(step(self.scan(path)), done / path.name)
            path.unlink()
        return done

    def _sink(self, frame: nw.LazyFrame, path: Path) -> None:
        frame.to_native().sink_parquet(path, compression="lz4", engine="streaming", optimizations=_PLAN)


_PLAN = pl.QueryOptFlags(comm_subplan_elim=False)
"""Otherwise polars holds common parts of a plan in memory; reading them twice costs less."""


class SparkEngine(Engine):
    """A Spark session: that of ``spark-submit``, or one on this machine. All workers must see the scratch folder."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch.resolve())
        try:
            from pyspark.sql import SparkSession

            self.session = SparkSession.builder.appName("genrec").getOrCreate()
        except ImportError:
            hint = "pip install 'genrec-cli[spark]'"
            raise UsageError("The engine 'spark' needs pyspark, and it is not installed.", hint=hint) from None
        except (RuntimeError, OSError) as error:
            hint = "It needs Java 17 or newer; see JAVA_HOME"
            raise UsageError(f"Spark does not start: {error}.", hint=hint) from None

    def scan(self, path: Path) -> nw.LazyFrame:
        return nw.from_native(self.session.read.parquet(path.resolve().as_uri()))

    def collect(self, frame: nw.LazyFrame) -> pl.DataFrame:
        result = pl.from_arrow(frame.to_native().toArrow())
        assert isinstance(result, pl.DataFrame)
        return result

    def write(self, frame: nw.LazyFrame) -> Path:
        folder = self._folder()
        frame.to_native().write.parquet(folder.as_uri())
        return folder


def open_engine(name: str, scratch: Path) -> Engine:
    """An engine by name; ``scratch`` is an empty folder."""
    if name not in ENGINES:
        raise UsageError(f"There is no engine '{name}'.", hint=f"--engine {' or '.join(ENGINES)}")
    return PolarsEngine(scratch) if name == "polars" else SparkEngine(scratch)


def parts(path: Path) -> list[Path]:
    """The Parquet files of a stored frame in the order of its rows."""
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def height(path: Path) -> int:
    """Count of the rows of a stored frame."""
    return sum(pq.read_metadata(part).num_rows for part in parts(path))


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a stored frame in order, :data:`BATCH` at a time."""
    for part in parts(path):
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(BATCH)


def discard(path: Path) -> None:
    """Delete a stored frame."""
    for part in path.iterdir():
        part.unlink()
    path.rmdir()


def split_by_user(rows: Iterator[pa.RecordBatch], users: int | None, paths: list[Path]) -> None:
    """Distribute rows over files, all rows of a user in one file; with ``users``, in the order of the users."""
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
            for writer, begin, end in zip(writers, [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
                if end > begin:
                    writer.write_batch(ordered.slice(begin, end - begin))

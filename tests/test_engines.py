"""The data frame engines: shards against the whole, Spark against polars, the slow reference in plain Python."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.config import validate
from genrec_cli.data import assign_ids, engines
from genrec_cli.data.engines import PolarsEngine, batches, open_engine
from genrec_cli.data.ingest import IngestedLog, Labels
from genrec_cli.errors import UsageError
from genrec_cli.sources.logs import Logs
from genrec_cli.stages.preprocess import PreprocessConfig, from_files, preprocess

events = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def blocks(rows: list[tuple[int, int, int]], size: int = 7) -> list[pl.DataFrame]:
    """A source's blocks; times are tenths of a second."""
    frame = pl.DataFrame(
        {
            "user": [f"u{u}" for u, _, _ in rows],
            "item": [f"i{i}" for _, i, _ in rows],
            "micros": [t * 100_000 for *_, t in rows],
            "row": range(5, 5 + len(rows)),
        },
        schema={"user": pl.String, "item": pl.String, "micros": pl.Int64, "row": pl.Int64},
    )
    return [frame[at : at + size] for at in range(0, len(rows), size)]


@settings(max_examples=60, deadline=None)
@given(events, st.booleans())
def test_numbering_equals_the_slow_twin(tmp_path_factory, rows: list[tuple[int, int, int]], fine: bool) -> None:
    rows = [(u, i, t if fine else 10 * t) for u, i, t in rows]
    exact = sorted(range(len(rows)), key=lambda at: rows[at][2]) if any(t % 10 for *_, t in rows) else range(len(rows))
    users = list(dict.fromkeys(f"u{rows[at][0]}" for at in exact))
    items = list(dict.fromkeys(f"i{rows[at][1]}" for at in exact))
    place = {at: number for number, at in enumerate(exact)}
    numbered = [(users.index(f"u{u}") + 1, items.index(f"i{i}") + 1, t // 10) for u, i, t in rows]
    order = sorted(range(len(rows)), key=lambda at: (numbered[at][0], numbered[at][2], place[at]))

    folder = tmp_path_factory.mktemp("engine")
    engine = PolarsEngine(folder, shard=9)
    log = IngestedLog.of(blocks(rows), folder / "log.parquet")
    by_side = [assign_ids.first_seen(engine, log.path, side, log.order) for side in ("user", "item")]
    assert log.users.texts(by_side[0]).to_list() == users and log.items.texts(by_side[1]).to_list() == items
    found = engine.collect(engine.scan(assign_ids.ordered(engine, log.path, *by_side, log.order)))
    assert found.rows() == [numbered[at] for at in order]

    seen = set()
    kept = [at for at in exact if not (rows[at] in seen or seen.add(rows[at]))]
    assert assign_ids.repeated(engine, log) == len(rows) - len(kept)
    once = engine.collect(engine.scan(assign_ids.without_repeated(engine, log)))
    assert sorted(once["row"]) == sorted(5 + at for at in kept)


def tied(tmp_path: Path, name: str, seed: int | None, *, shard: int = 10**6) -> pl.DataFrame:
    """A log of 40 users, in each of whose histories 20 of 25 rows have one time; the item is the number of the row."""
    rows = [(n % 40, n, 10 * min(n // 40, 5)) for n in range(1_000)]
    (folder := tmp_path / f"{name}-{seed}").mkdir()
    engine = PolarsEngine(folder, shard=shard)
    log = IngestedLog.of(blocks(rows), folder / "log.parquet")
    by_side = [assign_ids.first_seen(engine, log.path, side, log.order) for side in ("user", "item")]
    return engine.collect(engine.scan(assign_ids.ordered(engine, log.path, *by_side, log.order, ties=seed)))


def test_ties_are_shuffled_by_the_seed_alone(tmp_path: Path) -> None:
    plain, first, other = (tied(tmp_path, "whole", seed) for seed in (None, 1, 2))
    assert first.equals(tied(tmp_path, "again", 1)) and not first.equals(other) and not first.equals(plain)
    assert first.equals(tied(tmp_path, "small", 1, shard=60)) and first.equals(tied(tmp_path, "tiny", 1, shard=23))
    assert first["user", "time"].equals(plain["user", "time"]) and first.sort("user", "item").equals(plain)
    untied = pl.col("time") < 5
    assert first.filter(untied).equals(plain.filter(untied)), "rows without a tie never move"


@pytest.mark.parametrize("seed", [0, 1, 7, 123_456_789])
def test_every_order_of_ties_is_as_likely(tmp_path: Path, seed: int) -> None:
    item = tied(tmp_path, "whole", seed).filter(pl.col("time") == 5)["item"].to_numpy().reshape(40, 20)
    rank = item.argsort(1).argsort(1)
    assert abs((np.diff(item, axis=1) > 0).mean() - 0.5) < 0.08, "neighbours are swapped half of the time"
    assert abs(np.corrcoef(rank.ravel(), np.tile(np.arange(20), 40))[0, 1]) < 0.12
    assert abs(np.corrcoef(rank[0], rank[1])[0, 1]) < 0.7, "users are not shuffled alike"


def test_exact_times_are_no_ties_within_a_second(tmp_path: Path) -> None:
    rows = [(0, n, n) for n in range(5)] * 2  # tenths of a second, each twice
    engine = PolarsEngine(tmp_path)
    log = IngestedLog.of(blocks(rows), tmp_path / "log.parquet")
    by_side = [assign_ids.first_seen(engine, log.path, side, log.order) for side in ("user", "item")]
    found = engine.collect(engine.scan(assign_ids.ordered(engine, log.path, *by_side, log.order, ties=3)))
    assert found["item"].to_list() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_shards_are_small_and_together_the_whole(tmp_path: Path, monkeypatch) -> None:
    random = np.random.default_rng(0)
    log = pl.DataFrame({"user": random.integers(1, 101, 2_000), "row": np.arange(2_000)})
    engine, heights = PolarsEngine(tmp_path, shard=250), []
    monkeypatch.setattr(engines, "BATCH", 300)

    def step(rows: nw.LazyFrame) -> nw.LazyFrame:
        heights.append(rows.to_native().collect().height)
        return rows.sort("user", "row")

    path = engine.write_by_user(nw.from_native(log.lazy()), step, 100)
    engine.write_by_user(nw.from_native(log.lazy()), step)
    assert len(heights) == 16 and max(heights) < 400
    assert pl.concat(pl.from_arrow(batch) for batch in batches(path)).equals(log.sort("user", "row"))
    assert len([folder for folder in tmp_path.iterdir() if any(folder.iterdir())]) == 2


def test_labels_outlive_their_series() -> None:
    labels = Labels("user")
    first = labels.add(pl.Series(["a", "b", "a"])).to_list()
    second = labels.add(pl.Series(["c", "a", "b"])).to_list()
    assert first[0] == first[2] == second[1] and first[1] == second[2]
    assert labels.texts(np.array([*first, *second])).to_list() == ["a", "b", "a", "c", "a", "b"]


def test_whole_numbers_need_no_dictionary() -> None:
    labels = Labels("user")
    numbers = labels.add(pl.Series([-5, 7, 10**18]))
    assert numbers.to_list() == [-5, 7, 10**18]
    assert labels.texts(numbers.to_numpy()).to_list() == ["-5", "7", str(10**18)]


def test_an_unknown_engine_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_engine("dask", tmp_path)
    assert "polars or spark" in str(caught.value.hint)


# ---- Spark -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spark() -> Iterator[None]:
    pytest.importorskip("pyspark")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("there is no Java")
    options = "--master local[2] --conf spark.sql.shuffle.partitions=2 --conf spark.ui.enabled=false pyspark-shell"
    os.environ["PYSPARK_SUBMIT_ARGS"] = options
    yield
    from pyspark.sql import SparkSession

    SparkSession.builder.getOrCreate().stop()


def made(tmp_path: Path, engine: str, **settings_) -> Artifact:
    config = validate(PreprocessConfig, "preprocess", settings_)
    origin = from_files(Logs.Config(time_unit="ms"), tmp_path / "log.csv", None)
    return preprocess(Workspace(tmp_path / engine), "mine", config, origin, engine=engine)[1]()


@pytest.mark.parametrize(
    "settings_",
    [
        {"k_core": 3},
        {"k_core": 3, "shuffle_ties": 5},
        {"k_core": 2, "drop_duplicates": True, "split": "time", "valid_from": 0.7, "test_from": 0.85},
    ],
    ids=["leave-one-out", "shuffled ties", "time"],
)
def test_spark_and_polars_make_the_same_artifact(tmp_path: Path, spark: None, settings_: dict) -> None:
    random = np.random.default_rng(1)
    rows = zip(
        random.integers(0, 60, 600),
        random.integers(0, 40, 600),
        random.integers(10**9, 2 * 10**9, 600) * 100,
        strict=True,
    )
    lines = [f"u{u},i{i},{t}\n" for u, i, t in rows]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(lines + lines[:50]))
    first, second = (made(tmp_path, engine, **settings_) for engine in ("polars", "spark"))
    assert first.key == second.key and first.digest == second.digest
    assert json.dumps(first.result) == json.dumps(second.result) and first.result["duplicates"] == 50

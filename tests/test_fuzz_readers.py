"""Every reader on random bytes and on mutated valid files: a result or a GenrecError, and never a hang."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_cli.data.histories import FOLDER, ITEMS_FILE, USERS_FILE
from genrec_cli.data.histories import read_histories as read_arrays
from genrec_cli.data.schema import ITEMS, USERS, read_table
from genrec_cli.data.validate_tables import check_tables, read_batches
from genrec_cli.errors import GenrecError
from genrec_cli.sources.amazon import read_amazon
from genrec_cli.sources.base import BadRows, Tables
from genrec_cli.sources.histories import read_histories, read_users
from genrec_cli.sources.logs import Logs

EXAMPLES = 40
bounded = settings(
    max_examples=EXAMPLES,
    deadline=5_000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


def parquet(table: pl.DataFrame | pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table.to_arrow() if isinstance(table, pl.DataFrame) else table, sink)
    return sink.getvalue()


LOG = pl.DataFrame({"user_id": ["u", "v", "u"], "item_id": ["a", 'b,\n"c"', "é"], "timestamp": [3, 2, 1]})
ITEMS_OF = [{"item_id": "a", "title": "T", "price": 1.5, "brand": None}, {"item_id": "b", "categories": [["A", "B"]]}]
META = [{"asin": "a", "title": "O'Neill 5\"", "price": 3.17, "categories": [["A", "B"]]}, {"asin": "b", "title": None}]
REVIEW = '{"reviewerID": "u", "asin": "a", "unixReviewTime": 1400000000, "reviewText": "no\\n"}\n'
HISTORY = '{"user": "u1", "items": ["a", 5]}\n{"user": 7, "items": []}\n'

EXTREMES = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\x1f\x8b",
    b'"',
    b"'",
    b"\r",
    b"\n",
    b",",
    b"\t",
    b"{",
    b"[" * 3_000,
    b"9" * 5_000,
    b"1e999",
    b"-1e999",
    b"NaN",
    b"null",
    b"\\ud800",
    b"__import__('os')",
    b"9223372036854775808",
    b"0x10",
    b"PAR1",
    b"0001-01-01",
    b"9999-12-31T23:59:60",
    b"x" * 5_000,
]


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid file with some bytes replaced, removed or doubled, or random bytes alone."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(content)))
        until = min(len(content), at + draw(st.sampled_from([0, 1, 1, 4, 40, len(content)])))
        piece = draw(st.sampled_from(EXTREMES) | st.binary(max_size=8) | st.just(bytes(content[at:until]) * 2))
        content[at:until] = piece
    return gzip.compress(bytes(content)) if draw(st.integers(0, 9)) == 0 else bytes(content)


def drained(tables: Tables) -> None:
    for block in tables.interactions:
        assert block.schema["micros"] == pl.Int64 and not sum(block.null_count().row(0))
    if tables.items is not None:
        tables.items.collect()


def ends_well(read: Callable[[], object]) -> None:
    """A result, or an error that says what to do."""
    try:
        read()
    except GenrecError as error:
        assert len(error.message) < 20_000


def text_log(name: str) -> bytes:
    if name.endswith("jsonl"):
        return LOG.write_ndjson().encode()
    return LOG.write_csv(separator="," if "csv" in name else "\t").encode()


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.jsonl"])
@bounded
@given(st.data())
def test_logs_of_text(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(mutated(text_log(name))))
    unit = data.draw(st.sampled_from(["s", "ms", "us", "ns"]))
    ends_well(lambda: drained(Logs(Logs.Config(time_unit=unit)).read_files(path, None, BadRows(skip=True))))


@pytest.mark.parametrize("name", ["items.csv", "items.tsv", "items.jsonl"])
@bounded
@given(st.data())
def test_files_of_items(tmp_path: Path, name: str, data: st.DataObject) -> None:
    (tmp_path / "log.csv").write_bytes(text_log("log.csv"))
    valid = "".join(json.dumps(item) + "\n" for item in ITEMS_OF).encode() if "jsonl" in name else text_log(name)
    path = tmp_path / name
    path.write_bytes(data.draw(mutated(valid)))
    ends_well(lambda: drained(Logs(Logs.Config()).read_files(tmp_path / "log.csv", path, BadRows(skip=True))))


ODD_TYPES = [
    pa.array([None, None, None]),
    pa.array([1.5, float("nan"), float("inf")]),
    pa.array([True, False, None]),
    pa.array([b"\xff", b"a", b""]),
    pa.array([[1], [], None]),
    pa.array([{"a": 1}, None, {"a": 2}]),
    pa.array([2**64 - 1, 0, 1], pa.uint64()),
    pa.array([-(2**63), 2**63 - 1, 0]),
    pa.array([1, 2, 3], pa.date32()),
    pa.array([-(2**53), 0, 1], pa.timestamp("s")),
    pa.array([0, 1, 2], pa.time64("us")),
    pa.array(["x", "", "\0"]),
    pa.array([1, 2, 3], pa.duration("s")),
    pa.array(["x", None, "y"]).dictionary_encode(),
    pa.array([1, 2, 3], pa.int8()),
    pa.array([1, 2, 3]).cast(pa.decimal128(30, 2)),
    pa.array(["a", "b", "c"], pa.large_string()),
    pa.nulls(3, pa.string()),
]


@bounded
@given(st.data())
def test_parquet_of_damaged_bytes(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(data.draw(mutated(parquet(LOG))))
    source = Logs(Logs.Config())
    ends_well(lambda: drained(source.read_files(path, None, BadRows(skip=True))))
    ends_well(lambda: drained(source.read_files(path, path, BadRows(skip=True))))


@settings(parent=bounded, max_examples=3 * EXAMPLES)
@given(st.data())
def test_parquet_of_any_types(tmp_path: Path, data: st.DataObject) -> None:
    names = ("user_id", "item_id", "timestamp", "brand")
    columns = {name: data.draw(st.sampled_from(ODD_TYPES)) for name in names}
    path = tmp_path / "log.parquet"
    path.write_bytes(parquet(pa.table(columns)))
    unit = data.draw(st.sampled_from(["s", "ns"]))
    source = Logs(Logs.Config(time_unit=unit))
    ends_well(lambda: drained(source.read_files(path, None, BadRows(skip=True))))
    ends_well(lambda: drained(source.read_files(path, path, BadRows(skip=True))))


@pytest.mark.parametrize("name", ["reviews_X_5.json", "meta_X.json"])
@bounded
@given(st.data())
def test_amazon(tmp_path: Path, name: str, data: st.DataObject) -> None:
    valid = {"reviews_X_5.json": 2 * REVIEW, "meta_X.json": "".join(f"{record!r}\n" for record in META)}
    for other, content in valid.items():
        (tmp_path / other).write_text(content)
    (tmp_path / name).write_bytes(data.draw(mutated(valid[name].encode())))
    ends_well(lambda: drained(read_amazon(tmp_path, BadRows(skip=True))))


ADOPTED = {
    "interactions": pa.table({"user": [1, 1, 1, 2], "item": [1, 2, 1, 2], "time": [5, 6, 7, 1]}),
    "users": pa.table({"raw_id": ["u", "v"], "train_end": [1, 1], "valid_at": [1, -1], "test_at": [2, -1]}),
    "items": pa.table({"raw_id": ["a", "b"], "title": ["A", None], "attributes": [[1], None]}),
    "attributes": pa.table({"attribute": [1], "name": ["brand: X"]}),
}


@settings(parent=bounded, max_examples=3 * EXAMPLES)
@given(st.data())
def test_imported_tables(tmp_path: Path, data: st.DataObject) -> None:
    paths = {name: tmp_path / f"{name}.parquet" for name in ADOPTED}
    for name, path in paths.items():
        path.write_bytes(parquet(ADOPTED[name]))
    name = data.draw(st.sampled_from(sorted(ADOPTED)))
    if data.draw(st.booleans()):
        paths[name].write_bytes(data.draw(mutated(parquet(ADOPTED[name]))))
    else:
        table = ADOPTED[name]
        column = data.draw(st.sampled_from(table.column_names))
        values = data.draw(st.sampled_from([odd for odd in ODD_TYPES]))
        values = pa.concat_arrays([values, values]).slice(0, len(table))
        paths[name].write_bytes(parquet(table.set_column(table.column_names.index(column), column, values)))
    ends_well(lambda: [sum(block.num_rows for block in read_batches(check_tables(paths).interactions))])


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv", "mine.jsonl"])
@bounded
@given(st.data())
def test_own_histories(tmp_path: Path, name: str, data: st.DataObject) -> None:
    valid = HISTORY if "jsonl" in name else 'user,item\nu1,a\nu1,"b"\n'.replace(",", "\t" if "tsv" in name else ",")
    path = tmp_path / name
    path.write_bytes(data.draw(mutated(valid.encode())))
    ends_well(lambda: read_histories(path))
    ends_well(lambda: read_users(path))


@bounded
@given(st.data())
def test_arrays_and_tables_of_an_artifact(tmp_path: Path, data: st.DataObject) -> None:
    import numpy as np

    from genrec_cli.data.histories import USER

    (tmp_path / FOLDER).mkdir(exist_ok=True)
    arrays = {ITEMS_FILE: np.arange(6, dtype="<u4"), USERS_FILE: np.zeros(2, USER)}
    changed = data.draw(st.sampled_from(sorted(arrays)))
    for name, array in arrays.items():
        np.save(tmp_path / FOLDER / name, array)
    content = (tmp_path / FOLDER / changed).read_bytes()
    (tmp_path / FOLDER / changed).write_bytes(data.draw(mutated(content)))
    ends_well(lambda: read_arrays(tmp_path))
    (tmp_path / "items.parquet").write_bytes(data.draw(mutated(parquet(ADOPTED["items"]))))
    for columns in (ITEMS, USERS):
        ends_well(lambda columns=columns: read_table(tmp_path / "items.parquet", columns))

"""Your own data: CSV, TSV, Parquet and JSON lines, sound and broken."""

import gzip
import json
import os
import resource
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import whole
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_cli.errors import DataError, InputError
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.histories import read_histories, read_users
from genrec_cli.sources.interactions import Columns, _frame, checked
from genrec_cli.sources.lines import Block, read_blocks
from genrec_cli.sources.logs import Logs
from genrec_cli.sources.separated import Separated
from genrec_cli.stages.preprocess import from_files

ids = st.text(min_size=1, max_size=6).map(str.strip).filter(lambda text: text and "\0" not in text)


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


TABLE = pl.DataFrame({"who": ["a", "b", "a"], "what": ["x", "y,\nz", "é"], "when": [3, 2, 1]})


def test_every_format_gives_the_same_log(tmp_path: Path) -> None:
    TABLE.write_csv(tmp_path / "log.csv")
    TABLE.write_csv(tmp_path / "log.tsv", separator="\t")
    TABLE.write_parquet(tmp_path / "log.parquet")
    TABLE.with_columns(pl.from_epoch("when")).write_parquet(tmp_path / "dates.parquet")
    TABLE.write_ndjson(tmp_path / "log.jsonl")
    for name in ("log.csv", "log.tsv", "log.jsonl"):
        write(tmp_path / f"{name}.gz", (tmp_path / name).read_bytes())
    source = Logs(Logs.Config(user_col="who", item_col="what", time_col="when"))
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 8
    for path in paths:
        log = whole(source.read_files(path, None, BadRows()).interactions)
        assert log.select("user", "item", "time").rows() == TABLE.rows(), path
        assert log["row"].is_sorted() and log["row"].n_unique() == 3


def test_row_order_is_the_time_without_a_time_column(tmp_path: Path, capsys) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id\nu,b\nu,a\n")
    log = whole(Logs(Logs.Config()).read_files(path, None, BadRows()).interactions)
    assert log.sort("time")["item"].to_list() == ["b", "a"] and "warning" not in capsys.readouterr().err
    write(path, "user_id,item_id,time\nu,b,2\nu,a,1\n")
    log = whole(Logs(Logs.Config()).read_files(path, None, BadRows()).interactions)
    assert log.sort("time")["item"].to_list() == ["b", "a"]
    said = capsys.readouterr().err
    assert "order of its rows is used as time. Its columns: user_id, item_id, time; --time-col NAME" in said


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet", "items.csv"])
def test_a_missing_column_is_named_with_those_present(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame({"user_id": ["u"], "sku": ["i"]})
    log = tmp_path / name
    {".csv": table.write_csv, ".jsonl": table.write_ndjson, ".parquet": table.write_parquet}[log.suffix](log)
    source, items = Logs(Logs.Config()), None
    if name == "items.csv":
        source, items = Logs(Logs.Config(item_col="sku")), log
    with pytest.raises(DataError, match=r"no column 'item_id'. Its columns: user_id, sku") as caught:
        source.read_files(log, items, BadRows())
    assert ("--item-id-col" if items else "--item-col") in str(caught.value.hint)


@pytest.mark.parametrize(
    "content, said, hint",
    [
        ("user_id;item_id;timestamp\nu;i;1\n", "Its columns: user_id;item_id;timestamp", "by commas"),
        ("user_id,item_id,item_id\nu,i,1\n", "2 columns 'item_id'", "once"),
        ("user_id,item_id,timestamp,timestamp\nu,i,1,2\n", "2 columns 'timestamp'", "once"),
        ("user_id,item_id\n".encode("utf-16"), "header cannot be read: a NUL byte", "UTF-8"),
    ],
)
def test_a_header_that_cannot_be_meant(tmp_path: Path, content: str | bytes, said: str, hint: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        Logs(Logs.Config()).read_files(write(tmp_path / "a.csv", content), None, BadRows())
    assert hint in str(caught.value.hint)


def test_the_first_bad_time_is_shown(tmp_path: Path) -> None:
    path, bad = write(tmp_path / "log.csv", "user_id,item_id,timestamp\nu,i,1\nu,i,soon\nu,i,later\n"), BadRows()
    whole(Logs(Logs.Config()).read_files(path, None, bad).interactions)
    assert bad.count == 2 and str(bad.first).endswith("given: 'soon'")


def test_csv_empty_and_header_only(tmp_path: Path) -> None:
    source = Logs(Logs.Config())
    with pytest.raises(DataError, match="the file is empty"):
        source.read_files(write(tmp_path / "a.csv", ""), None, BadRows())
    only = write(tmp_path / "b.csv", "user_id,item_id,timestamp\n")
    assert whole(source.read_files(only, None, BadRows()).interactions).height == 0


def test_bad_csv_rows_are_counted_with_their_lines(tmp_path: Path) -> None:
    content = (
        b"\xef\xbb\xbfuser_id,item_id,timestamp\nu,i,1\nu,i\nu,i,1,2\n\nu,\xff,1\nu,i\0,1\nu,,1\nu,i,soon\nu,j,2\n"
    )
    path = write(tmp_path / "log.csv.gz", content)
    bad = BadRows(skip=True)
    log = whole(Logs(Logs.Config()).read_files(path, None, bad).interactions)
    assert log.rows() == [("u", "i", 1, 2), ("u", "j", 2, 10)]
    assert bad.count == 6 and bad.first == f"{path}, line 3: another count of columns than the header"
    assert bad.by_reason["not UTF-8"] == bad.by_reason["a NUL byte"] == bad.by_reason["no item"] == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(ids, ids, st.integers(0, 10**9).map(str), st.text(max_size=6)), max_size=6),
    st.permutations(["user_id", "item_id", "timestamp", "note"]),
)
def test_careful_csv_equals_columnar_csv_in_any_order_of_columns(tmp_path_factory, rows: list, header: list) -> None:
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    rows = [row for row in rows if not any(odd in cell for cell in row for odd in "\r\n\0")]
    table = pl.DataFrame(
        rows, schema=dict.fromkeys(("user_id", "item_id", "timestamp", "note"), pl.String), orient="row"
    )
    table.select(header).write_csv(path)
    columns = Columns("user_id", "item_id", "timestamp")
    reader = Separated(path, ",")
    slow = checked(_frame(reader.records(read_blocks(path, BadRows())), columns), columns, path, BadRows())
    assert slow.select("user", "item", pl.col("micros") // 10**6).rows() == [(u, i, int(t)) for u, i, t, _ in rows]
    fast = reader.fast(next(read_blocks(path, BadRows())), columns)
    assert fast is not None if rows else fast is None
    assert fast is None or checked(fast, columns, path, BadRows()).equals(slow)


def test_a_sound_file_takes_the_fast_path_whatever_its_columns(tmp_path: Path, monkeypatch) -> None:
    content = 'price,item_id,user_id,note,timestamp\r\n2.5,i,u,"a, ""b""",7\r\n,j,v,,8\r\n'
    monkeypatch.setattr(Separated, "records", lambda *_, **__: pytest.fail("read record by record"))
    log = whole(Logs(Logs.Config()).read_files(write(tmp_path / "log.csv", content), None, BadRows()).interactions)
    assert log.rows() == [("u", "i", 7, 2), ("v", "j", 8, 3)]


@pytest.mark.parametrize(
    "line", ['a,"i",1', 'a,"i",1,2,3', 'a,"i,1,2', 'a,x"y,1,z"w', 'x"y,z"w,1,2', '"a"b,i,1,2', "a,i,1\r,2"]
)
def test_lines_that_the_careful_reader_may_refuse_are_left_to_it(tmp_path: Path, line: str) -> None:
    reader = Separated(write(tmp_path / "log.csv", "u,i,t,r\n"), ",")
    block = Block(2, f"a,i,1,2\n{line}\na,i,1,2\n".encode())
    assert reader.fast(block, Columns("u", "i", "t")) is None


def test_lines_within_an_open_quote_are_bad_lines_each(tmp_path: Path) -> None:
    lines = [f"u{n},i{n},{n}" for n in range(1_000)]
    lines[100], lines[900] = 'u,"i,1', 'u,"j,2'
    path = write(tmp_path / "log.csv", "\n".join(["user_id,item_id,timestamp", *lines]))
    bad = BadRows(skip=True)
    log = whole(Logs(Logs.Config()).read_files(path, None, bad).interactions)
    assert log.height + bad.count == 1_000 and log["row"].to_list() == [*range(2, 102), *range(903, 1_002)]
    assert bad.by_reason == {"in a quote that is not closed": 801}
    assert bad.first == f"{path}, line 102: in a quote that is not closed"


def test_a_bad_line_beside_quotes_keeps_only_its_block_from_the_fast_path(tmp_path: Path, monkeypatch) -> None:
    lines = "".join(f'u{n},"i{n}",{n}\n' for n in range(100))
    path = write(tmp_path / "log.csv", f"user_id,item_id,timestamp\n{lines}u,i\n{lines}")
    slabs, records = [], Separated.records

    def watched(*words, **options):
        slabs.append(list(records(*words, **options)))
        yield from slabs[-1]

    monkeypatch.setattr(Separated, "records", watched)
    monkeypatch.setattr("genrec_cli.sources.lines.CHUNK", 256)
    log = whole(Logs(Logs.Config()).read_files(path, None, BadRows(skip=True)).interactions)
    assert log.height == 200 and [sum(record.reason is not None for record in slab) for slab in slabs] == [1]
    assert len(slabs[0]) < 40


ODD = b'u,"a\nb",1\n\nv,"say ""hi""",2\nw,,3\nx,c\n'
"""A quoted line break, a blank line, quotes within quotes, no item, and a missing cell."""


@pytest.mark.parametrize("chunk", [7, 64, 4096])
def test_blocks_of_any_size_give_the_same_rows(tmp_path: Path, monkeypatch, chunk: int) -> None:
    plain = b"".join(b"u%d,i%d,%d\n" % (n % 7, n % 5, n) for n in range(40))
    path = write(tmp_path / "log.csv", b"user_id,item_id,timestamp\n" + plain + ODD + plain)
    monkeypatch.setattr("genrec_cli.sources.lines.CHUNK", chunk)
    bad = BadRows(skip=True)
    log = whole(Logs(Logs.Config()).read_files(path, None, bad).interactions)
    expected = [(f"u{n % 7}", f"i{n % 5}", n) for n in range(40)]
    assert log.drop("row").rows() == [*expected, ("u", "a\nb", 1), ("v", 'say "hi"', 2), *expected]
    assert bad.by_reason == {"no item": 1, "another count of columns than the header": 1}
    assert bad.first == f"{path}, line 46: no item"
    assert log["row"].to_list() == [*range(2, 42), 42, 45, *range(48, 88)]


def test_integers_of_a_parquet_file_need_no_parsing(tmp_path: Path, monkeypatch) -> None:
    table = pl.DataFrame({"user_id": [5, 7, 5], "item_id": [1, 1, 2], "timestamp": [30, -20, 10]})
    table.write_parquet(tmp_path / "whole.parquet")
    table.with_columns(pl.col("timestamp").cast(pl.String)).write_parquet(tmp_path / "texts.parquet")
    source = Logs(Logs.Config(time_unit="ms"))
    slow = pl.concat(source.read_files(tmp_path / "texts.parquet", None, BadRows()).interactions)
    monkeypatch.setattr("genrec_cli.sources.columnar.checked", lambda *_: pytest.fail("looked at each value"))
    fast = pl.concat(source.read_files(tmp_path / "whole.parquet", None, BadRows()).interactions)
    assert fast.schema["user"] == slow.schema["user"] == pl.Int64
    assert fast.equals(slow) and fast["micros"].to_list() == [30_000, -20_000, 10_000]


def test_item_files_in_every_format(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user_id,item_id\nu,i\n")
    lists = pl.DataFrame({"item_id": ["i"], "title": ["T"], "brand": ["B"], "categories": [["A", "C"]], "size": [4]})
    text = lists.with_columns(pl.lit("A,C").alias("categories"))
    lists.write_parquet(tmp_path / "items.parquet")
    lists.write_ndjson(tmp_path / "items.jsonl")
    text.write_csv(tmp_path / "items.csv")
    for path in tmp_path.glob("items.*"):
        items = Logs(Logs.Config()).read_files(log, path, BadRows()).items
        assert items is not None
        row = items.collect().to_dicts()[0]
        assert row["attributes"] == ["brand: B", "category: A", "category: C"], path
        assert (row["raw_id"], row["title"], row["size"]) == ("i", "T", "4")
        assert row["categories"].replace(" ", "") == "A,C"


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl", "items.parquet"])
def test_missing_values_of_pandas_are_no_texts(tmp_path: Path, name: str) -> None:
    log, path = write(tmp_path / "log.csv", "user_id,item_id\nu,nan\n"), tmp_path / name
    missing = float("nan")
    rows = [
        {"item_id": "nan", "title": "nan", "price": missing, "brand": "nan", "note": "<NA>"},
        {"item_id": "i2", "title": "NA", "price": 2.5, "brand": "None", "note": "nan bread"},
    ]
    if path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    elif path.suffix == ".csv":
        pl.DataFrame(rows).write_csv(path)
    else:
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    tables = Logs(Logs.Config()).read_files(log, path, BadRows())
    assert tables.items is not None
    assert tables.items.collect().select("raw_id", "title", "price", "brand", "note", "attributes").rows() == [
        ("nan", None, None, None, None, []),
        ("i2", "NA", "2.5", "None", "nan bread", ["brand: None"]),
    ]


def test_rows_that_repeat_an_item_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path / "log.csv", "user_id,item_id\nu,i\n")
    path = write(tmp_path / "items.csv", "item_id,title\ni,A\nj,B\ni,C\n i,D\n")
    tables = Logs(Logs.Config()).read_files(log, path, BadRows())
    assert tables.items is not None
    assert tables.items.collect().select("raw_id", "title").rows() == [("i", "A"), ("j", "B")]
    assert "items.csv: 2 row(s) repeat an item, such as 'i'; the first row of each is read" in capsys.readouterr().err


def test_unknown_formats_and_damaged_parquet(tmp_path: Path) -> None:
    for name, match in (("log.xlsx", "format '.xlsx'"), ("log.parquet.gz", "not known"), ("log.parquet", "Parquet")):
        with pytest.raises(DataError, match=match):
            Logs(Logs.Config()).read_files(write(tmp_path / name, b"PAR1 no"), None, BadRows())


@pytest.mark.parametrize(
    "header, said",
    [("title,attributes", "line 2: .* 'attributes' is"), ("raw_id,title", "'raw_id' is"), ("title,title", "2 columns")],
)
def test_no_column_of_an_items_file_is_dropped_in_silence(tmp_path: Path, header: str, said: str) -> None:
    log = write(tmp_path / "log.csv", "user_id,item_id\nu,i\n")
    items = write(tmp_path / "items.csv", f"item_id,{header}\ni,first,second\n")
    with pytest.raises(DataError, match=said) as caught:
        Logs(Logs.Config()).read_files(log, items, BadRows())
    assert "ame" in str(caught.value.hint)
    write(items, "raw_id,title,,\ni,T,,\n")  # the id may have any name, and spreadsheets leave columns without one
    assert Logs(Logs.Config(item_id_col="raw_id")).read_files(log, items, BadRows()).items is not None


def test_damaged_pages_of_an_items_file_are_an_error(tmp_path: Path) -> None:
    log, path = write(tmp_path / "log.csv", "user_id,item_id\nu,i\n"), tmp_path / "items.parquet"
    pl.DataFrame({"item_id": [f"i{n}" for n in range(999)]}).write_parquet(path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[20:400] = b"\xff" * 380
    with pytest.raises(DataError, match=r"items.parquet cannot be read as Parquet"):
        Logs(Logs.Config()).read_files(log, write(path, bytes(content)), BadRows())


# ---- hostile files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_what_is_no_regular_file_is_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "folder.csv").mkdir()
    sound = write(tmp_path / "sound.csv", "user_id,item_id\nu,i\n")
    for path, what in ((tmp_path / name, "a pipe or a device"), (tmp_path / "folder.csv", "a folder")):
        for log, items in ((path, None), (sound, path)):
            with pytest.raises(InputError, match=f"is {what}, not a file"):
                from_files(Logs.Config(), log, items)
            with pytest.raises(InputError, match=f"is {what}, not a file"):
                Logs(Logs.Config()).read_files(log, items, BadRows())
        for reader in (read_histories, read_users):
            with pytest.raises(InputError, match=f"is {what}, not a file"):
                reader(path)


def test_a_log_of_20000_keys_reads_the_wanted_ones(tmp_path: Path) -> None:
    more = ",".join(f'"k{n}":1' for n in range(20_000))
    each = "".join(f'{{"user_id":"u","item_id":"i","timestamp":{n},"k{n}":1}}\n' for n in range(20_000))
    path = write(tmp_path / "log.jsonl", f'{{"user_id":"u","item_id":"i","timestamp":1,{more}}}\n{each}')
    assert whole(Logs(Logs.Config()).read_files(path, None, BadRows()).interactions).height == 20_001


@pytest.mark.timeout(30)
def test_items_of_20000_keys_are_an_error(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user_id,item_id\nu,i\n")
    one = '{"item_id":"i",' + ",".join(f'"k{n}":1' for n in range(20_000)) + "}\n"
    each = "".join(f'{{"item_id":"i{n}","k{n}":1}}\n' for n in range(20_000))
    for content, line in ((one, 1), (each, 501)):
        with pytest.raises(DataError, match=f"line {line}: .* more than 500 different fields"):
            Logs(Logs.Config()).read_files(log, write(tmp_path / "items.jsonl", content), BadRows())


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_absurd_values_are_bad_rows(tmp_path: Path, name: str) -> None:
    users = ["x" * 100_000, "u", "u", "u", "u", "v" * 1_024, "é" * 600]
    times = ["1", "9" * 5_000, "1e999", "-1e400", "9" * 19, "7", "8"]
    table = pl.DataFrame({"user_id": users, "item_id": ["i"] * 7, "timestamp": times})
    path, bad = tmp_path / name, BadRows(skip=True)
    {".csv": table.write_csv, ".jsonl": table.write_ndjson, ".parquet": table.write_parquet}[path.suffix](path)
    log = whole(Logs(Logs.Config()).read_files(path, None, bad).interactions)
    assert log["time"].to_list() == [7] and bad.count == 6
    assert bad.by_reason["user longer than 1,024 bytes"] == 2 and len(str(bad.first)) < 300


@pytest.mark.parametrize("number", ["9" * 5_000, "1e999", "-1e999"])
def test_numbers_beyond_all_bounds_in_json(tmp_path: Path, number: str) -> None:
    good = '{"user_id":"u","item_id":"i","timestamp":1}\n'
    lines = good + f'{{"user_id":"u","item_id":"j","timestamp":{number}}}\n'
    for blank in ("", "\n"):  # by columns, and line by line
        bad = BadRows(skip=True)
        path = write(tmp_path / "log.jsonl", lines + blank)
        assert whole(Logs(Logs.Config()).read_files(path, None, bad).interactions).height == 1 and bad.count == 1
    with pytest.raises(DataError, match="line 1: not valid JSON"):
        Logs(Logs.Config()).read_files(write(path, '{"user_id":' + "9" * 5_000 + "}\n"), None, BadRows())


@pytest.mark.timeout(60)
def test_a_long_text_of_many_rows_is_held_once(tmp_path: Path) -> None:
    rows = 300_000  # 6 GB of texts
    index = pa.array(np.zeros(rows, np.int32))
    user = pa.DictionaryArray.from_arrays(index, pa.array(["x" * 20_000]))
    pq.write_table(pa.table({"user_id": user, "item_id": ["i"] * rows}), tmp_path / "log.parquet")
    bad, before = BadRows(skip=True), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log = whole(Logs(Logs.Config()).read_files(tmp_path / "log.parquet", None, bad).interactions)
    assert log.height == 0 and bad.by_reason == {"user longer than 1,024 bytes": rows}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.5 * 2**20  # kilobytes


def test_order_within_a_second_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "interactions.csv", "user_id,item_id,timestamp\nu,late,1000900\nu,early,1000100\n")
    log = whole(Logs(Logs.Config(time_unit="ms")).read(tmp_path, BadRows()).interactions)
    assert path.exists() and log["time"].to_list() == [1000, 1000]
    assert log.sort("time", "row")["item"].to_list() == ["early", "late"]


def test_a_column_that_the_first_json_lines_lack_is_found(tmp_path: Path) -> None:
    lines = '{"user_id":"u","item_id":"a"}\n{"user_id":"u","item_id":"b","timestamp":4}\n'
    bad = BadRows(skip=True)
    log = whole(Logs(Logs.Config()).read_files(write(tmp_path / "log.jsonl", lines), None, bad).interactions)
    assert log.rows() == [("u", "b", 4, 2)] and bad.by_reason == {"no time": 1}


@pytest.mark.parametrize("blank", ["", "\n"], ids=["by columns", "line by line"])
def test_whole_floats_of_json_are_the_ids_that_they_mean(tmp_path: Path, blank: str) -> None:
    lines = ['{"user_id":7.0,"item_id":5.0}', '{"user_id":"7","item_id":1.5}', '{"user_id":"\\ud800","item_id":"5"}']
    log = write(tmp_path / "log.jsonl", "\n".join(lines) + "\n" + blank)
    items = write(tmp_path / "items.jsonl", '{"item_id":5.0,"title":"T","price":5.0}\n')
    bad = BadRows(skip=True)
    tables = Logs(Logs.Config()).read_files(log, items, bad)
    assert whole(tables.interactions).select("user", "item").rows() == [("7", "5"), ("7", "1.5")]
    assert bad.by_reason == {"a NUL in the user": 1}
    assert tables.items is not None
    assert tables.items.collect().select("raw_id", "price").rows() == [("5", "5.0")]


def test_whole_floats_of_a_parquet_file_are_the_ids_that_they_mean(tmp_path: Path) -> None:
    table = pl.DataFrame({"user_id": [7.0, None, float("nan"), 8.5], "item_id": [5.0] * 4})
    table.write_parquet(tmp_path / "log.parquet")
    pl.DataFrame({"item_id": [5.0], "title": ["T"]}).write_parquet(tmp_path / "items.parquet")
    bad = BadRows(skip=True)
    tables = Logs(Logs.Config()).read_files(tmp_path / "log.parquet", tmp_path / "items.parquet", bad)
    assert whole(tables.interactions).select("user", "item").rows() == [("7", "5"), ("8.5", "5")]
    assert tables.items is not None and tables.items.collect()["raw_id"].to_list() == ["5"]
    assert bad.by_reason == {"no user": 2}


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_blanks_around_ids_are_not_part_of_them(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame(
        {"user_id": ["u ", "u", " "], "item_id": [" A1", "A1\t", "A1"], "timestamp": ["5 ", " 6", "7"]}
    )
    path = tmp_path / name
    {".csv": table.write_csv, ".jsonl": table.write_ndjson, ".parquet": table.write_parquet}[path.suffix](path)
    bad = BadRows(skip=True)
    log = whole(Logs(Logs.Config()).read_files(path, None, bad).interactions)
    assert log.select("user", "item", "time").rows() == [("u", "A1", 5), ("u", "A1", 6)]
    assert bad.by_reason == {"no user": 1}


def test_histories_are_read_as_logs_are(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", "user,item\nu1 , a\nu1,b\n")
    assert read_histories(path) == {"u1": ["a", "b"]}
    assert read_histories(write(tmp_path / "a.jsonl", '{"user": "u1 ", "items": [" a", 5]}')) == {"u1": ["a", "5"]}
    with pytest.raises(DataError, match="line 3: user and item must both"):
        read_histories(write(path, "user,item\nu1,a\n ,b\n"))
    with pytest.raises(DataError, match="line 2: in a quote that is not closed") as caught:
        read_histories(write(path, 'user,item\nu1,"a\nu2,b\nu3,c\n'))
    assert "quote" in str(caught.value.hint)


@pytest.mark.parametrize(
    "times", [[30, 10, 20], [3e12, 1e12, 2e12], [30.7, 30.1, 30.4], ["2024-03-01", "2024-01-01", "2024-02-01"]]
)
@pytest.mark.parametrize("name", ["h.csv", "h.tsv", "h.jsonl", "h.parquet"])
def test_histories_are_ordered_by_their_times_in_every_format(tmp_path: Path, name: str, times: list) -> None:
    table = pl.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["b", "a", "c"], "timestamp": times})
    path = tmp_path / name
    if path.suffix == ".parquet":
        dates = isinstance(times[0], str)
        table.with_columns(pl.col("timestamp").str.to_date()).write_parquet(path) if dates else table.write_parquet(
            path
        )
    elif path.suffix == ".jsonl":
        table.write_ndjson(path)
    else:
        table.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    assert read_histories(path) == {"u": ["a", "b"], "v": ["c"]}


def test_histories_whose_columns_are_unclear_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_histories(write(tmp_path / "h.csv", "user,item,at\nu,b,2\nu,a,1\n")) == {"u": ["b", "a"]}
    assert "has no column 'timestamp': its rows are taken in order of time" in " ".join(capsys.readouterr().err.split())
    for content, said in (
        ("user,user_id,item\nu,u,a\n", "must have one column user or user_id; its columns: user, user_id, item"),
        ("user,item,time\nu,a,1\nu,b,soon\n", "line 3: the time 'soon' is neither a number nor a date"),
        ("user,item,time\nu,a,\n", "line 2: no time"),
    ):
        with pytest.raises(DataError, match=said):
            read_histories(write(tmp_path / "h.csv", content))
    with pytest.raises(DataError, match="is not known"):
        read_histories(write(tmp_path / "h.xlsx", "x"))


def test_long_names_of_columns_are_cut_in_errors(tmp_path: Path) -> None:
    (path := tmp_path / "log.csv").write_text("9" * 30_000 + ",item_id\nu,i\n")
    with pytest.raises(DataError, match="has no column 'user_id'") as caught:
        Logs(Logs.Config()).read_files(path, None, BadRows())
    assert len(caught.value.message) < 1_000

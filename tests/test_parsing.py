"""Reading files of every kind, sound and hostile: literals, JSON lines, gzip, times."""

import gzip
import json
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from conftest import whole
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from genrec_cli.errors import DataError
from genrec_cli.sources import lines as reading
from genrec_cli.sources.amazon import Amazon2014, read_amazon
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.interactions import Columns, microseconds, read_interactions
from genrec_cli.sources.json_lines import JsonLines
from genrec_cli.sources.lines import read_blocks
from genrec_cli.sources.literal import LONGEST_SLOW, _as_json, parse_literal, parse_literal_slowly
from genrec_cli.sources.records import as_text, attributes

COLUMNS = Columns("reviewerID", "asin", "unixReviewTime")


def review(user: str, item: str, time: object = 1_400_000_000) -> str:
    return json.dumps({"reviewerID": user, "asin": item, "unixReviewTime": time, "reviewText": 'He said "no"\n'})


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def shop(folder: Path, reviews: str | bytes, metadata: str | bytes | None = None) -> Path:
    write(folder / "reviews_Toys_5.json.gz", reviews)
    if metadata is not None:
        write(folder / "meta_Toys.json.gz", metadata)
    return folder


# ---- Python literals ---------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
odd_text = st.text(alphabet="'\"\\nrtxu0aé\t\0\ud800 {}[]:,#", max_size=12)
values = st.recursive(
    scalars | odd_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | odd_text, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(odd_text | st.text(), values, max_size=5))
def test_fast_path_equals_the_slow_twin_on_what_python_prints(record: dict) -> None:
    line = repr(record)
    assert parse_literal(line) == parse_literal_slowly(line) == record


@settings(max_examples=800, deadline=None)
@given(st.text(alphabet="'\"\\{}[]:,ab01eE.-+_ \tnulNone()", max_size=24))
def test_fast_path_equals_the_slow_twin_on_any_line(line: str) -> None:
    def outcome(parse) -> object:
        try:
            return repr(parse(line))
        except ValueError:
            return ValueError

    assert outcome(parse_literal) == outcome(parse_literal_slowly)


@pytest.mark.parametrize(
    "line", ["\"\\'x'", "{'a': null}", "{'a': NaN}", "[true]", "{'a': '\\ud83d\\ude00'}", "'''a'''"]
)
def test_what_json_reads_otherwise_is_left_to_the_slow_parser(line: str) -> None:
    text = _as_json(line)
    assert text is None or line.startswith("'''")
    try:
        expected = parse_literal_slowly(line)
    except ValueError:
        with pytest.raises(ValueError):
            parse_literal(line)
    else:
        assert parse_literal(line) == expected


def test_ordinary_metadata_takes_the_fast_path() -> None:
    for record in (
        {"asin": "B0", "price": 3.5, "categories": [["A", "B"]]},
        {"title": "Dr. Scholl's 5\" \\ pad"},
        {"a": "x's", "b": '5"'},
    ):
        assert json.loads(_as_json(repr(record))) == record


@pytest.mark.parametrize(
    "line",
    [
        "__import__('os').system('touch HACKED')",
        "{'asin': open('HACKED', 'w')}",
        "{'asin': [i for i in 'abc']}",
        "name",
        "-" * 100_000 + "1",
        "[" * 100_000,
        "1+" * 50_000 + "1",
        "{'a': " * 5_000,
        "'cut off",
        "{[]: 1}",
        "",
        "{'a': " + "9" * 5_000 + "}",
        "a" * (LONGEST_SLOW + 1),
    ],
    ids=lambda line: line[:12],
)
def test_a_line_that_is_no_literal_is_refused_and_never_run(line: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):
        parse_literal(line)
    assert not list(tmp_path.iterdir())


def test_values_become_text_and_attributes() -> None:
    assert as_text([["Beauty", "Hair"], ["Beauty", None, "Care"]]) == "Beauty, Hair, Care"
    assert (as_text(3.5), as_text(0), as_text(" x "), as_text([]), as_text(None)) == ("3.5", "0", "x", None, None)
    deep: list = ["bottom"]
    for _ in range(100_000):
        deep = [deep]
    assert as_text(deep) == "bottom"
    record = {"brand": "Canon", "categories": [["Cameras", "Lenses, Wide"], ["Cameras"], ["Cameras", "Old", "Wide"]]}
    assert attributes(record) == ["brand: Canon", "category: Lenses, Wide", "category: Old", "category: Wide"]
    assert attributes({"categories": ["A", "B"]}) == ["category: A", "category: B"], "one flat list"
    assert attributes({"categories": "A, B,,A"}) == ["category: A", "category: B"]


# ---- Amazon's layout ---------------------------------------------------------------------------


def test_amazon_tables(tmp_path: Path) -> None:
    metadata = [
        {"asin": "i1", "title": "O'Neill 5\"", "price": 3.17, "brand": "X", "categories": [["A", "B"]], "junk": [1]},
        {"asin": "i2", "title": None},
        {"asin": "i1", "title": "described twice"},
    ]
    shop(tmp_path, "\n".join([review("u1", "i1", 5), review("u2", "i2", -7)]), "\n".join(map(repr, metadata)))
    (tmp_path / "labels.parquet").write_bytes(b"beside")
    source = Amazon2014(Amazon2014.Config(category="Toys"))
    interactions, items = source.read(tmp_path, BadRows())
    assert whole(interactions).rows() == [("u1", "i1", 5, 1), ("u2", "i2", -7, 2)]
    assert items is not None
    first, second = items.collect().to_dicts()
    assert first["title"] == "O'Neill 5\"" and first["price"] == "3.17" and first["categories"] == "A, B"
    assert first["attributes"] == ["brand: X", "category: B"]
    assert second["title"] is None and second["attributes"] == [] and "junk" not in first


def test_a_folder_without_or_with_two_reviews_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no reviews_"):
        read_amazon(tmp_path, BadRows())
    write(tmp_path / "reviews_A.json", "")
    write(tmp_path / "reviews_B.json.gz", "")
    with pytest.raises(DataError, match="2 files"):
        read_amazon(tmp_path, BadRows())


def test_bad_reviews_are_counted_with_line_and_reason(tmp_path: Path) -> None:
    lines = [
        review("u1", "i1"),
        '{"reviewerID": "u1", "asin":',
        "",
        '{"asin": "i1", "unixReviewTime": 1}',
        review("u1", "", 1),
        review("u1", "i1", "yesterday"),
        review("u1", "i1", 10**15),
        '["a"]',
        review("u1", "i\0", 1),
        '{"reviewerID": "u1", "asin": "i1"}',
        '{"reviewerID": "u1", "asin": "i1", "unixReviewTime": NaN}',
        review("u9", "i9", 1.75),
    ]
    content = "\n".join(lines).encode() + b'\n{"reviewerID": "\xff"}\n{"reviewerID": "\0"}\n' + b"[" * 100_000
    shop(tmp_path, content)
    with pytest.raises(DataError, match="12 bad") as caught:
        bad = BadRows()
        whole(read_amazon(tmp_path, bad).interactions)
        bad.check()
    assert "line 2: not valid JSON" in caught.value.message and "--skip-bad-rows" in str(caught.value.hint)
    bad = BadRows(skip=True)
    kept = whole(read_amazon(tmp_path, bad).interactions)
    assert sorted(kept.drop("row").rows()) == [("u1", "i1", 1_400_000_000), ("u9", "i9", 1)]
    assert bad.by_reason == {
        "not valid JSON": 2,
        "no user": 1,
        "no item": 1,
        "neither a number nor a date such as 2024-01-31 12:00:00+02:00": 2,
        "a number that is no time between the years 1 and 9999 (see --time-unit)": 1,
        "not a JSON object": 1,
        "a NUL in the item": 1,
        "no time": 1,
        "not UTF-8": 1,
        "a NUL byte": 1,
    }


def test_bad_metadata_is_counted_and_never_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [b"{'asin': 'i1', 'title': 'fine'}", b"__import__('os').mkdir('HACKED')", b"{'asin': '\xff'}"]
    lines += [b"{'title': 'no id'}", b"['i1']", b"{'asin': 'i\0'}", b"{'asin': 'i2', 'title': '\\ud800!'}"]
    shop(tmp_path, review("u", "i1"), b"\n".join(lines))
    bad = BadRows(skip=True)
    items = read_amazon(tmp_path, bad).items
    assert items is not None and items.collect()["title"].to_list() == ["fine", "?!"]
    assert bad.count == 5 and bad.first == f"{tmp_path / 'meta_Toys.json.gz'}, line 2: not a Python literal"
    assert not (tmp_path / "HACKED").exists()


# ---- lines, memory, gzip -----------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=12), st.booleans())
def test_blocks_hold_every_line_once_except_long_ones(tmp_path_factory, lines: list[bytes], end: bool) -> None:
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes(b"\n".join(lines) + (b"\n" if end else b""))
    content = path.read_bytes()
    assume(not content.startswith(b"\x1f\x8b"))  # gzip
    content = content.removeprefix(b"\xef\xbb\xbf")
    bad = BadRows(skip=True)
    found = [pair for block in read_blocks(path, bad, longest=10) for pair in block.lines()]
    everything = list(enumerate(content.split(b"\n"), 1))
    assert found == [(n, line.rstrip(b"\r")) for n, line in everything if line.strip() and len(line) <= 10]
    assert bad.count == sum(len(line) > 10 for _, line in everything)


@pytest.mark.parametrize("name", ["reviews_X.json.gz", "meta_X.json.gz"])
def test_a_line_of_100_mb_is_a_bad_line_in_bounded_memory(tmp_path: Path, name: str) -> None:
    good = {"reviews_X.json.gz": review("u", "i"), "meta_X.json.gz": "{'asin': 'i'}"}
    for other, line in good.items():
        write(tmp_path / other, line + "\n")
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as stream:
        stream.write(good[name].encode() + b"\n{'asin': '")
        for _ in range(100):
            stream.write(b"a" * 2**20)
        stream.write(b"'}\n" + good[name].replace('"i"', '"j"').replace("'i'", "'j'").encode() + b"\n")
    bad = BadRows(skip=True)
    tracemalloc.start()
    tables = read_amazon(tmp_path, bad)
    log = whole(tables.interactions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bad.by_reason == {"longer than 16,777,216 bytes": 1} and "line 2" in str(bad.first)
    assert peak < 64 * 2**20
    assert tables.items is not None
    assert (log if "reviews" in name else tables.items.collect()).height == 2


def test_only_a_few_chunks_are_read_ahead_and_a_reader_can_be_left(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 64)
    path = write(tmp_path / "log.json", "0123456\n" * 8_000)
    read: list[bytes] = []
    chunks = reading._chunks

    def watched(path: Path, size: int) -> Iterator[bytes]:
        for chunk in chunks(path, size):
            read.append(chunk)
            yield chunk

    monkeypatch.setattr(reading, "_chunks", watched)
    before = threading.active_count()
    blocks = read_blocks(path, BadRows())
    first = next(blocks)
    assert first == (1, b"0123456\n" * 8) and first.height() == 8
    blocks.close()
    assert len(read) <= 2 + reading.PREFETCH and threading.active_count() == before


def test_gzip_members_are_read_and_damage_is_named(tmp_path: Path) -> None:
    two = gzip.compress(review("u", "i").encode() + b"\n") + gzip.compress(review("v", "i").encode()) + b"\0" * 9
    path = tmp_path / "reviews.json.gz"
    path.write_bytes(two)
    assert whole(read_interactions(path, JsonLines(), COLUMNS, BadRows())).height == 2
    path.write_bytes(two[:60])
    with pytest.raises(DataError, match="cut off"):
        whole(read_interactions(path, JsonLines(), COLUMNS, BadRows()))
    path.write_bytes(two[:30] + b"xxxxxxxx" + two[38:])
    with pytest.raises(DataError, match="damaged"):
        whole(read_interactions(path, JsonLines(), COLUMNS, BadRows()))


def test_an_empty_file_gives_an_empty_table(tmp_path: Path) -> None:
    for content in (b"", b"\n\n", gzip.compress(b"")):
        path = tmp_path / "reviews.json"
        path.write_bytes(content)
        table = whole(read_interactions(path, JsonLines(), COLUMNS, BadRows()))
        assert table.height == 0 and table.columns == ["user", "item", "time", "row"]


ids = st.text(min_size=1, max_size=6).map(str.strip).filter(lambda text: text and "\0" not in text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(ids, ids, st.integers(-(10**10), 10**10)), max_size=8))
def test_columnar_reviews_equal_a_plain_loop(tmp_path_factory, rows: list) -> None:
    path = tmp_path_factory.mktemp("reviews") / "reviews.json"
    path.write_text("".join(review(*row) + "\n" for row in rows))
    by_columns = whole(read_interactions(path, JsonLines(), COLUMNS, BadRows()))
    path.write_text("".join(review(*row) + "\n\n" for row in rows))  # blank lines: the line-wise pass
    by_lines = whole(read_interactions(path, JsonLines(), COLUMNS, BadRows()))
    assert by_columns.select("user", "item", "time").rows() == rows == by_lines.drop("row").rows()


# ---- times -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "unit", "seconds"),
    [
        ("1400000000", "s", 1_400_000_000),
        ("-5", "s", -5),
        ("1.5", "s", 1.5),
        ("1.4e9", "s", 1_400_000_000),
        ("1400000000123", "ms", 1_400_000_000.123),
        ("1400000000000000001", "ns", 1_400_000_000),
        ("2014-05-13", "s", 1_399_939_200),
        ("2014-05-13T16:53:20Z", "s", 1_400_000_000),
        ("2014-05-13T16:53:20+00:00", "s", 1_400_000_000),
        ("2014-05-13T16:53:20+02:00", "s", 1_399_992_800),
        ("2014-05-13 16:53:20.5", "ms", 1_400_000_000.5),
        ("1400000000000", "s", None),
        ("99999999999999999999", "s", None),
        ("nan", "s", None),
        ("inf", "ns", None),
        ("true", "s", None),
        ("", "s", None),
    ],
)
def test_times(text: str, unit, seconds: float | None) -> None:
    expected = None if seconds is None else round(seconds * 1e6)
    assert microseconds(pl.Series([text, "0"]), unit).to_list() == [expected, 0]

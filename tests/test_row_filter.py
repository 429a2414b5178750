"""Which rows of a log are kept: SQL expressions and events, in every format, and what is refused."""

from pathlib import Path

import polars as pl
import pytest
from conftest import whole
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_cli.errors import ConfigError, DataError
from genrec_cli.sources import interactions
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.logs import Logs
from genrec_cli.sources.row_filter import RowFilter

LOG = pl.DataFrame(
    {
        "user_id": ["u", "u", "v", "w", "w"],
        "item_id": ["a", "b", "a", "c", "d"],
        "timestamp": [1, 2, 3, 4, 5],
        "rating": [4.0, 3.5, 5.0, None, 1.0],
        "event": ["buy", "view", "cart", "buy", "view"],
        "gift": [True, False, True, True, None],
    }
)


def kept(path: Path, rows: RowFilter, bad: BadRows | None = None) -> list[str]:
    return whole(Logs(Logs.Config()).read_files(path, None, bad or BadRows(), rows).interactions)["item"].to_list()


@pytest.fixture(params=["log.csv", "log.tsv", "log.parquet", "log.jsonl"])
def log(request, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".parquet":
        LOG.write_parquet(path)
    elif path.suffix == ".jsonl":
        LOG.write_ndjson(path)
    else:
        LOG.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize(
    "where, expected",
    [
        ("rating >= 4", ["a", "a"]),
        ("rating * 2 > 6 AND event = 'view'", ["b"]),
        ("event IN ('buy', 'cart')", ["a", "a", "c"]),
        ("event LIKE 'b%' OR rating < 2", ["a", "c", "d"]),
        ("rating IS NULL", ["c"]),
        ("NOT (rating BETWEEN 3 AND 5)", ["d"]),
        ("gift AND UPPER(event) = 'CART'", ["a"]),
        ("COALESCE(rating, 0) / 2 < 1", ["c", "d"]),
        ("CASE WHEN event = 'buy' THEN rating > 3 ELSE user_id = 'w' END", ["a", "d"]),
        ("user_id <> 'u'", ["a", "c", "d"]),
    ],
)
def test_an_expression_keeps_the_same_rows_in_every_format(log: Path, where: str, expected: list[str]) -> None:
    rows = RowFilter(where)
    assert kept(log, rows) == expected
    assert rows.left_out == LOG.height - len(expected)


def test_events_and_expression_together(log: Path) -> None:
    assert kept(log, RowFilter(None, ("buy", "cart"))) == ["a", "a", "c"]
    assert kept(log, RowFilter("rating > 4", ("buy", "cart"))) == ["a"]
    assert kept(log, RowFilter(None, ("u",), "user_id")) == ["a", "b"]
    assert kept(log, RowFilter()) == LOG["item_id"].to_list()


@pytest.mark.parametrize(
    "where, said",
    [
        ("rating >=", "is not an SQL expression"),
        ("rating > 3; DROP TABLE x", "is not an SQL expression"),
        ("rating > 3, TRUE", "is not an SQL expression"),
        ("  ", "0? ?characters|it takes 1"),
        ("rating > 3 " + "AND rating > 3 " * 200, "it takes 1 to 2,000"),
        ("rating > AVG(rating)", "uses an aggregate"),
        ("COUNT(*) > 1", "only expressions over the columns of one row"),
        ("ROW_NUMBER() OVER () > 3", "only expressions over the columns of one row"),
        ("FIRST(rating) = rating", "uses an aggregate"),
        ("TRUE", "names no column"),
        ("item_id IN (SELECT item_id FROM t)", "the word 'SELECT'"),
        ("item_id IN (FROM read_csv('x.csv'))", "the word 'read_csv'"),
        ("item_id IN (VALUES (1))", "only expressions over the columns of one row"),
        ("__import__('os')", "is not an SQL expression"),
    ],
)
def test_an_expression_that_is_not_about_one_row_is_refused_before_any_work(where: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RowFilter(where)


@pytest.mark.parametrize(
    "where, said",
    [
        ("rting > 3", r"no column 'rting'. Did you mean 'rating'\? Its columns: user_id, item_id, timestamp, rating"),
        ("rating + 1", "is a number, not true or false for each row"),
        ("event", "is text, not true or false"),
        ("rating = 'high'", r"does not fit .* It uses: rating \(a number\)"),
        ("event > 3", r"does not fit .* It uses: event \(text\)"),
    ],
)
def test_an_expression_that_does_not_fit_the_columns_names_them(log: Path, where: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        kept(log, RowFilter(where))


def test_a_missing_event_column_names_the_option(log: Path) -> None:
    with pytest.raises(DataError, match="no column 'kind'") as caught:
        kept(log, RowFilter(None, ("buy",), "kind"))
    assert "--event-col" in str(caught.value.hint)


def test_rows_that_are_left_out_are_not_checked_and_a_value_of_another_type_is_a_bad_row(tmp_path: Path) -> None:
    path, bad = tmp_path / "log.csv", BadRows(skip=True)
    lines = ["user_id,item_id,timestamp,event,rating", "u,a,1,buy,4", "u,,soon,search,"]
    lines += ["u,x,1,buy,3"] * interactions.SAMPLE + ["u,b,2,buy,many", "u,c,3,buy,5"]
    path.write_text("\n".join(lines) + "\n")
    assert kept(path, RowFilter("rating > 3", ("buy",)), bad) == ["a", "c"]
    assert bad.by_reason == {"rating is no number": 1} and f"line {interactions.SAMPLE + 4}" in str(bad.first)


def test_ids_with_leading_zeros_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp,price\nu,007,1,0.5\nu,7,2,0\nu,08,3,-0.25\n")
    assert kept(path, RowFilter("item_id = '007'")) == ["007"]
    assert kept(path, RowFilter("price < 0.5")) == ["7", "08"]
    with pytest.raises(DataError, match=r"does not fit .* It uses: item_id \(text\)"):
        kept(path, RowFilter("item_id = 7"))


def test_careful_and_columnar_readers_filter_alike(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('user_id,item_id,timestamp,note\nu,a,1,x\nu,b,2,"two\nlines"\nu,c,3,"a ""b"""\n')
    assert kept(path, RowFilter("note LIKE '%lines'")) == ["b"]
    assert kept(path, RowFilter("""note = 'a "b"'""")) == ["c"]


@settings(max_examples=40, deadline=None)
@given(st.text("abc()<>='0123456789,. *%\"-+ANDORSELECTfromIN", max_size=40))
def test_no_text_of_an_expression_ends_in_a_traceback(text: str) -> None:
    try:
        RowFilter(text).check(Path("log.csv"), LOG.columns, LOG.schema)
    except (ConfigError, DataError) as error:
        assert str(error)


def test_a_filter_reads_block_by_block(tmp_path: Path, monkeypatch) -> None:
    from genrec_cli.sources import columnar, lines

    monkeypatch.setattr(lines, "CHUNK", 64)
    monkeypatch.setattr(columnar, "BATCH", 64)
    frame = pl.DataFrame(
        {"user_id": range(500), "item_id": range(500), "timestamp": range(500), "rating": [1, 5] * 250}
    )
    frame.write_csv(tmp_path / "log.csv")
    frame.write_parquet(tmp_path / "log.parquet")
    for name in ("log.csv", "log.parquet"):
        rows = RowFilter("rating > 3")
        blocks = list(Logs(Logs.Config()).read_files(tmp_path / name, None, BadRows(), rows).interactions)
        assert len(blocks) > 5 and sum(block.height for block in blocks) == rows.left_out == 250
        assert pl.concat(blocks)["row"].to_list()[:2] == ([3, 5] if name == "log.csv" else [2, 4])

"""preprocess: k-core, split, texts, ids and the artifact, against slow references and small logs by hand."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import validate
from genrec_cli.data import schema, split
from genrec_cli.data.engines import PolarsEngine
from genrec_cli.data.kcore import k_core
from genrec_cli.data.sequences import Histories
from genrec_cli.data.text import clean, joined
from genrec_cli.errors import ConfigError, DataError, InputError
from genrec_cli.sources.logs import Logs
from genrec_cli.stages.preprocess import PreprocessConfig, from_files, from_raw, preprocess

SHARED = Path(__file__).parents[2] / "shared" / "data"


def make(tmp_path: Path, log: str, items: list[dict] | None = None, **settings_) -> Artifact:
    """The data artifact of a small CSV log and items of your own."""
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + log)
    described = None
    if items is not None:
        described = tmp_path / "items.jsonl"
        described.write_text("".join(json.dumps(item) + "\n" for item in items))
    config = validate(PreprocessConfig, "preprocess", {"k_core": 0, **settings_})
    ws = Workspace(tmp_path / "artifacts")
    _, work = preprocess(ws, "mine", config, from_files(Logs.Config(), tmp_path / "log.csv", described))
    return work()


def tables(artifact: Artifact) -> dict[str, list[dict]]:
    """The four tables by the readers that other stages use."""
    schemas = {"interactions": schema.INTERACTIONS, "users": schema.USERS}
    schemas |= {"items": schema.ITEMS, "attributes": schema.ATTRIBUTES}
    return {n: schema.read_table(artifact.path / f"{n}.parquet", s).to_pylist() for n, s in schemas.items()}


# ---- k-core ------------------------------------------------------------------------------------


def slow_core(rows: list[tuple[int, int]], k: int) -> list[tuple[int, int]]:
    while True:
        users, items = Counter(u for u, _ in rows), Counter(i for _, i in rows)
        kept = [(u, i) for u, i in rows if users[u] >= k and items[i] >= k]
        if kept == rows:
            return rows
        rows = kept


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=60), st.integers(0, 4))
def test_k_core_equals_the_slow_twin(rows: list[tuple[int, int]], k: int) -> None:
    log = pl.DataFrame(rows, schema={"user": pl.Int64, "item": pl.Int64}, orient="row").with_row_index("row")
    expected = slow_core(rows, max(k, 1))
    if not expected:
        with pytest.raises(DataError):
            core_of(log, k)
        return
    assert core_of(log, k).sort("row").select("user", "item").rows() == expected


def core_of(log: pl.DataFrame, k: int) -> pl.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        engine = PolarsEngine(Path(folder))
        return engine.collect(engine.scan(k_core(engine, engine.write(lazy(log)), k)))


def lazy(frame: pl.DataFrame) -> nw.LazyFrame:
    return nw.from_native(frame.lazy())


def test_k_core_needs_more_than_one_round() -> None:
    rows = [(u, u + step) for u in range(30) for step in (0, 1)] + [(100, 0)]  # a chain that unravels from its end
    rows += [(u, i) for u in (200, 201) for i in (300, 301)]
    log = pl.DataFrame(rows, schema=["user", "item"], orient="row")
    assert sorted(core_of(log, 2).rows()) == [(200, 300), (200, 301), (201, 300), (201, 301)]


def test_an_empty_k_core_says_the_numbers() -> None:
    log = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]})
    with pytest.raises(DataError, match=r"5-core is empty: none of 3 .* 2 users and 2 items.* user has 2,") as caught:
        core_of(log, 5)
    assert "--k-core 2" in str(caught.value.hint)


# ---- split -------------------------------------------------------------------------------------

HERE = PolarsEngine(Path())
"""An engine that keeps nothing."""
logs = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 30)), min_size=1, max_size=40)


def as_log(rows: list[tuple[int, int]]) -> pl.DataFrame:
    dense = {user: n for n, user in enumerate(sorted({u for u, _ in rows}), 1)}
    rows = sorted((dense[u], t) for u, t in rows)
    return pl.DataFrame(rows, schema={"user": pl.Int64, "time": pl.Int64}, orient="row")


@settings(max_examples=100, deadline=None)
@given(logs)
def test_leave_one_out(rows: list[tuple[int, int]]) -> None:
    log = as_log(rows)
    users = split.leave_one_out(HERE, lazy(log)).to_dicts()
    assert [u["user"] for u in users] == sorted(set(log["user"]))
    for user in users:
        assert log["user"][user["offset"] : user["offset"] + user["length"]].unique().to_list() == [user["user"]]
        n = user["length"]
        expected = (n, -1, -1) if n < 3 else (n - 2, n - 2, n - 1)
        assert (user["train_end"], user["valid_at"], user["test_at"]) == expected


@settings(max_examples=150, deadline=None)
@given(logs, st.integers(0, 30), st.integers(1, 10))
def test_split_by_time_leaks_nothing_and_equals_the_definition(rows, valid_from: int, gap: int) -> None:
    log, test_from = as_log(rows), valid_from + gap
    expected = []
    for user in sorted(set(log["user"])):
        times = log.filter(pl.col("user") == user)["time"].to_list()
        train = [t for t in times if t < valid_from]
        valid = [n for n, t in enumerate(times) if valid_from <= t < test_from and n > 0]
        test = [n for n, t in enumerate(times) if t >= test_from and n > 0]
        first_in = [n for n, t in enumerate(times) if valid_from <= t < test_from][:1]
        last_in = [n for n, t in enumerate(times) if t >= test_from][:1]
        expected.append(
            (
                len(train),
                valid[0] if first_in and first_in[0] > 0 else -1,
                test[0] if last_in and last_in[0] > 0 else -1,
            )
        )
    if not all((sum(e[0] for e in expected), max(e[1] for e in expected) >= 0, max(e[2] for e in expected) >= 0)):
        with pytest.raises(DataError, match="has no"):
            split.by_time(HERE, lazy(log), valid_from, test_from)
        return
    users = split.by_time(HERE, lazy(log), valid_from, test_from)
    assert users.select("train_end", "valid_at", "test_at").rows() == expected
    for user in users.to_dicts():
        times = log["time"][user["offset"] : user["offset"] + user["length"]].to_list()
        assert all(t < valid_from for t in times[: user["train_end"]])
        for place, low in ((user["valid_at"], valid_from), (user["test_at"], test_from)):
            assert place == -1 or (times[place] >= low and all(t < low for t in times[:place]))


def test_shares_and_dates_become_seconds() -> None:
    log = lazy(pl.DataFrame({"time": [50, 10, 20, 30, 40, 60, 70, 80, 90, 100]}))
    assert split.seconds_of(HERE, 0.8, log, "x") == 90
    assert split.seconds_of(HERE, "1970-01-02", log, "x") == 86_400
    for wrong in ("soon", 1.5, 0.0):
        with pytest.raises(ConfigError, match=r"preprocess\.valid_from"):
            split.seconds_of(HERE, wrong, log, "preprocess.valid_from")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_a_share_of_the_times_equals_sorting_them(times: list[int], share: float) -> None:
    log = lazy(pl.DataFrame({"time": times}))
    assert split.seconds_of(HERE, share, log, "x") == sorted(times)[int(share * len(times))]


def test_the_artifact_says_whether_there_are_times(tmp_path: Path) -> None:
    real = "".join(f"u{n % 3},i{n % 5},{1_400_000_000 + 7 * n}\n" for n in range(30))
    artifact = make(tmp_path, real)
    time = Histories.read(artifact.path, times=True).time
    assert artifact.result["times"] is True and time is not None
    assert time.tolist() == [row["time"] for row in tables(artifact)["interactions"]]
    positions = make(tmp_path, "u,a,0\nu,b,1\nv,a,0\nv,b,1\n")
    assert positions.result["times"] is False and Histories.read(positions.path, times=True).time is None


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon", "2014-13-01"])
def test_moments_that_no_date_can_say(moment: str) -> None:
    with pytest.raises(ConfigError, match="neither a fraction nor a date"):
        split.seconds_of(HERE, moment, lazy(as_log([(1, 5)])), "preprocess.valid_from")


def test_shuffled_ties_are_another_artifact(tmp_path: Path) -> None:
    log = "".join(f"u{n % 3},i{n},{1_400_000_000 + n // 30}\n" for n in range(90))
    plain, first, other = (make(tmp_path, log, **given) for given in ({}, {"shuffle_ties": 1}, {"shuffle_ties": 2}))
    labels = [each.path.name.rpartition("-")[0] for each in (plain, first, other)]
    assert labels == ["k0-loo", "k0-loo-ties1", "k0-loo-ties2"]
    assert first.digest != plain.digest != other.digest and first.digest != other.digest
    assert tables(first)["items"][0]["raw_id"] == "i0", "ids are those of the file's order"
    with pytest.raises(ConfigError, match="shuffle_ties"):
        make(tmp_path, log, shuffle_ties=-1)


def test_rows_without_times_have_no_ties(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id\nu,a\nu,b\n")
    config = PreprocessConfig(k_core=0, shuffle_ties=1)
    origin = from_files(Logs.Config(), tmp_path / "log.csv", None)
    with pytest.raises(DataError, match="no ties to shuffle"):
        preprocess(Workspace(tmp_path / "artifacts"), "mine", config, origin)[1]()


def test_positions_are_not_times() -> None:
    def log(user: list[int], time: list[int]) -> nw.LazyFrame:
        return lazy(pl.DataFrame({"user": user, "time": time}))

    assert split.times_are_positions(HERE, log([1, 1, 2, 2], [0, 1, 0, 1]))
    assert split.times_are_positions(HERE, log([1, 1, 2, 2], [1, 2, 1, 3]))
    assert not split.times_are_positions(HERE, log([1, 1, 2, 2], [16_000, 16_001, 16_000, 16_005]))


# ---- text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Salt &amp; Pepper &#39;n&#x27; &eacute;", "Salt & Pepper 'n' é"),
        ("<b>Bold</b>  and<br/>new\n\tline", "Bold and new line"),
        ("&lt;br&gt;kept", "kept"),
        ("5 < 6 and 7 > 2, <3", "5 < 6 and 7 > 2, <3"),
        ("a<script>alert('x < y')</script>b<style>p{}</style>", "a b"),
        ("<!-- note\nmore -->x", "x"),
        ("nul\x00 and \x1b bell", "nul and bell"),
        ("", ""),
        (None, None),
    ],
)
def test_markup_is_cleaned(text: str | None, expected: str | None) -> None:
    assert clean(pl.Series("t", [text, "x"], dtype=pl.String)).to_list() == [expected, "x"]


def test_fields_are_joined_in_order() -> None:
    items = pl.DataFrame({"a": ["One", None, ""], "b": ["Two!", "Two", None]})
    assert joined(items, ["b", "a"]).to_list() == ["Two! One.", "Two.", ""]
    assert joined(items, []).to_list() == ["", "", ""]


# ---- the artifact ------------------------------------------------------------------------------

LOG = "v,b,5\nu,b,9\nu,a,7\nu,c,9\nu,b,9\nu,c,9\nw,a,1\nw,d,2\n"


def test_tables_by_hand(tmp_path: Path) -> None:
    items = [
        {"item_id": "b", "title": "The &amp; B", "brand": "X", "categories": "K,L"},
        {"item_id": "a", "brand": "X", "categories": [["D", "K"], ["D", "M"]]},
        {"item_id": "zzz", "title": "nobody bought this"},
        {"item_id": "d"},
    ]
    artifact = make(tmp_path, LOG, items, min_attribute_items=1)
    found = tables(artifact)
    assert [(u["user"], u["raw_id"], u["offset"], u["length"]) for u in found["users"]] == [
        (1, "v", 0, 1),
        (2, "u", 1, 5),
        (3, "w", 6, 2),
    ]
    assert [(u["train_end"], u["valid_at"], u["test_at"]) for u in found["users"]] == [
        (1, -1, -1),
        (3, 3, 4),
        (2, -1, -1),
    ]
    assert [i["raw_id"] for i in found["items"]] == ["b", "a", "c", "d"]
    assert [i["item"] for i in found["items"]] == [1, 2, 3, 4]
    # user u: a at 7, then the rows of time 9 in the order of the file
    assert [(r["user"], r["item"]) for r in found["interactions"]] == [
        (1, 1),
        (2, 2),
        (2, 1),
        (2, 3),
        (2, 1),
        (2, 3),
        (3, 2),
        (3, 4),
    ]
    assert [i["train_count"] for i in found["items"]] == [2, 2, 1, 1]
    assert [i["title"] for i in found["items"]] == ["The & B", None, None, None]
    assert [i["text"] for i in found["items"]] == ["The & B. X. K,L.", "X. D, K, M.", "", ""]
    assert [a["name"] for a in found["attributes"]] == ["brand: X", "category: K", "category: L", "category: M"]
    assert [i["attributes"] for i in found["items"]] == [[1, 2, 3], [1, 2, 4], [], []]
    result = artifact.result
    assert (result["users"], result["items"], result["interactions"]) == (3, 4, 8)
    assert (result["items_without_metadata"], result["metadata_without_interactions"]) == (1, 1)
    assert (result["duplicates"], result["with_text"], result["bad_rows"]) == (2, 0.5, 0)
    assert result["fields"] == ["title", "brand", "categories"]
    assert result["fields_absent"] == ["price", "feature", "description"]
    assert artifact.path.name.startswith("k0-loo-") and set(artifact.manifest["external"]) == {"interactions", "items"}


def test_rare_names_are_no_attributes(tmp_path: Path) -> None:
    """Items outside the data and repetitions within an item do not count."""
    items = [
        {"item_id": "a", "brand": "X", "categories": "K,K"},
        {"item_id": "b", "brand": "X", "categories": "L"},
        {"item_id": "zzz", "categories": "L"},
    ]
    found = tables(make(tmp_path, LOG, items, min_attribute_items=2))
    assert [a["name"] for a in found["attributes"]] == ["brand: X"]
    assert {i["raw_id"]: i["attributes"] for i in found["items"]} == {"a": [1], "b": [1], "c": [], "d": []}
    artifact = make(tmp_path, LOG, items)
    assert artifact.result["attributes"] == 0 and tables(artifact)["attributes"] == []


def test_without_items_texts_are_empty(tmp_path: Path) -> None:
    found = tables(make(tmp_path, LOG))
    assert {(i["title"], i["text"], tuple(i["attributes"])) for i in found["items"]} == {(None, "", ())}
    assert found["attributes"] == []


def test_duplicates_can_be_dropped(tmp_path: Path) -> None:
    kept = make(tmp_path, LOG)
    dropped = make(tmp_path, LOG, drop_duplicates=True)
    assert kept.result["interactions"] - dropped.result["interactions"] == kept.result["duplicates"] == 2
    assert kept.key != dropped.key


def test_two_events_within_a_second_are_no_duplicates(tmp_path: Path) -> None:
    log = "u,a,1.1\nu,a,1.9\nu,a,1.9\nu,b,3\n"
    assert make(tmp_path, log).result["duplicates"] == 1
    assert make(tmp_path, log, drop_duplicates=True).result["interactions"] == 3


def test_a_field_asked_for_by_name_must_be_there(tmp_path: Path) -> None:
    items = [{"item_id": "b", "title": "B", "colour": "red", "price": ""}]
    assert tables(make(tmp_path, LOG, items, fields=["colour", "title"]))["items"][0]["text"] == "red. B."
    for absent in ("size", "price"):
        with pytest.raises(DataError, match=f"no text field '{absent}'") as caught:
            make(tmp_path, LOG, items, fields=["title", absent])
        assert caught.value.hint == "--fields title,colour" and caught.value.exit_code == 3


def test_texts_that_come_out_empty_are_told(tmp_path: Path, capsys) -> None:
    log = "u,1.0,1\nu,2.0,2\n"
    make(tmp_path, log, [{"item_id": "1", "title": "One"}])
    assert "ids of the log look like '1.0', in the items file they look like '1'" in capsys.readouterr().err
    make(tmp_path, log, [{"item_id": "1.0", "Title": "One", "note": "n"}])
    said = capsys.readouterr().err
    assert "Item texts are empty" in said and "--fields Title,note" in said and "made of the others" not in said


def test_item_columns_may_have_any_name(tmp_path: Path) -> None:
    items = [{"item_id": "b", "item": "I", "text": "T", "train_count": "7", "user": "U", "place": "P"}]
    found = tables(make(tmp_path, LOG, items, fields=["text", "item", "train_count"]))["items"]
    assert (found[0]["text"], found[0]["item"], found[0]["train_count"]) == ("T. I. 7.", 1, 2)


def test_bad_rows_are_refused_or_left_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 4: no item"):
        make(tmp_path, "u,a,1\nu,b,2\nu,,3\n")
    assert not list((tmp_path / "artifacts" / "mine" / "data").glob("[!.]*"))
    with pytest.raises(DataError, match=r"1 of 3 lines of .* are bad, more than 1% \(1 x no item\)") as caught:
        make(tmp_path, "u,a,1\nu,b,2\nu,,3\n", skip_bad_rows=True)
    assert "--max-bad-rows" in str(caught.value.hint)
    artifact = make(tmp_path, "u,a,1\nu,b,2\nu,,3\n", skip_bad_rows=True, max_bad_rows=0.4)
    assert (artifact.result["interactions"], artifact.result["bad_rows_by_reason"]) == (2, {"no item": 1})


@pytest.mark.parametrize(
    ("settings_", "needed"),
    [
        ({"valid_from": 0.7}, "--split time"),
        ({"event_col": "kind"}, "--events"),
        ({"max_bad_rows": 0.2}, "--skip-bad-rows"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(tmp_path: Path, settings_: dict, needed: str) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings_))) as caught:
        make(tmp_path, LOG, **settings_)
    assert str(caught.value.hint).startswith(needed)


def test_nothing_to_work_with(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no interaction"):
        make(tmp_path, "")
    with pytest.raises(DataError, match="5-core is empty"):
        make(tmp_path, LOG, k_core=5)
    assert make(tmp_path, "u,a,1\n").result["test_users"] == 0


def test_split_by_time(tmp_path: Path) -> None:
    day = 86_400
    rows = [(u, f"i{(u * t) % 7}", 16_000 * day + t * day) for u in range(4) for t in range(u, 10)]
    log = "".join(f"u{u},{item},{time}\n" for u, item, time in rows)
    artifact = make(tmp_path, log, split="time", valid_from="2013-10-27", test_from=0.8)
    times = np.sort([time for *_, time in rows])
    assert artifact.result["valid_from"] == 16_005 * day
    assert artifact.result["test_from"] == times[int(0.8 * len(times))]
    found = tables(artifact)
    train = sum(time < 16_005 * day for *_, time in rows)
    assert sum(i["train_count"] for i in found["items"]) == train == sum(u["train_end"] for u in found["users"])
    assert artifact.path.name.startswith("k0-time-")
    with pytest.raises(DataError, match="nothing between"):
        make(tmp_path, log, split="time", valid_from=0.9, test_from=0.8)
    with pytest.raises(ConfigError, match=r"test_from = 2013-10-27: only a .* is leave-one-out") as caught:
        make(tmp_path, log, test_from="2013-10-27")
    assert "--split time" in str(caught.value.hint)
    with pytest.raises(DataError, match="positions") as caught:
        make(tmp_path, "u,a,0\nu,b,1\nv,a,0\nv,b,1\n", split="time")
    assert "--time-col" in str(caught.value.hint)


def test_the_days_are_reported_and_times_of_another_unit_are_named(tmp_path: Path, capsys) -> None:
    day = 86_400
    made = make(tmp_path, f"u,a,{19_000 * day}\nu,b,{19_001 * day}\nv,a,{19_030 * day}\n")
    assert (made.result["first_day"], made.result["last_day"]) == ("2022-01-08", "2022-02-07")
    assert "2022-01-08 to 2022-02-07" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(
        DataError, match=r"All times from 20260128 to 20260301 are dates .* such as 1970-08-23"
    ) as caught:
        make(tmp_path, "u,a,20260128\nu,b,20260301\n")
    assert "2026-03-01 in place of 20260301" in str(caught.value.hint)
    assert make(tmp_path, "u,a,20260128\nu,b,20260199\n").result["first_day"] == "1970-08-23"
    for time, unit in ((1_700_000_000_000, "ms"), (1_700_000_000_000_000, "us"), (1_700_000_000_000_000_000, "ns")):
        with pytest.raises(DataError, match="no time between the years 1 and 9999") as caught:
            make(tmp_path, f"u,a,{time}\n")
        assert caught.value.hint == f"--time-unit {unit}    reads {time} as 2023-11-14"


def test_the_second_time_it_is_up_to_date(tmp_path: Path) -> None:
    first = make(tmp_path, LOG)
    ws = Workspace(tmp_path / "artifacts")
    origin = from_files(Logs.Config(), tmp_path / "log.csv", None)
    plan, _ = preprocess(ws, "mine", PreprocessConfig(k_core=0), origin)
    done = ws.done(plan)
    assert done is not None and done.digest == first.digest
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + LOG + "w,b,3\n")
    origin = from_files(Logs.Config(), tmp_path / "log.csv", None)
    assert ws.done(preprocess(ws, "mine", PreprocessConfig(k_core=0), origin)[0]) is None
    with pytest.raises(DataError, match="no file"):
        from_files(Logs.Config(), tmp_path / "nowhere.csv", None)


@pytest.mark.parametrize("rows", [0, 5])
def test_large_texts_are_written_in_slices(tmp_path: Path, monkeypatch, rows: int) -> None:
    texts = pa.table({"name": pa.array(map(str, range(rows)), pa.large_string()), "attribute": range(1, rows + 1)})
    monkeypatch.setattr(schema, "SLICE", 2)
    kept: list[pa.Table] = []
    write = schema.pq.write_table
    monkeypatch.setattr(schema.pq, "write_table", lambda table, *a, **k: kept.append(table) or write(table, *a, **k))
    schema.write_table(texts, tmp_path / "attributes.parquet", schema.ATTRIBUTES)
    assert [len(chunk) for chunk in kept[0]["name"].chunks if len(chunk)] == [2, 2, 1] * (rows == 5)
    found = schema.read_table(tmp_path / "attributes.parquet", schema.ATTRIBUTES)
    assert found["name"].to_pylist() == texts["name"].to_pylist()


def test_a_log_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    log, ws = tmp_path / "log.csv", Workspace(tmp_path / "artifacts")
    log.write_text("user_id,item_id,timestamp\n" + LOG)
    plan, work = preprocess(ws, "mine", PreprocessConfig(k_core=0), from_files(Logs.Config(), log, None))
    log.write_text(log.read_text() + "w,b,3\n")
    with pytest.raises(InputError, match=r"log.csv changed while it was read"):
        work()
    assert ws.done(plan) is None and not ws.path(plan).exists()


def test_from_a_raw_artifact(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    source = {"name": "amazon-2014", "category": "Toys"}
    with ws.build(Plan("toys", "raw", "toys", 1, {"source": source})) as draft:
        rows = [{"reviewerID": u, "asin": i, "unixReviewTime": t} for t in (1, 2, 3) for u in "ab" for i in "xy"]
        (draft.path / "reviews_Toys_5.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (draft.path / "meta_Toys.json").write_text("{'asin': 'x', 'title': \"X's\", 'price': 2.5}\n")
    _, work = preprocess(ws, "toys", PreprocessConfig(), from_raw(ws, "toys"))
    artifact = work()
    assert artifact.manifest["inputs"]["raw"]["path"].startswith("toys/raw/toys-")
    assert [i["text"] for i in tables(artifact)["items"]] == ["X's. 2.5.", ""]
    assert ws.verified(artifact) is artifact


def test_command_line(tmp_path: Path, capsys) -> None:
    from genrec_cli.cli import main

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["preprocess", "--root", str(tmp_path / "root"), *words])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out.strip(), err

    log = tmp_path / "log.csv"
    log.write_text("who,what,when\n" + LOG)
    own = ["--interactions", str(log), "--user-col", "who", "--item-col", "what", "--k-core", "0"]
    code, _, error = run(*own)
    assert code == 2 and "--dataset NAME" in error
    code, out, error = run(*own, "--dataset", "mine", "--time-col", "when")
    assert code == 0 and Path(out, "users.parquet").is_file() and "interactions" in error
    code, again, error = run(*own, "--dataset", "mine", "--time-col", "when")
    assert (code, again) == (0, out) and "up to date" in error
    code, out, error = run(*own, "--dataset", "mine", "--json")
    result = json.loads(out)["result"]
    assert code == 0 and result["users"] == 3 and not result["times"] and "--time-col NAME" in error
    assert run(*own, "--dataset", "mine", "--fields", "title,,brand")[0] == 2
    assert run(*own, "--dataset", "../mine")[0] == 2
    assert run(*own, "--dataset", "mine", "--split", "random")[0] == 3
    assert run(*own, "--dataset", "mine", "--split", "time", "--valid-from", "soon")[0] == 3
    assert run("--items", str(log))[0] == 2
    assert run("--dataset", "mine")[0] == 4


@pytest.mark.skipif(not (SHARED / "amazon-2014-beauty").is_dir(), reason="the Beauty files are not here")
def test_beauty_has_the_published_statistics(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    config = {"source": {"name": "amazon-2014", "category": "Beauty"}}
    last: dict[str, str] = {}
    with ws.build(Plan("beauty", "raw", "beauty", 1, config)) as draft:
        for path in (SHARED / "amazon-2014-beauty").glob("*.gz"):
            (draft.path / path.name).write_bytes(path.read_bytes())
    artifact = preprocess(ws, "beauty", PreprocessConfig(), from_raw(ws, "beauty"))[1]()
    result = artifact.result
    assert (result["users"], result["items"], result["interactions"]) == (22_363, 12_101, 198_502)
    assert result["duplicates"] == 0 and result["test_users"] == 22_363
    rows = pl.read_ndjson((SHARED / "amazon-2014-beauty" / "reviews_Beauty_5.json.gz").open("rb").read())
    last = dict(rows.select("reviewerID", "asin").iter_rows())  # the last line of each user wins
    items = pl.read_parquet(artifact.path / "items.parquet")["raw_id"]
    item = pl.read_parquet(artifact.path / "interactions.parquet")["item"]
    users = pl.read_parquet(artifact.path / "users.parquet")
    targets = items.gather(item.gather(users["offset"] + users["test_at"].cast(pl.UInt64)) - 1)
    assert dict(zip(users["raw_id"], targets, strict=True)) == last
    assert not items.is_duplicated().any() and artifact.result["items_without_metadata"] == 0


@pytest.mark.skipif(not (SHARED / "scientific").is_dir(), reason="the scientific files are not here")
def test_scientific_through_the_own_data_path(tmp_path: Path) -> None:
    folder, ws = SHARED / "scientific", Workspace(tmp_path)
    origin = from_files(Logs.Config(), folder / "interactions.csv", folder / "items.jsonl.gz")
    result = preprocess(ws, "scientific", PreprocessConfig(), origin)[1]().result
    assert (result["users"], result["items"], result["interactions"]) == (8_317, 4_344, 58_492)
    assert result["fields"] == ["title", "brand", "categories", "description"]
    with pytest.raises(DataError, match="positions"):
        preprocess(ws, "scientific", PreprocessConfig(split="time"), origin)[1]()

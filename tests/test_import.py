"""import: tables made elsewhere, sound ones against what preprocess makes, and every way to be unsound."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.data import schema, validate_tables
from genrec_cli.data.sequences import Histories
from genrec_cli.errors import DataError, GenrecError, InputError, UsageError
from genrec_cli.sources.logs import Logs
from genrec_cli.stages.import_tables import find_tables, import_tables
from genrec_cli.stages.preprocess import PreprocessConfig, from_files, preprocess
from genrec_cli.stages.status import survey

TABLES = ("interactions", "users", "items", "attributes")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Artifact:
    """What preprocess makes of a small log with texts and attributes."""
    folder = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(0)
    lines = [f"u{random.integers(9)},i{random.integers(7)},{t}\n" for t in range(1_000, 1_120)]
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(lines))
    (folder / "items.csv").write_text("item_id,title,brand\n" + "".join(f"i{i},Thing {i},B{i % 2}\n" for i in range(7)))
    origin = from_files(Logs.Config(), folder / "log.csv", folder / "items.csv")
    return preprocess(Workspace(folder / "root"), "mine", PreprocessConfig(k_core=2, min_attribute_items=3), origin)[
        1
    ]()


@pytest.fixture
def tables(made: Artifact) -> dict[str, pa.Table]:
    return {name: pq.read_table(made.path / f"{name}.parquet") for name in TABLES}


def imported(tmp_path: Path, tables: dict[str, pa.Table]) -> Artifact:
    (tmp_path / "in").mkdir()
    for name, table in tables.items():
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet")
    return import_tables(Workspace(tmp_path / "root"), "theirs", find_tables(tmp_path / "in", {}))[1]()


def test_what_preprocess_makes_comes_back_as_it_was(tmp_path: Path, made: Artifact, tables: dict, monkeypatch) -> None:
    monkeypatch.setattr(validate_tables, "BATCH", 17)
    found = imported(tmp_path, tables)
    for name in TABLES:
        assert pq.read_table(found.path / f"{name}.parquet").equals(tables[name]), name
    for name in ("items.npy", "times.npy", "users.npy"):
        assert (found.path / "histories" / name).read_bytes() == (made.path / "histories" / name).read_bytes()
    assert found.result.items() <= made.result.items()
    assert found.kind == "data" and found.path.name.startswith("imported-")
    assert Workspace(tmp_path / "root").find("theirs", "data").digest == found.digest


def test_parts_with_signed_types_and_no_derived_columns(tmp_path: Path, made: Artifact, tables: dict) -> None:
    """As Spark writes it: folders, no unsigned integers."""
    log = tables["interactions"]
    log = log.cast(pa.schema([("user", pa.int64()), ("item", pa.int32()), ("time", pa.int64())]))
    (tmp_path / "log").mkdir()
    for number, at in enumerate(range(0, len(log), 50)):
        pq.write_table(log.slice(at, 50), tmp_path / "log" / f"part-{number:05}-c0ffee.snappy.parquet")
    (tmp_path / "log" / "_SUCCESS").touch()
    users = tables["users"].select(["raw_id", "train_end", "valid_at", "test_at"])
    pq.write_table(users, tmp_path / "people.parquet")
    pq.write_table(tables["items"].select(["raw_id", "title"]), tmp_path / "items.parquet")
    named = {"interactions": tmp_path / "log", "users": tmp_path / "people.parquet"}
    found = import_tables(Workspace(tmp_path / "root"), "theirs", find_tables(tmp_path, named))[1]()
    for name in ("interactions", "users"):
        assert pq.read_table(found.path / f"{name}.parquet").equals(tables[name])
    items = schema.read_table(found.path / "items.parquet", schema.ITEMS)
    assert items.select(["title", "train_count"]).equals(tables["items"].select(["title", "train_count"]))
    assert set(items["text"].to_pylist()) == {""} and items["attributes"].to_pylist() == [[]] * len(items)
    first, second = Histories.read(found.path), Histories.read(made.path)
    assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def test_positions_in_place_of_times_are_known(tmp_path: Path, tables: dict) -> None:
    length = np.bincount(tables["interactions"]["user"].to_numpy())[1:]
    positions = pa.array(np.concatenate([np.arange(n) for n in length]))
    tables["interactions"] = tables["interactions"].set_column(2, "time", positions)
    found = imported(tmp_path, tables)
    assert found.result["times"] is False and Histories.read(found.path, times=True).time is None


@pytest.mark.parametrize("of", [pa.timestamp("us"), pa.timestamp("ns", tz="UTC"), pa.timestamp("s"), pa.date32()])
def test_moments_become_seconds(tmp_path: Path, tables: dict, of: pa.DataType) -> None:
    log, a_day = tables["interactions"], 86_400
    seconds = pa.array(log["time"].to_numpy() * a_day)
    tables["interactions"] = log.set_column(2, "time", seconds.cast(pa.timestamp("s")).cast(of))
    found = imported(tmp_path, tables)
    assert pq.read_table(found.path / "interactions.parquet")["time"].to_numpy().tolist() == seconds.to_pylist()


def changed(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    return table.set_column(place, column, pa.array(values, pa.int64() if isinstance(value, int) else None))


UNSOUND = {
    "a gap in the users": ("interactions", lambda t: changed(t, "user", -1, 90), r"row 1\d\d: .*user is 90"),
    "users that do not begin at 1": ("interactions", lambda t: t.slice(20), r"row 1: .*user is"),
    "users from 0": (
        "interactions",
        lambda t: t.set_column(0, "user", pa.array(t["user"].to_numpy() - 1)),
        "row 1: users go from 1; user is 0",
    ),
    "an item beyond the items": (
        "interactions",
        lambda t: changed(t, "item", 3, 99),
        r"row 4: .* 1 to 7.* 99",
    ),
    "item 0": ("interactions", lambda t: changed(t, "item", 3, 0), "row 4: items go from 1"),
    "time running back": ("interactions", lambda t: changed(t, "time", 1, 5), "row 2: the time is before"),
    "a user without rows": ("interactions", lambda t: t.slice(0, 100), r"ends with user \d, and there are 9 users"),
    "no time": ("interactions", lambda t: t.drop_columns("time"), "no column 'time'; it has: user, item"),
    "a column twice": (
        "interactions",
        lambda t: pa.table([t["user"], t["item"], t["time"], t["time"]], ["user", "item", "time", "time"]),
        "2 columns 'time'",
    ),
    "a column of users twice": (
        "users",
        lambda t: pa.table([*t.columns, t["raw_id"]], [*t.column_names, "raw_id"]),
        "2 columns 'raw_id'",
    ),
    "nulls": ("interactions", lambda t: changed(t, "time", 1, None), "nulls"),
    "negative ids": ("interactions", lambda t: changed(t, "item", 1, -3), "column 'item' is not uint32"),
    "a raw id twice": ("users", lambda t: changed(t, "raw_id", 0, t["raw_id"][1].as_py()), "occur more than once"),
    "offsets": (
        "users",
        lambda t: changed(t, "offset", 2, 1),
        r"row 3: 'offset' is 1, and by the inter",
    ),
    "lengths": ("users", lambda t: changed(t, "length", 2, 1), r"row 3: 'length' is 1"),
    "users not in order": ("users", lambda t: t.take(np.r_[1, 0, 2 : len(t)]), "'user' is 2, and by the ids from 1"),
    "training beyond the end": ("users", lambda t: changed(t, "train_end", 0, 999), "longer .* train_end is 999"),
    "a target in training": ("users", lambda t: changed(t, "test_at", 0, 1), r"row 1: a target .* test_at is 1"),
    "a target beyond the end": ("users", lambda t: changed(t, "valid_at", 0, 500), "valid_at is 500"),
    "other counts": ("items", lambda t: changed(t, "train_count", 4, 0), "row 5: 'train_count' is 0"),
    "an unknown attribute": ("items", lambda t: changed(t, "attributes", 0, [9]), "ids from 1 to 9, and there are 2"),
}


@pytest.mark.parametrize("what", UNSOUND)
def test_what_is_unsound_is_one_clear_error_and_nothing_is_made(tmp_path: Path, tables: dict, what: str) -> None:
    name, change, match = UNSOUND[what]
    with pytest.raises(DataError, match=match) as caught:
        imported(tmp_path, tables | {name: change(tables[name])})
    assert f"{name}.parquet" in caught.value.message
    assert not list((tmp_path / "root").rglob("manifest.json"))


def test_missing_and_damaged_tables(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no table of interactions") as caught:
        find_tables(tmp_path, {})
    assert "--interactions" in str(caught.value.hint)
    for name in ("interactions", "users", "items"):
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"users\.parquet cannot be read as Parquet"):
        import_tables(Workspace(tmp_path / "root"), "theirs", find_tables(tmp_path, {}))[1]()


def test_the_remedy_is_the_line_that_was_typed(tmp_path: Path, tables: dict, monkeypatch) -> None:
    typed = ["import", str(tmp_path / "in"), "--users", "my people.parquet", "--force"]
    monkeypatch.setattr("sys.argv", ["genrec", *typed])  # the data set came from GENREC_DATASET
    found = imported(tmp_path, tables)
    ws = Workspace(tmp_path / "root")
    with (found.path / "users.parquet").open("ab") as stream:
        stream.write(b"more")
    line = f"genrec import {tmp_path / 'in'} --users 'my people.parquet' --dataset theirs --force"
    with pytest.raises(InputError, match="changed after it was made") as caught:
        ws.find("theirs", "data")
    assert str(caught.value.hint).startswith(line + " ")
    (node,) = survey(ws, "theirs")
    assert node.state == "stale" and node.command == line

    shutil.rmtree(found.path)
    with pytest.raises(InputError, match="no finished data") as caught:
        ws.find("theirs", "data")
    assert "genrec import FOLDER --dataset theirs" in str(caught.value.hint)


def test_the_remedy_for_tables_that_a_script_imported_names_the_command(tmp_path: Path, tables: dict) -> None:
    found = imported(tmp_path, tables)
    (found.path / "items.parquet").unlink()
    with pytest.raises(InputError, match="is gone") as caught:
        Workspace(tmp_path / "root").find("theirs", "data")
    assert str(caught.value.hint).startswith("genrec import --dataset theirs --force ")


def test_command_line(tmp_path: Path, tables: dict, capsys) -> None:
    from genrec_cli.cli import main

    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main(["import", str(tmp_path), "--root", str(tmp_path / "root"), *words])
        return int(left.value.code or 0), capsys.readouterr().out.strip()

    code, path = run("--dataset", "theirs")
    assert code == 0 and Path(path, "users.parquet").is_file()
    assert run("--dataset", "theirs") == (0, path)
    assert run()[0] == 2 and run("--dataset", "theirs", "--set", "train.lr=1")[0] == 2
    assert issubclass(UsageError, GenrecError)


def test_tables_that_change_while_they_are_read_are_refused(tmp_path: Path, tables: dict) -> None:
    (tmp_path / "in").mkdir()
    for name, table in tables.items():
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet")
    plan, work = import_tables(Workspace(tmp_path / "root"), "theirs", find_tables(tmp_path / "in", {}))
    pq.write_table(tables["users"], tmp_path / "in" / "users.parquet")
    with pytest.raises(InputError, match=r"users.parquet changed while it was read"):
        work()
    assert Workspace(tmp_path / "root").done(plan) is None

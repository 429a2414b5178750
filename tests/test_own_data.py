"""Your own data from the command line: filters, titles, lists, offsets of times, cold items, no split, exports."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from shop import TINY, Answer, genrec
from test_layouts import movielens

from genrec_cli.data.schema import ITEMS, USERS, read_table


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A log of views and purchases with items, some of them never bought."""
    rng = np.random.default_rng(0)
    rows = [f"u{u},i{(u + 3 * t + rng.integers(3)) % 12},{100 * t + u},{'view' if t % 3 else 'buy'},{t % 5}"
            for u in range(30) for t in range(8)]  # fmt: skip
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,event,rating\n" + "\n".join(rows) + "\n")
    items = [f"i{i},Name {i},Ann,red|dark blue" for i in range(16)]
    (tmp_path / "items.csv").write_text("item_id,name,brand,categories\n" + "\n".join(items) + "\n")
    return tmp_path


def made(folder: Path, *words: str) -> Answer:
    files = ["--interactions", str(folder / "log.csv"), "--items", str(folder / "items.csv"), "--k-core", "0"]
    return genrec(folder / "out", "preprocess", "--dataset", "mine", *files, *words)


def items_of(answer: Answer) -> list[dict]:
    return read_table(answer.path / "items.parquet", ITEMS).to_pylist()


def test_filters_from_the_command_line(shop: Path) -> None:
    answer = made(shop, "--where", "rating >= 1", "--events", "view")
    kept = pl.read_csv(shop / "log.csv").filter(pl.col("rating") >= 1, pl.col("event") == "view").height
    assert answer.manifest["result"]["interactions"] == kept
    assert answer.manifest["result"]["interactions_left_out"] == 240 - kept
    assert made(shop, "--where", "rating >= 1", "--events", "buy").path != answer.path
    answer = made(shop, "--events", "buy,bougt,cart")
    assert "--events: no row has bougt, cart in the column 'event'. Its values: buy, view" in " ".join(
        answer.err.split()
    )
    assert "no row has" not in made(shop, "--events", "buy,view").err
    for words, said in [
        (["--where", "rating >"], "is not an SQL expression"),
        (["--where", "stars > 3"], "has no column 'stars'"),
        (["--events", "buy,"], "--events 'buy,' has an empty name"),
        (["--events", "bought"], "leave out all of 240 interactions. try: --events: no row has bought in the column"),
        (["--event-col", "kind", "--events", "buy"], "has no column 'kind'"),
    ]:
        answer = made(shop, *words)
        assert answer.code in (2, 3, 4) and said in " ".join(answer.err.split()) and "Traceback" not in answer.err


def test_titles_and_lists_of_values(shop: Path) -> None:
    plain = made(shop)
    assert "The items have no titles" in plain.err and "--title-col" in plain.err
    titled = made(shop, "--title-col", "name", "--list-separator", "|", "--fields", "title,categories")
    assert "have no titles" not in titled.err
    first = next(row for row in items_of(titled) if row["raw_id"] == "i0")
    assert (first["title"], first["text"]) == ("Name 0", "Name 0. red, dark blue.")
    names = pl.read_parquet(titled.path / "attributes.parquet")["name"].to_list()
    assert names == ["brand: Ann", "category: red", "category: dark blue"]
    assert "has no column 'label'" in made(shop, "--title-col", "label").err


def test_the_log_with_three_offsets_loses_no_row(tmp_path: Path) -> None:
    moments = [f"2024-03-{1 + n:02} 12:00:00" for n in range(9)]
    zones = {"+02:00": 10, "-0530": 17.5, "Z": 12}  # the hour of 12:00 in UTC
    rows = [f"u,i{n},{m.replace(' ', 'T')}{list(zones)[n % 3]}" for n, m in enumerate(moments)]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    answer = genrec(
        tmp_path / "out", "preprocess", "--dataset", "m", "--interactions", tmp_path / "log.csv", "--k-core", "0"
    )
    assert answer.manifest["result"]["interactions"] == 9 and answer.manifest["result"]["bad_rows"] == 0
    times = pl.read_parquet(answer.path / "interactions.parquet")["time"]
    hours = [time % 86_400 / 3_600 for time in times.to_list()]
    assert hours == [list(zones.values())[n % 3] for n in range(9)]


@pytest.mark.parametrize(
    "time, said",
    [
        ("2024-02-30", "a date or time that does not exist, given: '2024-02-30'"),
        ("2024-01-01T00:00:00+25:00", "a date or time that does not exist"),
        ("31/01/2024", "neither a number nor a date such as 2024-01-31 12:00:00+02:00, given: '31/01/2024'"),
        ("1e18", "a number that is no time between the years 1 and 9999"),
        ("", "line 2: no time"),
    ],
)
def test_a_time_that_cannot_be_read_gets_its_reason(tmp_path: Path, time: str, said: str) -> None:
    (tmp_path / "log.csv").write_text(f"user_id,item_id,timestamp\nu,i,{time}\n")
    answer = genrec(tmp_path / "out", "preprocess", "--dataset", "m", "--interactions", tmp_path / "log.csv")
    assert answer.code == 3 and said in " ".join(answer.err.split())


def test_cold_items_get_codes_and_are_recommended(shop: Path) -> None:
    root = shop / "out"
    data = made(shop, "--keep-cold-items", "--title-col", "name")
    items = items_of(data)
    assert [row["raw_id"] for row in items[12:]] == ["i12", "i13", "i14", "i15"]
    assert [row["train_count"] for row in items[12:]] == [0] * 4 and all(row["title"] for row in items)
    assert data.manifest["result"]["cold_items"] == 4 and data.path.name.startswith("k0-loo-cold-")
    assert genrec(root, "tokenize", "--encoder", "lsa", "--codebooks", "2", "--codewords", "4").code == 0
    assert genrec(root, "train", "--model", "rpg", "--epochs", "1", *TINY).code == 0
    answer = genrec(root, "recommend", "--run", "rpg-s0", "--k", "16", "--output", shop / "lists.csv")
    assert answer.code == 0, answer.err
    assert {"i12", "i15"} <= set(pl.read_csv(shop / "lists.csv").to_series(-1).cast(pl.String)) or "i12" in (
        shop / "lists.csv"
    ).read_text()


def test_items_for_which_a_count_model_has_no_count_are_named(shop: Path) -> None:
    made(shop, "--keep-cold-items", "--title-col", "name")
    assert genrec(shop / "out", "train", "--model", "popular").code == 0
    lists = ["recommend", "--keep-seen", "--output", shop / "lists.csv"]
    answer = genrec(shop / "out", *lists, "--k", "16")
    assert "120 of 480 items have the score 0: 'popular' has counted nothing for them" in " ".join(answer.err.split())
    assert pl.read_csv(shop / "lists.csv").filter(pl.col("score") == 0).height == 120
    assert "score 0" not in genrec(shop / "out", *lists, "--k", "12").err


def test_cold_items_need_metadata_and_include_those_below_the_core(shop: Path) -> None:
    words = ["preprocess", "--dataset", "m", "--interactions", str(shop / "log.csv"), "--keep-cold-items"]
    answer = genrec(shop / "out", *words)
    assert answer.code == 3 and "--items FILE" in answer.err
    with (shop / "log.csv").open("a") as stream:
        stream.write("u0,i13,9999,view,1\n")
    answer = made(shop, "--keep-cold-items", "--k-core", "3")
    row = next(row for row in items_of(answer) if row["raw_id"] == "i13")
    assert row["train_count"] == 0 and answer.manifest["result"]["items"] == 16


def test_all_interactions_train_without_a_split(shop: Path) -> None:
    root = shop / "out"
    data = made(shop, "--split", "none")
    users = read_table(data.path / "users.parquet", USERS).to_pylist()
    assert all(user["train_end"] == user["length"] and user["valid_at"] == user["test_at"] == -1 for user in users)
    assert sum(row["train_count"] for row in items_of(data)) == 240
    train = ["train", "--model", "sasrec", "--epochs", "2", *TINY]
    refused = genrec(root, *train)
    assert refused.code == 3 and "train.select=last" in refused.err
    assert not (root / "mine" / "runs").exists(), "no run that looks unfinished"
    answer = genrec(root, *train, "--set", "train.select=last")
    assert answer.code == 0, answer.err
    assert (answer.manifest["result"]["epochs"], answer.manifest["result"]["valid"]) == (2, {})
    refused = genrec(root, "evaluate")
    assert refused.code == 3 and "nothing can be measured" in refused.err
    assert genrec(root, "recommend", "--run", "sasrec-s0", "--k", "3", "--output", shop / "lists.csv").code == 0
    assert genrec(root, "train", "--model", "popular").code == 0


def test_a_masking_phase_that_only_validation_ends_is_refused(shop: Path) -> None:
    root = shop / "out"
    assert made(shop, "--split", "none", "--title-col", "name").code == 0
    assert genrec(root, "tokenize", "--encoder", "lsa", "--codebooks", "2", "--codewords", "4").code == 0
    train = ["train", "--model", "mhl", "--epochs", "2", "--curriculum", "r-inf", "--set", "train.select=last", *TINY]
    refused = genrec(root, *train)
    assert refused.code == 3 and "the phase 'random' never ends" in refused.err
    assert genrec(root, *train, "--set", "curriculum.max_epochs=1").code == 0


def test_movielens_from_raw_files_to_titled_lists_in_four_commands(tmp_path: Path) -> None:
    raw, root = movielens(tmp_path / "ml-100k", "100k"), tmp_path / "out"
    rng = np.random.default_rng(1)
    rows = [f"{u}\t{10 if t % 2 else 20}\t{rng.integers(3, 6)}\t{881250949 + t}\n" for u in range(20) for t in range(6)]
    (raw / "u.data").write_text("".join(rows))
    lists = tmp_path / "lists.csv"
    for words in (
        ["preprocess", "--dataset", "ml-100k", "--source", "movielens", "--from-dir", raw, "--where", "rating >= 3"],
        ["train", "--model", "sasrec", "--epochs", "1", *TINY],
        ["evaluate"],
        ["recommend", "--k", "2", "--keep-seen", "--output", lists],
    ):
        answer = genrec(root, *words)
        assert answer.code == 0, answer.err
    assert "Misérables, Les (1995)" in lists.read_text()
    before = genrec(
        root, "preprocess", "--dataset", "ml-100k", "--source", "movielens", "--from-dir", raw, "--where", "rating >= 3"
    )
    assert "up to date" in before.err
    (raw / "u.user").write_text("another file of the folder")
    again = genrec(
        root, "preprocess", "--dataset", "ml-100k", "--source", "movielens", "--from-dir", raw, "--where", "rating >= 3"
    )
    assert again.path == before.path


def test_a_folder_needs_its_source(tmp_path: Path) -> None:
    for words, said in [
        (["--from-dir", tmp_path], "belong together"),
        (["--source", "movielens"], "belong together"),
        (["--source", "movielens", "--from-dir", tmp_path], "holds no file of the source 'movielens'"),
        (["--source", "movielens", "--from-dir", tmp_path / "no"], "There is no folder"),
        (["--source", "movilens", "--from-dir", tmp_path], "Did you mean 'movielens'"),
        (["--source", "recbole", "--from-dir", tmp_path, "--raw", "x"], "exclude each other"),
        (["--source", "movielens", "--from-dir", tmp_path, "--user-col", "u"], "source.user_col"),
    ]:
        answer = genrec(tmp_path / "out", "preprocess", "--dataset", "m", *words)
        assert answer.code in (2, 3, 4) and said in " ".join(answer.err.split()), (words, answer.err)


def test_atomic_files_out_and_in_again(shop: Path) -> None:
    data = made(shop, "--title-col", "name", "--list-separator", "|")
    answer = genrec(shop / "out", "export-data", "--format", "recbole", "--to", shop / "atomic")
    assert answer.code == 0 and answer.out.split() == [str(shop / "atomic" / f"mine.{e}") for e in ("inter", "item")]
    assert "exists already" in genrec(shop / "out", "export-data", "--to", shop / "atomic").err
    assert genrec(shop / "out", "export-data", "--to", shop / "atomic", "--force").code == 0
    assert "no format 'csv'" in genrec(shop / "out", "export-data", "--to", shop / "x", "--format", "csv").err
    words = ["preprocess", "--dataset", "back", "--source", "recbole", "--from-dir", shop / "atomic", "--k-core", "0"]
    back = genrec(shop / "out", *words)

    def named(path: Path) -> list[tuple]:
        users, items = (pl.read_parquet(path / f"{n}.parquet")["raw_id"] for n in ("users", "items"))
        rows = pl.read_parquet(path / "interactions.parquet")
        return sorted(zip(users.gather(rows["user"] - 1), items.gather(rows["item"] - 1), rows["time"], strict=True))

    assert named(back.path) == named(data.path)
    titles = {
        path: {r["raw_id"]: r["title"] for r in pl.read_parquet(path / "items.parquet").to_dicts()}
        for path in (back.path, data.path)
    }
    assert titles[back.path] == titles[data.path]


def test_atomic_files_to_titled_lists_in_four_commands(tmp_path: Path) -> None:
    rng, atomic = np.random.default_rng(2), tmp_path / "films"
    atomic.mkdir()
    rows = [f"{u}\t{1 + (u + t) % 9}\t{rng.integers(3, 6)}\t{881250949 + t}" for u in range(20) for t in range(6)]
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (atomic / "films.inter").write_text("\n".join([head, *rows]) + "\n")
    films = [f"{i}\tFilm {i}\t{1990 + i}\tDrama Comedy" for i in range(1, 10)]
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (atomic / "films.item").write_text("\n".join([head, *films]) + "\n")
    lists = tmp_path / "lists.csv"
    for words in (
        ["preprocess", "--dataset", "films", "--source", "recbole", "--from-dir", atomic, "--where", "rating >= 3"],
        ["train", "--model", "sasrec", "--epochs", "1", *TINY],
        ["evaluate"],
        ["recommend", "--k", "2", "--output", lists],
    ):
        answer = genrec(tmp_path / "out", *words)
        assert answer.code == 0, answer.err
    found = pl.read_csv(lists)
    assert found.height == 40 and set(found["title"]) <= {f"Film {i}" for i in range(1, 10)}


def test_the_list_of_data_sets_shows_what_can_be_downloaded(shop: Path) -> None:
    assert made(shop).code == 0
    answer = genrec(shop / "out", "list", "datasets", "--json")
    rows = {row["name"]: row for row in json.loads(answer.out)["entries"]}
    assert next(iter(rows)) == "mine" and rows["mine"]["artifacts"] == 1 and rows["mine"]["source"] is None
    assert rows["ml-100k"] | {"terms": ""} == {
        "name": "ml-100k", "source": "movielens", "MiB": 5, "terms": "", "artifacts": 0
    }  # fmt: skip
    assert "research" in rows["ml-100k"]["terms"] and "amazon-2023-all-beauty" in rows
    assert "ml-32m" in genrec(shop / "out", "list", "datasets").out

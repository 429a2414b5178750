"""Published layouts, written here by hand: MovieLens, RecBole's atomic files, Amazon 2018 and 2023."""

import gzip
import json
import zipfile
from pathlib import Path

import polars as pl
import pytest
from conftest import whole

from genrec_cli.errors import DataError
from genrec_cli.sources.amazon import Amazon2018, Amazon2023
from genrec_cli.sources.base import BadRows, Source, Tables
from genrec_cli.sources.movielens import GENRES, MovieLens
from genrec_cli.sources.recbole import RecBole, typed
from genrec_cli.sources.row_filter import RowFilter

RATINGS = [("1", "10", "5", 978300760), ("1", "20", "3", 978302109), ("2", "10", "4", 978301968)]
LOG = [(user, item, time) for user, item, _, time in RATINGS]
FILMS = {"10": ("Misérables, Les (1995)", ["Drama", "Musical"]), "20": ("Toy Story (1995)", [])}
"""Title and genres by id; the second film has no genre."""


def movielens(folder: Path, size: str) -> Path:
    """The files of a size, with the separators and encodings of the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    if size == "100k":
        (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
        lines = []
        for item, (title, genres) in FILMS.items():
            flags = [str(int(name in genres or (name == "unknown" and not genres))) for name in GENRES]
            lines.append("|".join([item, title, "01-Jan-1995", "", "http://x", *flags]) + "\n")
        (folder / "u.item").write_bytes("".join(lines).encode("latin-1"))
        (folder / "u.user").write_text("1|24|M|technician|85711\n")
    elif size == "1m":
        (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in RATINGS))
        lines = [f"{item}::{title}::{'|'.join(genres)}\n" for item, (title, genres) in FILMS.items()]
        (folder / "movies.dat").write_bytes("".join(lines).encode("latin-1"))
    else:
        rows = "".join(",".join(map(str, row)) + "\n" for row in RATINGS)
        (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\r\n" + rows)
        films = [f'{i},"{t}",{"|".join(g) or "(no genres listed)"}\n' for i, (t, g) in FILMS.items()]
        (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(films))
    return folder


def rows_of(tables: Tables) -> list[tuple]:
    return whole(tables.interactions).select("user", "item", "time").rows()


def refused(source: Source, folder: Path, said: str) -> DataError:
    with pytest.raises(DataError, match=said) as caught:
        tables = source.read(folder, BadRows())
        whole(tables.interactions)
    return caught.value


# ---- MovieLens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["100k", "1m", "20m"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_size_of_movielens_gives_the_same_tables(tmp_path: Path, size: str, packed: bool) -> None:
    folder = movielens(tmp_path / f"ml-{size}", size)
    source, bad = MovieLens(MovieLens.Config()), BadRows()
    names = {path.name for path in source.paths(folder)}
    assert len(names) == 2 and "u.user" not in names
    if packed:
        with zipfile.ZipFile(tmp_path / f"ml-{size}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in folder.iterdir():
                archive.write(path, f"ml-{size}/{path.name}")
        folder = tmp_path
    tables = source.read(folder, bad)
    assert rows_of(tables) == LOG and bad.count == 0
    items = tables.items.collect()
    assert items.select("raw_id", "title").rows() == [(item, title) for item, (title, _) in FILMS.items()]
    assert items["attributes"].to_list() == [["category: Drama", "category: Musical"], []]
    assert items["categories"].to_list() == ["Drama, Musical", None]
    rows = RowFilter("rating >= 4")
    assert rows_of(source.read(folder, BadRows(), rows)) == [LOG[0], LOG[2]] and rows.left_out == 1


def test_movielens_without_films_or_ratings(tmp_path: Path) -> None:
    folder = movielens(tmp_path / "ml", "1m")
    (folder / "movies.dat").unlink()
    assert MovieLens(MovieLens.Config()).read(folder, BadRows()).items is None
    (folder / "ratings.dat").unlink()
    assert "u.data" in str(refused(MovieLens(MovieLens.Config()), folder, "holds no ratings").hint)
    (folder / "ml-1m.zip").write_bytes(b"PK no zip file")
    refused(MovieLens(MovieLens.Config()), folder, "cannot be read")


def test_bad_lines_of_movielens_are_counted(tmp_path: Path) -> None:
    folder, bad = movielens(tmp_path / "ml", "1m"), BadRows(skip=True)
    with (folder / "ratings.dat").open("a") as stream:
        stream.write("3::10::5\n\n4::10::5::soon\n")
    (folder / "movies.dat").write_bytes(b"10::One::Drama\nbroken\n")
    tables = MovieLens(MovieLens.Config()).read(folder, bad)
    assert rows_of(tables) == LOG and tables.items.collect().height == 1
    assert bad.count == 3 and bad.by_reason["fewer than three cells"] == 1


# ---- RecBole ------------------------------------------------------------------------------------

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\tmovie_title:token_seq\tclass:token_seq\tyear:float\n"


def atomic(folder: Path, inter: str | bytes, item: str | bytes | None = None) -> Path:
    for ending, content in (("inter", inter), ("item", item)):
        if content is not None:
            data = content if isinstance(content, bytes) else content.encode()
            (folder / f"ml-100k.{ending}").write_bytes(data)
    return folder


def test_atomic_files_with_typed_headers(tmp_path: Path) -> None:
    log = "1\t10\t5\t978300760.0\n1\t20\t3\t978302109\n2\t10\t4.0\t9.78301968e8\n"
    folder = atomic(tmp_path, INTER + log, ITEM + "10\tToy Story\tAnimation Comedy\t1995\n20\tHeat\t\t\n")
    (tmp_path / "ml-100k.user").write_text("user_id:token\tage:float\n1\t24\n")
    source, bad = RecBole(RecBole.Config()), BadRows()
    assert [path.name for path in source.paths(folder)] == ["ml-100k.inter", "ml-100k.item"]
    tables = source.read(folder, bad)
    assert rows_of(tables) == LOG and bad.count == 0
    items = tables.items.collect()
    assert items.select("raw_id", "title", "class", "year").rows() == [
        ("10", "Toy Story", "Animation, Comedy", "1995"),
        ("20", "Heat", None, None),
    ]
    assert rows_of(source.read(folder, BadRows(), RowFilter("rating < 4"))) == [LOG[1]]
    other = RecBole(RecBole.Config(title_col="class")).read(folder, BadRows()).items.collect()
    assert other["title"].to_list() == ["Animation Comedy", None]


@pytest.mark.parametrize(
    "inter, said, hint",
    [
        ("", "is empty", "user_id:token"),
        ("user_id:token\titem_id\n1\t2\n", "the column 'item_id' has no type", "NAME:TYPE"),
        ("user_id:token,item_id:token\n1,2\n", "no column 'user_id'. Its columns: user_id:token,item_id", "--user-col"),
        ("user_id:token\titem_id:word\n1\t2\n", "'item_id:word' has no type", "token_seq"),
        ("user_id:token\tuser_id:token\n1\t2\n", "two columns 'user_id'", "once"),
        ("user_id:token\tsku:token\n1\t2\n", "no column 'item_id'. Its columns: user_id, sku", "--item-col"),
        (INTER.encode("utf-16"), "header cannot be read", "UTF-8"),
    ],
)
def test_a_header_of_atomic_files_that_is_wrong(tmp_path: Path, inter: str | bytes, said: str, hint: str) -> None:
    assert hint in str(refused(RecBole(RecBole.Config()), atomic(tmp_path, inter), said).hint)


def test_two_logs_and_no_log_of_recbole(tmp_path: Path) -> None:
    assert "NAME.inter" in str(refused(RecBole(RecBole.Config()), tmp_path, "no file of interactions").hint)
    atomic(tmp_path, INTER)
    (tmp_path / "b.inter").write_text(INTER)
    refused(RecBole(RecBole.Config()), tmp_path, r"2 files \*.inter: b.inter, ml-100k.inter")


def test_what_is_written_as_atomic_files_is_read_again(tmp_path: Path) -> None:
    log = pl.DataFrame({"user_id": ["u 1", "ü"], "item_id": ['a"b', "b"], "timestamp": [3, 4]})
    typed(log, {"user_id": "token", "item_id": "token", "timestamp": "float"}, tmp_path / "x.inter")
    items = pl.DataFrame({"item_id": ["b"], "title": ["Two\twords"], "category": [["Sci Fi", "War"]]})
    typed(items, {"item_id": "token", "title": "token_seq", "category": "token_seq"}, tmp_path / "x.item")
    assert (tmp_path / "x.item").read_text().splitlines() == [
        "item_id:token\ttitle:token_seq\tcategory:token_seq",
        "b\tTwo words\tSci_Fi War",
    ]
    tables = RecBole(RecBole.Config()).read(tmp_path, BadRows())
    assert rows_of(tables) == [("u 1", "a b", 3), ("ü", "b", 4)]
    assert tables.items.collect()["attributes"].to_list() == [["category: Sci_Fi", "category: War"]]


# ---- Amazon -------------------------------------------------------------------------------------


def lines(path: Path, *records: dict) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))


def test_amazon_2018(tmp_path: Path) -> None:
    review = {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "verified": True, "unixReviewTime": 1514764800}
    lines(tmp_path / "All_Beauty_5.json.gz", review, review | {"asin": "B2", "overall": 2.0})
    meta = {"asin": "B1", "title": "Cream", "category": ["Beauty", "Skin"], "brand": "Ann", "feature": ["soft"]}
    lines(
        tmp_path / "meta_All_Beauty.json.gz",
        meta | {"price": "$3.00", "also_buy": ["B2"]},
        {"asin": "B2", "category": []},
    )
    source = Amazon2018(Amazon2018.Config(category="All_Beauty"))
    assert [path.name for path in source.paths(tmp_path)] == ["All_Beauty_5.json.gz", "meta_All_Beauty.json.gz"]
    assert [file.name for file in source.files()] == ["All_Beauty_5.json.gz", "meta_All_Beauty.json.gz"]
    tables = source.read(tmp_path, BadRows(), RowFilter("overall > 3 AND verified"))
    assert rows_of(tables) == [("A1", "B1", 1514764800)]
    items = tables.items.collect()
    assert items.select("title", "brand", "feature", "categories").row(0) == ("Cream", "Ann", "soft", "Beauty, Skin")
    assert items["attributes"].to_list() == [["brand: Ann", "category: Beauty", "category: Skin"], []]


def test_amazon_2023(tmp_path: Path) -> None:
    review = {"rating": 5.0, "asin": "B0", "parent_asin": "B1", "user_id": "AE", "timestamp": 1588687728923}
    lines(tmp_path / "All_Beauty.jsonl.gz", review)
    meta = {"main_category": "All Beauty", "title": "Cream", "price": 3.5, "store": "Ann's", "parent_asin": "B1"}
    more = {"features": ["soft"], "description": [], "categories": [], "details": {"Brand": "Ann"}}
    second = {"parent_asin": "B2", "title": "Two", "store": "S", "details": {}, "categories": ["X", "Y"], "price": None}
    lines(tmp_path / "meta_All_Beauty.jsonl.gz", meta | more, second)
    source = Amazon2023(Amazon2023.Config(category="All_Beauty"))
    assert len(source.paths(tmp_path)) == 2
    tables = source.read(tmp_path, BadRows())
    assert whole(tables.interactions)["user", "item"].rows() == [("AE", "B1")]
    items = tables.items.collect()
    assert items.select("title", "price", "brand", "feature", "categories", "description").rows() == [
        ("Cream", "3.5", "Ann", "soft", "All Beauty", None),
        ("Two", None, "S", None, "X, Y", None),
    ]


def test_amazon_without_reviews_or_with_two(tmp_path: Path) -> None:
    source = Amazon2023(Amazon2023.Config(category="All_Beauty"))
    refused(source, tmp_path, "holds no")
    for name in ("A.jsonl", "B.jsonl.gz"):
        lines(tmp_path / name)
    refused(source, tmp_path, "2 files")

"""A shop under cron: a log of seven days and a training, then new days with new items, lists, and what can be removed.

The recipes are those of docs/examples. Vectors of a file, by raw id, take the place of a sentence encoder.
"""

import shutil
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from shop import TINY, Answer, genrec

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
SMALL = ["--set", "encoder.name=vectors", "--set", "encoder.path=vectors.parquet"]
SMALL_CODES = ["--set", "tokenizer.codebooks=4", "--set", "tokenizer.codewords=8"]
DAY = 86_400


def write_day(day: int) -> None:
    """The log of the days 1 to ``day``, the items that were launched up to then, and their vectors."""
    rng = np.random.default_rng(0)
    rows = []
    for d in range(1, day + 1):
        items = 20 if d <= 7 else 20 + 3 * (d - 7) - 1  # every new day three new items, of which one is not bought yet
        users = 40 if d <= 7 else 45
        for user in range(users):
            item = items - 1 - user % 2 if d > 7 and user < 6 else (user + 3 * d + rng.integers(3)) % 20
            when = "+02:00" if user % 2 else "Z"
            rows.append(f"u{user},i{item},2026-03-{d:02}T{user % 20:02}:00:00{when}\n")
    Path("log.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    count = 20 if day <= 7 else 20 + 3 * (day - 7)
    lines = [f"i{item},Item {item},Brand {item % 3}\n" for item in range(count)]
    Path("items.csv").write_text("item_id,title,brand\n" + "".join(lines))
    raw = [f"i{item}" for item in range(count)]
    vectors = [np.random.default_rng(zlib.crc32(name.encode())).normal(size=16).astype("float32") for name in raw]
    pl.DataFrame({"raw_id": raw, "vector": vectors}).write_parquet("vectors.parquet")


def weekly(*words: str) -> Answer:
    tiny = [*TINY, "--set", "train.epochs=2"]
    return genrec(Path("artifacts"), "run", "shop-weekly.toml", *SMALL, *SMALL_CODES, *tiny, *words)


def daily() -> Answer:
    return genrec(Path("artifacts"), "run", "shop-daily.toml", *SMALL)


def names() -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in Path("artifacts/shop").glob("*/[!.]*")}


def gc(*words: str) -> Answer:
    return genrec(Path("artifacts"), "gc", "--dataset", "shop", "--yes", *words)


def lists() -> pl.DataFrame:
    return pl.read_csv("lists.csv")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the shop after the first weekly training."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("shop-weekly.toml", "shop-daily.toml"):
            shutil.copy(EXAMPLES / name, folder)
        write_day(7)
        answer = weekly()
        assert answer.code == 0, answer.err
    return folder


def test_a_week_of_cron(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    week = names()
    assert {name.partition("/")[0] for name in week} == {"data", "vectors", "codes", "runs", "eval"}
    again = weekly()
    assert again.code == 0 and names() == week, "nothing is made twice"

    answer = daily()
    assert answer.code == 0, answer.err
    assert set(lists()["user"]) == {f"u{user}" for user in range(40)} and lists().height == 400

    write_day(8)  # three new items, two of them bought; five new users
    answer = daily()
    assert answer.code == 0, answer.err
    found = lists()
    assert set(found["user"]) == {f"u{user}" for user in range(45)}
    assert {"i20", "i21", "i22"} & set(found["item"]), "lists hold items that are newer than the run"
    assert "Item 22" in set(pl.read_parquet(newest("data") / "items.parquet")["title"])

    assert "nothing to remove" in gc().err, "old artifacts are fresh: nothing is removed unasked"
    answer = gc("--superseded")
    assert answer.code == 0 and week <= names(), "the run of the week is in use, with all that it was made from"
    assert len(names()) == len(week) + 3, "and the data, vectors and codes of day 8"

    write_day(9)
    assert daily().code == 0
    assert gc("--superseded").code == 0 and week <= names() and len(names()) == len(week) + 3

    answer = weekly()  # the next training
    assert answer.code == 0, answer.err
    ambiguous = daily()
    assert ambiguous.code == 4 and "2 runs of 'shop' match" in ambiguous.err
    assert gc("--superseded").code == 0
    kept = {name.partition("/")[0] for name in week & names()}
    assert kept == {"data", "vectors", "codes"}, "codes of day 9 were made by the old codebook"
    write_day(10)
    assert daily().code == 0 and gc("--superseded").code == 0
    assert not week & names() and len(names()) == 8, "the new training and the new day are all that is left"
    assert "stale" not in genrec(Path("artifacts"), "status").out


def newest(kind: str) -> Path:
    return max(Path(f"artifacts/shop/{kind}").glob("[!.]*"), key=lambda path: path.stat().st_mtime)

"""Histories on disk and training rows without a list of them, against the lists; work and memory are counted."""

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_histories
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_cli.data import sequences
from genrec_cli.data.histories import FOLDER, ITEM, ITEMS_FILE, TIMES_FILE, USER, write_interactions
from genrec_cli.data.sequences import Histories, Rows, drawn
from genrec_cli.data.shuffle import SMALL, Order
from genrec_cli.errors import DataError

# ---- rows --------------------------------------------------------------------------------------


def listed(histories: Histories, max_length: int, windows: str, stride: int = 1) -> list[tuple[int, int, int, int]]:
    """Slow twin: user, start, length and first learned position of every row, in a list."""
    first, later = [], []
    for user, (offset, end) in enumerate(zip(histories.offset, histories.train_end, strict=True)):
        pairs = int(end) - 1
        if pairs < 1:
            continue
        if windows == "each":
            kept = [(n, min(n, max_length)) for n in range(1, pairs + 1)]
            first += [(user, int(offset) + n - length, length, length - 1) for n, length in kept]
            continue
        skipped = max(pairs - max_length, 0)
        start = int(offset) + (skipped if windows == "recent" else 0)
        first.append((user, start, pairs - skipped, 0))
        if windows == "sliding":
            stride = min(stride, max_length)
            ends = [min(n + stride, skipped) for n in range(0, skipped, stride)]
            pairs_of = zip([0, *ends], ends, strict=False)
            later += [(user, int(offset) + end, max_length, max_length - (end - before)) for before, end in pairs_of]
    return first + later


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 14), min_size=1, max_size=200),
    st.integers(1, 6),
    st.sampled_from(["sliding", "recent", "each"]),
    st.integers(1, 7),
)
def test_rows_are_those_of_the_list(lengths: list[int], max_length: int, windows: str, stride: int) -> None:
    histories = make_histories([max(length, 3) for length in lengths], 9)
    histories.train_end[:] = np.minimum(np.array(lengths) - 1, histories.length)
    rows = Rows.of(histories, max_length=max_length, windows=windows, stride=stride)
    expected = listed(histories, max_length, windows, stride)
    assert len(rows) == len(expected)
    if expected:
        number = np.random.default_rng(0).permutation(len(rows))
        found = np.stack(list(vars(rows.spans(histories, number)).values()), 1)
        assert found.tolist() == [list(expected[n]) for n in number]
    if windows != "recent":
        learned = sum(length - learn_from for _, _, length, learn_from in expected)
        assert learned == sum(max(int(end) - 1, 0) for end in histories.train_end), "every target is learned once"


def test_rows_of_users_over_several_chunks(monkeypatch) -> None:
    monkeypatch.setattr(sequences, "CHUNK", 128)
    histories = make_histories(np.random.default_rng(0).integers(3, 20, 1_000).tolist(), 9)
    rows = Rows.of(histories, max_length=4, windows="sliding")
    found = np.stack(list(vars(rows.spans(histories, np.arange(len(rows)))).values()), 1)
    assert [tuple(row) for row in found.tolist()] == listed(histories, 4, "sliding")


# ---- order -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3_000), st.integers(0, 5))
def test_an_order_without_a_list_has_every_row_once(count: int, seed: int) -> None:
    order = Order(count, [seed, 3], small=0)
    whole = order[0:count]
    assert np.array_equal(np.sort(whole), np.arange(count))
    parts = np.concatenate([order[at : at + 64] for at in range(0, count, 64)])
    assert np.array_equal(parts, whole)


def test_an_order_looks_random_and_depends_on_its_seeds() -> None:
    count = 50_000
    one, two = (Order(count, [7, epoch], small=0)[0:count] for epoch in (0, 1))
    assert (one == two).mean() < 0.001
    for order in (one, two):
        assert abs(np.corrcoef(order, np.arange(count))[0, 1]) < 0.02
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
        low_half = (order.reshape(50, -1) < count / 2).mean(1)  # each stretch of a thousand holds all parts
        assert low_half.std() < 0.03


def test_small_data_keep_the_order_of_before() -> None:
    assert np.array_equal(Order(1_000, [3, 4])[0:1_000], np.random.default_rng([3, 4]).permutation(1_000))
    assert Order(SMALL + 1, 0).listed is None


def test_a_sample_of_users_is_that_of_a_permutation(monkeypatch) -> None:
    monkeypatch.setattr(sequences, "CHUNK", 64)
    value = np.random.default_rng(0).integers(-1, 3, 1_000)
    fit = np.flatnonzero(value >= 1)
    assert np.array_equal(drawn(value, 1, 20, 5), fit[np.random.default_rng(5).permutation(len(fit))[:20]])
    assert np.array_equal(drawn(value, 1, 10_000, 5), fit)
    assert len(drawn(np.zeros(9), 1, 4, 0)) == 0


# ---- on disk -----------------------------------------------------------------------------------


def on_disk(folder: Path, users: int, length: int, *, times: bool = True) -> Path:
    """A data artifact's histories of equal length, written block by block."""
    user_U = np.zeros(users, USER)
    user_U["length"], user_U["offset"] = length, np.arange(users) * length
    user_U["train_end"], user_U["valid_at"], user_U["test_at"] = length - 2, length - 2, length - 1

    def blocks():
        for at in range(0, users, 5_000):
            user = np.repeat(np.arange(at, min(at + 5_000, users)) + 1, length)
            item = user * 7 % 50 + 1
            time = 1_400_000_000 + np.arange(len(user)) + at * length
            yield pa.record_batch({"user": user, "item": item, "time": time})

    counts = write_interactions(folder, blocks(), user_U, 50, times=times)
    assert counts.sum() == users * (length - 2)
    return folder


def mapped(array: np.ndarray) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def test_training_holds_nothing_that_grows_with_users(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sequences, "Order", partial(Order, small=0))
    monkeypatch.setattr(sequences, "CHUNK", 4_096)  # what is looked at together is bounded

    def peak(users: int) -> int:
        (folder := tmp_path / str(users)).mkdir()
        on_disk(folder, users, 12)
        tracemalloc.start()
        histories = Histories.read(folder, times=True)
        assert all(mapped(array) for name, array in vars(histories).items() if name != "unknown_users")
        rows = Rows.of(histories, max_length=5, windows="sliding")
        order = Order(len(rows), [0, 0], small=0)
        for at in range(0, 640, 64):
            batch = rows.batch(histories, order[at : at + 64])
        user, at = histories.targets("valid", sample=32)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(rows) == users * 5 and len(batch.user_B) == 64 and len(user) == len(at) == 32
        return found

    small, large = peak(20_000), peak(200_000)
    # per user: an index of 16 bytes for 64 of them, made with a sum of its own; a list of rows would take 120
    assert large - small < 180_000


def test_times_lie_beside_the_items(tmp_path: Path) -> None:
    on_disk(tmp_path, 30, 6)
    histories = Histories.read(tmp_path, times=True)
    assert histories.time.dtype == np.int64 and mapped(histories.time)
    assert histories.time.tolist() == pq.read_table(tmp_path / "interactions.parquet")["time"].to_pylist()
    assert histories.time[:3].tolist() == [1_400_000_000, 1_400_000_001, 1_400_000_002]


def test_data_without_times_have_no_file_of_them(tmp_path: Path) -> None:
    on_disk(tmp_path, 30, 6, times=False)
    assert not (tmp_path / FOLDER / TIMES_FILE).exists() and Histories.read(tmp_path, times=True).time is None


def test_times_of_other_items_are_an_error(tmp_path: Path) -> None:
    on_disk(tmp_path, 30, 6)
    np.save(tmp_path / FOLDER / TIMES_FILE, np.arange(7))
    with pytest.raises(DataError, match="7 times of 180 items"):
        Histories.read(tmp_path)
    np.save(tmp_path / FOLDER / TIMES_FILE, np.arange(180.0))
    with pytest.raises(DataError, match="float64"):
        Histories.read(tmp_path)
    (tmp_path / FOLDER / ITEMS_FILE).unlink()
    with pytest.raises(DataError, match="No such file"):
        Histories.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"nothing of the kind"])
def test_damaged_histories_are_an_error(tmp_path: Path, content: bytes) -> None:
    on_disk(tmp_path, 30, 6)
    (tmp_path / FOLDER / ITEMS_FILE).write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        Histories.read(tmp_path)
    np.save(tmp_path / FOLDER / ITEMS_FILE, np.zeros(5))
    with pytest.raises(DataError, match="does not hold histories"):
        Histories.read(tmp_path)
    assert ITEM.itemsize == 4

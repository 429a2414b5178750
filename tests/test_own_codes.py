"""Semantic IDs made elsewhere: every check of the file, what is written, and all that works on such codes."""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shop import TINY, genrec, small_codes

from genrec_cli.artifacts import Workspace
from genrec_cli.data.codes_table import MAX_CODEWORDS, NO_CODE, CodesTable
from genrec_cli.data.schema import ITEMS, read_table
from genrec_cli.encoders.item_rows import ItemRows
from genrec_cli.errors import DataError

K, V = 3, 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_codes(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def ids(root: Path) -> list[str]:
    data = Workspace(root).find("synthetic", "data")
    return read_table(data.path / "items.parquet", ITEMS, ["raw_id"])["raw_id"].to_pylist()


def some_codes(items: int, *, digits: int = K, codewords: int = V) -> np.ndarray:
    code_IK = np.random.default_rng(0).integers(codewords, size=(items, digits))
    code_IK[0] = codewords - 1
    return code_IK


def parquet(path: Path, ids: list[Any], codes: Any, name: str = "raw_id", kind: pa.DataType | None = None) -> Path:
    column = codes if isinstance(codes, pa.Array) else pa.array(list(map(list, codes)), kind)
    pq.write_table(pa.table({name: ids, "codes": column}), path)
    return path


def stored(path: Path) -> np.ndarray:
    return CodesTable.read(path).codes_IK


# ---- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("codewords", [2, 256, 32768, 32769, MAX_CODEWORDS])
@pytest.mark.parametrize("shared", [False, True])
def test_a_table_says_what_it_holds(tmp_path: Path, codewords: int, shared: bool) -> None:
    codes_IK = some_codes(40, codewords=codewords)
    if shared:
        codes_IK[3:9, 1:] = NO_CODE
    CodesTable(codes_IK, codewords, shared).write(tmp_path)
    table = CodesTable.read(tmp_path)
    assert np.array_equal(table.codes_IK, codes_IK)
    assert (table.codewords, table.shared) == (codewords, shared)
    assert table.codes_IK.dtype == (np.int16 if codewords <= 32768 else np.int32)


def test_another_table_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "codes.parquet"
    codes = pa.FixedSizeListArray.from_arrays(pa.array([0, 9], pa.uint16()), 2)
    table = pa.table({"item": pa.array([1], pa.uint32()), "codes": codes})
    for metadata, message in (
        ({}, "codewords"),
        ({"codewords": "x", "shared": "0"}, "invalid literal"),
        ({"codewords": "9", "shared": "0"}, "the code 9, but V is 9"),
    ):
        pq.write_table(table.replace_schema_metadata(metadata), file)
        with pytest.raises(DataError, match=message):
            CodesTable.read(tmp_path)
    pq.write_table(pa.table({"codes": [[1, 2]]}), file)
    with pytest.raises(DataError, match="not a table of codes"):
        CodesTable.read(tmp_path)
    file.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a table of codes"):
        CodesTable.read(tmp_path)


# ---- what is made --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["raw_id", "item", "item_id", "asin"])
@pytest.mark.parametrize("kind", [pa.list_(pa.uint16()), pa.large_list(pa.int64()), pa.list_(pa.int32(), K)])
def test_parquet_of_any_order_and_list_type(root: Path, ids: list[str], tmp_path: Path, name: str, kind: Any) -> None:
    code_IK, order = some_codes(len(ids)), np.random.default_rng(1).permutation(len(ids))
    file = parquet(tmp_path / "c.parquet", [ids[row] for row in order], code_IK[order], name, kind)
    named = ["--set", "tokenizer.id_column=asin"] if name == "asin" else []
    answer = genrec(root, "tokenize", "--codes", file, *named)
    assert answer.path.name.startswith(f"file{K}x{V}-") and np.array_equal(stored(answer.path), code_IK)
    assert answer.manifest["inputs"].keys() == {"data"} and "encoder" not in answer.manifest["config"]
    quality = json.loads((answer.path / "quality.json").read_text())
    assert quality["codebooks"] == K and quality["codewords"] == V and len(quality["digits"]) == K
    assert quality["mutual_information"] > 0 and "neighbours_kept_by_digits" not in quality


def test_npy_is_in_the_order_of_the_items_and_the_key_is_of_the_content(
    root: Path, ids: list[str], tmp_path: Path
) -> None:
    code_IK = some_codes(len(ids))
    made = []
    for name, codes in (("a", code_IK), ("b", code_IK), ("c", (code_IK + 1) % V)):
        np.save(tmp_path / f"{name}.npy", codes)
        made.append(genrec(root, "tokenize", "--codes", tmp_path / f"{name}.npy").path)
        assert np.array_equal(stored(made[-1]), codes)
    assert made[0] == made[1] != made[2]
    wider = genrec(root, "tokenize", "--codes", tmp_path / "a.npy", "--codewords", "200").path
    assert CodesTable.read(wider).codewords == 200 and wider.name.startswith(f"file{K}x200-")


def test_quality_is_measured_against_vectors_where_they_are_given(root: Path, ids: list[str], tmp_path: Path) -> None:
    ws = Workspace(root)
    ours = ws.find("synthetic", "codes", "opq4x16-lsa")
    file = parquet(tmp_path / "c.parquet", ids, stored(ours.path))
    answer = genrec(root, "tokenize", "--codes", file, "--encoder", "lsa")
    assert answer.path.name.startswith("file4x16-lsa-") and answer.manifest["inputs"].keys() == {"data", "vectors"}
    theirs, expected = (json.loads((path / "quality.json").read_text()) for path in (answer.path, ours.path))
    assert theirs["reconstruction_error"] is None and theirs["neighbours_kept_by_decoded"] is None
    same = [name for name in expected if name not in ("reconstruction_error", "neighbours_kept_by_decoded")]
    assert {name: theirs[name] for name in same} == {name: expected[name] for name in same}


def test_items_of_no_concern_are_counted_and_left_out(root: Path, ids: list[str], tmp_path: Path) -> None:
    code_IK = some_codes(len(ids) + 2)
    file = parquet(tmp_path / "c.parquet", ["stranger", *ids, "other"], code_IK)
    answer = genrec(root, "tokenize", "--codes", file)
    assert "2 rows belong to no item" in answer.err and np.array_equal(stored(answer.path), code_IK[1:-1])


# ---- what is refused -----------------------------------------------------------------------------


def changed(code_IK: np.ndarray, value: int) -> np.ndarray:
    code_IK = code_IK.copy()
    code_IK[5, 1] = value
    return code_IK


BAD = {
    "missing": (lambda ids, codes: (ids[2:], codes[2:]), "no codes for 2 of {items} items: {0}, {1}."),
    "twice": (lambda ids, codes: ([*ids, ids[4]], [*codes, codes[4]]), "1 raw id(s) more than once: {4}."),
    "null id": (lambda ids, codes: ([None, *ids[1:]], codes), "nothing may be null"),
    "null list": (lambda ids, codes: (ids, [None, *codes[1:].tolist()]), "nothing may be null"),
    "null code": (lambda ids, codes: (ids, [[1, 2, None], *codes[1:].tolist()]), "nothing may be null"),
    "two lengths": (lambda ids, codes: (ids, [[1], *codes[1:].tolist()]), "need one length"),
    "empty lists": (lambda ids, codes: (ids, [[]] * len(ids)), "must hold lists of whole numbers"),
    "floats": (lambda ids, codes: (ids, codes + 0.5), "must hold lists of whole numbers, not list<"),
    "texts": (lambda ids, codes: (ids, codes.astype(str)), "must hold lists of whole numbers"),
    "no lists": (lambda ids, codes: (ids, codes[:, 0]), "must hold lists of whole numbers, not int64"),
    "negative": (lambda ids, codes: (ids, changed(codes, -1)), "the item {5} has the code -1"),
    "too large": (lambda ids, codes: (ids, changed(codes, 65535)), "the item {5} has the code 65,535"),
    "beyond int64": (lambda ids, codes: (ids, pa.array([[2**64 - 1]] * len(ids), pa.list_(pa.uint64()))), "parquet"),
    "too many digits": (
        lambda ids, codes: (ids, np.zeros((len(ids), 300), int)),
        "300 codes per item, but K is at most",
    ),
    "no rows": (lambda ids, codes: ([], pa.array([], pa.list_(pa.int64()))), "need one length"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_does_not_fit(root: Path, ids: list[str], tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    some, codes = change(ids, some_codes(len(ids)))
    plain = isinstance(codes, pa.Array) or (isinstance(codes, np.ndarray) and codes.ndim == 2)
    column = codes if plain else pa.array(list(codes) if not isinstance(codes, np.ndarray) else codes)
    answer = genrec(root, "tokenize", "--codes", parquet(tmp_path / "c.parquet", some, column))
    assert answer.code == 3 and answer.out == "", answer.err
    assert message.format(*ids[:6], items=len(ids)) in answer.err


def test_columns_that_are_not_there_or_twice(root: Path, ids: list[str], tmp_path: Path) -> None:
    codes = pa.array(some_codes(len(ids)).tolist())
    for names, message in (
        (["id", "codes"], "no column 'raw_id'"),
        (["raw_id", "code"], "no column 'codes'"),
        (["raw_id", "codes", "codes"], "2 columns 'codes'"),
    ):
        pq.write_table(pa.table([pa.array(ids), codes, codes][: len(names)], names), tmp_path / "c.parquet")
        answer = genrec(root, "tokenize", "--codes", tmp_path / "c.parquet")
        assert answer.code == 3 and message in answer.err


def header(shape: tuple[int, ...]) -> bytes:
    text = repr({"descr": "<i8", "fortran_order": False, "shape": shape}) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("option", ["--codes", "--encoder"])
def test_npy_files_that_are_something_else(root: Path, ids: list[str], tmp_path: Path, option: str) -> None:
    file = tmp_path / "c.npy"

    def answer(code: int, message: str) -> None:
        small = ["--codebooks", "4", "--codewords", "8"] if option == "--encoder" else []
        found = genrec(root, "tokenize", option, file, *small)
        assert found.code == code and message in found.err and "Traceback" not in found.err, found.err

    with file.open("wb") as stream:
        np.savez(stream, codes=some_codes(len(ids)))
    answer(3, "is not a NumPy array")
    nested = b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10000
    headers = [header(shape) for shape in ((10**30, 3), (10**12, 3), (-1, 3))]
    for content in (b"", b"PK\x03\x04broken", b"\x80\x04.", nested, *headers):
        file.write_bytes(content)
        answer(3, "is not a NumPy array")
    np.save(file, np.array([[{}]] * len(ids), dtype=object), allow_pickle=True)
    answer(3, "is not a NumPy array")
    np.save(file, np.zeros((len(ids), 2), dtype=[("a", "i4")]))
    answer(3, "must be a matrix of")
    np.save(file, np.zeros((len(ids) - 1, 2), dtype=int))
    answer(3, f"{len(ids) - 1} rows, but there are {len(ids)} items")
    file.unlink()
    os.mkfifo(file)
    answer(2, "There is no file")
    if option == "--codes":
        file.unlink()
        np.save(file, some_codes(len(ids)) + 0.0)
        answer(3, "must be a matrix of whole numbers, not float64")
        np.save(file, changed(some_codes(len(ids)), 70000))
        answer(3, "the code 70,000; codes count from 0 and V is at most 65,535")


def test_no_header_of_an_npy_file_is_a_traceback(tmp_path: Path) -> None:
    file, buffer, random = tmp_path / "c.npy", io.BytesIO(), np.random.default_rng(0)
    np.save(buffer, some_codes(10))
    words = [b"()", b"[]", b"'", b"9" * 30, b"-1", b"None", b"'|O'", b"[('a','<i4')]", b"\xff", b"1e400", b"(", b"',"]
    for _ in range(2000):
        content = bytearray(buffer.getvalue())
        for _ in range(random.integers(1, 4)):
            word, at = words[random.integers(len(words))], random.integers(10, 100)
            content[at : at + len(word)] = word
            content[random.integers(6, 100)] = random.integers(256)
        file.write_bytes(content)
        with contextlib.suppress(DataError):
            ItemRows(file, "codes", integers=True).read(["any"] * 10)


def test_options_that_contradict_the_file(root: Path, ids: list[str], tmp_path: Path) -> None:
    file = parquet(tmp_path / "c.parquet", ids, some_codes(len(ids)))
    for words, code, message in (
        (["--codewords", "7"], 3, f"the item {ids[0]} has the code 7; codes count from 0 and V is 7"),
        (["--codewords", "65536"], 3, "tokenizer.codewords"),
        (["--codebooks", "4"], 3, "3 codes per item, but K is 4"),
        (["--tokenizer", "opq"], 2, "--tokenizer cannot be combined with"),
        (["--codebook-from", "opq4x16"], 2, "--codebook-from cannot be combined with"),
        (["--pca", "8"], 3, "tokenizer.pca: there is no such key"),
    ):
        answer = genrec(root, "tokenize", "--codes", file, *words)
        assert answer.code == code and message in answer.err, answer.err
    for name in ("absent.parquet", "c.csv", "x" * 300 + ".npy", "~nobody-of-this-name/c.npy"):
        answer = genrec(root, "tokenize", "--codes", name)
        assert answer.code == 2 and ("There is no file" in answer.err or "is a .npy or .parquet" in answer.err)
    made = genrec(root, "tokenize", "--codes", file).path
    again = genrec(root, "tokenize", "--codebook-from", made)
    assert again.code == 2 and "no codebook to use again" in again.err


# ---- what works on them --------------------------------------------------------------------------


def test_own_codes_train_and_are_searched_like_ours(root: Path, ids: list[str], tmp_path: Path) -> None:
    """The same codes, once ours and once from a file, give the same model and the same metrics."""
    ours = Workspace(root).find("synthetic", "codes", "opq4x16-lsa")
    file = parquet(tmp_path / "c.parquet", ids, stored(ours.path))
    own = genrec(root, "tokenize", "--codes", file).path
    metrics = []
    for codes in (ours.path, own):
        run = genrec(root, "train", "--model", "rpg", "--codes", codes, "--epochs", "1", *TINY).path
        exact = genrec(root, "evaluate", "--run", run).manifest["result"]["metrics"]
        graph = genrec(root, "evaluate", "--run", run, "--search", "graph").manifest["result"]["metrics"]
        metrics.append((exact, graph))
    assert metrics[0] == metrics[1] and metrics[0][0]["kept"]["Recall@10"] > 0


def test_collision_policies(root: Path, ids: list[str], tmp_path: Path) -> None:
    code_IK = some_codes(len(ids))
    code_IK[10:15] = code_IK[10]
    file = parquet(tmp_path / "c.parquet", ids, code_IK)
    small = genrec(root, "tokenize", "--codes", file, "--collisions", "reassign")
    moved_IK = stored(small.path)
    assert len(np.unique(moved_IK, axis=0)) == len(ids) and small.path.name.startswith(f"file{K}x{V}-reassign-")
    differ_I = (moved_IK != code_IK).sum(1)
    assert 0 < (differ_I > 0).sum() < len(ids) / 2 and differ_I.max() < K, "as few digits as possible change"
    digit = genrec(root, "tokenize", "--codes", file, "--collisions", "digit").path
    table = CodesTable.read(digit)
    assert table.codes_IK.shape == (len(ids), K + 1) and table.codewords == V
    assert len(np.unique(table.codes_IK, axis=0)) == len(ids)
    run = genrec(root, "train", "--model", "rpg", "--codes", digit, "--epochs", "1", *TINY)
    assert run.code == 0, run.err
    equal = parquet(tmp_path / "c.parquet", ids, 0 * code_IK)
    full = genrec(root, "tokenize", "--codes", equal, "--collisions", "digit")
    assert full.code == 2 and "a digit counts to 2" in full.err
    tight = genrec(root, "tokenize", "--codes", equal, "--collisions", "reassign")
    assert tight.code == 2 and "do not fit into 2^3" in tight.err


def test_a_table_that_lost_an_item_is_refused(root: Path, tmp_path: Path) -> None:
    from genrec_cli.stages.load import load_catalog

    ws = Workspace(root)
    codes = ws.find("synthetic", "codes", "opq4x16-lsa")
    shutil.copytree(codes.path, tmp_path / "copy")
    CodesTable(stored(codes.path)[:-1], 16).write(tmp_path / "copy")
    with pytest.raises(DataError, match="holds codes of"):
        load_catalog({"data": ws.input(codes, "data"), "codes": type(codes)(tmp_path / "copy", codes.manifest)})

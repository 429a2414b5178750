"""Everyday lists: candidates, conditions, fallbacks, diversity, and newer data with an earlier run."""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from shop import SMALL_SHOP, TINY, TINY_TIGER, Answer, genrec

from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.schema import ATTRIBUTES, ITEMS, write_table
from genrec_cli.data.sequences import Histories
from genrec_cli.searches.base import TopK
from genrec_cli.searches.diversity import diversified, unit_vectors
from genrec_cli.stages.candidates import item_columns, kind_and_value

RUNS = {"popular": [], "transitions": [], "sasrec": TINY, "rpg": TINY, "tiger": TINY_TIGER}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A shop with vectors of a file, so that a codebook fits newer data, and a run per kind of search."""
    root = tmp_path_factory.mktemp("lists")
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(root, *words).code == 0
    write_vectors(root, "k5")
    for words in (["tokenize", "--encoder", str(root / "k5.parquet"), "--codebooks", "4", "--codewords", "8"],):
        answer = genrec(root, *words)
        assert answer.code == 0, answer.err
    for model, words in RUNS.items():
        assert genrec(root, "train", "--model", model, *(["--epochs", "1", *words] if words else [])).path
    return root


def data_of(root: Path, label: str = "k5") -> Path:
    return next(root.glob(f"synthetic/data/{label}-*"))


def write_vectors(root: Path, label: str) -> Path:
    """The vector of an item is a function of its raw id, as of a frozen encoder."""
    ids = pl.read_parquet(data_of(root, label) / "items.parquet")["raw_id"]
    rows = [np.random.default_rng(zlib.crc32(raw.encode())).normal(size=16) for raw in ids]
    path = root / f"{label}.parquet"
    pl.DataFrame({"raw_id": ids, "vector": [row.astype("float32") for row in rows]}).write_parquet(path)
    return path


def lists(answer: Answer) -> list[dict[str, Any]]:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)["recommendations"]


def recommended(root: Path, model: str, *words: str | Path) -> list[dict[str, Any]]:
    return lists(genrec(root, "recommend", "--run", f"{model}-s0", *words, "--json"))


def catalogue(root: Path) -> pl.DataFrame:
    return pl.read_parquet(data_of(root) / "items.parquet")


def test_an_attribute_keeps_what_follows_its_second_colon():
    frame = pl.DataFrame({"name": ["category: Hair: Dye", "red"]})
    assert frame.select(**kind_and_value()).rows() == [("category", "Hair: Dye"), ("attribute", "red")]


# ---- candidates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", RUNS)
def test_candidates_are_what_the_whole_ranking_keeps(root, tmp_path, model):
    chosen = catalogue(root)["raw_id"].gather_every(7)
    pl.DataFrame({"item": chosen}).write_csv(tmp_path / "c.csv")
    pl.DataFrame({"raw_id": chosen}).write_parquet(tmp_path / "c.parquet")
    (tmp_path / "c.txt").write_text("\n".join(chosen) + "\n")
    words = ["--user", "U0000003", "--user", "U0000007"]
    found = recommended(root, model, *words, "--candidates", tmp_path / "c.csv", "--k", "10")
    assert len(found) == 20 and {row["item"] for row in found} <= set(chosen)
    for name in ("c.parquet", "c.txt"):
        assert recommended(root, model, *words, "--candidates", tmp_path / name, "--k", "10") == found
    if model != "tiger":  # a beam search finds more items among candidates than in the whole catalogue
        every = [row for row in recommended(root, model, *words, "--k", "150") if row["item"] in set(chosen)]
        for user in words[1::2]:
            pairs = zip([r for r in every if r["user"] == user], [r for r in found if r["user"] == user], strict=False)
            for whole, part in pairs:
                assert part["item"] == whole["item"] and part["score"] == pytest.approx(whole["score"], rel=1e-4)


def test_seen_items_are_left_out_unless_they_are_kept(root, tmp_path):
    items = catalogue(root)["raw_id"].to_list()
    (tmp_path / "h.csv").write_text(f"user,item\nx,{items[0]}\nx,{items[1]}\n")
    words = ["--history", tmp_path / "h.csv", "--k", "200"]
    assert {row["item"] for row in recommended(root, "rpg", *words)} == set(items[2:])
    assert {row["item"] for row in recommended(root, "rpg", *words, "--keep-seen")} == set(items)
    (tmp_path / "c.txt").write_text("\n".join(items[:3]))
    found = recommended(root, "sasrec", *words, "--candidates", tmp_path / "c.txt")
    assert [row["item"] for row in found] == [items[2]]
    (tmp_path / "c.txt").write_text("\n".join(items[:2]))
    nothing = genrec(root, "recommend", "--run", "sasrec-s0", *words, "--candidates", tmp_path / "c.txt")
    assert nothing.code == 0 and "1 user(s) get no recommendations: they have seen every item" in nothing.err


def test_a_condition_reads_items_attributes_and_the_file(root, tmp_path):
    items = item_columns(Workspace(root).find("synthetic", "data"))
    assert {"raw_id", "title", "train_count", "category", "brand"} <= set(items.columns)
    pl.DataFrame({"item": items["raw_id"], "stock": items["row"].cast(pl.Int64) % 3}).write_csv(tmp_path / "s.csv")
    brand = items["brand"].drop_nulls()[0]
    where = f"stock > 0 and brand = '{brand}' and train_count >= 5"
    found = recommended(
        root,
        "popular",
        "--user",
        "U0000003",
        "--candidates",
        tmp_path / "s.csv",
        "--where",
        where,
        "--k",
        "99",
        "--keep-seen",
    )
    expected = items.filter((pl.col("row") % 3 > 0) & (pl.col("brand") == brand) & (pl.col("train_count") >= 5))
    assert {row["item"] for row in found} == set(expected["raw_id"]) and found


def test_items_without_a_kind_of_attribute_and_with_several(tmp_path, root):
    names = ["brand: A", "brand: B: C", "category: x", "category: y", "new"]
    write_table(pa.table({"attribute": [1, 2, 3, 4, 5], "name": names}), tmp_path / "attributes.parquet", ATTRIBUTES)
    columns = {"item": [1, 2, 3], "raw_id": ["a", "b", "c"], "title": [None] * 3, "text": [None] * 3}
    columns |= {"attributes": [[1, 3, 4], [2, 3], []], "train_count": [1, 1, 1]}
    write_table(pa.table(columns, ITEMS), tmp_path / "items.parquet", ITEMS)
    items = item_columns(Artifact(tmp_path, {}))
    assert items["brand"].to_list() == ["A", "B: C", None]
    assert items["category"].to_list() == [["x", "y"], ["x"], None]


BAD = [
    (["--candidates", "absent.csv"], 2, "no such file"),
    (["--candidates", "empty.txt"], 3, "holds no item id"),
    (["--candidates", "empty.csv"], 3, "cannot be read"),
    (["--candidates", "header.csv"], 3, "holds no item id"),
    (["--candidates", "names.csv"], 3, "column of raw item ids"),
    (["--candidates", "others.csv"], 3, "holds no item of the catalogue"),
    (["--candidates", "broken.parquet"], 3, "cannot be read"),
    (["--where", "prize < 3"], 2, "there is no column 'prize'"),
    (["--where", "title"], 2, "not true or false"),
    (["--where", "train_count > 1000000"], 3, "No item fulfils"),
    (["--where", "train_count >"], 2, "not an SQL expression"),
    (["--diversity", "1.5"], 2, "--diversity takes 0 to 1"),
    (["--fallback", "luck"], 2, "no fallback 'luck'"),
    (["--user", "U0000001", "--users", "u.txt"], 2, "exclude each other"),
    (["--codes", "rpg"], 2, "reads no codes"),
    (["--data", "absent"], 4, "No data 'absent'"),
]


@pytest.mark.parametrize("words, code, said", BAD, ids=lambda value: str(value))
def test_a_mistake_is_one_clear_error(root, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    Path("empty.csv").write_text("")
    Path("header.csv").write_text("item,stock\n")
    Path("names.csv").write_text("name\nx\n")
    Path("others.csv").write_text("item\nNEVER\n")
    Path("broken.parquet").write_text("no")
    Path("u.txt").write_text("U0000001\n")
    answer = genrec(root, "recommend", "--run", "popular-s0", "--k", "3", *words, "--json")
    assert answer.code == code and said in answer.err and "Traceback" not in answer.err, answer.err


def test_candidates_outside_of_the_catalogue_are_counted(root, tmp_path):
    known = catalogue(root)["raw_id"][0]
    (tmp_path / "c.txt").write_text(f"NEVER\n{known}\nNOR\n{known}\n")
    answer = genrec(
        root,
        "recommend",
        "--run",
        "popular-s0",
        "--user",
        "U0000003",
        "--candidates",
        tmp_path / "c.txt",
        "--keep-seen",
        "--json",
    )
    assert [row["item"] for row in lists(answer)] == [known]
    assert "2 candidate(s) are not in the catalogue" in answer.err and "'NEVER'" in answer.err


# ---- fallbacks -------------------------------------------------------------------------------------


def test_users_without_a_history_are_counted_and_get_the_fallback(root, tmp_path):
    counts = catalogue(root).with_row_index("row").sort("train_count", "row", descending=[True, False])
    (tmp_path / "h.csv").write_text(f"user,item\nx,{counts['raw_id'][5]}\nlost,NEVER\n")
    words = ["--history", tmp_path / "h.csv", "--k", "3"]
    answer = genrec(root, "recommend", "--run", "rpg-s0", *words, "--json")
    assert {row["user"] for row in lists(answer)} == {"x"} and "1 user(s) without a known item get no" in answer.err
    answer = genrec(root, "recommend", "--run", "rpg-s0", *words, "--fallback", "popular", "--json")
    found = [row for row in lists(answer) if row["user"] == "lost"]
    assert [row["item"] for row in found] == counts["raw_id"][:3].to_list() and "the list 'popular'" in answer.err
    assert [row["rank"] for row in found] == [1, 2, 3] and found[0]["score"] == counts["train_count"][0]
    mixed = recommended(root, "rpg", "--user", "nobody", "--user", "U0000003", "--k", "2", "--fallback", "popular")
    assert [row["user"] for row in mixed] == ["U0000003"] * 2 + ["nobody"] * 2


def test_the_fallback_transitions_counts_how_training_histories_begin(root):
    histories, names = Histories.read(data_of(root)), catalogue(root)["raw_id"]
    began = [int(histories.item[o]) for o, e in zip(histories.offset, histories.train_end, strict=True) if e > 0]
    best = sorted(range(1, len(names) + 1), key=lambda item: (-began.count(item), item))[:4]
    found = recommended(root, "sasrec", "--user", "nobody", "--k", "4", "--fallback", "transitions")
    assert [row["item"] for row in found] == [names[item - 1] for item in best]
    assert [row["score"] for row in found] == [began.count(item) for item in best]


# ---- diversity -------------------------------------------------------------------------------------


def slow_mmr(items: list[int], scores: list[float], vectors: np.ndarray, k: int, d: float) -> list[int]:
    low, high = min(scores), max(scores)
    left = dict(zip(items, [(s - low) / (high - low) if high > low else 0.0 for s in scores], strict=True))
    chosen: list[int] = []
    while left and len(chosen) < k:
        value = {
            i: (1 - d) * r - d * max((vectors[i] @ vectors[j] for j in chosen), default=0) for i, r in left.items()
        }
        chosen.append(max(value, key=value.get))
        del left[chosen[-1]]
    return chosen


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.8, 1.0])
def test_a_diverse_list_is_that_of_a_loop(diversity, monkeypatch):
    monkeypatch.setattr("genrec_cli.searches.diversity.CELLS", 200)  # several parts
    generator = torch.Generator().manual_seed(0)
    vector_RE = unit_vectors(torch.randn(30, 4, generator=generator))
    item_BL = torch.stack([torch.randperm(30, generator=generator)[:12] + 1 for _ in range(9)])
    score_BL = torch.randn(9, 12, generator=generator).sort(dim=1, descending=True).values
    item_BL[3, 5:], score_BL[3, 5:] = 0, -torch.inf
    item_BL[4], score_BL[4] = 0, -torch.inf
    found = diversified(TopK(item_BL, score_BL), vector_RE, 7, diversity)
    for row in range(9):
        real = int((item_BL[row] > 0).sum())
        pair = item_BL[row, :real].tolist(), score_BL[row, :real].tolist()
        expected = slow_mmr(*pair, vector_RE.double().numpy(), 7, diversity) if real else []
        assert found.item_Bk[row].tolist() == expected + [0] * (7 - len(expected))
        known = dict(zip(*pair, strict=True))
        assert found.score_Bk[row, : len(expected)].tolist() == [known[item] for item in expected]


@pytest.mark.parametrize("model", ["rpg", "sasrec"])
def test_diversity_zero_changes_nothing_and_more_makes_lists_diverse(root, model):
    words = ["--user", "U0000003", "--user", "U0000010", "--k", "5"]
    plain = recommended(root, model, *words)
    assert recommended(root, model, *words, "--diversity", "0") == plain
    other = recommended(root, model, *words, "--diversity", "0.9")
    assert [row["rank"] for row in other] == [row["rank"] for row in plain] and other != plain
    assert other[0] == plain[0]


def test_diversity_of_a_run_without_vectors_takes_those_of_the_data_if_there_is_one_artifact(root, tmp_path):
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    words = ["recommend", "--run", "sasrec-s0", "--user", "U0000003", "--diversity", "0.5"]
    assert genrec(copy, *words).code == 0
    lsa = genrec(copy, "tokenize", "--encoder", "lsa", "--codebooks", "2", "--codewords", "8")
    assert lsa.code == 0, lsa.err
    answer = genrec(copy, *words)
    assert answer.code == 4 and "2 vectors of 'synthetic' match" in answer.err
    assert "Choose one with a run that was trained with vectors or codes" in answer.err


# ---- a part of the catalogue -----------------------------------------------------------------------


def test_a_part_of_a_catalogue_has_its_rows():
    codes_IK = torch.arange(12).view(6, 2) % 4
    whole = Catalog.of(torch.arange(6), codes_IK, 4)
    part = whole.take(torch.tensor([1, 4]))
    assert part.items == 2 and part.train_count_I.tolist() == [1, 4] and part.chosen_C.tolist() == [1, 4]
    assert part.codes_IK.tolist() == codes_IK[[1, 4]].tolist() and part.code_RK[0].tolist() == [0, 0]


# ---- newer data ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def newer(root) -> Path:
    """Data with more items (a k-core of 2), coded by the codebook of the runs."""
    assert genrec(root, "preprocess", "--k-core", "2").code == 0
    write_vectors(root, "k2")
    old = next(root.glob("synthetic/codes/*")).name
    words = ["tokenize", "--data", data_of(root, "k2").name, "--encoder", str(root / "k2.parquet")]
    answer = genrec(root, *words, "--codebook-from", old)
    assert answer.code == 0, answer.err
    return root


def test_an_earlier_run_recommends_new_items_of_newer_data(newer):
    old, new = (pl.read_parquet(data_of(newer, label) / "items.parquet")["raw_id"] for label in ("k5", "k2"))
    added = set(new) - set(old)
    assert added
    found = recommended(newer, "rpg", "--data", data_of(newer, "k2").name, "--user", "U0000003", "--k", "150")
    assert {row["item"] for row in found} & added
    codes = next(path.name for path in newer.glob("synthetic/codes/*frozen*"))
    again = recommended(newer, "rpg", "--codes", codes, "--user", "U0000003", "--k", "150")
    assert again == found
    beam = recommended(newer, "tiger", "--data", data_of(newer, "k2").name, "--k", "20")
    assert {row["item"] for row in beam} & added


def test_the_data_of_the_training_are_not_newer(newer):
    """Codes of these data by the codebook of the run are made, too, and the run needs none of them."""
    old = next(path.name for path in newer.glob("synthetic/codes/*") if "frozen" not in path.name)
    words = ["tokenize", "--data", data_of(newer).name, "--encoder", str(newer / "k5.parquet")]
    frozen = genrec(newer, *words, "--codebook-from", "rpg-s0")
    assert frozen.manifest["inputs"]["codebook"]["path"].endswith(old), "the codes that the run reads"
    words = ["--user", "U0000003", "--k", "9"]
    assert recommended(newer, "rpg", *words, "--data", data_of(newer).name) == recommended(newer, "rpg", *words)
    refused = genrec(newer, "tokenize", "--data", data_of(newer).name, "--codebook-from", "sasrec-s0")
    assert refused.code == 2 and "reads no codes" in refused.err


def test_the_same_items_get_the_same_scores_with_newer_data(newer):
    """The codes of an item follow from its vector, so its score does not depend on the data around it."""
    items = pl.read_parquet(data_of(newer) / "items.parquet")["raw_id"]
    (newer / "h.jsonl").write_text(json.dumps({"user": "x", "items": items[:4].to_list()}))
    words = ["--history", newer / "h.jsonl", "--k", "200"]
    old, new = recommended(newer, "rpg", *words), recommended(newer, "rpg", *words, "--data", data_of(newer, "k2").name)
    scores = {row["item"]: row["score"] for row in new}
    assert len(new) > len(old)
    assert [scores[row["item"]] for row in old] == pytest.approx([row["score"] for row in old], rel=1e-5)


@pytest.mark.parametrize("model", ["sasrec", "neighbours", "rpg with free vectors"])
def test_a_model_of_item_ids_refuses_new_items_and_maps_known_ones(newer, model):
    name, _, free = model.partition(" with ")
    run = "free-s0" if free else f"{name}-s0"
    if model != "sasrec":
        words = ["--model", name, "--data", data_of(newer).name, "--label", run, "--device", "cpu"]
        codes = next(path.name for path in newer.glob("synthetic/codes/*") if "frozen" not in path.name)
        words += [*TINY, "--codes", codes, "--epochs", "1", "--set", "model.free_vectors=true"] if free else []
        assert (answer := genrec(newer, "train", *words)).code == 0, answer.err
    answer = genrec(newer, "recommend", "--run", run, "--data", data_of(newer, "k2").name)
    assert answer.code == 2 and "knows its items by id" in answer.err and f"train --model {name}" in answer.err
    smaller = ["preprocess", "--k-core", "6"]
    assert genrec(newer, *smaller).code == 0
    items = pl.read_parquet(data_of(newer, "k6") / "items.parquet")["raw_id"]
    histories = Histories.read(data_of(newer, "k6"))
    user = pl.read_parquet(data_of(newer, "k6") / "users.parquet")["raw_id"][2]
    own = histories.item[histories.offset[2] : histories.offset[2] + histories.length[2]]
    (newer / "h.jsonl").write_text(json.dumps({"user": user, "items": [items[int(i) - 1] for i in own]}))
    found = recommended(newer, run[:-3], "--data", data_of(newer, "k6").name, "--user", user, "--k", "5")
    given = recommended(newer, run[:-3], "--history", newer / "h.jsonl", "--k", "5")
    assert [row["item"] for row in found] == [row["item"] for row in given]
    if model != "sasrec":
        answer = genrec(newer, "recommend", "--run", run, "--data", data_of(newer, "k6").name, "--codes", "opq4x8")
        assert answer.code == 2 and ("knows its items by id" if free else "reads no codes") in answer.err


def test_codes_of_another_codebook_are_refused(newer):
    data = data_of(newer, "k2").name
    words = ["--data", data, "--encoder", str(newer / "k2.parquet"), "--codebooks", "4", "--codewords", "8"]
    other = genrec(newer, "tokenize", *words, "--seed", "5").path.name
    answer = genrec(newer, "recommend", "--run", "rpg-s0", "--codes", other)
    assert answer.code == 2 and "not made by the codebook" in answer.err and "--codebook-from" in answer.err
    answer = genrec(newer, "recommend", "--run", "rpg-s0", "--codes", other, "--data", data_of(newer).name)
    assert answer.code == 2 and "are not codes of" in answer.err
    assert genrec(newer, "preprocess", "--k-core", "3").code == 0
    answer = genrec(newer, "recommend", "--run", "rpg-s0", "--data", data_of(newer, "k3").name)
    assert answer.code == 4 and "There are no codes of" in answer.err and "--codebook-from" in answer.err

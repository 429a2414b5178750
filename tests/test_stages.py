"""What evaluate, recommend, case-study and train write, checked against slow ways to the same numbers."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shop import SMALL_SHOP, TINY, TINY_TIGER, Answer, genrec

from genrec_cli.artifacts import Workspace
from genrec_cli.cli.progress import TrainProgress
from genrec_cli.data.names import Names
from genrec_cli.data.sequences import Histories, eval_batches
from genrec_cli.engine.evaluation import Outcome, UserRanks
from genrec_cli.engine.progress import Callbacks
from genrec_cli.engine.ranking import code_rank, list_rank, recall_of
from genrec_cli.stages.case_study import pick, rank_of
from genrec_cli.stages.recommend import COLUMNS, Recommendations
from genrec_cli.stages.trained import Run

RUNS = {"popular": [], "sasrec": TINY, "rpg": TINY, "tiger": TINY_TIGER}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A shop with three runs. Four digits of eight codewords: some items share all their codes."""
    root = tmp_path_factory.mktemp("stages")
    for words in (SMALL_SHOP, ["preprocess"], ["tokenize", "--codebooks", "4", "--codewords", "8"]):
        assert genrec(root, *words).code == 0
    for model, words in RUNS.items():
        assert genrec(root, "train", "--model", model, *(["--epochs", "2", *words] if words else [])).path
    return root


def data_of(root: Path) -> Path:
    return next(next(path for path in root.iterdir() if path.is_dir()).glob("data/k*-loo-????????"))


def evaluated(root: Path, *words: str) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """An evaluation's result, its users and its lists."""
    answer = genrec(root, "evaluate", *words)
    users, lists = (pq.read_table(answer.path / f"{name}.parquet").to_pydict() for name in ("per_user", "topk"))
    return answer.manifest["result"], as_arrays(users), as_arrays(lists)


def as_arrays(columns: dict[str, list]) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in columns.items()}


# ---- ranks in lists --------------------------------------------------------------------------------

LISTS = st.lists(st.integers(1, 9), min_size=1, max_size=9, unique=True)


def loop_rank(items: list[int], target: int, missing: int) -> int:
    return items.index(target) if target in items else missing


def loop_code_rank(codes: list[int], target: int, missing: int) -> int:
    different = []
    for code in codes:
        if code == target:
            return len(different)
        if code not in different:
            different.append(code)
    return missing


@given(LISTS, st.integers(1, 9), st.integers(0, 3), st.integers(9, 20))
def test_list_rank_is_the_position_in_the_list(items, target, empty, missing):
    padded = items + [0] * empty
    found = list_rank(torch.tensor([padded, padded[::-1]]), torch.tensor([target, target]), missing)
    assert found.tolist() == [loop_rank(padded, target, missing), loop_rank(padded[::-1], target, missing)]


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=12), st.integers(0, 4), st.integers(12, 20))
def test_code_rank_counts_equal_codes_once(codes, target, missing):
    found = code_rank(torch.tensor([codes, codes[::-1]]), torch.tensor([target, target]), missing)
    expected = [loop_code_rank(row, target, missing) for row in (codes, codes[::-1])]
    assert found.tolist() == expected


# ---- evaluate --------------------------------------------------------------------------------------

SMALL_GRAPH = ["--set", "search.beams=12", "--set", "search.edges=4", "--set", "search.steps=2"]
EVALUATIONS = [
    ["--run", "popular-s0"],
    ["--run", "sasrec-s0", "--at", "3,200"],
    ["--run", "rpg-s0", "--split", "valid"],
    ["--run", "rpg-s0", "--search", "graph", *SMALL_GRAPH],
    ["--run", "tiger-s0"],
    ["--run", "tiger-s0", "--split", "valid", "--at", "5,20"],
]


@pytest.mark.parametrize("words", EVALUATIONS, ids=" ".join)
def test_the_manifest_holds_the_means_of_the_users(root, words):
    result, users, _ = evaluated(root, *words)
    assert result["users"] == len(users["user"]) == len(set(users["user"]))
    assert (np.diff(users["user"].astype(int)) > 0).all(), "in the order of the user table"
    for prefix, level in (("", "metrics"), ("code_", "code_metrics")):
        assert list(result[level]) == ["kept", "left_out"]
        for protocol, means in result[level].items():
            for name, value in means.items():
                found = users[f"{protocol}_{prefix}{name}"]
                assert found.mean() == pytest.approx(value, abs=1e-6), name
                assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("protocol", ["kept", "left_out"])
@pytest.mark.parametrize("words", EVALUATIONS, ids=" ".join)
def test_lists_are_sorted_and_agree_with_ranks_and_targets(root, words, protocol):
    _, users, lists = evaluated(root, *words)
    items, scores = lists[f"{protocol}_items"], lists[f"{protocol}_scores"]
    rank, ties = users[f"{protocol}_rank"], users[f"{protocol}_ties"]
    assert (scores[:, 0] == scores.max(1)).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert all(len(set(row[row > 0])) == (row > 0).sum() for row in items)
    position = "test_at" if "valid" not in words else "valid_at"
    table = pq.read_table(data_of(root) / "users.parquet", columns=["offset", position]).to_pydict()
    log = pq.read_table(data_of(root) / "interactions.parquet", columns=["item"]).column(0).to_numpy()
    real = [log[table["offset"][u - 1] + table[position][u - 1]] for u in users["user"]]
    assert (users["target"] == real).all() and (lists["target"] == real).all()
    alone = np.flatnonzero((ties == 1) & (rank < items.shape[1]))
    hit = items[alone, rank[alone]] == users["target"][alone]
    assert len(alone) > 10
    if "graph" not in words:
        assert hit.all()
    else:  # an approximate list that does not hold the target gives the rank behind all cutoffs
        assert (hit == (items[alone] == users["target"][alone][:, None]).any(1)).all()


def test_excluded_items_are_in_no_list(root):
    _, users, lists = evaluated(root, "--run", "sasrec-s0", "--at", "3,200")
    histories = Histories.read(data_of(root))
    assert (lists["kept_items"] > 0).all(), "the other protocol excludes nothing"
    for user, items in zip(users["user"][::29], lists["left_out_items"][::29], strict=True):
        start = histories.offset[user - 1]
        seen = histories.item[start : start + histories.test_at[user - 1]]
        assert not set(seen) & set(items)
        assert (items > 0).sum() == len(items) - len(set(seen)), "as many places stay empty as the user has items"


@pytest.mark.parametrize("model", ["popular", "tiger"])
def test_exclusion_goes_beyond_what_the_model_reads(root, tmp_path, model):
    short = ["--set", "train.max_length=3", "--label", "short"]
    words = {"popular": [], "tiger": [*TINY_TIGER, "--epochs", "1"]}[model]
    run = genrec(root, "train", "--model", model, *words, *short).path.name
    names, histories = Names.read(data_of(root)), Histories.read(data_of(root))
    owned = {
        names.user[user]: histories.item[start : start + histories.length[user]]
        for user, start in enumerate(histories.offset)
    }
    _, users, lists = evaluated(root, "--run", run, "--at", "10")
    for user, items in zip(users["user"], lists["left_out_items"], strict=True):
        assert not set(owned[names.user[user - 1]][: histories.test_at[user - 1]]) & set(items)
    known = recommended(root, "--run", run, "--exclude-seen")
    raw = {user: [names.item[i - 1] for i in items] for user, items in owned.items()}
    lines = [json.dumps({"user": user, "items": items}) + "\n" for user, items in raw.items()]
    (tmp_path / "h.jsonl").write_text("".join(lines))
    new = recommended(root, "--run", run, "--exclude-seen", "--history", tmp_path / "h.jsonl")
    for rows in (known, new):
        assert not [row for row in rows if row["item"] in {names.item[i - 1] for i in owned[row["user"]]}]
        assert len(rows) > 3 * len(owned)


def test_a_graph_that_covers_the_catalogue_finds_what_exact_decoding_finds(root):
    graph = "search.beams=200", "--set", "search.edges=200", "--set", "search.steps=2"
    items = Names.read(data_of(root)).item
    words = ["--run", "rpg-s0", "--search", "graph", "--set", *graph, "--at", str(len(items))]
    answer = genrec(root, "evaluate", *words)
    result = answer.manifest["result"]
    assert result["recall_against_exact"] == 1.0
    assert result["visited"] == len(items)
    assert "the graph finds 100.0% of the exact lists" in answer.err
    assert result["code_metrics"]["kept"][f"NDCG@{len(items)}"] == pytest.approx(
        exact_code_ndcg(root, len(items)), abs=1e-3
    )
    small = evaluated(root, *EVALUATIONS[3])[0]
    assert 0 < small["recall_against_exact"] < 1 and small["visited"] < len(items)
    assert small["exact_metrics"] == evaluated(root, "--run", "rpg-s0")[0]["metrics"]


def exact_code_ndcg(root: Path, cutoff: int) -> float:
    return evaluated(root, "--run", "rpg-s0", "--at", str(cutoff))[0]["code_metrics"]["kept"][f"NDCG@{cutoff}"]


@pytest.mark.parametrize("run", RUNS)
def test_one_history_gives_one_list_whatever_its_line(root, tmp_path, run):
    items = Names.read(data_of(root)).item[3:8]
    lines = [json.dumps({"user": f"stranger{line}", "items": items}) + "\n" for line in range(4)]
    (tmp_path / "h.jsonl").write_text("".join(lines))
    rows = recommended(root, "--run", f"{run}-s0", "--history", tmp_path / "h.jsonl")
    lists = [[row["item"] for row in rows if row["user"] == f"stranger{line}"] for line in range(4)]
    assert len(lists[0]) == 10 and lists == [lists[0]] * 4


# ---- a model that generates ------------------------------------------------------------------------


@torch.inference_mode()
def test_beams_over_the_whole_catalogue_rank_as_scoring_every_item_does(root):
    """Ranks and ties, also of codes that many items share, against the loss of each item as a target."""
    _, users, lists = evaluated(root, "--run", "tiger-s0", "--set", "search.beams=150", "--at", "150")
    ws = Workspace(root)
    run = Run(ws, ws.find("synthetic", "runs", "tiger-s0"))
    model, catalog, histories = run.model, run.catalog, run.histories
    assert len(catalog.groups.unique()) < catalog.items
    few = users["user"][::37] - 1
    known = next(eval_batches(histories, few, histories.test_at[few], max_length=20, batch_size=99))
    losses = [model.target_loss(known.batch, torch.full_like(known.target_B, i + 1)) for i in range(catalog.items)]
    score_BI, digits = -torch.stack(losses, dim=1), catalog.digits
    for row, user in enumerate(known.batch.user_B.tolist()):
        at = int(np.flatnonzero(users["user"] == user + 1)[0])
        target = float(score_BI[row, known.target_B[row] - 1])
        above, ties = int(users["kept_rank"][at]), int(users["kept_ties"][at])
        assert (score_BI[row] > target + 1e-5).sum() <= above <= (score_BI[row] >= target - 1e-5).sum() - ties
        assert ties == (catalog.groups == catalog.groups[known.target_B[row] - 1]).sum()
        found = score_BI[row, lists["kept_items"][at] - 1] * digits
        np.testing.assert_allclose(lists["kept_scores"][at], found, atol=1e-4)


def test_a_model_that_generates_has_its_own_search(root):
    result = evaluated(root, "--run", "tiger-s0")[0]
    assert result["search"] == "beam" and "exact_metrics" not in result
    assert result["codes"] >= 20, "each of 20 beams was scored to the end"
    wrong = genrec(root, "evaluate", "--run", "tiger-s0", "--search", "exhaustive")
    assert wrong.code == 2 and "--search beam" in wrong.err
    wrong = genrec(root, "evaluate", "--run", "tiger-s0", "--at", "30")
    assert wrong.code == 2 and "--set search.beams=30" in wrong.err
    wrong = genrec(root, "train", "--model", "tiger", *TINY_TIGER, "--set", "train.windows=recent", "--epochs", "1")
    assert wrong.code == 3 and "--set train.windows=each" in wrong.err


TOO_LONG = [
    (["train", "--model", "tiger", *TINY_TIGER, "--set", "train.metric=Recall@30"], "train.metric=Recall@30"),
    (["recommend", "--run", "tiger-s0", "--k", "30"], "--k 30"),
    (["compare", "tiger-s0", "--by", "truncation", "--metrics", "Recall@5,NDCG@30"], "NDCG@30"),
]


@pytest.mark.parametrize(("words", "asked"), TOO_LONG)
def test_a_list_longer_than_the_search_can_give_is_refused(root, words, asked):
    answer = genrec(root, *words)
    assert answer.code == 2 and f"{asked} is more than these settings" in answer.err and "is 20" in answer.err
    assert "search.beams=30" in answer.err or words[0] == "compare"


def test_recommend_takes_the_settings_of_the_runs_search(root, tmp_path):
    (tmp_path / "u.txt").write_text(Names.read(data_of(root)).user[0])
    rows = recommended(
        root, "--run", "tiger-s0", "--k", "30", "--keep-seen", "--set", "search.beams=40", "--users", tmp_path / "u.txt"
    )
    assert [row["rank"] for row in rows] == list(range(1, 31))
    (tmp_path / "d.toml").write_text("[search]\nbeams = 40\n")
    for exact in (["recommend", "--run", "rpg-s0", "--users", tmp_path / "u.txt"], ["evaluate", "--run", "rpg-s0"]):
        assert genrec(root, *exact, "--config", tmp_path / "d.toml").code == 0, "a file serves several models"
        answer = genrec(root, *exact, "--set", "search.beams=40")
        assert answer.code == 2 and "does not read the section 'search'" in answer.err


@pytest.mark.parametrize("word", ["search.nonsense=7", "noise.gamma=3"])
def test_a_section_that_the_model_does_not_read_cannot_be_set(root, word):
    answer = genrec(root, "train", "--model", "rpg", *TINY, "--epochs", "1", "--set", word)
    assert (
        answer.code == 2
        and f"'genrec train --model rpg' does not read the section '{word.split('.')[0]}'" in answer.err
    )


@pytest.mark.parametrize("at", ["0", "10000000000"])
def test_cutoffs_have_bounds(root, at):
    answer = genrec(root, "evaluate", "--run", "rpg-s0", "--at", at)
    assert answer.code == 2 and "from 1 to 999,999" in answer.err


def test_overlap_of_lists_is_what_a_loop_counts():
    random = np.random.default_rng(0)
    one, other = (np.array([random.permutation(9)[:4] for _ in range(30)]) for _ in range(2))  # 0: an empty place
    expected = np.mean([[item in row and item > 0 for item in exact] for row, exact in zip(one, other, strict=True)])
    assert recall_of(one, other) == pytest.approx(expected)


def test_a_model_without_the_interface_of_its_search_is_refused_before_training(root, monkeypatch):
    monkeypatch.setattr("genrec_cli.models.tiger.Tiger.search", "exhaustive")
    wrong = genrec(root, "train", "--model", "tiger", *TINY_TIGER, "--epochs", "1", "--label", "no-interface")
    assert wrong.code == 2 and "'exhaustive' does not fit the model 'tiger'" in wrong.err
    assert "search = NAME" in wrong.err
    assert not list(root.glob("*/runs/no-interface*"))


def test_the_last_target_alone_is_learned_only_where_rows_have_one(root):
    words = ["train", "--model", "mhl", *TINY, "--epochs", "1", "--set", "model.next_targets=last", "--dry-run"]
    for rows in ([], ["--set", "train.windows=recent"]):
        wrong = genrec(root, *words, *rows)
        assert wrong.code == 3 and "--set train.windows=each" in wrong.err
    assert genrec(root, *words, "--set", "train.windows=each").code == 0


# ---- fewer items than a list is long ---------------------------------------------------------------


@pytest.fixture(scope="module")
def ten(tmp_path_factory) -> Path:
    """Ten items, thirty users who go round them."""
    root = tmp_path_factory.mktemp("ten")
    log = "".join(f"u{u},i{(u + t * (1 + u % 3)) % 10},{t}\n" for u in range(30) for t in range(6))
    (root / "log.csv").write_text("user_id,item_id,timestamp\n" + log)
    words = ["red apple", "red car", "green pear", "green tree", "blue sea", "blue sky", "old car", "old tree", "sky"]
    items = "".join(f'{{"item_id": "i{n}", "title": "{word} {n}"}}\n' for n, word in enumerate([*words, "sea"]))
    (root / "items.jsonl").write_text(items)
    files = ["--interactions", root / "log.csv", "--items", root / "items.jsonl"]
    for words in (
        ["preprocess", "--dataset", "ten", *files, "--k-core", "0"],
        ["tokenize", "--codebooks", "2", "--codewords", "4", "--pca", "4"],
        ["train", "--model", "popular"],
        ["train", "--model", "rpg", "--epochs", "1", *TINY],
    ):
        answer = genrec(root, *words)
        assert answer.code == 0, answer.err
    return root


@pytest.mark.parametrize("run", ["popular-s0", "rpg-s0"])
def test_cutoffs_beyond_the_catalogue_find_everything(ten, run):
    result, _, lists = evaluated(ten, "--run", run, "--at", "20")
    assert lists["kept_items"].shape == (30, 10)
    assert result["metrics"]["kept"]["Recall@20"] == 1.0
    assert result["metrics"]["kept"]["NDCG@20"] < 1.0


def test_a_target_missing_in_a_short_list_is_no_hit(ten):
    """The list holds at most ten items, so its length is not behind the cutoff of 20."""
    graph = ["--search", "graph", "--set", "search.beams=20", "--set", "search.edges=1", "--set", "search.steps=1"]
    result, users, lists = evaluated(ten, "--run", "rpg-s0", "--at", "20", *graph)
    held = (lists["kept_items"] == lists["target"][:, None]).any(1)
    assert 0 < held.sum() < len(held)
    assert (users["kept_Recall@20"] == held).all()
    assert result["metrics"]["kept"]["Recall@20"] == pytest.approx(held.mean(), abs=1e-6)
    assert (users["kept_code_Recall@20"] >= users["kept_Recall@20"]).all(), (
        "a twin of the target is a hit at code level"
    )


def test_recommending_more_than_there_is_gives_all(ten):
    told = genrec(ten, "recommend", "--run", "rpg-s0", "--k", "50", "--keep-seen", "--json")
    rows = json.loads(told.out)["recommendations"]
    assert len(rows) == 300
    assert {row["item"] for row in rows if row["user"] == "u0"} == {f"i{n}" for n in range(10)}


# ---- recommend -------------------------------------------------------------------------------------


def recommended(root: Path, *words: str | Path) -> list[dict[str, Any]]:
    return json.loads(genrec(root, "recommend", *words, "--json").out)["recommendations"]


@pytest.mark.parametrize("run", ["sasrec-s0", "rpg-s0"])
def test_a_history_never_seen_gets_what_the_known_user_gets(root, tmp_path, run):
    names, histories = Names.read(data_of(root)), Histories.read(data_of(root))
    chosen = [3, 100, 7]
    lines = []
    for user in chosen:
        start = histories.offset[user]
        items = [names.item[i - 1] for i in histories.item[start : start + histories.length[user]]]
        lines.append(json.dumps({"user": names.user[user], "items": items}))
    (tmp_path / "h.jsonl").write_text("\n".join(lines))
    (tmp_path / "u.txt").write_text("\n".join(names.user[user] for user in chosen))
    known = recommended(root, "--run", run, "--users", tmp_path / "u.txt")
    new = recommended(root, "--run", run, "--history", tmp_path / "h.jsonl")
    assert len(known) == 30

    def sort(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(rows, key=lambda row: (row["user"], row["rank"]))

    for one, two in zip(sort(known), sort(new), strict=True):
        assert one | {"score": 0} == two | {"score": 0}
        assert one["score"] == pytest.approx(two["score"], rel=1e-5)


def test_an_unknown_user_gets_a_suggestion(root, tmp_path):
    (tmp_path / "u.txt").write_text("U0000001\nU0000O12\n")
    words = ["recommend", "--run", "rpg-s0", "--json", "--users", tmp_path / "u.txt"]
    answer = genrec(root, *words)
    assert {row["user"] for row in json.loads(answer.out)["recommendations"]} == {"U0000001"}
    assert "1 user(s) unknown" in answer.err and "'U0000O12'" in answer.err and "Did you mean 'U0000" in answer.err
    (tmp_path / "u.txt").write_text("U0000O12\n")
    answer = genrec(root, *words)
    assert answer.code == 3 and "Did you mean 'U0000" in answer.err and "--history" in answer.err


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ROW = st.tuples(TEXT, st.integers(1, 100), TEXT, st.none() | TEXT, st.floats(allow_nan=False, width=32))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(ROW, max_size=5))
@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_what_is_written_is_read_again(tmp_path, rows, ending):
    found = Recommendations({name: [row[n] for row in rows] for n, name in enumerate(COLUMNS)})
    path = tmp_path / f"r.{ending}"
    found.write(path)
    if ending == "parquet":
        again = [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
    elif ending == "jsonl":
        again = [tuple(json.loads(line).values()) for line in path.read_text("utf-8").split("\n")[:-1]]
    else:
        with path.open(encoding="utf-8", newline="") as stream:
            header, *body = csv.reader(stream, delimiter="\t" if ending == "tsv" else ",")
        assert header == list(COLUMNS)
        again = [(user, int(rank), item, title, float(score)) for user, rank, item, title, score in body]
        rows = [(user, rank, item, title or "", score) for user, rank, item, title, score in rows]
    assert again == rows


# ---- case-study ------------------------------------------------------------------------------------


def outcome(above: list[int]) -> Outcome:
    rank = np.array(above)
    one = np.ones_like(rank)
    return Outcome(one, one, one, {"kept": UserRanks(rank, one, rank, one, one, one)}, {})


def test_users_are_picked_where_the_runs_differ_most():
    first, second = outcome([0, 5, 50, 3]), outcome([0, 0, 3, 90])
    assert pick([first, second], 2) == [1, 3], "best for the second run, then best for the first"
    assert pick([first, second], 9) == [1, 3, 2, 0]
    assert pick([second], 2) == [1, 3], "best and worst of a single run"


def test_ranks_count_ties_half():
    tied = outcome([4])
    tied.ranks["kept"].ties[0] = 5
    assert rank_of(tied, 0) == 7
    assert rank_of(outcome([0]), 0) == 1


@pytest.fixture(scope="module")
def cases(root) -> Answer:
    return genrec(root, "case-study", "popular-s0", "sasrec-s0", "--users", "6")


def test_the_picked_users_and_ranks_are_those_of_the_evaluation(root, cases):
    ranks = [evaluated(root, "--run", f"{model}-s0")[1] for model in ("popular", "sasrec")]
    gain = [1 / np.log2(users["kept_rank"] + (users["kept_ties"] + 1) / 2 + 1) for users in ranks]
    names = Names.read(data_of(root))
    rows = pq.read_table(cases.path / "cases.parquet").to_pylist()
    assert len(rows) == 12 and len({row["user"] for row in rows}) == 6
    order = np.argsort(gain[1] - gain[0], kind="stable")  # users of equal gain come in their order
    extremes = {names.user[ranks[0]["user"][row] - 1] for row in (*order[:3], *order[-3:])}
    assert {row["user"] for row in rows} == extremes
    for row in rows:
        users = ranks[row["run"] == "sasrec-s0"]
        place = names.user.index(row["user"]) + 1
        at = int(np.flatnonzero(users["user"] == place)[0])
        for protocol in ("kept", "left_out"):
            above, ties = (int(users[f"{protocol}_{name}"][at]) for name in ("rank", "ties"))
            assert row[f"rank_{protocol}"] == above + (ties - 1) // 2 + 1
        assert row["target"] == names.item[users["target"][at] - 1]
        assert len(row["items"]) == 5


def test_the_target_is_marked_where_a_list_holds_it(cases):
    text = (cases.path / "cases.md").read_text()
    rows = pq.read_table(cases.path / "cases.parquet").to_pylist()
    held = sum(row["target"] in row["items"] for row in rows)
    assert held > 0
    assert text.count("**✓**") == held
    assert text in cases.err
    assert text.count("## User ") == 6 and text.count("Next: **") == 6


def test_runs_of_one_label_are_told_apart(root):
    other = genrec(root, "train", "--model", "sasrec", "--epochs", "1", *TINY)
    name = next(p.name for p in other.path.parent.glob("sasrec-s0-*") if p != other.path)
    labels = genrec(root, "case-study", name, other.path.name, "--users", "1").manifest["result"]["runs"]
    assert labels == [name, other.path.name]
    assert genrec(root, "case-study", "sasrec-s0").code == 4, "an ambiguous label stays an error"


def test_a_named_user_is_shown(root):
    answer = genrec(root, "case-study", "rpg-s0", "--user", "U0000009", "--user", "U0000009", "--k", "3")
    rows = pq.read_table(answer.path / "cases.parquet").to_pylist()
    assert [(row["user"], len(row["items"])) for row in rows] == [("U0000009", 3)]
    other = genrec(root, "case-study", "rpg-s0", "--user", "U0000009", "--k", "30", "--exclude-seen")
    (row,) = pq.read_table(other.path / "cases.parquet").to_pylist()
    assert len(row["items"]) == 30 and not set(row["items"]) & set(row["history"])
    assert "Lists with seen left out." in (other.path / "cases.md").read_text()


def test_a_taint_outlives_a_stop(root, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(root, tmp_path / "root"))
    codes = next(copy.glob("synthetic/codes/*/codes.parquet"))
    sound, table = codes.read_bytes(), pq.read_table(codes)
    backwards = table["codes"].combine_chunks().take(list(range(len(table)))[::-1])
    pq.write_table(
        table.set_column(table.schema.get_field_index("codes"), table.schema.field("codes"), backwards), codes
    )
    words = ["train", "--model", "rpg", *TINY, "--epochs", "1", "--label", "t", "--set", "train.seed=5"]
    with monkeypatch.context() as stopped:
        stopped.setattr(TrainProgress, "attach", lambda self, loop: Callbacks(stop_requested=lambda: True))
        assert genrec(copy, *words, "--allow-stale").code == 130
    codes.write_bytes(sound)
    answer = genrec(copy, *words)
    assert answer.code == 0 and "it starts anew" in answer.err and answer.manifest["tainted"] is False


# ---- train -----------------------------------------------------------------------------------------


def test_a_run_is_a_model_folder(root):
    answer = genrec(root, "train", "--model", "rpg", "--epochs", "2", *TINY)
    folder, manifest = answer.path, answer.manifest
    assert json.loads((folder / "config.json").read_text()) == manifest["config"]
    assert manifest["config"]["train"]["lr"] == 5e-4, "every default is resolved"
    log = pq.read_table(folder / "log.parquet").to_pylist()
    best = max(log, key=lambda row: row["valid/NDCG@10"])
    assert manifest["result"]["best_epoch"] == best["epoch"]
    assert manifest["result"]["valid"]["NDCG@10"] == best["valid/NDCG@10"]
    assert "rpg on synthetic" in (folder / "README.md").read_text()
    found, users, _ = evaluated(root, "--run", str(folder), "--split", "valid")
    assert found["metrics"]["kept"]["NDCG@10"] == pytest.approx(best["valid/NDCG@10"], abs=1e-6), (
        "the best weights are kept"
    )
    assert len(users["user"]) == found["users"]


def test_data_that_can_teach_nothing_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n" + "".join(f"u{n},i{n % 3}\n" for n in range(9)))
    words = ["--dataset", "lone", "--interactions", tmp_path / "log.csv", "--k-core", "0"]
    assert genrec(tmp_path, "preprocess", *words).code == 0
    answer = genrec(tmp_path, "train", "--model", "sasrec", *TINY)
    assert answer.code == 3 and "3 interactions" in answer.err
    assert genrec(tmp_path, "train", "--model", "popular").code == 0
    assert genrec(tmp_path, "evaluate", "--run", "popular-s0").code == 3

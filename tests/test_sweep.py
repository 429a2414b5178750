"""Sweeps and comparisons from end to end on a small shop: kept, resumed, tabled; and what they refuse."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from shop import SMALL_SHOP, TINY, Answer, genrec

from genrec_cli import registry
from genrec_cli.artifacts import Workspace
from genrec_cli.config import merge, parse_set, read_toml, validate
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import ConfigError, DivergedError, UsageError
from genrec_cli.stages.recipe import SWEEPS, names, read_recipe
from genrec_cli.stages.sweep_recipe import MAX_CELLS, Sweep, SweepConfig, read_sweep
from genrec_cli.stages.sweep_table import check_columns, cutoffs, shown

HEAD = '[sweep]\ntitle = "T"\n'
TWO_BY_TWO = """
[sweep]
title = "Two by two"
seeds = [0, 1]
columns = ["recall@5", "NDCG@10", "step_ms", "best_epoch"]

[sweep.grid]
train.lr = [1e-3, 4e-3]
"model.temperature" = [0.07, 0.2]

[sweep.on.synthetic.expected]
"lr 0.001, temperature 0.07" = [0.3, 0.25, 10, 1]

[tokenizer]
codebooks = 4
codewords = 8

[model]
name = "rpg"
width = 16
heads = 2
inner = 16

[train]
epochs = 1
warmup_steps = 2
"""
ROWS = [f"lr {lr}, temperature {t}" for lr in (0.001, 0.004) for t in (0.07, 0.2)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A preprocessed shop and the file of the sweep beside it."""
    folder = tmp_path_factory.mktemp("sweep")
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(folder / "root", *words).code == 0
    (folder / "grid.toml").write_text(TWO_BY_TWO)
    return folder


@pytest.fixture(scope="module")
def swept(shop) -> tuple[Path, Answer]:
    """The root after a first whole sweep. Tests must leave it as it is."""
    root = Path(shutil.copytree(shop / "root", shop / "swept"))
    return root, genrec(root, "sweep", shop / "grid.toml")


def runs_of(root: Path) -> dict[str, tuple[int, int]]:
    """Each run and when its weights and manifest were written."""
    return {
        path.name: ((path / "model.safetensors").stat().st_mtime_ns, (path / "manifest.json").stat().st_mtime_ns)
        for path in (root / "synthetic" / "runs").glob("[!.]*")
        if (path / "manifest.json").exists()
    }


def write(folder: Path, content: str) -> Path:
    (path := folder / "mine.toml").write_text(content)
    return path


# ---- the table -------------------------------------------------------------------------------------


def test_the_table_is_made_of_the_evaluations(swept):
    root, answer = swept
    table = pq.read_table(answer.path / "table.parquet").to_pylist()
    runs = pq.read_table(answer.path / "runs.parquet").to_pylist()
    assert [row["row"] for row in table] == ROWS and [row["n"] for row in table] == [2] * 4
    assert [(run["row"], run["seed"]) for run in runs] == [(row, seed) for row in ROWS for seed in (0, 1)]
    for row in table:
        mine = [run for run in runs if run["row"] == row["row"]]
        assert row["runs"] == ",".join(run["run"] for run in mine)
        first, second = (
            json.loads((root / "synthetic" / "eval" / run["evaluation"] / "manifest.json").read_text()) for run in mine
        )
        assert first["config"]["evaluate"]["split"] == "valid", "the default is to choose by validation"
        a, b = (found["result"]["metrics"]["kept"]["NDCG@10"] for found in (first, second))
        assert row["NDCG@10"] == pytest.approx((a + b) / 2)
        assert row["NDCG@10 sd"] == pytest.approx(abs(a - b) / 2**0.5)
        assert row["step_ms"] > 0 and row["best_epoch"] == 1
    assert [row["NDCG@10 paper"] for row in table] == [0.25, None, None, None]


def test_the_table_says_which_split_and_whose_numbers(swept):
    _, answer = swept
    text = (answer.path / "table.md").read_text()
    assert "# Two by two: synthetic, valid split, seeds 0, 1" in text
    assert (
        "| row | n | Recall@5 | Recall@5, paper | Recall@5, seen left out | NDCG@10 | NDCG@10, paper |" in text
        and " ± " in text
    )
    assert "'paper' is printed for the test split" in text and "validation numbers" in text
    assert answer.path.name.startswith("grid-valid-")
    assert "valid split" in answer.err and "0.2500" in answer.err


def test_settings_reach_the_runs(swept):
    root, _ = swept
    configs = [json.loads((root / "synthetic" / "runs" / name / "config.json").read_text()) for name in runs_of(root)]
    found = {(c["train"]["lr"], c["model"]["temperature"], c["train"]["seed"]) for c in configs}
    assert found == {(lr, t, seed) for lr in (0.001, 0.004) for t in (0.07, 0.2) for seed in (0, 1)}
    assert {c["model"]["width"] for c in configs} == {16}


# ---- kept and resumed ------------------------------------------------------------------------------


def test_the_second_time_all_is_up_to_date(swept, shop):
    root, first = swept
    before = runs_of(root)
    again = genrec(root, "sweep", shop / "grid.toml")
    assert (again.code, again.out) == (0, first.out) and runs_of(root) == before
    assert again.err.count(": up to date") == 9, "eight runs and the table"
    assert "epoch 1/1" not in again.err


def test_a_run_of_train_is_a_cell_whatever_its_label(swept, shop, tmp_path):
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    assert genrec(root, "tokenize", "--codebooks", "4", "--codewords", "8").code == 0
    words = ["--config", shop / "grid.toml", "--set", "train.lr=0.004", "--set", "model.temperature=0.2"]
    alone = genrec(root, "train", *words, "--label", "mine", "--seed", "1")
    assert alone.path.name.startswith("mine-"), alone.err
    dry = json.loads(genrec(root, "sweep", shop / "grid.toml", "--dry-run", "--json").out)
    assert [c["run"] for c in dry["cells"] if c["state"] == "up to date"] == [alone.path.name]
    assert alone.path.name[-8:] in {name[-8:] for name in runs_of(swept[0])}


def test_a_kill_loses_nothing(swept, shop, tmp_path, monkeypatch):
    """Stopped within the fifth run: four are kept, the fifth goes on, and the weights are those of a run in one go."""
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    epoch, calls = Loop._finish_epoch, []

    def stop_in_the_fifth(loop: Loop) -> None:
        calls.append(loop)
        if len(calls) == 5:
            raise KeyboardInterrupt
        epoch(loop)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_finish_epoch", stop_in_the_fifth)
        stopped = genrec(root, "sweep", shop / "grid.toml")
    assert stopped.code == 130 and "what was finished before is kept" in stopped.err
    before = runs_of(root)
    assert len(before) == 4 and not list((root / "synthetic").glob("sweeps/*"))
    cells = json.loads(genrec(root, "sweep", shop / "grid.toml", "--dry-run", "--json").out)["cells"]
    assert [cell["state"] for cell in cells] == ["up to date"] * 4 + ["would go on"] + ["would be made"] * 3
    resumed = genrec(root, "sweep", shop / "grid.toml")
    after = runs_of(root)
    assert resumed.path.name == swept[1].path.name and len(after) == 8
    assert all(after[name] == stamp for name, stamp in before.items())
    for name in after:
        weights = (root / "synthetic" / "runs" / name / "model.safetensors").read_bytes()
        assert weights == (swept[0] / "synthetic" / "runs" / name / "model.safetensors").read_bytes(), name


def test_a_dry_run_makes_nothing(shop, tmp_path):
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    before = set(root.rglob("*"))
    answer = genrec(root, "sweep", shop / "grid.toml", "--dry-run", "--seeds", "7")
    assert answer.code == 0 and set(root.rglob("*")) == before
    assert answer.err.count("codes would be made first") == 4


def test_a_row_that_diverges_does_not_end_the_others(swept, shop, tmp_path, monkeypatch):
    root = Path(shutil.copytree(swept[0], tmp_path / "root"))
    epoch = Loop._epoch

    def diverge(loop: Loop) -> None:
        if loop.config.seed == 5 and loop.config.lr == 0.004:
            raise DivergedError("The next is nan.")
        epoch(loop)

    monkeypatch.setattr(Loop, "_epoch", diverge)
    answer = genrec(root, "sweep", shop / "grid.toml", "--seeds", "0,5")
    table = pq.read_table(answer.path / "table.parquet").to_pylist()
    assert [row["n"] for row in table] == [2, 2, 1, 1], answer.err
    assert "diverged and left out: lr 0.004, temperature 0.2, seed 5" in (answer.path / "table.md").read_text()


def test_a_sweep_over_stale_inputs_is_marked_on_the_screen_and_on_its_page(shop, tmp_path):
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    path = write(tmp_path, GRID + 'model.name = ["popular"]\n')
    sound = genrec(root, "sweep", path)
    assert "stale inputs" not in sound.err + (sound.path / "table.md").read_text()
    (changed,) = (root / "synthetic" / "data").glob("[!.]*/items.parquet")
    pq.write_table(pq.read_table(changed), changed, compression="gzip")
    answer = genrec(root, "sweep", path, "--allow-stale")
    assert answer.manifest["tainted"] and answer.err.count("warning: made from stale inputs (--allow-stale)") == 1
    assert "**Made from stale inputs (--allow-stale)" in (answer.path / "table.md").read_text()


def test_codebooks_may_vary_and_models_may_differ(shop, tmp_path):
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    rows = "".join(
        f'[[sweep.run]]\nname = "{name}"\nset = {{ {settings} }}\n'
        for name, settings in {
            "two": "tokenizer.codebooks = 2",
            "four": "tokenizer.codebooks = 4",
            "joined": "tokenizer.codebooks = 4, behaviour.weight = 0.5",
            "popular": 'model.name = "popular"',
        }.items()
    )
    small = 'curriculum.preset="r-inf"\nmodel={name="mhl"}\ntokenizer.codewords=8\ntrain={epochs=1, warmup_steps=2}\n'
    path = write(tmp_path, small + HEAD + rows)
    popular = genrec(root, "sweep", path)  # masks and a model that cannot mask
    assert popular.code == 2 and "'popular' takes no masks" in popular.err and not runs_of(root)
    assert not list((root / "synthetic").glob("[vc]*/*")), "refused before vectors and codes are made"
    path.write_text(path.read_text().replace('curriculum.preset="r-inf"\n', ""))
    answer = genrec(root, "sweep", path, "--split", "test", "--set", "train.max_length=20")
    table = pq.read_table(answer.path / "table.parquet").to_pylist()
    assert [row["row"] for row in table] == ["two", "four", "joined", "popular"]
    assert all(row["NDCG@10"] for row in table)
    codes = sorted(p.name[:19] for p in (root / "synthetic" / "codes").glob("[!.]*"))
    assert [name.partition("-lsa")[0] for name in codes] == ["opq2x8", "opq4x8-behaviour0.5", "opq4x8"]
    assert "Test numbers: to report what was chosen before" in (answer.path / "table.md").read_text()


def test_rows_with_and_without_a_tokenizer_and_cutoffs_of_ones_own(shop, tmp_path):
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    rows = (
        '[[sweep.run]]\nname = "popular"\nset = { model.name = "popular" }\n'
        '[[sweep.run]]\nname = "random"\n'
        'set = { model.name = "rpg", tokenizer = { name = "random", codebooks = 2, codewords = 8 } }\n'
        '[[sweep.run]]\nname = "rkmeans"\n'
        'set = { model.name = "rpg", tokenizer = { name = "rkmeans", codebooks = 2, codewords = 8 } }\n'
    )
    head = HEAD + 'columns = ["NDCG@10", "code_Recall@7"]\n'
    # [search] is for other models: exact search ignores it.
    path = write(tmp_path, head + rows + "[evaluate]\nat = [20]\n[train]\nepochs = 1\n[search]\nbeams = 30\n")
    answer = genrec(root, "sweep", path, "--set", "train.max_length=10")
    table = pq.read_table(answer.path / "table.parquet").to_pylist()
    assert [row["row"] for row in table] == ["popular", "random", "rkmeans"]
    assert all(row["NDCG@10"] > 0 and row["code_Recall@7"] > 0 for row in table), "no dashes"
    evaluation = next((root / "synthetic" / "eval").glob("popular*"))
    assert json.loads((evaluation / "manifest.json").read_text())["config"]["evaluate"]["at"] == [7, 10, 20]


def test_a_row_starts_from_a_run(shop, tmp_path):
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    small = "model = { name = 'sasrec', width = 8, heads = 1, inner = 8 }"
    rows = (
        f'[[sweep.run]]\nname = "cold"\nset = {{ {small} }}\n'
        f'[[sweep.run]]\nname = "warm"\ninit_from = "start"\nset = {{ {small} }}\n'
    )
    path = write(tmp_path, HEAD + rows + "[train]\nepochs = 1\nwarmup_steps = 2\n")
    missing = genrec(root, "sweep", path)
    assert missing.code == 4 and "start" in missing.err
    words = ["--set", "model.width=8", "--set", "model.heads=1", "--set", "model.inner=8", "--seed", "7"]
    assert genrec(root, "train", "--model", "sasrec", "--epochs", "1", *words, "--label", "start").code == 0
    assert genrec(root, "sweep", path).code == 0
    runs = [
        json.loads((run / "manifest.json").read_text()) for run in (root / "synthetic" / "runs").glob("sasrec-s0-*")
    ]
    assert sorted("init" in run["inputs"] for run in runs) == [False, True]


def test_models_that_read_vectors_but_no_codes_have_the_encoder_of_their_row(shop, tmp_path):
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    graph = "train.epochs = 1, model.width = 8, model.heads = 1, model.inner = 8, model.graph_edges = 3"
    rows = "".join(
        f'[[sweep.run]]\nname = "{name} {dim}"\nset = {{ model.name = "{name}", encoder.dim = {dim}, {more} }}\n'
        for name, more in (("neighbours", "model.power = 1.0"), ("sasrec", graph))
        for dim in (4, 16)
    )
    path = write(tmp_path, HEAD + rows + '[encoder]\nname = "lsa"\n')
    assert genrec(root, "sweep", path, "--dry-run").err.count("vectors would be made first") == 4
    answer = genrec(root, "sweep", path)
    assert answer.code == 0, answer.err
    runs = [json.loads((run / "manifest.json").read_text()) for run in (root / "synthetic" / "runs").glob("[!.]*")]
    assert len({run["inputs"]["vectors"]["key"] for run in runs}) == 2 and len({run["key"] for run in runs}) == 4


def test_tokenizers_are_compared_by_their_codes_and_one_model(shop, tmp_path):
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    small = ["--set", "tokenizer.codewords=16", *TINY, "--set", "train.epochs=1"]
    answer = genrec(root, "sweep", "tokenizers", *small)
    assert answer.code == 0, answer.err
    table = {row["row"]: row for row in pq.read_table(answer.path / "table.parquet").to_pylist()}
    assert list(table) == ["opq", "pq", "rkmeans", "rqvae", "random"]
    for name, row in table.items():
        codes = next((root / "synthetic" / "codes").glob(f"{name}4x16-*"))
        quality = json.loads((codes / "quality.json").read_text())
        for column in (
            "colliding_fraction",
            "mean_entropy",
            "neighbours_kept_by_digits",
            "mutual_information_adjusted",
        ):
            assert row[column] == pytest.approx(quality[column])
        evaluation = Workspace(root).find(
            "synthetic",
            "eval",
            pq.read_table(answer.path / "runs.parquet").to_pylist()[list(table).index(name)]["evaluation"],
        )
        assert row["code_NDCG@10"] == pytest.approx(evaluation.result["code_metrics"]["kept"]["NDCG@10"])
        assert row["NDCG@10"] == pytest.approx(evaluation.result["metrics"]["kept"]["NDCG@10"])
        assert row["NDCG@10, seen left out"] == pytest.approx(evaluation.result["metrics"]["left_out"]["NDCG@10"])
        assert row["code_Recall@10"] >= row["Recall@10"]
    assert table["random"]["neighbours_kept_by_decoded"] is None
    assert table["random"]["neighbours_kept_by_digits"] < table["opq"]["neighbours_kept_by_digits"]
    assert "code_NDCG@10" in answer.err and (answer.path / "table.md").read_text().count("| rkmeans |") == 2
    apart = [*small, "--set", "tokenizer.collisions=reassign"]
    again = genrec(root, "sweep", "tokenizers", *apart)
    for row in pq.read_table(again.path / "table.parquet").to_pylist():
        assert row["colliding_fraction"] == 0 and row["NDCG@10"] == row["code_NDCG@10"]


OWN_DATA = """
[sweep]
title = "Densities"
columns = ["NDCG@10"]

[sweep.grid]
preprocess.k_core = [2, 6]
model.name = ["rpg", "popular"]

[tokenizer]
codebooks = 2
codewords = 8

[train]
epochs = 1
max_length = 10
"""


def test_a_sweep_over_preprocessing_makes_the_data_of_each_cell(shop, tmp_path):
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    path = write(tmp_path, OWN_DATA)
    survey = genrec(root, "sweep", path, "--dry-run", "--json")
    states = {cell["state"] for cell in json.loads(survey.out)["cells"]}
    assert states == {"data would be made first"} and len(list((root / "synthetic" / "data").glob("[!.]*"))) == 1
    answer = genrec(root, "sweep", path)
    table = pq.read_table(answer.path / "table.parquet").to_pylist()
    assert [row["row"] for row in table] == ["k_core 2, rpg", "k_core 2, popular", "k_core 6, rpg", "k_core 6, popular"]
    assert all(row["NDCG@10"] > 0 for row in table)
    ws = Workspace(root)
    users = [ws.input(ws.find("synthetic", "runs", row["runs"]), "data").result["users"] for row in table]
    assert users[0] == users[1] > users[2] == users[3] > 0
    assert "up to date" in genrec(root, "sweep", path).err


def test_a_sweep_over_preprocessing_needs_raw_files_and_takes_no_data(shop, tmp_path):
    path = write(tmp_path, OWN_DATA)
    answer = genrec(shop / "root", "sweep", path, "--data", "k5-loo")
    assert answer.code == 2 and "--data cannot be given" in answer.err
    root = Path(shutil.copytree(shop / "root", tmp_path / "root"))
    shutil.rmtree(root / "synthetic" / "raw")
    answer = genrec(root, "sweep", path)
    assert answer.code == 2 and "'synthetic' has none" in answer.err and "Leave [preprocess] out" in answer.err
    wrong = write(tmp_path, OWN_DATA.replace("[2, 6]", "[2, -1]"))
    assert genrec(shop / "root", "sweep", wrong).code == 3


# ---- what is refused -------------------------------------------------------------------------------

GRID = HEAD + "[sweep.grid]\n"
WRONG = [
    (3, "[train]\nlr = 1e-3\n", [], "no [sweep] table"),
    (3, HEAD, [], "needs [[sweep.run]] rows or a [sweep.grid]"),
    (3, HEAD + "rows = 3\n", [], "sweep.rows: there is no such key"),
    (3, GRID + "train.lr = 1e-3\n", [], "train.lr must be a list"),
    (3, GRID + "lr = [1e-3]\n", [], "write section.key, not 'lr'"),
    (3, GRID + "source.users = [3, 4]\n", [], "a sweep cannot set 'source'"),
    (3, GRID + "train.lrr = [1e-3]\n", [], "Did you mean 'lr'?"),
    (3, GRID + 'train.lr = ["fast"]\n', [], "given: 'fast'"),
    (3, GRID + "evaluate.searchh = [1]\n", [], "Did you mean 'search'?"),
    (3, GRID + "train.lr = [1e-3, 1e-3]\n", [], "two rows are called 'lr 0.001'"),
    (3, GRID + 'model.name = ["rpg"]\n[sweep.on.synthetic.expected]\nrgp = [0.1]\n', [], "Did you mean 'rpg'?"),
    (3, GRID + 'model.name = ["rpg"]\n[sweep.on.synthetic.expected]\nrpg = [0.1]\n', [], "1 numbers for 4 columns"),
    (3, GRID + "train.lr = [1e-3]\n", ["--set", "sweep.columns=['minute']"], "Did you mean 'minutes'?"),
    (3, GRID + "train.lr = [1e-3]\n", ["--set", "train.epochs=0"], "train.epochs"),
    (3, GRID + "train.lr = [1e-3]\n", ["--seeds", "1,1"], "has a seed twice"),
    (2, GRID + "train.lr = [1e-3]\n", ["--seeds", "one"], "--seeds 0,1,2"),
    (2, GRID + "train.lr = [1e-3]\n", ["--split", "train"], "--split valid"),
    (2, GRID + "train.lr = [1e-3]\n", ["--set", "train.lr=1e-2"], "train.lr is what this sweep varies"),
    (2, GRID + "train.lr = [1e-3]\n", ["--set", "train.seed=3"], "--seeds"),
    (2, GRID + "train.seed = [1, 2]\n", [], "--seeds"),
    (2, GRID + "train.lr = [1e-3]\n[evaluate]\nsplit = 'test'\n", [], "--split"),
    (2, GRID + "train.lr = [1e-3]\n", ["--set", "source.users=3"], "'genrec sweep' does not read"),
    (2, GRID + "model.name = ['rgp']\n", [], "Did you mean 'rpg'?"),
    (2, GRID + "search.beams = [20, 5]\n[model]\nname = 'mdgr'\n", [], "in 'beams 5' is more than these settings"),
    (3, GRID + "search.beams = [20]\n[model]\nname = 'popular'\n", [], "search.beams: there is no such key"),
    (2, GRID + "model.name = ['rpg', 'popular']\n", ["--set", "evaluate.search=graph"], "the model 'popular'"),
    (2, GRID + "train.lr = [1e-3]\n[evaluate]\nat = [0]\n", [], "cutoffs are 1 or more"),
    (3, GRID + "model.dropout = [0.1, 2.0]\n[model]\nname = 'sasrec'\n", [], "'dropout 2.0': model.dropout"),
]


@pytest.mark.parametrize(("code", "content", "words", "message"), WRONG)
def test_a_wrong_sweep_is_one_clear_error_before_any_work(shop, tmp_path, code, content, words, message):
    answer = genrec(shop / "root", "sweep", write(tmp_path, content), *words)
    assert (answer.code, answer.out) == (code, ""), answer.err
    assert message in answer.err and "bug" not in answer.err
    assert not list((shop / "root" / "synthetic").glob("[cr][ou][dn]*s/*")), "nothing was made"


def test_a_sweep_of_too_many_cells_is_counted_and_not_built(tmp_path):
    """10^8 cells at once, and the bound itself: rows, values and seeds all count."""
    ten = ", ".join(f"{n / 1000}" for n in range(1, 11))
    axes = ["train.lr", "train.weight_decay", "model.dropout", "model.temperature"]
    grid = "".join(f"{axis} = [{ten}]\n" for axis in axes)
    with pytest.raises(ConfigError, match="the sweep has 10,000,000,000 cells; at most 10,000"):
        many = {"sweep": {"seeds": list(range(1_000_000))}}
        read_sweep(str(write(tmp_path, GRID + grid)), many, "synthetic")
    path = write(tmp_path, GRID + grid)
    assert len(read_sweep(str(path), {}, "synthetic").cells) == MAX_CELLS == 10_000
    with pytest.raises(ConfigError, match="20,000 cells"):
        read_sweep(str(path), {"sweep": {"seeds": [0, 1]}}, "synthetic")
    rows = "".join(f'[[sweep.run]]\nname = "{name}"\n' for name in "ab")
    with pytest.raises(ConfigError, match="20,000 cells"):
        read_sweep(str(write(tmp_path, GRID + grid + rows)), {}, "synthetic")


def test_a_sweep_whose_name_fits_no_folder_is_refused_before_any_work(tmp_path):
    (path := tmp_path / f"{'é' * 120}.toml").write_text(GRID + "train.lr = [1e-3]\n")
    with pytest.raises(UsageError, match="has 240 bytes; the name of a sweep has at most 200"):
        read_sweep(str(path), {}, "synthetic")


def test_an_unknown_sweep_gets_a_suggestion(shop):
    answer = genrec(shop / "root", "sweep", "mhl-tabel2")
    assert answer.code == 2 and "Did you mean 'mhl-table2'?" in answer.err


def test_codes_that_contradict_the_sweep_are_refused(swept, shop):
    root, _ = swept
    codes = next((root / "synthetic" / "codes").glob("opq*")).name
    assert genrec(root, "sweep", shop / "grid.toml", "--codes", codes, "--dry-run").err.count("up to date") == 8
    answer = genrec(root, "sweep", shop / "grid.toml", "--codes", codes, "--set", "tokenizer.codebooks=8")
    assert answer.code == 2 and "tokenizer.codebooks is 8" in answer.err and "has 4" in answer.err


# ---- sweeps that come with the package -------------------------------------------------------------

BEAUTY, TOYS = "amazon-2014-beauty", "amazon-2014-toys-and-games"
SIZES = {
    "mhl-ingredients": 13,
    "mhl-table2": 16,
    "mhl-table6": 15,
    "mhl-table7": 24,
    "mhl-table8": 10,
    "mhl-table13": 3,
    "tokenizers": 5,
    "mdgr-noise": 6,
    "mdgr-decoding": 16,
    "mdgr-codes": 3,
    "mdgr-claims": 6,
    "counts": 14,
    "metadata": 3,
    "densities": 9,
    "entropy-cost": 24,
}


@pytest.mark.parametrize("name", names(SWEEPS))
@pytest.mark.parametrize("dataset", ["mine", BEAUTY, TOYS, "amazon-2014-sports-and-outdoors"])
def test_every_sweep_is_sound_on_any_data_set(name, dataset):
    sweep = read_sweep(name, {}, dataset)
    assert len(sweep.rows) == SIZES[name] and len(sweep.cells) == SIZES[name] * len(sweep.config.seeds)
    assert sweep.config.cite and sweep.config.dated
    for column, numbers in zip(sweep.config.columns, zip(*sweep.expected.values(), strict=True), strict=False):
        assert "@" not in column or all(0 < number < 0.2 for number in numbers)
    ours = not name.startswith("mhl-table")
    assert (sweep.expected == {}) == (ours or dataset == "mine" or (name == "mhl-table13" and dataset != TOYS))


def test_the_tables_overlap_where_the_paper_trains_the_same_thing():
    """R-E-Inf on tokens with K 16 and ratio .15 stands in four tables: the same settings, the same numbers."""
    same = {
        "mhl-table2": "token R-E-Inf",
        "mhl-table6": "token, codebooks 16",
        "mhl-table7": "token, ratio 0.15",
        "mhl-table8": "mask_weight 1.0",
    }
    sweeps: dict[str, Sweep] = {name: read_sweep(name, {}, BEAUTY) for name in same}
    assert {sweeps[name].expected[row] for name, row in same.items()} == {(0.0574, 0.0424, 0.0795, 0.0495)}

    def resolved(name: str) -> dict:
        layers = next(cell.layers for cell in sweeps[name].cells if cell.row == same[name])
        usual = {"model": {"mask_weight": 1.0}, "curriculum": {"granularity": "token"}}
        return {section: usual.get(section, {}) | layers.get(section, {}) for section in usual | layers}

    assert all(resolved(name) == resolved("mhl-table2") for name in same)


PUBLISHED = [
    ("mhl-table2", "token R-E-Inf", "beauty-mhl"),
    ("mhl-table6", "token, codebooks 16", "beauty-mhl"),
    ("mhl-table7", "token, ratio 0.15", "beauty-mhl"),
    ("mhl-table8", "mask_weight 1.0", "beauty-mhl"),
    ("mhl-table8", "mask_weight 1.8", "toys-mhl"),
    ("mhl-table8", "mask_weight 1.2", "sports-mhl"),
    ("mhl-table13", "MHL", "beauty-mhl"),
]


def settings(layers: dict) -> list:
    """What decides the weights, with every default: [train] without its seed, [model], [curriculum]."""
    given = {key: value for key, value in layers["model"].items() if key != "name"}
    train = validate(TrainConfig, "train", layers["train"]).model_copy(update={"seed": 0})
    curriculum = validate(CurriculumConfig, "curriculum", layers["curriculum"])
    model = validate(registry.load("model", layers["model"]["name"]).Config, "model", given)
    return [train, model, curriculum.watch, curriculum.budget, curriculum.smoothing, curriculum.phases()]


@pytest.mark.parametrize(("name", "row", "recipe"), PUBLISHED)
def test_a_published_cell_is_trained_as_the_recipe_says(name, row, recipe):
    recipe = read_recipe(recipe)
    cell = next(c for c in read_sweep(name, {}, recipe.head.dataset).cells if c.row == row)
    alone = merge({"model": {"name": "mhl"}}, read_toml(recipe.path))
    assert settings(merge({"model": {"name": "mhl"}}, cell.layers)) == settings(alone)
    assert cell.layers["tokenizer"]["codebooks"] == alone["tokenizer"]["codebooks"]


def test_the_tokenizers_are_compared_with_the_settings_of_the_recipe_beauty():
    recipe = read_recipe("beauty")
    (step,) = (step for step in recipe.steps if step.model == "rpg")
    given = merge(read_toml(recipe.path), parse_set(step.assigned), {"model": {"name": "rpg"}})
    for cell in read_sweep("tokenizers", {}, BEAUTY).cells:
        assert settings(cell.layers) == settings(given)


@pytest.mark.parametrize("name", ["mdgr-noise", "mdgr-decoding", "mdgr-codes"])
def test_the_sweeps_of_mdgr_have_the_rows_of_its_recipe(name):
    stride = read_toml(read_recipe("beauty-mdgr").path)["train"]["stride"]
    assert {cell.layers["train"].get("stride") for cell in read_sweep(name, {}, BEAUTY).cells} == {stride}


def test_what_holds_on_one_data_set_is_left_out_elsewhere():
    def digits(dataset: str) -> set[int]:
        return {cell.layers["tokenizer"]["codebooks"] for cell in read_sweep("mhl-table7", {}, dataset).cells}

    assert (digits(BEAUTY), digits(TOYS), digits("mine")) == ({16}, {32}, {16})
    given = {"tokenizer": {"codebooks": 8}, "sweep": {"seeds": [4]}}
    cells = read_sweep("mhl-table7", given, TOYS).cells
    assert {cell.layers["tokenizer"]["codebooks"] for cell in cells} == {8} and {cell.seed for cell in cells} == {4}


def test_sweeps_are_no_recipes_of_steps():
    assert {path.stem for path in SWEEPS.glob("*.toml")} == set(SIZES)
    assert validate(SweepConfig, "sweep", {"title": "T"}).seeds == (0,)


@pytest.mark.parametrize(
    "value, text",
    [
        (7.0838, "7.08"),
        (0.04123, "0.0412"),
        (12.0, "12"),
        (99.96, "100"),
        (141.27, "141"),
        (13_612_345, "13,612,345"),
    ],
)
def test_speeds_and_costs_keep_three_digits(value, text):
    line = {"row": "a", "n": 1, "users_per_second": value, "users_per_second sd": None, "users_per_second paper": None}
    assert shown([line], ["users_per_second"])[1] == [["a", 1, text]]


def test_columns_and_cutoffs():
    assert check_columns(["n@20", "code_hr@1", "minutes", "mean_entropy"])[:2] == ("NDCG@20", "code_Recall@1")
    assert cutoffs(("code_NDCG@20", "mean_entropy"), (5, 10)) == [5, 10, 20]
    assert cutoffs(("NDCG@20", "minutes"), (5, 10)) == [5, 10, 20] and cutoffs(("minutes",), (5, 10)) == [5, 10]
    assert cutoffs(("NDCG@10",), (20, 10)) == [10, 20]


# ---- compare ---------------------------------------------------------------------------------------


def rows_of(answer: Answer) -> list[dict]:
    return pq.read_table(answer.path / "table.parquet").to_pylist()


def sides(swept: tuple[Path, Answer]) -> list[str]:
    """Two rows of the sweep: each the names of its runs with commas between."""
    return [row["runs"] for row in pq.read_table(swept[1].path / "table.parquet").to_pylist()][:2]


def test_rows_of_a_sweep_are_compared_seed_by_seed(swept):
    root, _ = swept
    words = ["compare", *sides(swept), "--split", "valid", "--metrics", "ndcg@10,Recall@5"]
    answer = genrec(root, *words)
    table = {row["row"]: row for row in pq.read_table(swept[1].path / "table.parquet").to_pylist()}
    rows = rows_of(answer)
    assert [(row["metric"], row["seeds"]) for row in rows] == [("NDCG@10", 2)] * 4 + [("Recall@5", 2)] * 4
    assert [row["seen"] for row in rows] == (["kept"] * 2 + ["left_out"] * 2) * 2
    for row, name in zip(rows, [*ROWS[:2]] * 4, strict=True):
        column = row["metric"] + (", seen left out" if row["seen"] == "left_out" else "")
        assert row["value"] == pytest.approx(table[name][column])
        assert row["sd"] == pytest.approx(table[name][f"{column} sd"])
    assert rows[1]["low"] <= rows[1]["difference"] == pytest.approx(rows[1]["value"] - rows[0]["value"])
    again = genrec(root, *words)
    assert again.out == answer.out and "up to date" in again.err and "95 % over users" in again.err


def test_a_sweep_is_compared_by_its_name(swept):
    root, made = swept
    answer = genrec(root, "compare", "--sweep", made.path.name, "--metrics", "NDCG@10")
    rows = rows_of(answer)
    named = rows_of(genrec(root, "compare", *sides(swept), "--split", "valid", "--metrics", "NDCG@10"))
    assert len(rows) >= len(named) and rows[0]["value"] == named[0]["value"] and rows[0]["seeds"] == 2
    assert [row["run"] for row in rows][:2] == list(ROWS[:2]), "the names of the rows"
    refused = genrec(root, "compare", "rpg-s0", "--sweep", made.path.name)
    assert refused.code == 2 and "genrec compare --sweep NAME" in refused.err
    assert genrec(root, "compare").code == 2


@pytest.mark.parametrize("by", ["cold-start", "length", "day"])
def test_slices_hold_every_user_once(swept, by):
    first, second = (side.split(",")[0] for side in sides(swept))
    answer = genrec(swept[0], "compare", first, second, "--split", "valid", "--by", by, "--metrics", "NDCG@10")
    rows = [row for row in rows_of(answer) if row["run"] == rows_of(answer)[0]["run"]]
    for seen in ("kept", "left_out"):
        whole, *parts = (row for row in rows if row["seen"] == seen and row["users"])
        assert sum(row["users"] * row["value"] for row in parts) == pytest.approx(whole["users"] * whole["value"])
    rows = [row for row in rows if row["seen"] == "kept"]
    whole, parts = rows[0], [row for row in rows[1:] if row["users"]]
    assert whole["slice"] == "all" and sum(row["users"] for row in parts) == whole["users"] and len(parts) > 1
    assert answer.path.name.rpartition("-")[0].endswith(f"by-{by}")


def test_a_target_of_the_day_of_the_item_before_is_told_apart(swept):
    """Against a loop over the users of the Parquet tables."""
    answer = genrec(swept[0], "compare", sides(swept)[0].split(",")[0], "--split", "valid", "--by", "day")
    data = next((swept[0] / "synthetic" / "data").glob("[!.]*"))
    time = pq.read_table(data / "interactions.parquet")["time"].to_pylist()
    users = pq.read_table(data / "users.parquet").to_pylist()
    at = [user["offset"] + user["valid_at"] for user in users if user["valid_at"] > 0]
    same = sum(
        datetime.fromtimestamp(time[t], UTC).date() == datetime.fromtimestamp(time[t - 1], UTC).date() for t in at
    )
    assert 0 < same < len(at)
    counts = {row["slice"]: row["users"] for row in rows_of(answer)}
    assert counts == {"all": len(at), "same day": same, "later day": len(at) - same}


def test_data_without_times_have_no_days(tmp_path):
    lines = [f"u{user},i{(user + step) % 7}" for user in range(30) for step in range(5)]
    (tmp_path / "log.csv").write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    root = tmp_path / "root"
    for words in (
        ["preprocess", "--dataset", "own", "--interactions", tmp_path / "log.csv", "--k-core", "1"],
        ["train", "--model", "popular"],
        ["evaluate"],
    ):
        answer = genrec(root, *words)
        assert answer.code == 0, answer.err
    answer = genrec(root, "compare", "popular-s0", "--by", "day")
    assert answer.code == 2 and "has no times, so that no target has a day" in answer.err


def test_truncation_shows_both_ways_and_says_what_the_printed_one_measures(swept):
    run = sides(swept)[0].split(",")[0]
    words = ["--by", "truncation", "--drop", "4", "--set", "compare.longer_than=6", "--device", "cpu"]
    answer = genrec(swept[0], "compare", run, *words)
    everything = [row for row in rows_of(answer) if row["metric"] == "NDCG@10"]
    rows = [row for row in everything if row["seen"] == "kept"]
    assert len(everything) == 2 * len(rows)
    assert [row["slice"] for row in rows] == [
        "all",
        "over 6",
        "over 6, last 4 dropped",
        "over 6, cut as printed (memory)",
    ]
    users = [row["users"] for row in rows]
    assert users[0] > users[1] == users[2] == users[3] > 0 and rows[0]["p"] is None
    tested = genrec(swept[0], "evaluate", "--run", run)
    for row in everything[:2]:
        assert row["slice"] == "all"
        assert row["value"] == pytest.approx(tested.manifest["result"]["metrics"][row["seen"]]["NDCG@10"], abs=1e-6)
    assert "measures memory" in (answer.path / "table.md").read_text()


REFUSED = [
    (4, ["{a}", "{b}", "--split", "test", "--metrics", "MRR@5"], "genrec evaluate --dataset synthetic --run"),
    (2, ["{a}", "{a}", "--split", "valid"], "named twice"),
    (2, ["{a}", "{b}", "--split", "valid", "--metrics", "NDGC@10"], "no metric 'NDGC@10'"),
    (2, ["{a}", "--by", "truncation", "--drop", "30"], "cannot all lose 30"),
    (2, ["{a}", "{b}", "--split", "valid", "--drop", "5"], "compare.drop is for 'truncation'"),
    (2, ["{a}", "--by", "length", "--set", "compare.longer_than=5"], "compare.longer_than is for 'truncation'"),
    (2, ["{a}", "--by", "cold-start", "--set", "compare.lengths=[5]"], "compare.lengths is for 'length'"),
    (2, ["{a}", "--by", "length", "--set", "compare.lengths=[5,3]"], "must rise"),
    (3, ["{a}", "--by", "age"], "compare.by"),
    (3, ["{a}", "{b}", "--set", "compare.draws=100000000000"], "compare.draws"),
    (3, ["{a}", "--by", "truncation", "--set", "compare.longer_than=500"], "more than 500 items"),
    (4, ["nothing", "--split", "valid"], "No runs 'nothing'"),
]


@pytest.mark.parametrize(("code", "words", "message"), REFUSED)
def test_what_cannot_be_compared_is_refused(swept, code, words, message):
    names = sides(swept)[1].split(",")
    answer = genrec(swept[0], "compare", *(word.format(a=names[0], b=names[1]) for word in words))
    assert answer.code == code and message in answer.err, answer.err


def test_evaluations_in_several_ways_must_be_named(swept, tmp_path):
    root = Path(shutil.copytree(swept[0], tmp_path / "root"))
    run, other = (side.split(",")[0] for side in sides(swept))
    full = genrec(root, "evaluate", "--run", run, "--at", "5").path.name
    assert genrec(root, "evaluate", "--run", run, "--at", "20").code == 0, "the same ranks"
    assert genrec(root, "evaluate", "--run", other).code == 0
    assert genrec(root, "compare", run, other).code == 0
    few = genrec(root, "evaluate", "--run", run, "--set", "evaluate.users=50").path.name
    answer = genrec(root, "compare", run, other)
    assert answer.code == 4 and "in several ways" in answer.err and full in answer.err and few in answer.err


def test_evaluations_of_one_run_are_told_apart(swept, tmp_path):
    root = Path(shutil.copytree(swept[0], tmp_path / "root"))
    run = sides(swept)[0].split(",")[0]
    both = [genrec(root, "evaluate", "--run", run, "--at", at).path.name for at in ("10", "20")]
    assert [row["run"] for row in rows_of(genrec(root, "compare", *both, "--metrics", "NDCG@10"))] == both * 2


def test_other_data_splits_and_ways_are_refused(swept, tmp_path):
    root = Path(shutil.copytree(swept[0], tmp_path / "root"))
    run, other = (side.split(",")[0] for side in sides(swept))
    tested = genrec(root, "evaluate", "--run", run).path.name
    valid = next(e.path.name for e in Workspace(root).all("synthetic", "eval") if e.result["run"] == other)
    mixed = genrec(root, "compare", tested, valid)
    assert mixed.code == 2 and "differ in 'split': test, valid" in mixed.err
    assert "--split valid" in genrec(root, "compare", valid).err
    data = genrec(root, "preprocess", "--k-core", "6").path.name
    small = genrec(root, "train", "--model", "popular", "--data", data, "--label", "small")
    assert genrec(root, "evaluate", "--run", small.path.name).code == 0
    answer = genrec(root, "compare", run, small.path.name)
    assert answer.code == 2 and "different data" in answer.err

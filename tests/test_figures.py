"""Figures: what the drawn lines hold, what is masked most, and the command."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_catalog, make_histories
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.engine.entropies import sample
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.report import entropy, figures
from genrec_cli.report.figures import Curve
from genrec_cli.stages import figures as stage

COURSE = [("random", 0.2)] * 2 + [("entropy", 0.2), ("entropy", 0.1)] + [("inference", 0.0)] * 3
ROWS = [
    {
        "epoch": e,
        "phase": phase,
        "ratio": ratio,
        "loss/next": 6.0 / e,
        "loss/mask": 5.0 / e if ratio else None,
        "loss/masked_fraction": ratio / 2 if ratio else None,
        "valid/NDCG@10": None if e == 2 else 0.01 * min(e, 5),
        "entropy/mean": 3.0 - 0.1 * e,
        "entropy/position": [2.0, 2.5 + e, None],
        "entropy/digit": [1.0 + e, 2.0],
    }
    for e, (phase, ratio) in enumerate(COURSE, 1)
]


def line(axes, label: str):
    return next(each for each in axes.get_lines() if each.get_label() == label)


# ---- curves --------------------------------------------------------------------------------------------


def test_phases_are_spans_of_epochs():
    assert figures.phases(ROWS) == [("random", 1, 2, True), ("entropy", 3, 4, True), ("inference", 5, 7, False)]
    tints = figures.phase_tints([Curve("a", ROWS, "NDCG@10")])
    assert tints["inference"] == figures.PLAIN and len(set(tints.values())) == 3


def test_the_curves_of_a_run_are_its_log():
    losses, metric, ratio = figures.training([Curve("a", ROWS, "NDCG@10")], "a").axes
    assert line(losses, "next item, training").get_xydata().tolist() == [[e, 6.0 / e] for e in range(1, 8)]
    assert line(losses, "masked codes, training").get_xydata().tolist() == [[e, 5.0 / e] for e in range(1, 5)]
    assert any(list(each.get_xdata()) == [1, 3, 4, 5, 6, 7] for each in metric.get_lines()), "2 was not validated"
    star = next(each for each in metric.get_lines() if each.get_marker() == "*")
    assert star.get_xydata().tolist() == [[5, 0.05]], "the first of equals, as the run keeps it"
    assert line(ratio, "mask ratio").get_ydata().tolist() == [20, 20, 20, 10, 0, 0, 0]
    assert line(ratio, "really masked").get_ydata().tolist() == [10, 10, 10, 5]
    assert [t.get_text() for t in losses.texts] == ["random", "entropy", "inference"]
    assert "nats per code" in losses.get_ylabel() and "NDCG@10" in metric.get_ylabel() and "%" in ratio.get_ylabel()


def test_several_runs_lie_over_each_other_in_colours_of_their_own():
    plain = [{**row, "phase": "inference", "ratio": 0.0, "loss/mask": None} for row in ROWS[:4]]
    figure = figures.training([Curve("one", ROWS, "NDCG@10"), Curve("two", plain, "NDCG@10", of_codes=False)], "both")
    losses, _, ratio, strip = figure.axes
    assert line(losses, "one").get_color() != line(losses, "two").get_color()
    assert losses.get_ylabel().startswith("loss, nats\n"), "codes and items have no unit in common"
    assert len(ratio.get_lines()) == 1, "a run without masks has no ratio"
    assert sorted(patch.get_width() for patch in strip.patches) == [2, 2, 3, 4]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"one", "two"}


def test_the_same_log_gives_the_same_bytes_and_odd_names_do_no_harm(tmp_path):
    rows = [{**row, "phase": "$x^{ <&"} for row in ROWS]
    for name in ("a", "b"):
        made = figures.save(figures.training([Curve("run_$1", rows, "NDCG@10")], "$ & <"), tmp_path, name)
        assert made == [f"{name}.svg", f"{name}.png"]
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG" and "<svg" in (tmp_path / "a.svg").read_text()


# ---- entropies and masks -------------------------------------------------------------------------------


def test_the_survey_draws_masks_under_the_runs_own_policy():
    torch.manual_seed(0)
    histories = make_histories([12] * 40, 30)
    model = Mhl(MhlConfig(width=16, heads=2, inner=32), make_catalog(), max_length=10)
    batches = sample(histories, max_length=10, users=40, seed=0)
    generator = torch.Generator().manual_seed(0)
    samplers = {
        "random": HistoryMasks("random", "token", 0.3, "rounded", generator),
        "entropy": HistoryMasks("entropy", "item", 0.3, "rounded", generator),
    }
    found = entropy.survey(model, batches, torch.device("cpu"), samplers)
    assert found.entropy_NK.shape == (400, 4) and len(found.item_N) == 400
    for fraction_N in found.masked_N.values():
        assert fraction_N.mean() == pytest.approx(0.3, abs=0.01)
    assert found.masked_N["random"].std() < 0.08, "random masks do not depend on the item"
    history = found.position_N.reshape(-1, 10)
    assert (history == np.arange(10)).all()
    by_history = found.masked_N["entropy"].reshape(-1, 10)
    order = np.argsort(-found.entropy_NK.mean(1).reshape(-1, 10), axis=1, kind="stable")
    ranked = np.take_along_axis(by_history, order, axis=1)
    assert (ranked[:, :3] == 1).all() and (ranked[:, 3:] == 0).all(), "the 3 of highest entropy, always"


def padded_survey(ratio: float = 0.3) -> tuple[entropy.Survey, np.ndarray]:
    """A survey of items of one to four codes under entropy-guided masks, and which codes are there, N x K."""
    torch.manual_seed(0)
    catalog = make_catalog(padded=True)
    model = Mhl(MhlConfig(width=16, heads=2, inner=32), catalog, max_length=10)
    samplers = {"entropy": HistoryMasks("entropy", "token", ratio, "rounded", torch.Generator().manual_seed(0))}
    batches = sample(make_histories([12] * 40, 30), max_length=10, users=40, seed=0)
    found = entropy.survey(model, batches, torch.device("cpu"), samplers)
    return found, catalog.codes_IK.numpy()[found.item_N - 1] >= 0


def test_padding_of_text_is_neither_a_candidate_nor_a_code_of_the_survey():
    found, real_NK = padded_survey()
    assert not real_NK.all() and (np.isnan(found.entropy_NK) == ~real_NK).all()
    masked_N = (found.masked_N["entropy"] * real_NK.sum(1)).reshape(-1, 10).sum(1)
    assert masked_N == pytest.approx(0.3 * real_NK.sum(1).reshape(-1, 10).sum(1), abs=0.51), "of the codes there are"
    assert found.masked_N["entropy"].max() <= 1
    drawn = entropy.entropies(found, [], 8, "t")
    medians = drawn.axes[1].get_lines()[0].get_ydata()
    assert medians == pytest.approx([np.median(found.entropy_NK[real_NK[:, k], k]) for k in range(4)])


def test_padding_is_left_out_of_the_written_means(tmp_path):
    found, real_NK = padded_survey()
    first = {phase: entropy.mask_stats(found, phase, np.ones(30)) for phase in found.masked_N}
    names = SimpleNamespace(item=[str(i) for i in range(30)], title=["t"] * 30)
    stage._write_stats(SimpleNamespace(path=tmp_path), "", found, first, names, np.ones(30))
    for row in pq.read_table(tmp_path / "entropy.parquet").to_pylist():
        there = (found.position_N == row["position"] - 1) & real_NK[:, row["digit"] - 1]
        assert row["read"] == there.sum() > 0
        assert row["entropy"] == pytest.approx(found.entropy_NK[there, row["digit"] - 1].mean())


def make_survey(item, fraction) -> entropy.Survey:
    item_N = np.array(item)
    return entropy.Survey(item_N, np.zeros_like(item_N), np.ones((len(item_N), 2)), {"e": np.array(fraction)})


def test_fractions_by_item_and_by_popularity():
    found = make_survey([3, 1, 3, 2, 3, 1], [1.0, 0.2, 0.5, 0.0, 0.0, 0.4])
    stats = entropy.mask_stats(found, "e", np.array([5, 6, 200]))
    assert stats.item.tolist() == [1, 2, 3] and stats.read.tolist() == [2, 1, 3]
    assert stats.fraction == pytest.approx([0.3, 0.0, 0.5])
    assert stats.bins == ["1-5", "6-10", "> 100"] and stats.bin_fraction == pytest.approx([0.3, 0.0, 0.5])
    assert stats.overall == pytest.approx(2.1 / 6)


def test_an_item_read_once_is_not_the_most_masked():
    items = [1] * 6 + [2] * 6 + [3] * 6 + [4]
    fractions = [0.1] * 6 + [0.9] * 6 + [0.5] * 6 + [1.0]
    stats = entropy.mask_stats(make_survey(items, fractions), "e", np.full(4, 10))
    assert stats.item[entropy.most_masked(stats, 3)].tolist() == [2, 3, 1]
    assert stats.item[entropy.most_masked(stats, 2)].tolist() == [2, 3]
    rare = entropy.mask_stats(make_survey([1, 2, 2], [1.0, 0.4, 0.4]), "e", np.full(2, 10))
    assert rare.item[entropy.most_masked(rare)].tolist() == [1, 2], "in a tiny sample nothing is read often"


def test_the_entropy_figures_show_each_phases_last_epoch():
    random = np.random.default_rng(0)
    found = entropy.Survey(np.ones(40, int), np.repeat(range(2), 20), random.uniform(0, 2, (40, 2)), {})
    axes = entropy.entropies(found, ROWS, 16, "t").axes
    assert line(axes[2], "entropy (epoch 4)").get_xydata().tolist() == [[1, 2.0], [2, 6.5]], "no mean, no point"
    assert line(axes[3], "inference (epoch 7)").get_ydata().tolist() == [8.0, 2.0]
    assert any(each.get_ydata()[0] == pytest.approx(math.log(16)) for each in axes[0].get_lines())
    median = line(axes[0], "median").get_ydata()
    assert median[1] == pytest.approx(np.median(found.entropy_NK[20:]))
    without = [{k: v for k, v in row.items() if not k.startswith("entropy")} for row in ROWS]
    assert len(entropy.entropies(found, without, 16, "t").axes) == 2, "an older log has no entropies"


def test_epochs_positions_and_digits_are_whole_and_begin_at_one():
    rows = [{**row, "entropy/position": [2.0, 2.5, 3.0]} for row in ROWS[:4]]
    line, heat, _ = entropy.entropy_over_epochs(rows, "t").axes
    for axis in (line.xaxis, heat.xaxis, heat.yaxis):
        assert all(tick == int(tick) for tick in axis.get_majorticklocs())
    random = np.random.default_rng(0)
    found = entropy.Survey(np.ones(40, int), np.repeat(range(2), 20), random.uniform(0, 2, (40, 2)), {})
    for axes in entropy.entropies(found, ROWS, 16, "t").axes:
        assert 0 < axes.get_xlim()[0] < 1, "there is no position 0 and no digit 0"


def test_the_colours_of_a_map_span_the_epochs_after_the_first():
    rows = [{**row, "entropy/position": [9.0 if n == 0 else 2.0 + n, 2.0]} for n, row in enumerate(ROWS)]
    mesh = entropy.entropy_over_epochs(rows, "t").axes[1].collections[0]
    assert mesh.get_clim() == (2.0, 8.0)


def test_as_many_colours_as_runs_in_one_figure():
    assert len(set(figures.LINES)) == len(figures.LINES) >= stage.MAX_RUNS


# ---- the command ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shop") / "artifacts"
    short = [*TINY, "--epochs", "3", "--device", "cpu"]
    for words in (
        SMALL_SHOP,
        ["preprocess"],
        ["tokenize", "--codebooks", "4", "--codewords", "16"],
        ["train", *short, "--set", "curriculum.max_epochs=1"],
        ["train", *short, "--model", "sasrec", "--curriculum", "inf"],
        ["train", "--model", "popular", "--curriculum", "inf"],
    ):
        assert (answer := genrec(root, *words)).code == 0, answer.err
    return root


def test_the_figures_of_a_run(shop):
    run = next((shop / "synthetic" / "runs").glob("mhl-*"))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    answer = genrec(shop, "figures", "mhl-s0", "--users", "50", "--device", "cpu")
    names = ("training", "entropy", "masked", "entropy-epochs")
    assert answer.manifest["result"]["figures"] == [f"{n}.{kind}" for n in names for kind in ("svg", "png")]
    assert all((answer.path / name).stat().st_size > 5000 for name in answer.manifest["result"]["figures"])
    assert str(answer.path / "training.png") in answer.err
    masked = pq.read_table(answer.path / "masked.parquet").to_pydict()
    assert set(masked["phase"]) == {"random", "entropy"} and 0 < np.mean(masked["masked_fraction"]) < 0.3
    assert all(masked["title"]) and min(masked["read"]) >= 1
    table = pq.read_table(answer.path / "entropy.parquet").to_pydict()
    assert set(table["digit"]) == {1, 2, 3, 4} and 0 < max(table["entropy"]) <= math.log(16) + 1e-5
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}, "the run stays as it is"
    assert "up to date" in genrec(shop, "figures", "mhl-s0", "--users", "50").err


def test_several_runs_in_one_figure(shop):
    answer = genrec(shop, "figures", "sasrec-s0", "mhl-s0", "--users", "20", "--json", "--device", "cpu")
    result = json.loads(answer.out)["result"]
    assert {name.partition(".")[0] for name in result["figures"]} == {
        "training",
        "entropy-2",
        "masked-2",
        "entropy-epochs-2",
    }
    assert [name.split("-")[0] for name in result["runs"]] == ["sasrec", "mhl"]


def test_what_cannot_be_drawn_is_said(shop, monkeypatch):
    several = genrec(shop, "figures")
    assert several.code == 4 and "runs" in several.err
    twice = genrec(shop, "figures", "mhl-s0", "mhl-s0")
    assert twice.code == 2 and "twice" in twice.err
    without = genrec(shop, "figures", "popular-s0")
    assert without.code == 2 and "has no log" in without.err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    absent = genrec(shop, "figures", "mhl-s0")
    assert absent.code == 2 and "pip install 'genrec-cli[report]'" in absent.err


def test_the_lines_of_a_sweep_have_numbers_or_names_on_the_axis():
    from genrec_cli.report import sweep_lines

    rows = [
        {"row": f"{model}, lr {lr}", "n": 2, "NDCG@10": 0.1 * n + lr, "NDCG@10 sd": 0.01}
        for n, model in enumerate(("rpg", "mhl"))
        for lr in (0.1, 0.001, 0.01)
    ]
    (axes,) = sweep_lines.lines(rows, "NDCG@10", "lr").axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "lr" and len(axes.containers) == 2
    assert list(axes.containers[0].lines[0].get_xdata()) == [0.001, 0.01, 0.1]
    named = [{"row": name, "n": 1, "NDCG@10": 0.1, "NDCG@10 sd": None} for name in ("tiger", "rpg")]
    (axes,) = sweep_lines.lines(named, "NDCG@10", "models").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["tiger", "rpg"]


def test_labels_of_a_tradeoff_do_not_overlap():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from genrec_cli.report import tradeoff

    rows = [
        {"row": f"{name}, steps {n}", tradeoff.SPEED: 100.0 * 2**n, "NDCG@10": 0.04 + 0.0004 * n}
        for name in ("left", "entropy")
        for n in range(4)
    ]
    figure = tradeoff.tradeoff(rows, "NDCG@10", "decoding")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])

"""The HTML report of a small shop: its numbers, its tables, and in Chromium its sorting and that it asks nobody."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from shop import SMALL_SHOP, genrec

from genrec_cli.report import svg
from genrec_cli.report.page import Part, Table, page
from genrec_cli.stages import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for words in (SMALL_SHOP, ["preprocess", "--k-core", "2"]):
        assert genrec(folder, *words).code == 0
    gru = ["--model", "gru4rec", "--epochs", "2", "--set", "model.width=8", "--device", "cpu"]
    for model in (["--model", "popular"], [*gru, "--seed", "0"], [*gru, "--seed", "1"]):
        run = genrec(folder, "train", *model)
        assert genrec(folder, "evaluate", "--run", run.path.name, "--device", "cpu").code == 0
    return folder


@pytest.fixture(scope="module")
def made(shop) -> Path:
    return genrec(shop, "report", "--set", "report.draws=200").path / "report.html"


class Balance(HTMLParser):
    """Fails for tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_has_every_section_and_closes_its_tags(made):
    text = made.read_text()
    titles = re.findall(r"<h2[^>]*>([^<]*)", text)
    assert {"Evaluations", "Intervals", "Popularity of what is recommended", "Paired tests"} < set(titles)
    assert "Curves of training" in titles
    assert sum(title.startswith("Slices") for title in titles) == 3
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert not re.search(r"(src|href)=\"(?!#)", text)


def test_seeds_of_one_setting_are_one_row(shop, made):
    values = [
        genrec(shop, "evaluate", "--run", f"gru4rec-s{seed}", "--device", "cpu").manifest["result"]["metrics"]["kept"]
        for seed in (0, 1)
    ]
    mean = sum(value["NDCG@10"] for value in values) / 2
    row = next(line for line in made.read_text().splitlines() if "<td>gru4rec</td>" in line)
    assert f"{mean:.4f} ±" in row


def test_other_evaluations_of_a_run_are_neither_seeds_nor_the_end_of_the_tests(shop, tmp_path):
    root = Path(shutil.copytree(shop, tmp_path / "root"))
    small = ["--encoder", "lsa", "--codebooks", "2", "--codewords", "8", "--pca", "8"]
    assert genrec(root, "tokenize", *small).code == 0
    for words in (["--vectors", "lsa"], ["--set", "evaluate.users=20"]):
        assert genrec(root, "evaluate", "--run", "gru4rec-s0", "--device", "cpu", *words).code == 0
    text = (genrec(root, "report", "--set", "report.draws=200").path / "report.html").read_text()
    rows = [line for line in text.splitlines() if "<td>gru4rec</td>" in line and "±" in line]
    assert rows and all('data-v="2">2<' in row for row in rows), "two seeds, one of them evaluated twice"
    assert "Not shown" not in text, re.findall("Not shown[^<]*", text)
    assert "Not paired, as they have other data, users or searches: " in text


def test_popular_lists_are_the_most_popular_items(made):
    part = made.read_text().partition("Popularity of what is recommended</h2>")[2]
    rows = re.findall(r"<tr><td>(\S+)</td>(.*)</tr>", part)[:3]
    share = {name: [float(v) for v in re.findall('data-v="([^"]*)"', cells)] for name, cells in rows}
    assert set(share) == {"targets", "popular-s0", "gru4rec"}
    for values in share.values():
        assert values[2:] == sorted(values[2:]) and 0 < values[0] <= 1
    assert share["popular-s0"][6] > share["targets"][6]  # the top 20 % of the items


def test_without_evaluations_there_is_no_report(tmp_path):
    genrec(tmp_path, *SMALL_SHOP)
    answer = genrec(tmp_path, "report")
    assert answer.code == 4 and "genrec evaluate" in answer.err


def test_content_cannot_become_markup():
    bad = '<script>alert(1)</script>"'
    chart = svg.bars([svg.Bar(bad, 1.0, 0.5, 1.5)], bad) + svg.lines(
        [svg.Line(bad, [1], [2])], bad, x_label=bad, y_label=bad
    )
    text = page(bad, [Part(bad, bad, [Table([bad], [[bad], [(bad, 1)]], bad, chart)])], bad)
    assert text.count("<script") == 1 and 'aria-label="&lt;' in text


def test_the_importance_of_a_studys_settings_has_a_figure():
    best = {"value": 0.05, "trial": 3, "run": "r"}
    model = {"trials": 4, "finished": 4, "minutes": 1.5, "median": 0.04, "best": best}
    trial = {"model": "rpg", "trial": 3, "best": True, "value": 0.05, "last": 0.05, "epoch": 2, "minutes": 0.4}
    trial |= {"settings": {"train.lr": 0.001}, "outcome": "complete"}
    result = {"metric": "NDCG@10", "trials": [trial]}
    importance = {"train.lr": 0.75, "model.width": 0.25}
    study = SimpleNamespace(label="s", result=result | {"models": {"rpg": model | {"importance": importance}}})
    models, drawn, trials = report._study(study).tables
    assert drawn.rows == [["rpg", "train.lr", 0.75], ["rpg", "model.width", 0.25]]
    assert "rpg: train.lr: 0.7500</title>" in drawn.chart and 'class="interval"' not in drawn.chart
    assert trials.folded and not models.folded
    few = SimpleNamespace(label="s", result=result | {"models": {"rpg": model | {"importance": {}}}})
    assert not any(table.chart for table in report._study(few).tables), "too few trials for an importance"


@pytest.mark.parametrize(("low", "high"), [(0, 0.06), (0, 1), (0.01, 0.07), (0, 40), (3, 3), (0, 123456), (-2, 5)])
def test_ticks_cover_the_range(low, high):
    marks = svg.ticks(low, high)
    assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 9


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_chromium_sorts_a_table_and_sees_no_request(made):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page()
        asked: list[str] = []
        faults: list[str] = []
        view.on("request", lambda request: asked.append(request.url))
        view.on("pageerror", lambda error: faults.append(str(error)))
        view.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        view.goto(made.as_uri())
        table = view.locator("table").first
        head = table.locator("th", has_text="NDCG@10").first
        column = head.evaluate("th => th.cellIndex")
        read = f"rows => [...rows].map(row => +row.cells[{column}].dataset.v)"
        for order in ("ascending", "descending"):
            head.locator("button").click()
            values = table.locator("tbody tr").evaluate_all(read)
            assert head.get_attribute("aria-sort") == order
            assert values == sorted(values, reverse=order == "descending") and len(set(values)) > 1
        table.locator("th button").first.press("Enter")
        names = table.locator("tbody tr td:first-child").all_inner_texts()
        assert names == sorted(names)
        view.emulate_media(media="print")
        assert not view.locator("nav").is_visible()
        browser.close()
    assert asked == [made.as_uri()] and not faults

"""How popular the recommended items are: the share of recommendations by the popularity of the item.

The items are sorted by their training count, the most popular first. A point (x, y) of a curve says that the most
popular x percent of the items are y percent of the recommendations. The targets are drawn as a reference.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.data.schema import ITEMS, read_table
from genrec_cli.report import svg
from genrec_cli.report.page import Part, Table

PERCENT = (0, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
LISTS = "left_out_items"
"""The lists that a user would see: without items of the history."""


def popularity(ws: Workspace, settings: Sequence[tuple[str, list[Artifact]]]) -> Part:
    """Curves and a table of all settings on the same data as the first; one evaluation of each, as seeds agree."""
    data = _data(ws, settings[0][1][0])
    count_I = read_table(data.path / "items.parquet", ITEMS, ["train_count"])["train_count"].to_numpy()
    place_I = np.empty(len(count_I), dtype=np.int64)
    place_I[np.argsort(-count_I.astype(np.int64), kind="stable")] = np.arange(len(count_I))
    series, rows = [], []
    same = [(name, group[0]) for name, group in settings if _data(ws, group[0]).digest == data.digest]
    for number, (name, evaluation) in enumerate(same):
        table = pq.read_table(evaluation.path / "topk.parquet", columns=["target", LISTS])
        lists = table[LISTS].combine_chunks()
        item_N = pc.list_flatten(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        target_N = table["target"].to_numpy().astype(np.int64)
        for label, id_N in [("targets", target_N), (name, item_N)][number > 0 :]:
            found_N = id_N[id_N > 0] - 1
            share = [100 * float((place_I[found_N] < len(count_I) * p / 100).mean()) for p in PERCENT]
            series.append(svg.Line(label, PERCENT, share))
            covered = len(np.unique(found_N)) / len(count_I)
            rows.append([label, covered, float(np.median(count_I[found_N])), *((f"{v:.1f}", v) for v in share[1:-1])])
    chart = svg.lines(
        series, "Popularity of recommended items", x_label="most popular items, %", y_label="recommendations, %"
    )
    head = ["setting", "items ever recommended", "median training count", *(f"top {p} %" for p in PERCENT[1:-1])]
    note = "The most popular x percent of the items are y percent of the recommendations, seen items left out. "
    note += "'items ever recommended' is the fraction of the catalogue in at least one list."
    return Part("Popularity of what is recommended", note, [Table(head, rows, "", chart)])


def _data(ws: Workspace, evaluation: Artifact) -> Artifact:
    return ws.input(ws.input(evaluation, "runs"), "data")

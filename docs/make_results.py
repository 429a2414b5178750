"""Write docs/results.md from docs/results.json: results live as data, the page is made from them.

python docs/make_results.py
"""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from genrec_cli.console import markdown

HERE = Path(__file__).parent
METRICS = ("Recall@5", "NDCG@5", "Recall@10", "NDCG@10")
PAPER = {
    "SASRec": ("MHL's Table 1", (0.0387, 0.0249, 0.0605, 0.0318)),
    "RPG": ("MHL's Table 1, RPG on sentence-t5-base", (0.0500, 0.0358, 0.0745, 0.0436)),
    "MHL, R->Inf": ("MHL's Table 2, token level, K 16, ratio .15", (0.0554, 0.0404, 0.0791, 0.0480)),
    "MHL, R->E->Inf, K 32": ("MHL's Table 1, K 16", (0.0574, 0.0424, 0.0795, 0.0495)),
    "MHL, E alone, K 32": ("MHL's Table 2, token level", (0.0491, 0.0338, 0.0715, 0.0410)),
    "RPG, text": ("MHL's Table 3, without masks", (0.0297, 0.0212, 0.0439, 0.0258)),
    "MHL, R->Inf, text": ("MHL's Table 3, R->E->Inf", (0.0338, 0.0238, 0.0483, 0.0285)),
    "TIGER": ("its paper, sentence-t5 vectors; independent runs .0338 to .0378", (0.0454, 0.0321, 0.0648, 0.0384)),
}
"""Published rows, all on text of more fields than ours."""
BY_CODES = {
    "MDGR": "DiffGRM, the nearest published: Recall@5 .0603, NDCG@5 .0414, Recall@10 .0876, NDCG@10 .0502 by codes"
}
"""Published rows that rank codes, not items."""


def mean_and_std(values: list[float]) -> str:
    """The mean, and the standard deviation over seeds where there are several."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def table_of_rows(study: dict) -> str:
    rows: dict[str, list[dict]] = {}
    for entry in study["results"]:
        if "metrics" in entry and not entry.get("apart"):
            rows.setdefault(entry["row"], []).append(entry)

    def lines() -> Iterable[list]:
        for name, entries in rows.items():
            found = [mean_and_std([entry["metrics"][metric] for entry in entries]) for metric in METRICS]
            code = mean_and_std([entry["code_metrics"]["NDCG@10"] for entry in entries])
            left_out = [entry["left_out"]["NDCG@10"] for entry in entries if "left_out" in entry]
            valid = [entry["valid"]["NDCG@10"] for entry in entries if "valid" in entry]
            others = [mean_and_std(values) if values else "-" for values in (left_out, valid)]
            yield [name, len(entries), *found, code, *others]
            published = PAPER.get(name.removesuffix(study.get("suffix", " ")))
            if published:
                yield [f"*published: {published[0]}*", "", *(f"*{value:.4f}*" for value in published[1]), *[""] * 3]
            if by_codes := BY_CODES.get(name.removesuffix(study.get("suffix", " "))):
                yield [f"*published: {by_codes}*", *[""] * 8]

    more = ["NDCG@10 by codes", "NDCG@10, seen left out", "validation NDCG@10"]
    return markdown(["row", "seeds", *METRICS, *more], lines())


def table_of_curves(curves: dict[str, list[list[float]]]) -> str:
    """Validation NDCG@10 by minutes of training, one row per run."""
    rows = [
        [name, ", ".join(f"{minute:.0f}: {value:.4f}" for minute, value in curve)] for name, curve in curves.items()
    ]
    return markdown(["run", "minutes of training: validation NDCG@10"], rows)


def table_of_runs(studies: list[dict]) -> str:
    columns = ["data", "row", "seed", "NDCG@10", "best epoch", "epochs", "seconds", "MiB", "key", "command"]
    rows = [
        [
            entry["dataset"],
            entry["row"] + ("" if entry["search"] == "exhaustive" else f", {entry['search']}"),
            entry["seed"],
            entry["metrics"]["NDCG@10"] if "metrics" in entry else None,
            *(entry.get(name) for name in ("best_epoch", "epochs", "train_seconds", "peak_memory_mib", "key")),
            f"`{entry['command']}`",
        ]
        for study in studies
        for entry in study["results"]
    ]
    return markdown(columns, rows)


def table_of_trials(studies: list[dict]) -> str:
    trials = [trial for study in studies for trial in sorted(study["trials"], key=lambda t: -t["valid_NDCG@10"])]
    rows = [
        [t["round"], t["name"], t["model"], t["valid_NDCG@10"], t["best_epoch"], t["epochs"], f"`{t['options']}`"]
        for t in sorted(trials, key=lambda t: t["model"])
    ]
    return markdown(["round", "trial", "model", "validation NDCG@10", "best epoch", "epochs", "options"], rows)


def section(study: dict) -> str:
    """One study: context, rows, differences and remarks."""
    context = {name: ", ".join(v) if isinstance(v, list) else v for name, v in study["context"].items()}
    parts = ["".join(f"- {name}: {value}\n" for name, value in context.items())]
    if study["results"]:
        parts.append(table_of_rows(study))
    if study.get("curves"):
        parts.append(table_of_curves(study["curves"]))
    for table in study.get("tables", []):
        figure = f"![{table['alt']}]({table['figure']})\n\n" if "figure" in table else ""
        parts.append(f"{table['title']}\n\n{figure}{markdown(table['header'], table['rows'])}")
    if study["differences"]:
        found = [
            [d["pair"], d["metric"], f"{d['value']:+.4f}", f"{d['low']:+.4f} to {d['high']:+.4f}"]
            for d in study["differences"]
        ]
        parts.append(
            markdown(["difference", "metric", "value", "95 % interval over users"], found)
            + "\nDifferences are paired by user; where there are several seeds, each user's value is their mean. The\n"
            "interval is a bootstrap over users of 2,000 draws, made by a script that is not kept here, without p.\n"
        )
    if study["remarks"]:
        remarks = "".join(f"- {line}\n" for line in study["remarks"])
        parts.append(f"**Remarks**\n\n{remarks}")
    return f"## {study['title']}\n\n" + "\n".join(parts)


def page(found: dict) -> str:
    """The whole page as Markdown."""
    studies = found["studies"]
    return f"""# Results

Generated from `results.json` by `docs/make_results.py`; do not edit it by hand.

{chr(10).join(map(section, studies))}
## Every run

To repeat one: download and preprocess Beauty, `genrec tokenize` with the folder of all-MiniLM-L6-v2 as `--encoder` and
the options for codes of the row's study (`--codebooks 16` and 32 for RPG and MHL), then the command.

{table_of_runs(studies)}
## Every trial

Each trial is one run with seed 0, selected by validation alone. The remarks of a study name further trials.

{table_of_trials(studies)}"""


if __name__ == "__main__":
    content = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    (HERE / "results.md").write_text(page(content), encoding="utf-8")

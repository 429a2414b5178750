"""Write the pages of results from docs/results.json: results live as data, the pages are made from them.

python docs/make_results.py

``results.md`` has the tables and what follows from them, ``notes/results.md`` every study with its context, tests and
remarks, ``notes/results-runs.md`` every run and trial with its command.
"""

import json
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from genrec_cli.console import markdown

HERE = Path(__file__).parent
METRICS = ("Recall@5", "NDCG@5", "Recall@10", "NDCG@10")
DATASET = "amazon-2014-beauty"
"""The data set of the published rows."""
PAPER = {
    "SASRec": ("MHL's Table 1, seen items left out", (0.0387, 0.0249, 0.0605, 0.0318)),
    "RPG": ("MHL's Table 1, RPG on sentence-t5-base", (0.0500, 0.0358, 0.0745, 0.0436)),
    "MHL, R->Inf": ("MHL's Table 2, token level, K 16, ratio .15", (0.0554, 0.0404, 0.0791, 0.0480)),
    "MHL, R->E->Inf, K 32": ("MHL's Table 1, K 16", (0.0574, 0.0424, 0.0795, 0.0495)),
    "MHL, E alone, K 32": ("MHL's Table 2, token level", (0.0491, 0.0338, 0.0715, 0.0410)),
    "RPG, text": ("MHL's Table 3, without masks", (0.0297, 0.0212, 0.0439, 0.0258)),
    "MHL, R->Inf, text": ("MHL's Table 3, R->E->Inf", (0.0338, 0.0238, 0.0483, 0.0285)),
    "TIGER": ("its paper, sentence-t5 vectors; independent runs .0338 to .0378", (0.0454, 0.0321, 0.0648, 0.0384)),
    "HSTU": ("MHL's Table 1", (0.0469, 0.0314, 0.0704, 0.0389)),
    "VQ-Rec": ("MHL's Table 1", (0.0457, 0.0317, 0.0664, 0.0383)),
    "RecJPQ": ("MHL's Table 1", (0.0311, 0.0167, 0.0482, 0.0222)),
    "Caser": ("MHL's Table 1, seen items left out", (0.0205, 0.0131, 0.0347, 0.0176)),
    "GRU4Rec": ("MHL's Table 1, seen items left out", (0.0164, 0.0099, 0.0283, 0.0137)),
    "HGN": ("MHL's Table 1, seen items left out", (0.0325, 0.0206, 0.0512, 0.0266)),
    "BERT4Rec": ("MHL's Table 1, seen items left out", (0.0203, 0.0124, 0.0347, 0.0170)),
    "FDSA": ("MHL's Table 1, seen items left out", (0.0267, 0.0163, 0.0407, 0.0208)),
    "S3-Rec": ("MHL's Table 1, seen items left out", (0.0387, 0.0244, 0.0647, 0.0327)),
}
"""Published rows; those with text are on more fields than ours. Seven rows of MHL's Table 1 are those of S3-Rec's
paper, which leaves seen items out."""
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
            yield [name, len(entries), *found, *others, code]
            if entries[0]["dataset"] != DATASET:
                continue
            published = PAPER.get(name.removesuffix(study.get("suffix", " ")))
            if published:
                yield [f"*published: {published[0]}*", "", *(f"*{value:.4f}*" for value in published[1]), *[""] * 3]
            if by_codes := BY_CODES.get(name.removesuffix(study.get("suffix", " "))):
                yield [f"*published: {by_codes}*", *[""] * 8]

    more = ["NDCG@10, seen left out", "validation NDCG@10", "NDCG@10 by codes"]
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


def table_with_title(table: dict, folder: str = "") -> str:
    """A table of a study below its title and its figure; ``folder`` is the way from the page to the figures."""
    figure = f"![{table['alt']}]({folder}{table['figure']})\n\n" if "figure" in table else ""
    return f"{table['title']}\n\n{figure}{markdown(table['header'], table['rows'])}"


def bullets(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def context(study: dict) -> dict[str, str]:
    return {name: ", ".join(value) if isinstance(value, list) else value for name, value in study["context"].items()}


def anchor(title: str) -> str:
    """The anchor that GitHub and MyST give to a heading."""
    return re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")


def short_section(study: dict) -> str:
    """One study on the page of results: tables, data, and what follows from them."""
    parts = [table_of_rows(study)] if study["results"] else []
    parts += [table_with_title(table) for table in study.get("tables", []) if table.get("main")]
    parts.append(bullets(study.get("summary", [])))
    about = context(study)
    shown = [f"{name}: {about[name]}" for name in ("data", "fields", "vectors", "encoder", "dated") if name in about]
    details = f"[Context, tests and remarks](notes/results.md#{anchor(study['title'])})."
    parts.append(f"{'; '.join(shown).removesuffix('.')}. {details}\n")
    return f"## {study['title']}\n\n" + "\n".join(part for part in parts if part)


def section(study: dict) -> str:
    """One study in the notes: context, rows, curves, tables, differences and remarks."""
    parts = [bullets(f"{name}: {value}" for name, value in context(study).items())]
    if study["results"]:
        parts.append(table_of_rows(study))
    if study.get("curves"):
        parts.append(table_of_curves(study["curves"]))
    parts += [table_with_title(table, "../") for table in study.get("tables", [])]
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
        parts.append(f"**Remarks**\n\n{bullets(study['remarks'])}")
    return f"## {study['title']}\n\n" + "\n".join(parts)


NOTE = "Generated from `results.json` by `docs/make_results.py`; do not edit it by hand."


def pages(found: dict) -> dict[str, str]:
    """The pages as Markdown, by their path in docs/."""
    studies = found["studies"]
    results = f"""# Results

All items are ranked. Seen items are kept in the ranking, except in the column "seen left out"; do not compare values of
the two protocols. In the text, a pair such as .0649 / .0691 is NDCG@10 with seen items kept / left out; other values
are with seen items kept, unless they say otherwise. Means and standard deviations are over seeds. Each row has its
command in [every run](notes/results-runs.md).

{chr(10).join(map(short_section, studies))}
## How to read the tables

- The seed alone moves NDCG@10 on Beauty by .0000 to .0026 (standard deviation). To compare two runs, use `genrec
  compare`, which pairs users ([evaluate](evaluate.md#compare)).
- Published rows have the text of more fields than ours. "By codes" counts items with equal codes as one.
- The settings of a row were chosen on validation. [Every trial](notes/results-runs.md#every-trial) is listed.

{NOTE}
"""
    notes = f"""# Notes on results

All studies behind the page of [results](../results.md). {NOTE}

{chr(10).join(map(section, studies))}"""
    runs = f"""# Every run and every trial

{NOTE}

## Every run

To repeat one: download and preprocess Beauty, `genrec tokenize` with the folder of all-MiniLM-L6-v2 as `--encoder` and
the options for codes of the row's study (`--codebooks 16` and 32 for RPG and MHL), then the command.

{table_of_runs(studies)}
## Every trial

Each trial is one run with seed 0, selected by validation alone. The remarks of a study name further trials.

{table_of_trials(studies)}"""
    return {"results.md": results, "notes/results.md": notes, "notes/results-runs.md": runs}


if __name__ == "__main__":
    content = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    for name, page in pages(content).items():
        (HERE / name).write_text(page, encoding="utf-8")

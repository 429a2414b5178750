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
    "MHL, R->E->Inf": ("MHL's Table 1", (0.0574, 0.0424, 0.0795, 0.0495)),
    "MHL, E alone": ("MHL's Table 2, token level", (0.0491, 0.0338, 0.0715, 0.0410)),
}
"""Published rows, all on text of six fields; ours has three."""


def spread(values: list[float]) -> str:
    """Mean, and the deviation over seeds where there are several."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def table_of_rows(results: list[dict], dataset: str) -> str:
    rows: dict[str, list[dict]] = {}
    for entry in results:
        if entry["dataset"] == dataset and "metrics" in entry and entry["decoder"] == "exhaustive":
            rows.setdefault(entry["row"], []).append(entry)

    def lines() -> Iterable[list]:
        for name, entries in rows.items():
            found = [spread([entry["metrics"][metric] for entry in entries]) for metric in METRICS]
            code = spread([entry["code_metrics"]["NDCG@10"] for entry in entries])
            valid = [entry["valid"]["NDCG@10"] for entry in entries if "valid" in entry]
            yield [name, len(entries), *found, code, spread(valid) if valid else "-"]
            if name in PAPER:
                source, published = PAPER[name]
                yield [f"*published: {source}*", "", *(f"*{value:.4f}*" for value in published), "", ""]

    return markdown(["row", "seeds", *METRICS, "NDCG@10 by codes", "validation NDCG@10"], lines())


def table_of_runs(results: list[dict]) -> str:
    columns = ["data", "row", "seed", "NDCG@10", "best epoch", "epochs", "seconds", "MiB", "key", "command"]
    rows = [
        [
            entry["dataset"],
            entry["row"] + ("" if entry["decoder"] == "exhaustive" else f", {entry['decoder']}"),
            entry["seed"],
            entry["metrics"]["NDCG@10"] if "metrics" in entry else None,
            *(entry.get(name) for name in ("best_epoch", "epochs", "train_seconds", "peak_memory_mib", "key")),
            f"`{entry['command']}`",
        ]
        for entry in results
    ]
    return markdown(columns, rows)


def table_of_trials(trials: list[dict]) -> str:
    rows = [
        [t["round"], t["name"], t["model"], t["valid_NDCG@10"], t["best_epoch"], t["epochs"], f"`{t['options']}`"]
        for t in sorted(trials, key=lambda t: (t["model"], -t["valid_NDCG@10"]))
    ]
    return markdown(["round", "trial", "model", "validation NDCG@10", "best epoch", "epochs", "options"], rows)


def page(found: dict) -> str:
    """The whole page as Markdown."""
    context = "".join(f"- {name}: {', '.join(value) if isinstance(value, list) else value}\n"
                      for name, value in found["context"].items())  # fmt: skip
    remarks = "".join(f"- {line}\n" for line in found["remarks"])
    differences = markdown(
        ["difference", "metric", "value", "95 % interval over users"],
        [
            [d["pair"], d["metric"], f"{d['value']:+.4f}", f"{d['low']:+.4f} to {d['high']:+.4f}"]
            for d in found["differences"]
        ],
    )
    return f"""# Results

Made from `results.json` by `docs/make_results.py`; edit neither table by hand.

{context}
## Beauty

{table_of_rows(found["results"], "amazon-2014-beauty")}
{differences}
Differences are paired by user; where there are several seeds, each user's value is their mean. The interval
is a bootstrap over users (2,000 draws).

## What these figures say, and what they do not

{remarks}
## Scientific, as a user's own data

{found["own_data"]}

{table_of_rows(found["results"], "scientific")}
## Every run

To repeat one: download and preprocess Beauty, `genrec tokenize --codebooks K --encoder FOLDER` for K 16 and 32 with
the folder of all-MiniLM-L6-v2, then the command.

{table_of_runs(found["results"])}
## Every trial

Each trial is one run with seed 0, judged on validation alone; nothing else was tried.

{table_of_trials(found["trials"])}"""


if __name__ == "__main__":
    content = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    (HERE / "results.md").write_text(page(content), encoding="utf-8")

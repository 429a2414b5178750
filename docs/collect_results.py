"""Copy finished runs, trials and comparisons into docs/results.json, from which make_results.py makes the pages.

    python docs/collect_results.py --study "Beauty: MHL's Table 1 with equal budgets" --root artifacts \\
        --dataset amazon-2014-beauty --row "Caser=caser-s0,caser-s1,caser-s2" --trials "Table 1=table1" \\
        --compare "Differences to the count=neighbours-s0-vs-caser-s0"

A row has one run per seed; each needs its evaluation on test. ``--sweep SWEEP`` takes all rows of a sweep on test,
``--trials ROUND=STUDY`` the trials of a study of ``genrec tune``, ``--compare TITLE=COMPARISON`` a comparison. Rows,
trials and tables of the same name are replaced.
Commands are those that were typed, without labels; the settings of a file (``--config``) are written out as ``--set``.
"""

import argparse
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.stages.recipe_step import assignment

FILE = Path(__file__).parent / "results.json"
LEFT_OUT = ("--label", "--root", "--dataset", "--data", "--config")
"""Options with a value that say where artifacts lie, or that are written out."""
FILES = ("encoder.path=", "encoder.ids=")
"""Settings that say where a file lies; the context of a study describes the file."""
SECTIONS = ("model", "train", "curriculum", "noise", "search")
"""Sections of a file that a training reads."""


def command(run: Artifact) -> str:
    """The command line of a run, which makes it again on any machine."""
    argv: list[str] = run.manifest["environment"]["argv"]
    words, more = [], []
    argv = [word for at, word in enumerate(argv) if not any(w.startswith(FILES) for w in argv[at : at + 2])]
    for at, word in enumerate(argv):
        if word in (*LEFT_OUT, "--json") or argv[at - 1] in LEFT_OUT:
            if argv[at - 1] == "--config":
                sections = tomllib.loads(Path(word).read_text("utf-8"))
                given = ((name, key, value) for name in SECTIONS for key, value in sections.get(name, {}).items())
                more += [w for one in given if one[:2] != ("model", "name") for w in ("--set", assignment(*one))]
            continue
        words.append(re.sub(r"-[0-9a-f]{8}$", "", word))  # a name without its key
    return shlex.join(["genrec", *words[:1], *more, *words[1:]])  # what was typed wins over the file


def rounded(values: dict[str, Any]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items() if isinstance(value, float)}


def entry(row: str, run: Artifact, evaluation: Artifact) -> dict[str, Any]:
    """A run and its evaluation on test as one entry of results.json."""
    made, measured = run.result, evaluation.result
    metrics = measured["metrics"]
    found = {
        "dataset": run.dataset,
        "row": row,
        "model": run.config["model"]["name"],
        "seed": run.config["train"]["seed"],
        "split": "test",
        "search": measured["search"],
        "metrics": rounded(metrics["kept"]),
        "left_out": rounded(metrics["left_out"]),
        "code_metrics": rounded(measured["code_metrics"]["kept"]),
        "users": measured["users"],
        "key": run.key[:16],
        "command": command(run),
    }
    if "valid" in made and "epochs" in made:
        found |= {"valid": rounded(made["valid"]), "train_seconds": round(made["seconds"], 1)}
        found |= {name: made[name] for name in ("epochs", "best_epoch", "parameters")}
    return found


def rows_of(ws: Workspace, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Row -> an entry per seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row, _, names in (given.partition("=") for given in options.row):
        runs = [ws.find(options.dataset, "runs", name) for name in names.split(",")]
        found[row] = [
            entry(row, run, ws.find(options.dataset, "eval", f"{run.label}-test", made_from=run)) for run in runs
        ]
    for sweep in (ws.find(options.dataset, "sweeps", name) for name in options.sweep):
        for number, (row, _) in enumerate(sweep.config["sweep"]["cells"]):
            evaluation = ws.input(sweep, f"eval{number}")
            found.setdefault(row, []).append(entry(row, ws.input(evaluation, "runs"), evaluation))
    return found


def trials(study: Artifact, round_name: str) -> list[dict[str, Any]]:
    """The trials of a study, the best of each model marked."""
    found = []
    for trial in study.result["trials"]:
        settings = trial["settings"].items()
        words = " ".join(f"--set {assignment(*name.split('.', 1), value)}" for name, value in settings)
        fixed = study.config["models"][trial["model"]]["set"].get("train", {})
        note = "" if trial["outcome"] == "complete" else f"  ({trial['outcome']})"
        value = trial["last"] if trial["value"] is None else trial["value"]
        found.append(
            {
                "round": round_name,
                "name": f"{trial['trial']}{' (best)' if trial['best'] else ''}",
                "model": trial["model"],
                "options": words + note,
                "seed": fixed.get("seed", 0),
                "valid_NDCG@10": None if value is None else round(value, 5),
                "best_epoch": trial["epoch"],
                "epochs": trial["epoch"],
            }
        )
    return found


def compared(title: str, comparison: Artifact) -> dict[str, Any]:
    """A comparison as a table of a study."""
    seen = {"kept": "seen kept", "left_out": "seen left out"}
    rows = []
    for row in comparison.result["rows"]:
        interval = None if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        start = [row["slice"], f"{row['users']:,}", row["metric"], seen[row["seen"]], row["run"]]
        rows.append([*start, row["value"], row["difference"], interval, row["p"], row["p_holm"]])
    header = ["slice", "users", "metric", "protocol", "run", "value", "difference", "95 % over users", "p", "p, Holm"]
    return {"title": title, "header": header, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", required=True, help="title of the study in results.json")
    parser.add_argument("--file", type=Path, default=FILE, help="in place of docs/results.json")
    parser.add_argument("--root", type=Path, default=Path("artifacts"))
    parser.add_argument("--dataset", required=True)
    for name in ("--row", "--sweep", "--trials", "--compare"):
        parser.add_argument(name, action="append", default=[])
    options = parser.parse_args()
    ws, content = Workspace(options.root), json.loads(options.file.read_text("utf-8"))
    study = next(study for study in content["studies"] if study["title"] == options.study)
    for row, entries in rows_of(ws, options).items():
        kept = [old for old in study["results"] if (old["row"], old["dataset"]) != (row, options.dataset)]
        study["results"] = kept + entries
    for round_name, _, name in (given.partition("=") for given in options.trials):
        new = trials(ws.find(options.dataset, "studies", name), round_name)
        models = {trial["model"] for trial in new}
        kept = [t for t in study["trials"] if t["round"] != round_name or t["model"] not in models]
        study["trials"] = kept + new
    for given in options.compare:
        title, _, name = given.rpartition("=")
        table = compared(title, ws.find(options.dataset, "comparisons", name))
        study["tables"] = [t for t in study["tables"] if t["title"] != title] + [table]
    options.file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

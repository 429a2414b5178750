"""Recommending: the first list from a cold start, and users per second, at the size of Amazon 2014 Beauty.

    python bench/recommend.py [--data ARTIFACT] [--export FOLDER] [--users 10000] [--digits 16] [--json]

The cold start is a process of its own that reads an export (``genrec export``) and prints one list; the imports alone
are timed in turn with it. Users per second have random weights: the work is the same. Items of the histories are left
out, as by default.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from comparison import alternate, machine
from rpg_step import MAX_LENGTH, inputs

from genrec_cli.data.sequences import eval_batches
from genrec_cli.engine.evaluation import recommend
from genrec_cli.engine.ranking import ExactRanker
from genrec_cli.models.base import Model
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.models.sasrec import SasRec, SasRecConfig

IMPORTS = "import genrec_cli.cli, genrec_cli.stages.recommend, genrec_cli.stages.exported"


def cold_start(folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of the imports, of one list from a cold start with the imports, and of the difference."""
    items = pq.read_table(folder / "items.parquet", columns=["raw_id"])["raw_id"][:5].to_pylist()
    with tempfile.TemporaryDirectory() as place:
        history = Path(place, "h.jsonl")
        history.write_text(json.dumps({"user": "u", "items": items}), encoding="utf-8")
        words = ["recommend", "--run", str(folder), "--history", str(history), "--device", "cpu", "--quiet"]
        sides = {"imports": ["-c", IMPORTS], "first list": ["-m", "genrec_cli", *words]}

        def run(arguments: list[str]) -> None:
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

        times = alternate({name: lambda a=a: run(a) for name, a in sides.items()}, rounds)
    found = {name: statistics.median(values) for name, values in times.items()}
    return found | {"beside the imports": found["first list"] - found["imports"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--digits", type=int, default=16)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    device, histories, catalog = inputs(options)
    user = np.arange(min(options.users, histories.users))
    models: dict[str, Model] = {
        "SASRec": SasRec(SasRecConfig(), catalog, max_length=MAX_LENGTH),
        f"MHL K {options.digits}": Mhl(MhlConfig(), catalog, max_length=MAX_LENGTH),
    }

    def lists(model: Model) -> None:
        at = histories.length[user].astype(np.int64)
        batches = eval_batches(histories, user, at, max_length=MAX_LENGTH, batch_size=256, exclude_seen=True)
        recommend(ExactRanker(model, catalog), batches, device, k=options.k)

    sides = {name: lambda model=model.to(device).eval(): lists(model) for name, model in models.items()}
    times = alternate(sides, options.rounds)
    rates = {name: len(user) / statistics.median(values) for name, values in times.items()}
    start = cold_start(options.export, options.rounds) if options.export else {}
    if options.json:
        facts = {"items": catalog.items, "threads": torch.get_num_threads(), "users_per_second": rates}
        print(json.dumps(facts | {"cold_start_seconds": start, "machine": machine()}))
        return
    for name, rate in rates.items():
        print(f"{name:10} {rate:10,.0f} users per second, {catalog.items:,} items, {torch.get_num_threads()} threads")
    for name, seconds in start.items():
        print(f"{name:20} {seconds:6.2f} s")
    if not options.export:
        print("no --export given: the cold start is not timed", file=sys.stderr)


if __name__ == "__main__":
    main()

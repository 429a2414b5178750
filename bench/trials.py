"""Run a list of training trials side by side on one machine and table what validation says.

    python bench/trials.py TRIALS.toml --parallel 6 --seconds 480 --root artifacts --dataset amazon-2014-beauty

A trials file lists commands: ``[trials]`` with ``NAME = "--model rpg --set train.lr=1e-3 ..."`` and, in
``[common]``, ``options = "..."`` for all of them. At the time limit every run is asked to stop; it leaves a
checkpoint and goes on when the same command is given again. ``--evaluate`` scores finished runs on the test
split: only for settings that were chosen before.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pyarrow.parquet as pq

GENREC = [sys.executable, "-m", "genrec_cli"]


def outcome(root: Path, dataset: str, name: str) -> dict:
    """The best validated epoch in a run's log, finished or not."""
    found = sorted((root / dataset / "runs").glob(f"{name}-????????/log.parquet"))
    if not found:
        return {"name": name, "epochs": 0}
    rows = pq.read_table(found[-1]).to_pylist()
    valid = [row for row in rows if row.get("valid/NDCG@10") is not None]
    best = max(valid, key=lambda row: row["valid/NDCG@10"], default={})
    return {
        "name": name,
        "epochs": len(rows),
        "best_epoch": best.get("epoch"),
        "valid_NDCG@10": best.get("valid/NDCG@10"),
        "valid_Recall@10": best.get("valid/Recall@10"),
        "seconds": rows[-1]["seconds"],
        "finished": (found[-1].parent / "manifest.json").exists(),
        "curve": [round(row["valid/NDCG@10"], 5) for row in valid],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=Path)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--root", type=Path, default=Path("artifacts"))
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("trials.json"))
    options = parser.parse_args()
    listed = tomllib.loads(options.trials.read_text())
    shared = [*shlex.split(listed.get("common", {}).get("options", "")), "--dataset", options.dataset]
    place = ["--root", str(options.root)]
    waiting = [(name, shlex.split(words)) for name, words in listed["trials"].items()]
    running: dict[str, subprocess.Popen] = {}
    began = time.monotonic()
    asked = False
    while waiting or running:
        late = time.monotonic() - began > options.seconds
        if late and not asked:
            waiting.clear()
            for process in running.values():
                process.send_signal(signal.SIGTERM)
            asked = True
        while waiting and len(running) < options.parallel:
            name, words = waiting.pop(0)
            log = (options.output.parent / f"{name}.log").open("w")
            command = [*GENREC, "train", *words, *shared, *place, "--label", name]
            running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            code = running.pop(name).returncode
            if code == 0 and options.evaluate:
                command = [*GENREC, "evaluate", "--run", name, "--dataset", options.dataset, *place, "-q"]
                subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            print(f"{time.monotonic() - began:6.0f} s  {name} ended with {code}", flush=True)
        time.sleep(0.5)
    results = [
        outcome(options.root, options.dataset, name) | {"options": words} for name, words in listed["trials"].items()
    ]
    for result in results:
        for manifest in (options.root / options.dataset / "eval").glob(f"{result['name']}-test-????????/manifest.json"):
            result["test"] = json.loads(manifest.read_text())["result"]["metrics"]
    options.output.write_text(json.dumps(results, indent=1))
    for r in sorted(results, key=lambda r: -(r.get("valid_NDCG@10") or 0)):
        test = f"  test {r['test']['NDCG@10']:.4f} R@10 {r['test']['Recall@10']:.4f}" if "test" in r else ""
        print(
            f"{r['name']:12} {r.get('valid_NDCG@10') or 0:.4f} at {r.get('best_epoch')} of {r['epochs']} epochs, "
            f"{r.get('seconds') or 0:.0f} s{test}  {r['options']}"
        )


if __name__ == "__main__":
    main()

"""How time and memory of each stage grow with the log and the catalogue.

    python bench/grow.py --work FOLDER [--sizes 1000000:10000 10000000:100000 100000000:1000000]
    python bench/grow.py --draw

Every stage is the real command in a process of its own. Its peak memory is the system's own count of the process
(everything resident, mapped files too) and, beside it, the largest part that is not a mapped file (``anonymous``),
looked at twenty times a second. Each figure is kept in docs/grow.json as soon as it is there; what is there is not
measured again, so a run that was stopped goes on. ``--draw`` makes docs/grow.svg and prints the table.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from grown_logs import write_log, write_vectors

DOCS = Path(__file__).parents[1] / "docs"
STAGES = ("preprocess", "tokenize", "train", "evaluate")
WIDTH = 128
"""Of the vectors, and what the papers' text encoders give after PCA."""
STEPS, USERS = 200, 1_000
TRAIN = [
    "--model",
    "rpg",
    "--set",
    f"train.max_steps={STEPS}",
    "--set",
    f"train.valid_users={USERS}",
    "--set",
    "train.max_length=50",
    "--batch-size",
    "64",
]
POLL = 0.05


def command(stage: str, folder: Path) -> list[str]:
    """The words of a stage's command."""
    words = {
        "preprocess": ["--interactions", str(folder / "log.parquet")],
        "tokenize": ["--encoder", str(folder / "vectors.npy"), "--codebooks", "32", "--codewords", "256"],
        "train": TRAIN,
        "evaluate": ["--set", f"evaluate.users={USERS}", "--set", "evaluate.batch_size=32"],
    }[stage]
    return [sys.executable, "-m", "genrec_cli", stage, "--dataset", "grown", "--root", str(folder), "--json", *words]


def measured(words: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a command: seconds and peak MiB of its process, and what it printed."""
    began = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        anonymous = 0
        while not (ended := os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)):
            anonymous = max(anonymous, _anonymous_kib(process.pid))
            time.sleep(POLL)
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    del ended
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    row = {
        "seconds": round(time.perf_counter() - began, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "anonymous_mib": round(anonymous / 1024),
    }
    return row, json.loads(told)


def _anonymous_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)


def grow(rows: list[dict[str, Any]], interactions: int, items: int, stages: list[str], work: Path, out: Path) -> None:
    """Measure the stages of one size that are not in the rows yet."""
    folder = work / f"{interactions}-{items}"
    folder.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        key = {"interactions": interactions, "items": items, "stage": stage}
        if any(key.items() <= row.items() for row in rows):
            continue
        if stage == "preprocess" and not (folder / "log.parquet").exists():
            write_log(folder / "log.parquet", interactions, items)
        if stage == "tokenize":
            (data,) = (folder / "grown" / "data").glob("k5-*/manifest.json")
            write_vectors(folder / "vectors.npy", json.loads(data.read_text())["result"]["items"], WIDTH)
        row, told = measured(command(stage, folder))
        if told["state"] != "made":
            raise SystemExit(f"{stage} of {folder} was made before; delete {told['path']} to measure it")
        result = told["result"]
        kept = {name: result[name] for name in ("users", "items", "interactions", "seconds") if name in result}
        if stage == "train":
            row["step_ms"] = round(1000 * result["seconds"] / result["steps"], 1)
            row["waited_fraction"] = result["waited_fraction"]
        row = key | row | {"kept": kept, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
        rows.append(row)
        out.write_text(json.dumps(rows, indent=1) + "\n")
        print(json.dumps(row), flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| interactions | catalogue | stage | seconds | peak MiB | of it not mapped files |", "| --- " * 6 + "|"]
    for row in sorted(rows, key=lambda r: (r["interactions"], r["items"], STAGES.index(r["stage"]))):
        cells = (row["interactions"], row["items"], row["stage"], row["seconds"], row["peak_mib"], row["anonymous_mib"])
        lines.append("| " + " | ".join(f"{c:,}" if isinstance(c, (int, float)) else c for c in cells) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Time and peak memory of each stage over the number of interactions."""
    from matplotlib import rc_context

    from genrec_cli.report import figures

    with rc_context(figures.STYLE | {"savefig.dpi": 160}):
        figure = figures.canvas(8, 3.4)
        axes = figure.subplots(1, 2)
        for stage, colour, mark in zip(STAGES, figures.LINES, "os^D", strict=False):
            own = sorted((r for r in rows if r["stage"] == stage), key=lambda r: r["interactions"])
            for axis, name, unit in zip(axes, ("seconds", "peak_mib"), (1, 1024), strict=True):
                x, y = [r["interactions"] for r in own], [r[name] / unit for r in own]
                axis.loglog(x, y, color=colour, marker=mark, markersize=4, label=stage)
        for axis, label in zip(axes, ("seconds", "peak memory, GiB"), strict=True):
            axis.set(xlabel="interactions", ylabel=label)
        axes[0].legend()
        figure.savefig(folder / "grow.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="where logs and artifacts go; 100M interactions need 15 GB")
    sizes = ["1000000:10000", "10000000:100000", "100000000:1000000"]
    parser.add_argument("--sizes", nargs="+", default=sizes, metavar="INTERACTIONS:ITEMS")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--out", type=Path, default=DOCS / "grow.json")
    parser.add_argument("--draw", action="store_true")
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    if options.draw:
        draw(rows, options.out.parent)
        print(table(rows))
        return
    if options.work is None:
        parser.error("--work FOLDER is needed to measure")
    for size in options.sizes:
        interactions, _, items = size.partition(":")
        grow(rows, int(interactions), int(items), options.stages, options.work, options.out)


if __name__ == "__main__":
    main()

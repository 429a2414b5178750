"""Minutes to quality: validation NDCG@10 over the minutes of training, for each model of a data set.

    python bench/quality.py --root FOLDER --dataset amazon-2014-beauty [--only rpg mhl] [--targets 0.04 0.05]
        [--figure quality.svg] [--json]

Trains each contender once, one after the other (a run that is there is read, not trained again), with the settings for
two CPU cores below. "before" is the same model with the input scale 1 and RPG's width, as this project trained
it until November 2026. Codes: 16 x 256 for RPG and MHL (``--codes``), 4 x 256 without collisions for TIGER and MDGR
(``--few-codes``). Prints when each run first reached each target, and draws the curves.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

SMALL = {"model.width": 256, "model.inner": 512, "train.lr": 2e-3, "train.warmup_steps": 300}
BEFORE = {"model.input_scale": 1.0, "train.lr": 2e-3, "train.warmup_steps": 300}
COMMON = {"train.batch_size": 64, "train.eval_every": 1, "train.valid_users": 3000, "curriculum.patience": 100}
POOLED = {"model.pooled": "true", "model.last_state": "true", "model.classifier": "cosine", "model.causal": "true"}
POOLED |= {"model.user_tokens": 0, "model.layers": 2, "model.heads": 4, "model.dropout": 0.2, "train.max_length": 50}
MASKED = {"curriculum.preset": "r-inf", "model.mask_weight": 0.5}
CONTENDERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "sasrec": ("sasrec", 18, {"model.width": 64, "train.lr": 2e-3, "train.warmup_steps": 200}),
    "rpg": ("rpg", 9, SMALL | {"model.temperature": 0.05}),
    "rpg-before": ("rpg", 9, BEFORE | {"model.temperature": 0.05}),
    "mhl": ("mhl", 15, SMALL | MASKED | {"model.temperature": 0.05, "curriculum.max_epochs": 10}),
    "mhl-before": ("mhl", 15, BEFORE | MASKED | {"model.temperature": 0.05, "curriculum.max_epochs": 10}),
    "tiger": (
        "tiger",
        12,
        SMALL | POOLED | {"train.optimizer": "adamw", "train.windows": "sliding", "model.temperature": 0.05},
    ),
    "mdgr": ("mdgr", 12, SMALL | {"model.layers": 2, "noise.preset": "random", "model.temperature": 0.05}),
}
"""Label -> model, epochs, settings."""


def train(label: str, options: argparse.Namespace) -> Path:
    """The folder of a contender's run, trained first where it is absent or interrupted."""
    model, epochs, settings = CONTENDERS[label]
    few = model in ("tiger", "mdgr")
    codes = options.few_codes if few else options.codes
    command = [sys.executable, "-m", "genrec_cli", "train", "--model", model, "--label", f"quality-{label}", "--json"]
    command += ["--epochs", str(epochs), *(["--codes", codes] if codes and model != "sasrec" else [])]
    command += [f"--set={key}={value}" for key, value in (COMMON | settings).items()]
    command += [f"--data={options.data}"] if options.data else []
    environment = os.environ | {"GENREC_ROOT": str(options.root), "GENREC_DATASET": options.dataset}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{label}: genrec train ended with {done.returncode}")
    runs = options.root / options.dataset / "runs"
    return max(runs.glob(f"quality-{label}-*"), key=lambda path: (path / "log.parquet").stat().st_mtime)


def curve(folder: Path) -> list[tuple[float, float]]:
    """(minutes, validation NDCG@10) of each epoch with a validation."""
    rows = pq.read_table(folder / "log.parquet", columns=["seconds", "valid/NDCG@10"]).to_pylist()
    return [(row["seconds"] / 60, row["valid/NDCG@10"]) for row in rows if row["valid/NDCG@10"] is not None]


def reached(points: list[tuple[float, float]], target: float) -> float | None:
    """Minutes to the first validation at or above a target."""
    return next((round(minutes, 1) for minutes, value in points if value >= target), None)


def draw(curves: dict[str, list[tuple[float, float]]], file: Path) -> None:
    """The curves; a model's former form is dashed."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    colours: dict[str, str] = {}
    for label, points in curves.items():
        model = label.removesuffix("-before")
        style = "--" if label.endswith("-before") else "-"
        (line,) = axes.plot(*zip(*points, strict=True), style, label=label, color=colours.get(model))
        colours[model] = line.get_color()
    axes.set(xlabel="minutes of training", ylabel="validation NDCG@10")
    axes.legend(frameon=False)
    figure.savefig(file, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", help="name of the data artifact, where there are several")
    parser.add_argument("--codes", help="codes of rpg and mhl")
    parser.add_argument("--few-codes", help="codes of tiger and mdgr")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--targets", nargs="+", type=float, default=[0.03, 0.04, 0.05])
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    curves = {label: curve(train(label, options)) for label in options.only}
    if options.figure:
        draw(curves, options.figure)
    table = {
        label: {"best": max(value for _, value in points), "minutes": round(points[-1][0], 1)}
        | {f"to {target:g}": reached(points, target) for target in options.targets}
        for label, points in curves.items()
    }
    if options.json:
        print(json.dumps({"table": table, "curves": curves}))
        return
    for label, row in table.items():
        print(label, *(f"{name}: {value}" for name, value in row.items()), sep="  ")


if __name__ == "__main__":
    main()

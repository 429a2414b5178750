"""Minutes to quality: validation NDCG@10 over the minutes of training, for each model of a data set.

    python bench/quality.py --root FOLDER --dataset amazon-2014-beauty --codes NAME --few-codes NAME [--only rpg mhl]
        [--targets 0.04 0.05] [--figure quality.svg] [--peer-python cornac=PATH] [--reference CHECKOUT]
        [--peers-only rpg] [--json]

Trains each contender once, one after the other; a run that is there is read, not trained again. "with counts" has the
item graph, and the counts of ``models/count_prior.py`` or ``models/digit_mixture.py``. "before" is what this project
trained until November 2026: the paper's batch, width and warm-up, and the input scale 1. cornac's models, and the RPG
of its authors (``--reference``, a checkout of its repository), get the same codes, width, batch, rate, warm-up and
temperature as ours, and their own schedule. Minutes include validation, of 1,000 users. Codes: 16 x 256 for RPG and MHL
(``--codes``), 4 x 256 without equals for TIGER and MDGR (``--few-codes``). Prints when each run first reached each
target, and draws the curves.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from peers import PEERS, contend, subset

from genrec_cli.data.sequences import Histories

COMMON = {"train.eval_every": 1, "train.valid_users": 1000, "curriculum.patience": 100}
SMALL = {"model.width": 256, "model.inner": 512, "model.temperature": 0.05}
SMALL |= {"train.lr": 2e-3, "train.warmup_steps": 300, "train.batch_size": 64}
BEFORE = {"model.input_scale": 1.0, "model.temperature": 0.03, "train.stride": 1}
BEFORE |= {"train.lr": 2e-3, "train.warmup_steps": 2000, "train.batch_size": 256}
GRAPH = {"model.free_vectors": "true", "model.graph_edges": 30}
COUNTS = {"model.width": 128, "train.batch_size": 128, "train.warmup_steps": 200, "model.count_factor": 2}
COUNTS |= GRAPH | {"model.item_weight": 1, "model.item_mix": 4}
MASKED = {"curriculum.preset": "r-inf", "curriculum.ratio": 0.15, "model.mask_weight": 0.5}
ITEMS = {"model.width": 64, "model.dropout": 0.2, "train.lr": 2e-3, "train.warmup_steps": 200, "train.batch_size": 128}
POOLED = {"model.pooled": "true", "model.last_state": "true", "model.classifier": "cosine", "model.causal": "true"}
POOLED |= {"model.user_tokens": 0, "model.layers": 2, "model.heads": 4, "model.head_width": 32, "model.dropout": 0.3}
POOLED |= {"model.inner": 512, "train.optimizer": "adamw", "train.windows": "sliding", "train.weight_decay": 0.01}
POOLED |= {"train.lr": 2e-3, "train.warmup_steps": 300, "train.batch_size": 64, "train.max_length": 50}
POOLED |= {"search.beams": 20}
FILLED = {"model.layers": 2, "model.decoder_layers": 1, "model.width": 128, "train.weight_decay": 0.01}
FILLED |= {"noise.preset": "curriculum", "noise.ramp": 0.05, "search.beams": 20}
CONTENDERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "sasrec": ("sasrec", 18, ITEMS),
    "sasrec, item graph": ("sasrec", 8, ITEMS | {"model.graph_edges": 30, "model.dropout": 0.3}),
    "rpg": ("rpg", 12, SMALL),
    "rpg, with counts": ("rpg", 4, SMALL | COUNTS),
    "rpg, before": ("rpg", 4, BEFORE),
    "mhl": ("mhl", 20, SMALL | MASKED | {"curriculum.max_epochs": 10}),
    "mhl, with counts": ("mhl", 4, SMALL | COUNTS | MASKED | {"curriculum.max_epochs": 2}),
    "mhl, before": ("mhl", 4, BEFORE | MASKED | {"curriculum.max_epochs": 2}),
    "tiger": ("tiger", 12, POOLED),
    "tiger, with counts": ("tiger", 3, POOLED | {"model.count_weight": 0.8}),
    "mdgr": ("mdgr", 12, SMALL | FILLED),
    "mdgr, with counts": ("mdgr", 2, SMALL | FILLED | {"model.width": 128, "model.count_weight": 0.8}),
}
"""Label -> model, epochs, settings."""
PEER_EPOCHS = {"rpg": 4, "tiger": 1, "rpg reference": 2}
PEER_SIZES = {
    "rpg": {"width": 256, "inner": 512, "temperature": 0.05, "dropout": 0.3},
    "tiger": {"layers": 2, "heads": 4, "head_width": 32, "inner": 512, "dropout": 0.3, "max_length": 50},
}
"""Those of ours above."""


def train(label: str, options: argparse.Namespace) -> Path:
    """The folder of a contender's run, trained first where it is absent or interrupted."""
    model, epochs, settings = CONTENDERS[label]
    codes = {"sasrec": None, "rpg": options.codes, "mhl": options.codes}.get(model, options.few_codes)
    name = "quality-" + label.replace(", ", "-").replace(" ", "-")
    command = [sys.executable, "-m", "genrec_cli", "train", "--model", model, "--label", name, "--json"]
    command += ["--epochs", str(epochs), *(["--codes", codes] if codes else [])]
    command += [f"--set={key}={value}" for key, value in (COMMON | settings).items()]
    command += [f"--data={options.data}"] if options.data else []
    environment = os.environ | {"GENREC_ROOT": str(options.root), "GENREC_DATASET": options.dataset}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{label}: genrec train ended with {done.returncode}")
    return Path(json.loads(done.stdout)["path"])


def curve(folder: Path) -> list[tuple[float, float]]:
    """(minutes, validation NDCG@10) of each epoch with a validation."""
    rows = pq.read_table(folder / "log.parquet", columns=["seconds", "valid/NDCG@10"]).to_pylist()
    return [(row["seconds"] / 60, row["valid/NDCG@10"]) for row in rows if row["valid/NDCG@10"] is not None]


def peer_curve(label: str, python: Path, options: argparse.Namespace) -> list[tuple[float, float]]:
    """The same of cornac's model, or of the authors' RPG, in a process of its own."""
    model, _, reference = label.partition(" ")
    base = options.root / options.dataset
    codes = options.codes if model == "rpg" else options.few_codes
    (data,) = [options.data] if options.data else [path.name for path in (base / "data").iterdir()]
    table = pq.read_table(base / "codes" / codes / "codes.parquet").column("codes")
    settings = PEERS[model]["settings"] | PEER_SIZES[model] | {"model": model, "epochs": PEER_EPOCHS[label], "seed": 0}
    settings |= {"lr": 2e-3, "warmup_steps": 300, "batch_size": 64, "valid_users": 1000, "eval_every": 1}
    settings |= {"precision": "fp32", "checkout": str(options.reference)}
    script = "rpg_reference.py" if reference else PEERS[model]["script"]
    with tempfile.TemporaryDirectory() as folder:
        histories, file = Histories.read(base / "data" / data), Path(folder) / "input.npz"
        subset(histories, np.stack(table.to_numpy()).astype("int64"), options.users or histories.users, file)
        found = contend(python, script, file, settings, options.threads)
    return [(seconds / 60, value) for seconds, value in found["curve"]]


def reached(points: list[tuple[float, float]], target: float) -> float | None:
    """Minutes to the first validation at or above a target."""
    return next((round(minutes, 1) for minutes, value in points if value >= target), None)


def draw(curves: dict[str, list[tuple[float, float]]], file: Path) -> None:
    """The curves: a colour per model, a line style per form."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    colours: dict[str, str] = {}
    for label, points in curves.items():
        model, _, form = label.partition(", ")
        style: Any = {"": "-", "before": ":", "cornac": "-.", "reference": (0, (1, 4))}.get(form, "--")
        (line,) = axes.plot(
            *zip(*points, strict=True), linestyle=style, marker=".", label=label, color=colours.get(model)
        )
        colours[model] = line.get_color()
    axes.set(xlabel="minutes of training", ylabel="validation NDCG@10")
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", help="name of the data artifact, where there are several")
    parser.add_argument("--codes", required=True, help="codes of rpg and mhl")
    parser.add_argument("--few-codes", required=True, help="codes of tiger and mdgr")
    parser.add_argument("--only", nargs="*", metavar="LABEL", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--targets", nargs="+", type=float, default=[0.04, 0.05, 0.055])
    parser.add_argument("--peer-python", metavar="cornac=PATH", help="python of an environment with cornac")
    parser.add_argument("--reference", type=Path, help="a checkout of the repository of RPG's authors")
    parser.add_argument("--peers-only", nargs="+", choices=list(PEER_EPOCHS), default=list(PEER_EPOCHS))
    parser.add_argument("--users", type=int, help="of the peers; all by default")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    curves = {label: curve(train(label, options)) for label in options.only}
    if options.peer_python:
        python = Path(options.peer_python.partition("=")[2])
        for label in options.peers_only:
            if label != "rpg reference":
                curves[f"{label}, cornac"] = peer_curve(label, python, options)
            elif options.reference:
                curves["rpg, reference"] = peer_curve(label, python, options)
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
        print(f"{label:20}", *(f"{name}: {value}" for name, value in row.items()), sep="  ")


if __name__ == "__main__":
    main()

"""Does bf16 learn what fp32 learns? RPG in both precisions and some seeds, equal budgets, on validation.

    python bench/precision.py --data ARTIFACT --codes ARTIFACT [--users 22363] [--epochs 10] [--seeds 0 1 2] [--json]

The difference of the means is to be within one seed's standard deviation in fp32.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from comparison import report

from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.models.rpg import Rpg, RpgConfig


def first(histories: Histories, users: int) -> Histories:
    """The first so many users; all items stay."""
    names = ("offset", "length", "train_end", "valid_at", "test_at")
    return replace(histories, **{name: getattr(histories, name)[:users] for name in names})


def trained(histories: Histories, catalog: Catalog, config: TrainConfig, width: int, device: torch.device) -> dict:
    """The best validated epoch of one run."""
    torch.manual_seed(config.seed)
    model = Rpg(RpgConfig(width=width), catalog, max_length=config.max_length).to(device)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        loop = Loop(model, catalog, histories, config, CurriculumConfig(preset="inf"), device, Path(folder))
        rows = loop.run().rows
    best = max(rows, key=lambda row: row["valid/NDCG@10"])
    found: dict[str, Any] = {"precision": config.precision, "seed": config.seed, "epoch": best["epoch"]}
    return found | {
        "NDCG@10": best["valid/NDCG@10"],
        "Recall@10": best["valid/Recall@10"],
        "loss": best["loss/next"],
        "valid_loss": best["valid/loss"],
        "cpu_seconds": time.process_time() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--codes", type=Path, required=True)
    parser.add_argument("--users", type=int, default=22_363)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    device = resolve_device(options.device)
    histories = first(Histories.read(options.data), options.users)
    codes = np.stack(pq.read_table(options.codes / "codes.parquet").column("codes").to_numpy()).astype("int64")
    train_count_I = torch.ones(len(codes), dtype=torch.long, device=device)
    catalog = Catalog.of(train_count_I, torch.from_numpy(codes).to(device), 256)
    runs = []
    for seed in options.seeds:
        for precision in ("fp32", "bf16"):
            config = TrainConfig(epochs=options.epochs, lr=options.lr, warmup_steps=50, seed=seed, precision=precision)
            runs.append(trained(histories, catalog, config, options.width, device))
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    of = {name: [run["NDCG@10"] for run in runs if run["precision"] == name] for name in ("fp32", "bf16")}
    summary = {name: statistics.mean(values) for name, values in of.items()}
    summary["difference"] = summary["bf16"] - summary["fp32"]
    summary["deviation"] = statistics.stdev(of["fp32"]) if len(of["fp32"]) > 1 else float("nan")
    if options.json:
        print(json.dumps(report([], runs=runs, summary=summary)))
        return
    print(
        f"validation NDCG@10: fp32 {summary['fp32']:.5f}, bf16 {summary['bf16']:.5f}; difference "
        f"{summary['difference']:+.5f}, one seed's deviation {summary['deviation']:.5f}"
    )


if __name__ == "__main__":
    main()

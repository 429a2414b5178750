"""A training step of each model, launched kernel by kernel and, on CUDA, recorded as graphs.

    python bench/steps.py --device cuda --data ARTIFACT [--models tiger mdgr] [--batch-size 256 1024] [--precision bf16]

Codes are random, as a step costs the same whatever they mean; MHL masks at random at a ratio of .3, MDGR as halfway
through its training. Histories are made up without ``--data``. One JSON object a line.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from rpg_step import alternating, made_up, random_codes, training

from genrec_cli import registry
from genrec_cli.curriculum.history_masks import Masker
from genrec_cli.curriculum.target_masks import Noise, NoiseConfig
from genrec_cli.data.sequences import Histories, Rows
from genrec_cli.distributed import resolve_device

CODES = {
    "tiger": (4, 256), "mdgr": (8, 300), "rpg": (16, 256), "mhl": (32, 256), "sasrec": (1, 2), "rpg-text": (32, 4096),
}  # fmt: skip
"""Digits and codewords of each model's catalogue; text has 8 to 32 tokens an item."""


def chooser(name: str, device: torch.device) -> Any:
    """What hides codes in a step of this model."""
    generator = torch.Generator(device).manual_seed(0)
    if name == "mdgr":
        return Noise(NoiseConfig(), CODES[name][0], generator).at(0.5)
    return Masker("random", "token", 0.3, "printed", generator) if name == "mhl" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", nargs="+", choices=CODES, default=list(CODES))
    parser.add_argument("--batch-size", nargs="+", type=int, default=[256])
    parser.add_argument("--precision", default="tf32")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = resolve_device(options.device)
    histories = Histories.read(options.data) if options.data else made_up()
    for name in options.models:
        text, (digits, codewords) = name.endswith("-text"), CODES[name]
        kind = registry.load("model", name.removesuffix("-text"))
        catalog = random_codes(histories, digits, device, codewords, text=text)
        own = kind.defaults.get("train", {})
        length = own.get("max_length", 50)
        rows = Rows.of(histories, max_length=length, windows=own.get("windows", "sliding"))
        for size in options.batch_size:
            sides = {}
            for graphs in (False, True):
                torch.manual_seed(0)
                model = kind(kind.Config(), catalog, max_length=length).to(device)
                choose = chooser(name, device)
                if not graphs or (device.type == "cuda" and model.static):
                    way = "recorded" if graphs else "launched"
                    sides[way] = training(model, histories, rows, options.precision, graphs=graphs, choose=choose)
            times = alternating(sides, rows, size, options.steps, device)
            found = {f"{way}_ms": round(statistics.median(seconds) * 1e3, 2) for way, seconds in times.items()}
            print(
                json.dumps({"model": name, "batch": size, "steps_an_epoch": -(-len(rows) // size), **found}), flush=True
            )


if __name__ == "__main__":
    main()

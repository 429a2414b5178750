"""A training step of each model, launched kernel by kernel and, on CUDA, captured as graphs.

    python bench/steps.py --device cuda --data ARTIFACT [--models tiger mdgr] [--batch-size 256 1024] [--precision bf16]

Codes are random: the time of a step does not depend on them. MHL masks at random with ratio .3, MDGR as at half of its
training. Without ``--data`` the histories are random. One JSON object per line.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from rpg_step import alternating, made_up, random_codes, training

from genrec_cli import registry
from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.curriculum.target_masks import NoiseConfig, TargetMasks
from genrec_cli.data.sequences import Histories, Rows
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.step import MaskSampler

CODES = {
    "tiger": (4, 256),
    "mdgr": (8, 300),
    "rpg": (16, 256),
    "mhl": (32, 256),
    "sasrec": (1, 2),
    "recjpq": (16, 256),
    "rpg-text": (32, 4096),
}
"""Digits and codewords of each model's catalogue; text has 8 to 32 tokens per item."""


def mask_sampler(name: str, device: torch.device) -> MaskSampler | None:
    """The mask sampler of a training step of this model."""
    generator = torch.Generator(device).manual_seed(0)
    if name == "mdgr":
        return TargetMasks(NoiseConfig(), CODES[name][0], generator).at(0.5)
    return HistoryMasks("random", "token", 0.3, "printed", generator) if name == "mhl" else None


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
        defaults = kind.defaults.get("train", {})
        length = defaults.get("max_length", 50)
        rows = Rows.of(histories, max_length=length, windows=defaults.get("windows", "sliding"))
        for size in options.batch_size:
            sides = {}
            for graphs in (False, True):
                torch.manual_seed(0)
                model = kind(kind.Config(), catalog, max_length=length).to(device)
                sampler = mask_sampler(name, device)
                if not graphs or (device.type == "cuda" and model.graph_capturable and sampler is None):
                    way = "captured" if graphs else "launched"
                    sides[way] = training(model, histories, rows, options.precision, graphs=graphs, sampler=sampler)
            times = alternating(sides, rows, size, options.steps, device)
            row = {"model": name, "batch": size, "steps_per_epoch": -(-len(rows) // size)}
            row |= {f"{way}_ms": round(statistics.median(seconds) * 1e3, 2) for way, seconds in times.items()}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

"""The time of MHL's training step relative to RPG's, in alternating runs.

    python bench/mhl_step.py [--data ARTIFACT] [--digits 16 32] [--stride 25] [--device cpu]

Both have the same batches, codes and sizes; the paper's overhead is 1.86 (its Table 13).
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch
from comparison import report
from rpg_step import MAX_LENGTH, Side, alternating, made_up, random_codes, training

from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.data.sequences import Histories, Rows
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.models.rpg import Rpg, RpgConfig


def masked_training(model: Rpg, mask: str | None, *, histories: Histories, rows: Rows, precision: str) -> Side:
    """A training step of a model, on its device, under a mask policy at token level with ratio .15."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    sampler = HistoryMasks(mask, "token", 0.15, "printed", generator) if mask else None
    return training(model, histories, rows, precision, graphs=False, sampler=sampler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--digits", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--stride", type=int, default=TrainConfig().stride, help="train.stride; 1: RPG's own rows")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    device = resolve_device(options.device)
    histories = Histories.read(options.data) if options.data else made_up()
    rows = Rows.of(histories, max_length=MAX_LENGTH, windows="sliding", stride=options.stride)
    side = partial(masked_training, histories=histories, rows=rows, precision=options.precision)
    found = {}
    for digits in options.digits:
        catalog = random_codes(histories, digits, device)
        sides = {"rpg": side(Rpg(RpgConfig(), catalog, max_length=MAX_LENGTH).to(device), None)}
        for next_on in ("masked", "clean"):
            for mask in ("random", "entropy"):
                model = Mhl(MhlConfig(next_on=next_on), catalog, max_length=MAX_LENGTH)
                sides[f"mhl {mask}, next_on {next_on}"] = side(model.to(device), mask)
        times = alternating(sides, rows, options.batch_size, options.steps, device)
        for name, values in times.items():
            ratio = statistics.median(value / other for value, other in zip(values, times["rpg"], strict=True))
            found[f"K {digits}, {name}"] = {"seconds": statistics.median(values), "over_rpg": ratio}
            if not options.json:
                print(f"K {digits}  {name:28} {statistics.median(values) * 1e3:8.1f} ms  over RPG {ratio:.2f}")
    if options.json:
        print(json.dumps(report([], over_rpg=found)))


if __name__ == "__main__":
    main()

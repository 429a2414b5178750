"""All targets of a history in one pass against a row per target: targets per second of models of one size.

    python bench/one_pass.py --data ARTIFACT [--models tiger mdgr] [--batch-size 256] [--stride 10] [--device cuda]

With a row per target the encoder is bidirectional; in one pass it is causal. Both sides learn about the same number of
targets per step, so a step of one pass has fewer rows. Codes are random: the time of a step does not depend on them.
Without ``--data`` the histories are random. One JSON object per line.
"""

import argparse
import json
from pathlib import Path

import torch
from rpg_step import made_up, random_codes, timed, training
from steps import CODES, mask_sampler

from genrec_cli import registry
from genrec_cli.data.sequences import Histories, Rows
from genrec_cli.distributed import resolve_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", nargs="+", choices=("tiger", "mdgr"), default=["tiger", "mdgr"])
    parser.add_argument("--batch-size", type=int, default=256, help="targets per step, about")
    parser.add_argument("--stride", type=int, nargs="+", default=[1, 10], help="train.stride of the rows of one pass")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = resolve_device(options.device)
    histories = Histories.read(options.data) if options.data else made_up()
    ways = [("each", 1), *(("sliding", stride) for stride in options.stride)]
    for name in options.models:
        kind, (digits, codewords) = registry.load("model", name), CODES[name]
        catalog = random_codes(histories, digits, device, codewords)
        length = kind.defaults.get("train", {}).get("max_length", 50)
        sides, found = {}, {}
        for windows, stride in ways:
            torch.manual_seed(0)
            model = kind(kind.Config(causal=windows == "sliding"), catalog, max_length=length).to(device)
            rows = Rows.of(histories, max_length=length, windows=windows, stride=stride)
            targets = int((histories.train_end - 1).clip(0).sum())
            size = max(options.batch_size * len(rows) // targets, 1)
            graphs = device.type == "cuda" and name == "tiger"
            sampler = mask_sampler(name, device)
            side = training(model, histories, rows, options.precision, graphs=graphs, sampler=sampler)
            sides[windows, stride], found[windows, stride] = (side, rows, size), [0.0, 0]
        warm_up = 40 if graphs else 2
        for step in range(options.steps + warm_up):
            for way, (side, rows, size) in sides.items():
                chosen = rows.order(0, 0)[step * size % len(rows) :][:size]
                batch = side.prepare(chosen)
                spent = timed(lambda step=side.step, batch=batch: step(batch), device)
                if step >= warm_up:
                    found[way][0] += spent
                    found[way][1] += len(rows.batch(histories, chosen).learn_M)
        first = None
        for (windows, stride), (seconds, learned) in found.items():
            speed = learned / seconds
            first = first or speed
            result = {"model": name, "windows": windows, "stride": stride, "rows": len(sides[windows, stride][1])}
            result |= {"targets_per_second": round(speed, 1), "times": round(speed / first, 2)}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

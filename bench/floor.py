"""The training step relative to the machine's limits: multiplications and bytes against measured peaks.

    python bench/floor.py [--data ARTIFACT] [--digits 32] [--precision fp32 bf16] [--json]

The lower bound of a step is its multiplications at the rate of one large matrix product in the same precision, plus the
bytes of the optimiser (AdamW reads weight, gradient and two moments and writes three of them) at the rate of one large
copy. The lower bound of the exhaustive search is the bytes of its look-ups at the rate of a copy.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comparison import report
from mhl_step import masked_training
from rpg_step import MAX_LENGTH, inputs, timed
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Rows
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.searches.exhaustive import Exhaustive

MASKS = {"rpg": None, "mhl random": "random", "mhl entropy": "entropy"}
ADAMW_BYTES = 7 * 4
"""Per parameter: four values read and three written, in fp32."""


def best(work: Callable[[], object], device: torch.device, rounds: int = 7) -> float:
    """The shortest of several runs."""
    return min(timed(work, device) for _ in range(rounds + 1))


def peaks(device: torch.device, precisions: list[str]) -> dict[str, float]:
    """Multiply-adds count as two: FLOP/s of a 2048-wide product in each precision; bytes/s of a 256 MB copy."""
    found = {}
    for name in precisions:
        kind = torch.bfloat16 if name == "bf16" else torch.float32
        a, b = (torch.randn(2048, 2048, device=device).to(kind) for _ in range(2))
        found[name] = 2 * 2048**3 / best(lambda a=a, b=b: a @ b, device)
    one, two = torch.ones(2**25, device=device), torch.empty(2**25, device=device)
    found["copy"] = 2 * 4 * 2**25 / best(lambda: two.copy_(one), device)
    return found


def operators(work: Callable[[], object], top: int = 8) -> list[tuple[str, float]]:
    """The fraction of the time of each operator, without the operators that it calls."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    events = sorted(seen.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return [(e.key.removeprefix("aten::"), e.self_cpu_time_total / total) for e in events[:top]]


def step_floor(
    step: Callable[[Batch], None],
    batches: list[Batch],
    parameters: int,
    peak: dict[str, float],
    precision: str,
    device: torch.device,
) -> dict[str, Any]:
    """One model's step over the same batches: its operations, its time, and the lower bound as a fraction of it."""
    step(batches[0])
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            step(batch)
    flops = counter.get_total_flops() / len(batches)
    seconds = statistics.median(timed(lambda b=b: step(b), device) for b in batches)
    products, update = flops / peak[precision], parameters * ADAMW_BYTES / peak["copy"]
    return {
        "seconds": seconds,
        "gflop": flops / 1e9,
        "gflop_per_second": flops / seconds / 1e9,
        "fraction_of_peak": flops / seconds / peak[precision],
        "floor_seconds": products + update,
        "floor_fraction": (products + update) / seconds,
        "operators": operators(lambda: [step(b) for b in batches[:3]]) if device.type == "cpu" else [],
    }


def decode_floor(catalog: Catalog, peak: dict[str, float], device: torch.device, users: int = 32) -> dict[str, float]:
    """Look-ups and the top 10 of one batch."""
    search = Exhaustive(catalog)
    logp = torch.randn(users, catalog.digits, catalog.codewords, device=device).log_softmax(-1)
    seconds = statistics.median(timed(lambda: search.top(search.code_scored(logp), 10), device) for _ in range(20))
    looked_up = 4.0 * users * catalog.items * catalog.digits
    return {
        "seconds": seconds,
        "looked_up_mb": looked_up / 1e6,
        "gb_per_second": looked_up / seconds / 1e9,
        "fraction_of_copy": looked_up / seconds / peak["copy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--digits", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--models", nargs="+", choices=list(MASKS), default=list(MASKS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    device, histories, catalog = inputs(options)
    rows = Rows.of(histories, max_length=MAX_LENGTH, windows="sliding")
    order, size = rows.order(0, 0), options.batch_size
    batches = [rows.batch(histories, order[n * size : (n + 1) * size]) for n in range(options.batches)]
    peak = peaks(device, options.precision)
    found: dict[str, Any] = {}
    began = time.perf_counter()
    for precision in options.precision:
        for name in options.models:
            mask = MASKS[name]
            model = Mhl(MhlConfig(), catalog, max_length=MAX_LENGTH) if mask else None
            model = model or Rpg(RpgConfig(), catalog, max_length=MAX_LENGTH)
            parameters = sum(p.numel() for p in model.parameters())
            side = masked_training(model.to(device), mask, histories=histories, rows=rows, precision=precision)
            found[f"{name}, {precision}"] = step_floor(side.step, batches, parameters, peak, precision, device)
    found["decode"] = decode_floor(catalog, peak, device)
    if options.json:
        print(json.dumps(report([], peaks=peak, floors=found, seconds=time.perf_counter() - began)))
        return
    print("peaks: " + ", ".join(f"{name} {value / 1e9:.0f} G/s" for name, value in peak.items()))
    for name, row in found.items():
        if name == "decode":
            print(
                f"decode: {row['seconds'] * 1e3:.2f} ms, {row['looked_up_mb']:.0f} MB looked up, "
                f"{row['gb_per_second']:.0f} GB/s, {row['fraction_of_copy']:.1f} of a copy's rate"
            )
            continue
        print(
            f"{name:18} {row['seconds'] * 1e3:7.1f} ms {row['gflop']:5.1f} GFLOP {row['fraction_of_peak']:.0%} of peak"
            f"  floor {row['floor_seconds'] * 1e3:6.1f} ms ({row['floor_fraction']:.0%})"
        )
        print("    " + ", ".join(f"{operator} {fraction:.0%}" for operator, fraction in row["operators"]))


if __name__ == "__main__":
    main()

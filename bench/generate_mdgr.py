"""Users a second of MDGR's decoding, with random weights, in alternating runs: one row for each R_warm and m_par.

    python bench/generate_mdgr.py [--data ARTIFACT] [--users 64] [--batch-size 16] [--beams 50] [--device cpu]

A catalogue of Beauty's size with random codes of 8 x 300 and, without ``--data``, histories of random items with
Beauty's mean length. Random weights do the work of trained ones: no search here stops early. Lists of 10 items.
``search`` is the share of the time that is not the model's: inverted lists, merging, sorting.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rpg_step import made_up, timed
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories, eval_batches
from genrec_cli.decoders.diffusion import Diffusion, DiffusionConfig
from genrec_cli.distributed import resolve_device
from genrec_cli.models.mdgr import Mdgr, MdgrConfig

DIGITS, CODEWORDS = 8, 300
WAYS = [(4, 2), (4, 4), (2, 2), (0, 2), (0, 4), (8, 1)]
"""R_warm and m_par: 6, 5, 5, 4, 2 and 8 passes; the paper's choice first."""


class Clocked:
    """A model that knows how long it worked."""

    def __init__(self, model: Mdgr, device: torch.device) -> None:
        self.model, self.device, self.seconds = model, device, 0.0

    def read(self, batch: Batch) -> object:
        return self._clocked(lambda: self.model.read(batch))

    def fill(self, memory: object, codes_BMK: Tensor) -> Tensor:
        return self._clocked(lambda: self.model.fill(memory, codes_BMK))

    def _clocked(self, work: Callable[[], object]) -> object:
        began = time.perf_counter()
        found = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - began
        return found


def mdgr(items: int, beams: int, device: torch.device) -> dict[str, Callable[[Batch], object]]:
    """Decoders by name, as ``bench/generate.py`` takes them."""
    codes = torch.randint(0, CODEWORDS, (items, DIGITS), generator=torch.Generator().manual_seed(0))
    catalog = Catalog(items, torch.ones(items, dtype=torch.long).to(device), codes.to(device), CODEWORDS)
    model = Clocked(Mdgr(MdgrConfig(), catalog, max_length=20).to(device).eval(), device)
    sides: dict[str, Callable[[Batch], object]] = {}
    for warmup, parallel in WAYS:
        decoder = Diffusion(model, catalog, DiffusionConfig(warmup=warmup, parallel=parallel, beams=beams))
        name = f"mdgr, R_warm {warmup}, m_par {parallel}, {len(decoder.steps)} passes"
        sides[name] = lambda batch, decoder=decoder: decoder.decode(batch, 10)
    return sides


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--beams", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = resolve_device(options.device)
    histories = Histories.read(options.data) if options.data else made_up()
    torch.manual_seed(0)
    sides = mdgr(int(histories.item.max()), options.beams, device)
    clock = next(iter(sides.values())).__defaults__[0].model
    user, at = histories.targets("test")
    chosen = np.random.default_rng(0).permutation(len(user))[: options.users]
    batches = list(eval_batches(histories, user[chosen], at[chosen], max_length=20, batch_size=options.batch_size))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number, known in enumerate([batches[0], *batches]):
        batch = known.batch.to(device)
        for name, work in sides.items():
            clock.seconds = 0.0
            seconds = timed(lambda work=work, batch=batch: work(batch), device)
            if number:  # the first warms up
                times[name].append((seconds / batch.packing.sequences, 1 - clock.seconds / seconds))
    first = statistics.median(seconds for seconds, _ in next(iter(times.values())))
    for name, found in times.items():
        median = statistics.median(seconds for seconds, _ in found)
        row = {
            "users_per_second": round(1 / median, 1), "times_the_first": round(median / first, 2),
            "search": round(statistics.median(share for _, share in found), 2),
        }  # fmt: skip
        print(json.dumps({"decoder": name, **row}))


if __name__ == "__main__":
    main()

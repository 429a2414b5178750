"""Users a second of models that generate codes, with random weights, in alternating runs.

    python bench/generate.py [--data ARTIFACT] [--users 64] [--batch-size 16] [--beams 50] [--device cpu]

A catalogue of Beauty's size with random codes and, without ``--data``, histories of random items with Beauty's
mean length. Random weights do the work of trained ones: no search here stops early. Lists of 10 items.

The row ``uncached`` is TIGER without what its face keeps: at each digit every beam reads the states of its
history, which stand there once for each beam, and its whole prefix anew (the encoder still runs once).
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from generate_mdgr import mdgr
from rpg_step import made_up, timed
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories, eval_batches
from genrec_cli.distributed import resolve_device
from genrec_cli.models.tiger import Tiger, TigerConfig
from genrec_cli.nn.packing import Packing
from genrec_cli.searches.beam import Beam, BeamConfig

CODEWORDS = 256


class Uncached:
    """TIGER's prefixes without a KV cache: every beam is computed from its codes."""

    def __init__(self, model: Tiger, batch: Batch) -> None:
        self.model, self.batch = model, batch
        self.h_XD, self.packing = model.encode(batch)
        self.code_BMl = torch.zeros(batch.packing.sequences, 1, 0, dtype=torch.long, device=self.h_XD.device)

    def first(self) -> Tensor:
        return self._scores()

    def extend(self, parent_BM: Tensor, code_BM: Tensor) -> Tensor:
        older_BMl = self.code_BMl.gather(1, parent_BM[..., None].expand(-1, -1, self.code_BMl.shape[2]))
        self.code_BMl = torch.cat([older_BMl, code_BM[..., None]], dim=2)
        return self._scores()

    def _scores(self) -> Tensor:
        model, (rows, beams, digit) = self.model, self.code_BMl.shape
        length_B = self.packing.length_B.cpu().numpy()
        start_X = np.repeat(np.cumsum(length_B) - length_B, beams)
        packing = Packing.of(np.repeat(length_B, beams)).to(self.h_XD.device)
        at = torch.from_numpy(start_X).to(self.h_XD.device)[packing.sequence_N] + packing.position_N
        token_Xl = self.code_BMl.flatten(0, 1) + model.codes.offset_K[:digit]
        token_Xl = torch.cat([model.begin(rows * beams), token_Xl], dim=1)
        h_XlD = model.decoder(model.codes.table(token_Xl), model.decoder.remember(self.h_XD[at], packing))
        scores_XV = h_XlD[:, -1] * model.config.width**-0.5 @ model.codes.vectors()[digit].t()
        return scores_XV.log_softmax(-1).view(rows, beams, -1)


class UncachedTiger:
    """A PrefixScorer without a KV cache."""

    def __init__(self, model: Tiger) -> None:
        self.model = model

    def prefixes(self, batch: Batch) -> Uncached:
        return Uncached(self.model, batch)


def tiger(items: int, beams: int, device: torch.device) -> dict[str, Callable[[Batch], object]]:
    """Three digits and one against collisions, as in the paper."""
    codes = torch.randint(0, CODEWORDS, (items, 4), generator=torch.Generator().manual_seed(0))
    codes[:, 3] = 0
    catalog = Catalog.of(torch.ones(items, dtype=torch.long).to(device), codes.to(device), CODEWORDS)
    model = Tiger(TigerConfig(), catalog, max_length=20).to(device).eval()
    searches = {"tiger, beam": model, "tiger, beam, uncached": UncachedTiger(model)}
    return {name: decode(Beam(scorer, catalog, BeamConfig(beams=beams))) for name, scorer in searches.items()}


def decode(search: Beam) -> Callable[[Batch], object]:
    return lambda batch: search.decode(batch, 10)


SIDES = [tiger, mdgr]
"""Each gives searches by name; the others are compared with the first row."""


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
    items = int(histories.item.max())
    torch.manual_seed(0)
    sides = {name: work for side in SIDES for name, work in side(items, options.beams, device).items()}
    user, at = histories.targets("test")
    chosen = np.random.default_rng(0).permutation(len(user))[: options.users]
    batches = list(eval_batches(histories, user[chosen], at[chosen], max_length=20, batch_size=options.batch_size))
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number, known in enumerate([batches[0], *batches]):
        batch = known.batch.to(device)
        for name, work in sides.items():
            seconds = timed(lambda work=work, batch=batch: work(batch), device)
            if number:  # the first warms up
                rates[name].append(seconds / batch.packing.sequences)
    first = statistics.median(next(iter(rates.values())))
    for name, seconds in rates.items():
        median = statistics.median(seconds)
        row = {"users_per_second": round(1 / median, 1), "times_the_first": round(median / first, 2)}
        print(json.dumps({"search": name, "beams": options.beams, **row}))


if __name__ == "__main__":
    main()

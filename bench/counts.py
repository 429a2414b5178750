"""What the count models cost on a large log: seconds, memory and stored pairs, and how good clustered neighbours are.

    python bench/counts.py [--items 1000000] [--interactions 100000000] [--window 10] [--pairs 100]
    python bench/counts.py --vectors 100000 --width 384

The log has Zipf popularity, and structure: a user mostly stays within one of many shelves of 200 items. The second form
times the nearest vectors of a catalogue, by all cosines of a sample (extrapolated to all items) and by clusters.
"""

import argparse
import json
import resource
import time
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn.functional import normalize

from genrec_cli.models.neighbours import NeighboursConfig, nearest
from genrec_cli.models.transitions import TransitionsConfig, count_transitions
from genrec_cli.nn.packing import Packing
from genrec_cli.nn.sparse_scores import ItemWeights, sparse_scores

SHELF, STAY, CHUNK = 200, 0.7, 1 << 20


def peak() -> float:
    """MiB, the most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def zipf(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Ranks from 0 with probability about 1 / (rank + 10)."""
    return np.minimum(10 * ((count + 10) / 10) ** rng.random(size) - 10, count - 1).astype(np.uint32)


def log(items: int, interactions: int) -> SimpleNamespace:
    """Histories of 2 to 18 training items."""
    rng = np.random.default_rng(0)
    length = rng.integers(2, 19, interactions // 10)
    item = np.empty(int(length.sum()), np.uint32)
    shelves, shelf_U = max(items // SHELF, 1), zipf(max(items // SHELF, 1), len(length), rng)
    end = 0
    for at in range(0, len(length), CHUNK):
        shelf = np.repeat(shelf_U[at : at + CHUNK], length[at : at + CHUNK])
        other = zipf(shelves, len(shelf), rng)
        shelf = np.where(rng.random(len(shelf)) < STAY, shelf, other)
        item[end : end + len(shelf)] = shelf * SHELF + zipf(SHELF, len(shelf), rng) + 1
        end += len(shelf)
    return SimpleNamespace(item=np.minimum(item, items), offset=length.cumsum() - length, train_end=length)


def counted(options: argparse.Namespace) -> dict[str, object]:
    histories = log(options.items, options.interactions)
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    config = TransitionsConfig(window=options.window, pairs=options.pairs)
    table = count_transitions(histories, options.items, config)
    seconds, cpu, after = time.perf_counter() - start, time.process_time() - cpu, peak()
    weights = ItemWeights(options.items)
    weights.fill(*table)
    item_N = torch.from_numpy(histories.item[: 256 * 20].astype(np.int64))
    start = time.perf_counter()
    cell_S, _ = sparse_scores([weights], item_N, Packing.of(np.full(256, 20)), torch.ones(256 * 20))
    return {
        "items": options.items,
        "interactions": len(histories.item),
        "window": options.window,
        "largest_item": int(np.bincount(histories.item).max()),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mib": round(after),
        "of_which_the_log_mib": round(before),
        "pairs": len(table[1]),
        "table_mib": round(sum(x.nbytes for x in table) / 2**20),
        "scores_of_256_histories_of_20_seconds": round(time.perf_counter() - start, 3),
        "cells": len(cell_S),
    }


def searched(options: argparse.Namespace) -> dict[str, object]:
    """Vectors in a hierarchy of Gaussian clusters, as texts of shops, brands and products have."""
    draw, config = torch.Generator().manual_seed(0), NeighboursConfig()
    vec_ID = torch.zeros(options.vectors, options.width)
    for groups, size in ((50, 1.0), (options.vectors // 200 + 1, 0.8), (options.vectors, 0.6)):
        centre = torch.randn(groups, options.width, generator=draw) * size
        vec_ID += centre[torch.randint(0, groups, (options.vectors,), generator=draw)]
    start = time.perf_counter()
    item_Ik, _ = nearest(vec_ID, config.neighbours, probes=config.probes)
    seconds = time.perf_counter() - start
    sample = torch.arange(0, options.vectors, max(options.vectors // 1000, 1))
    start = time.perf_counter()
    unit_ID = normalize(vec_ID, dim=1)
    cosine = unit_ID[sample] @ unit_ID.t()
    cosine[torch.arange(len(sample)), sample] = -torch.inf
    exact = cosine.topk(config.neighbours, dim=1).indices + 1
    whole = (time.perf_counter() - start) * options.vectors / len(sample)
    found = np.mean([np.isin(*pair).mean() for pair in zip(exact.numpy(), item_Ik[sample].numpy(), strict=True)])
    return {
        "vectors": options.vectors,
        "width": options.width,
        "probes": config.probes,
        "clusters_seconds": round(seconds, 1),
        "exact_seconds_extrapolated": round(whole, 1),
        "recall": round(float(found), 4),
        "peak_mib": round(peak()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interactions", type=int, default=100_000_000)
    parser.add_argument("--window", type=int, default=TransitionsConfig().window)
    parser.add_argument("--pairs", type=int, default=TransitionsConfig().pairs)
    parser.add_argument("--vectors", type=int, help="time the nearest of so many vectors instead")
    parser.add_argument("--width", type=int, default=384)
    options = parser.parse_args()
    print(json.dumps(counted(options) if options.vectors is None else searched(options)))


if __name__ == "__main__":
    main()

"""Exact decoding against the graph, from small catalogues to large ones: where do their curves cross?

    python bench/decode.py [--items 10000 100000 1000000] [--users 1 32] [--codes clustered random]
                           [--json FILE] [--output FIGURE.svg]

Codes and embeddings are made up. ``clustered``: items are points around centres around centres, 4 numbers a digit,
their codes the nearest of V codewords of each digit (a product quantiser), and the codes' embeddings show that
space with noise, so neighbours exist as in a trained model. ``random``: codes and embeddings know of no neighbours.
A user wants some item: logits are cosines with its codes' embeddings, noise added, over a temperature of .07.

The graph is tried with more and more work until its list holds ``--recall`` of the exact one; the two are then timed
in turn. Times are of wall clock; ``--users`` are decoded together.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cli.data.catalog import Catalog
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.searches.graph import Graph, GraphConfig

CODEWORDS, LATENT, WIDTH, PER_CLUSTER, K = 256, 4, 64, 50, 10
EDGES = 50
WORK = [(20, 10, 3), (50, 20, 3), (50, 50, 3), (50, 50, 5), (100, 50, 5), (200, 50, 5), (200, 50, 8), (400, 50, 8)]
"""(beams, edges, steps), each about twice the work of the one before."""


class World:
    """A catalogue, its codes' embeddings, and what users want."""

    def __init__(self, items: int, digits: int, kind: str, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.draw = draw
        if kind == "random":
            codes_IK = torch.randint(0, CODEWORDS, (items, digits), generator=draw)
            self.vectors_KVD = torch.randn(digits, CODEWORDS, WIDTH, generator=draw)
        else:
            clusters = max(items // PER_CLUSTER, 1)
            top_SX = torch.randn(max(clusters // PER_CLUSTER, 1), digits * LATENT, generator=draw)
            above_C = torch.randint(0, len(top_SX), (clusters,), generator=draw)
            centre_CX = top_SX[above_C] + 0.7 * torch.randn(clusters, digits * LATENT, generator=draw)
            cluster_I = torch.randint(0, len(centre_CX), (items,), generator=draw)

            def points(row_C: Tensor) -> Tensor:
                noise = torch.randn(len(row_C), digits * LATENT, generator=draw)
                return (centre_CX[cluster_I[row_C]] + 0.5 * noise).view(len(row_C), digits, LATENT)

            word_KVX = points(torch.randint(0, items, (CODEWORDS,), generator=draw)).transpose(0, 1)
            norm_KV = word_KVX.square().sum(-1) / 2
            found = []
            for row_C in torch.arange(items).split(1 << 14):
                product_KCV = points(row_C).transpose(0, 1) @ word_KVX.transpose(1, 2)
                found.append((product_KCV - norm_KV[:, None]).argmax(-1).t())
            codes_IK = torch.cat(found)
            shown_KXD = torch.randn(digits, LATENT, WIDTH, generator=draw) / LATENT**0.5
            noise_KVD = torch.randn(digits, CODEWORDS, WIDTH, generator=draw)
            self.vectors_KVD = word_KVX.contiguous() @ shown_KXD + 0.5 * noise_KVD
        self.catalog = Catalog.of(torch.ones(items, dtype=torch.long), codes_IK, CODEWORDS)

    def code_vectors(self) -> Tensor:
        return self.vectors_KVD

    def logprobs(self, users: int) -> Tensor:
        """``logp_BKV`` of users who want some item."""
        unit_KVD = F.normalize(self.vectors_KVD, dim=-1)
        wanted_B = torch.randint(0, self.catalog.items, (users,), generator=self.draw)
        code_BK = self.catalog.codes_IK[wanted_B].long()
        want_BKD = unit_KVD[torch.arange(len(unit_KVD)), code_BK]
        noise_BKD = F.normalize(torch.randn(want_BKD.shape, generator=self.draw), dim=-1)
        query_BKD = F.normalize(want_BKD + noise_BKD, dim=-1)
        return (torch.einsum("bkd,kvd->bkv", query_BKD, unit_KVD) / 0.07).log_softmax(-1)


def in_turn(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, run alternately; the first round warms up."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if number:
                spent[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(values) for name, values in spent.items()}


def shared(one_Bk: Tensor, other_Bk: Tensor) -> float:
    """Share of the second lists that stands in the first."""
    return float((one_Bk[:, :, None] == other_Bk[:, None, :]).any(1).float().mean())


def curve(options: argparse.Namespace, items: int, kind: str) -> Iterator[dict[str, Any]]:
    """The rows of one catalogue: the graph is built once, with most edges."""
    world = World(items, options.digits, kind)
    exact = Exhaustive(world.catalog)
    base: dict[str, Any] = {"codes": kind, "items": items}
    graph = None
    if items <= options.graph_up_to:
        began, worked = time.perf_counter(), time.process_time()
        graph = Graph(world, world.catalog, GraphConfig(edges=EDGES))
        base |= {
            "build_s": round(time.perf_counter() - began, 1),
            "build_cpu_s": round(time.process_time() - worked, 1),
        }
        neighbour_IE = graph.neighbour_IE
    test_BKV = world.logprobs(32)
    best_Bk = exact.top(exact.code_scored(test_BKV), K).item_Bk
    found: dict[str, Any] = {}
    for beams, edges, steps in WORK if graph else []:
        graph.config = graph.config.model_copy(update={"beams": beams, "edges": edges, "steps": steps})
        graph.neighbour_IE = neighbour_IE[:, :edges].contiguous()
        top, visited_B = graph.walk(test_BKV, torch.arange(32), K)
        found = {"beams": beams, "edges": edges, "steps": steps, "recall": round(shared(top.item_Bk, best_Bk), 4)}
        found |= {"visited": round(float(visited_B.float().mean()))}
        if found["recall"] >= options.recall:
            break
    for users in options.users:
        logp_BKV, user_B = world.logprobs(users), torch.arange(users)
        works = {"exact_ms": lambda logp=logp_BKV: exact.top(exact.code_scored(logp), K)}
        if graph:
            works["graph_ms"] = lambda logp=logp_BKV, user=user_B: graph.walk(logp, user, K)
        spent = in_turn(works, options.rounds)
        yield base | {"users": users} | {name: round(value, 3) for name, value in spent.items()} | found


def floor(digits: int, users: int, items: int, milliseconds: float) -> str:
    """The bytes that exact decoding reads, against what this machine copies."""

    def bandwidth(size: int, times: int) -> float:
        source, target = torch.ones(size // 4), torch.empty(size // 4)
        spent = in_turn({"copy": lambda: [target.copy_(source) for _ in range(times)]}, 7)["copy"]
        return 2 * size * times / spent * 1e3

    threads = torch.get_num_threads()
    memory = bandwidth(1 << 28, 1)
    torch.set_num_threads(1)  # a small copy by several threads measures how fast they wake
    cache = threads * bandwidth(1 << 19, 200)
    torch.set_num_threads(threads)
    index, rows, written = items * digits * 4, items * digits * users * 4, items * users * 4
    rate = milliseconds / 1e3
    return (
        f"floor of exact decoding, {items:,} items x {digits} digits, {users} users: codes from memory "
        f"{index / 1e6:,.0f} MB = {index / rate / memory:.0%} of a big copy's {memory / 1e9:.0f} GB/s; table rows from "
        f"the cache {rows / 1e6:,.0f} MB and scores {2 * written / 1e6:,.0f} MB = "
        f"{(rows + 2 * written) / rate / cache:.0%} of a small copy's {cache / 1e9:.0f} GB/s"
    )


def draw(rows: list[dict[str, Any]], target: Path) -> None:
    """Milliseconds over items, both axes logarithmic; hollow points are short of the recall that was asked for."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from genrec_cli.report.figures import BLUE, STYLE, VERMILLION, canvas

    panels = sorted({(row["codes"], row["users"]) for row in rows})
    with rc_context(STYLE):
        figure = canvas(3.2 * len(panels), 3.0)
        FigureCanvasAgg(figure)
        for number, (kind, users) in enumerate(panels, 1):
            axes = figure.add_subplot(1, len(panels), number)
            some = [row for row in rows if (row["codes"], row["users"]) == (kind, users)]
            for name, colour in (("exact_ms", BLUE), ("graph_ms", VERMILLION)):
                known = [row for row in some if name in row]
                x, y = [row["items"] for row in known], [row[name] for row in known]
                axes.plot(x, y, color=colour, label=name.partition("_")[0])
                for row in known:
                    full = name == "exact_ms" or row["enough"]
                    axes.plot(row["items"], row[name], "o", color=colour, markerfacecolor=colour if full else "white")
                    if name == "graph_ms":
                        axes.annotate(
                            f"{row['recall']:.2f}",
                            (row["items"], row[name]),
                            fontsize=7,
                            xytext=(0, 5),
                            textcoords="offset points",
                            ha="center",
                        )
            axes.set(xscale="log", yscale="log", xlabel="items", title=f"{kind} codes, {users} user(s) at once")
            axes.set_ylabel("milliseconds" if number == 1 else "")
            axes.legend()
        figure.savefig(target, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--digits", type=int, default=32)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--codes", nargs="+", default=["clustered", "random"], choices=["clustered", "random"])
    parser.add_argument("--graph-up-to", type=int, default=10**9, help="larger catalogues are decoded exactly only")
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", nargs="?", const="-", help="a file, written after each size; without one: printed")
    parser.add_argument("--output", type=Path, help="an SVG figure")
    options = parser.parse_args()
    rows = []
    print(
        "codes      items      users  exact ms  graph ms  recall  beams/edges/steps  visited  build s",
        flush=True,
    )
    for kind in options.codes:
        for items in options.items:
            for row in curve(options, items, kind):
                row["enough"] = row.get("recall", 0) >= options.recall
                rows.append(row)
                if options.json not in (None, "-"):
                    Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
                work = f"{row['beams']}/{row['edges']}/{row['steps']}" if "beams" in row else "-"
                print(
                    f"{kind:9s} {items:9,d} {row['users']:6d} {row['exact_ms']:10.2f} {row.get('graph_ms', '-'):>9} "
                    f"{row.get('recall', '-'):>7} {work:>18} {row.get('visited', '-'):>8} {row.get('build_s', '-'):>8}",
                    flush=True,
                )
    last = rows[-1]
    print(floor(options.digits, last["users"], last["items"], last["exact_ms"]))
    print(
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    if options.json == "-":
        print(json.dumps({"rows": rows}))
    if options.output:
        draw(rows, options.output)


if __name__ == "__main__":
    main()

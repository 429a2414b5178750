"""RPG's training step and exhaustive search against the authors' implementation, in alternating runs.

    python bench/rpg_step.py --reference PATH/TO/RPG_KDD2025 [--data ARTIFACT] [--digits 32] [--device cpu]

Both sides have the same batches, histories, codes and sizes. ``--reference`` is a checkout of
facebookresearch/RPG_KDD2025; its licence forbids commercial use, so it is not part of this project. Without it only our
side is timed. Without ``--data`` the histories have random items and long-tailed lengths.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from comparison import Comparison, report

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories, Rows
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.graphs import FlatBatch, Graphs
from genrec_cli.engine.optim import TrainConfig, autocast, make_optimizer
from genrec_cli.engine.step import MaskSampler
from genrec_cli.models.base import Model
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.nn.losses import Loss
from genrec_cli.searches.exhaustive import Exhaustive

MAX_LENGTH = 50


def made_up(users: int = 22_363, items: int = 12_101) -> Histories:
    """Random items; lengths with Beauty's mean (8.9) and a long tail."""
    random = np.random.default_rng(0)
    length = 5 + np.minimum(random.geometric(0.2, users) - 1, 200)
    offset = np.cumsum(length) - length
    item = random.integers(1, items + 1, int(length.sum())).astype("uint32")
    return Histories(item, offset, length, length - 2, length - 2, length - 1)


def random_codes(
    histories: Histories, digits: int, device: torch.device, codewords: int = 256, *, text: bool = False
) -> Catalog:
    """The histories' items with random codes: the time of a step does not depend on them; text has 8 to K per item."""
    items, generator = int(histories.item.max()), torch.Generator().manual_seed(0)
    codes = torch.randint(0, codewords, (items, digits), generator=generator)
    if text:
        length = torch.randint(8, digits + 1, (items, 1), generator=generator)
        codes = codes.masked_fill(torch.arange(digits) >= length, -1)
    count = torch.ones(items, dtype=torch.long, device=device)
    return Catalog.of(count, codes.to(device), codewords, shared=text)


def inputs(options: argparse.Namespace) -> tuple[torch.device, Histories, Catalog]:
    """The device, the histories (``--data``, else made up) and random codes of a benchmark's options."""
    device = resolve_device(options.device)
    histories = Histories.read(options.data) if options.data else made_up()
    return device, histories, random_codes(histories, options.digits, device)


def reference_model(checkout: Path, catalog: Catalog, device: torch.device):
    """The authors' model class on our catalogue, with MHL's dropout."""
    sys.path.insert(0, str(checkout))
    import transformers.modeling_utils  # noqa: F401  (before the mocks below, which it would import)

    for absent in ("datasets", "accelerate", "accelerate.utils"):  # imported by the checkout, unused by its model
        sys.modules.setdefault(absent, mock.MagicMock())
    from genrec.models.RPG.model import RPG

    digits, codewords = catalog.digits, catalog.codewords
    config = {
        "device": device,
        "n_embd": 448,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 1024,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.3,
        "attn_pdrop": 0.3,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "temperature": 0.07,
        "codebook_size": codewords,
        "chunk_size": 1024,
        "num_beams": 50,
        "n_edges": 50,
        "propagation_steps": 3,
    }
    tokens = catalog.codes_IK.cpu() + torch.arange(digits) * codewords + 1
    names = [str(i) for i in range(catalog.items + 1)]
    dataset = SimpleNamespace(n_items=catalog.items + 1, item2id={name: i for i, name in enumerate(names)})
    tokenizer = SimpleNamespace(
        vocab_size=digits * codewords + 2,
        max_token_seq_len=MAX_LENGTH,
        eos_token=digits * codewords + 1,
        ignored_label=-100,
        n_digit=digits,
        codebook_size=codewords,
        log=print,
        item2tokens={names[i + 1]: tuple(row) for i, row in enumerate(tokens.tolist())},
    )
    return RPG(config, dataset, tokenizer).to(device)


def padded(batch) -> dict[str, torch.Tensor]:
    """Our packed batch with the padding of the authors' loader: to the full length, on the right."""
    packing, size = batch.packing, batch.packing.sequences
    where = (packing.sequence_N, packing.position_N)
    item = torch.zeros(size, MAX_LENGTH, dtype=torch.long).index_put_(where, batch.item_N)
    target = torch.where(batch.target_N > 0, batch.target_N, -100)
    label = torch.full((size, MAX_LENGTH), -100).index_put_(where, target)
    mask = torch.zeros(size, MAX_LENGTH, dtype=torch.long).index_put_(where, torch.ones_like(batch.item_N))
    return {"input_ids": item, "labels": label, "attention_mask": mask, "seq_lens": packing.length_B}


def timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


class Side(NamedTuple):
    """One of the implementations that are compared."""

    prepare: Callable[[np.ndarray], object]
    """Rows to a batch on the host, which is not timed."""
    step: Callable[[Any], None]


def training(
    model: Model, histories: Histories, rows: Rows, precision: str, *, graphs: bool, sampler: MaskSampler | None = None
) -> Side:
    """Our training step, launched kernel by kernel or, without a mask sampler, captured as CUDA graphs."""
    config, device = TrainConfig(), next(model.parameters()).device
    model.train()
    optimizer = make_optimizer(model, config)

    def compute(batch: Batch) -> dict[str, Loss]:
        with autocast(device, precision):
            losses = model.losses(batch, sampler(model, batch) if sampler else None)
        sum(loss.weight * loss.sum / loss.count for loss in losses.values() if loss.weight).backward()
        return {name: loss._replace(sum=loss.sum.detach()) for name, loss in losses.items()}

    captured = Graphs(compute, model.parameters(), device) if graphs else None

    def step(batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        if captured:
            captured(batch)
        else:
            compute(batch.to(device))
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()

    def prepare(chosen: np.ndarray) -> object:
        batch = rows.batch(histories, chosen, bucketed=graphs)
        return FlatBatch.of(batch) if graphs else batch

    return Side(prepare, step)


def alternating(sides: dict[str, Side], rows: Rows, batch_size: int, steps: int, device) -> dict[str, list[float]]:
    """Seconds of each side's steps over the same rows, alternating, after a warm-up with most shapes."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    order, warm_up = rows.order(0, 0), 40 if device.type == "cuda" else 2
    for number in range(steps + warm_up):
        chosen = order[number * batch_size % len(rows) :][:batch_size]
        for name, side in sides.items():
            batch = side.prepare(chosen)
            spent = timed(lambda step=side.step, batch=batch: step(batch), device)
            if number >= warm_up:
                times[name].append(spent)
    return times


def peak_mib(side: Side, rows: Rows, batch_size: int, before: tuple[int, int]) -> dict[str, float]:
    """CUDA memory of training, with weights and optimiser: of its tensors, and of the device."""
    order = rows.order(0, 1)
    for number in range(20):
        side.step(side.prepare(order[number * batch_size :][:batch_size]))
    torch.cuda.synchronize()
    return {
        "allocated": (torch.cuda.max_memory_allocated() - before[0]) / 2**20,
        "reserved": (torch.cuda.max_memory_reserved() - before[1]) / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--digits", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    device = resolve_device(options.device)

    histories = Histories.read(options.data) if options.data else made_up()
    catalog = random_codes(histories, options.digits, device)
    rows = Rows.of(histories, max_length=MAX_LENGTH, windows="sliding")
    config = TrainConfig()

    def ours(precision: str, *, graphs: bool) -> Side:
        torch.manual_seed(0)
        model = Rpg(RpgConfig(), catalog, max_length=MAX_LENGTH).to(device)
        return training(model, histories, rows, precision, graphs=graphs)

    authors = None

    def reference() -> Side:
        nonlocal authors
        authors = model = reference_model(options.reference, catalog, device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0)

        def step(batch: dict[str, torch.Tensor]) -> None:
            torch.set_float32_matmul_precision("highest")
            optimizer.zero_grad()
            model({name: value.to(device) for name, value in batch.items()}).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()

        return Side(lambda chosen: padded(rows.batch(histories, chosen)), step)

    wanted = {}
    for precision in options.precision:
        wanted[f"ours {precision}"] = partial(ours, precision, graphs=False)
        if device.type == "cuda":
            wanted[f"ours {precision} graphs"] = partial(ours, precision, graphs=True)
    if options.reference:
        wanted["reference fp32"] = reference
    else:
        print("no --reference: only our side is timed", file=sys.stderr)

    sides: dict[str, Side] = {}
    memory: dict[str, dict[str, float]] = {}
    for name, make in wanted.items():
        if device.type == "cuda":
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
            torch.cuda.reset_peak_memory_stats()
        sides[name] = make()
        if device.type == "cuda":
            memory[name] = peak_mib(sides[name], rows, options.batch_size, before)

    times = alternating(sides, rows, options.batch_size, options.steps, device)
    result = {name: statistics.median(values) for name, values in times.items()}

    search = Exhaustive(catalog)
    logp = torch.randn(32, options.digits, 256, device=device).log_softmax(-1)
    token = catalog.codes_IK + torch.arange(options.digits, device=device) * 256
    flat = logp.flatten(1)

    def gather() -> None:  # the authors' validation
        chosen = flat[:, None].expand(-1, catalog.items, -1).gather(-1, token[None].expand(32, -1, -1))
        chosen.mean(-1).topk(10)

    searches: dict[str, Callable[[], object]] = {
        "ours": lambda: search.top(search.code_scored(logp), 10),
        "gather": gather,
    }
    if authors is not None:  # the authors' recommendations; random neighbours take the same time
        authors.adjacency = torch.randint(1, catalog.items, (catalog.items + 1, authors.n_edges), device=device)
        searches["walk"] = lambda: authors.graph_propagation(flat, 10)
    spent = {name: [] for name in searches}
    for number in range(20 + 3):
        for name, work in searches.items():
            value = timed(work, device)
            if number >= 3:
                spent[name].append(value)
    decode = {name: statistics.median(values) for name, values in spent.items()}

    comparisons = [
        Comparison.of(
            f"RPG step, {name.removeprefix('ours ')}, K {options.digits}, batch {options.batch_size}",
            "reference (fp32)",
            times[name],
            times["reference fp32"],
        )
        for name in times
        if options.reference and name.startswith("ours")
    ]
    what = f"decode, 32 users x {catalog.items:,} items, top 10"
    comparisons.append(Comparison.of(what, "gather and top-k", spent["ours"], spent["gather"]))
    if authors is not None:
        comparisons.append(Comparison.of(what, "the authors' graph walk", spent["ours"], spent["walk"]))
    if options.json:
        print(json.dumps(report(comparisons, step_seconds=result, decode_seconds=decode, peak_mib=memory)))
        return
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, "
        f"K {options.digits}, batch {options.batch_size}"
    )
    for name, value in result.items():
        ratio = f"  reference / ours {result['reference fp32'] / value:.2f}" if options.reference else ""
        held = "".join(f"  {key} {mib:,.0f} MiB" for key, mib in memory.get(name, {}).items())
        print(f"step    {name:18} {value * 1e3:9.2f} ms{ratio}{held}")
    for name, value in decode.items():
        ratio = f"  {name} / ours {value / decode['ours']:.1f}" if name != "ours" else ""
        print(f"decode  {name:18} {value * 1e3:9.2f} ms{ratio}  (32 users x {catalog.items:,} items, top 10)")


if __name__ == "__main__":
    main()

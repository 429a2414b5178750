"""Attention and dropout in training: ours against torch's own, alone and within a step of TIGER.

    python bench/attend.py [--data ARTIFACT] [--rounds 9] [--json]

Forward and gradient, in alternating runs. ``step`` trains TIGER at its paper's sizes on 64 rows of the histories; its
other side has ``F.scaled_dot_product_attention`` and ``F.dropout`` in place of ours, all else being equal.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from comparison import Comparison, alternate, report
from rpg_step import made_up, random_codes
from torch import Tensor

from genrec_cli.data.sequences import Histories, Rows
from genrec_cli.engine.optim import autocast
from genrec_cli.models.tiger import Tiger, TigerConfig
from genrec_cli.nn.attend import attend
from genrec_cli.nn.dropout import dropout

SHARE = 0.1
SHAPES = {"TIGER's encoder": (64, 6, 81, 64), "short histories": (256, 7, 12, 64), "RPG's": (64, 7, 50, 64)}
"""B, H, T, d."""


def plain_attend(q, k, v, mask=None, *, dropout_p=0.0, causal=False, scale=None):
    """What :func:`attend` does, by torch's function."""
    mask = mask if mask is None or mask.dtype == torch.bool else mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=causal, scale=scale)


def products(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """Both attention products and their gradients."""
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    weight = torch.randn(shape, dtype=dtype)

    def work(product: Callable[..., Tensor]) -> None:
        product(q, k, v, dropout_p=SHARE, causal=True).backward(weight)

    return {"ours": partial(work, attend), "torch": partial(work, plain_attend)}


def drops(dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """Both dropouts and their gradients."""
    x = torch.randn(1000, 1024, dtype=dtype, requires_grad=True)
    weight = torch.randn(1000, 1024, dtype=dtype)
    return {
        "ours": lambda: dropout(x, SHARE).backward(weight),
        "torch": lambda: F.dropout(x, SHARE).backward(weight),
    }


def steps(histories: Histories, precision: str) -> dict[str, Callable[[], None]]:
    """A training step of TIGER without its optimiser, with our functions and with torch's."""
    model = Tiger(TigerConfig(), random_codes(histories, 4, torch.device("cpu")), max_length=20).train()
    rows = Rows.of(histories, max_length=20, windows="each", stride=1)
    batch = rows.batch(histories, rows.order(0, 0)[:64])

    def work(*, plain: bool) -> None:
        with ExitStack() as stack:
            if plain:
                stack.enter_context(patch("genrec_cli.nn.t5.attend", plain_attend))
                stack.enter_context(patch("genrec_cli.nn.dropout.dropout", F.dropout))
            with autocast(torch.device("cpu"), precision):
                loss = model.losses(batch)["next"]
            (loss.sum / loss.count).backward()
            model.zero_grad(set_to_none=True)

    return {"ours": partial(work, plain=False), "torch": partial(work, plain=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    histories = Histories.read(options.data) if options.data else made_up()
    work = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        work[f"dropout, {name}"] = drops(dtype)
        work |= {f"attention, {what}, {name}": products(shape, dtype) for what, shape in SHAPES.items()}
        work[f"step of TIGER, {name}"] = steps(histories, name)
    lines = []
    for what, sides in work.items():
        spent = alternate(sides, options.rounds)
        lines.append(Comparison.of(what, "torch", spent["ours"], spent["torch"]))
        if not options.json:
            print(lines[-1].line(), flush=True)
    if options.json:
        print(json.dumps(report(lines)))


if __name__ == "__main__":
    main()

"""Exact evaluation of all test users, RPG and SASRec, against the way of the authors' code on a sample of them.

    python bench/evaluation.py --data ARTIFACT [--reference PATH/TO/RPG_KDD2025] [--digits 32] [--json]

Weights are random: the work is the same. The reference reads histories padded to 50 items, 32 users at a time,
runs its heads at the last position, and gathers users x items x digits; its time over ``--sample`` users is
multiplied up to all of them.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from comparison import Comparison, alternate, report
from rpg_step import MAX_LENGTH, inputs, padded, reference_model

from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import EvalBatch, eval_batches
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.ranking import ExactRanker
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.models.sasrec import SasRec, SasRecConfig


def reference_side(checkout: Path, catalog: Catalog, batches: list[EvalBatch], device: torch.device):
    """Scores of every item and the top 10, as the checkout validates: a gather over all items and digits."""
    model = reference_model(checkout, catalog, device).eval()
    token_IK = catalog.codes_IK + torch.arange(catalog.digits, device=device) * catalog.codewords

    @torch.inference_mode()
    def work() -> None:
        for known in batches:
            batch = known.batch
            flat = torch.zeros_like(batch.item_N)
            given = padded(batch.__class__(batch.item_N, batch.packing, batch.user_B, flat))
            table = {name: value.to(device) for name, value in given.items()}
            states = model.forward(table, return_loss=False).final_states
            last = (table["seq_lens"] - 1)[:, None, None, None].expand(-1, 1, catalog.digits, states.shape[-1])
            states = torch.nn.functional.normalize(states.gather(1, last)[:, 0], dim=-1)
            codes = torch.nn.functional.normalize(model.gpt2.wte.weight[1:-1], dim=-1)
            codes = codes.view(catalog.digits, catalog.codewords, -1)
            logp = (torch.einsum("bkd,kvd->bkv", states, codes) / 0.07).log_softmax(-1).flatten(1)
            chosen = logp[:, None].expand(-1, catalog.items, -1).gather(-1, token_IK[None].expand(len(logp), -1, -1))
            chosen.mean(-1).topk(10)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--digits", type=int, default=32)
    parser.add_argument("--sample", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    device, histories, catalog = inputs(options)
    user, at = histories.targets("test")
    rpg = Rpg(RpgConfig(), catalog, max_length=MAX_LENGTH).to(device)
    sasrec = SasRec(SasRecConfig(width=256), catalog, max_length=MAX_LENGTH).to(device)

    def whole(model) -> None:
        batches = eval_batches(histories, user, at, max_length=MAX_LENGTH, batch_size=256)
        evaluate(ExactRanker(model, catalog), batches, device, k=10)

    sides = {"RPG": lambda: whole(rpg), "SASRec": lambda: whole(sasrec)}
    if options.reference:
        chosen = torch.randperm(len(user), generator=torch.Generator().manual_seed(0))[: options.sample].numpy()
        sample = list(eval_batches(histories, user[chosen], at[chosen], max_length=MAX_LENGTH, batch_size=32))
        sides["reference"] = reference_side(options.reference, catalog, sample, device)
    else:
        print("no --reference given: timing ours alone", file=sys.stderr)
    times = alternate(sides, options.rounds, warm=1)
    comparisons = []
    if options.reference:
        scale = len(user) / options.sample
        what = f"evaluation of {len(user):,} users, RPG, K {options.digits}"
        comparisons.append(Comparison.of(what, "reference", times["RPG"], [t * scale for t in times["reference"]]))
    if options.json:
        print(json.dumps(report(comparisons, seconds={n: v for n, v in times.items() if n != "reference"})))
        return
    for name in ("RPG", "SASRec"):
        print(f"{name:8} {len(user):,} users in {sorted(times[name])[len(times[name]) // 2]:.1f} s")
    for line in comparisons:
        print(line.line())


if __name__ == "__main__":
    main()

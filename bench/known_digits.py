"""The use that MDGR's decoder makes of known digits, early in training.

    python bench/known_digits.py --data ARTIFACT --codes ARTIFACT [--steps 400] [--width 128]

Every 100 steps: the validation loss of targets with all digits masked, and of a masked half where the other half is
known. A decoder that ignores known digits has the same loss in both cases. Small sizes; nearly all digits are masked in
training (the end of the curriculum). One JSON object per line.
"""

import argparse
import json
from pathlib import Path

import torch

from genrec_cli.artifacts import MANIFEST, Artifact
from genrec_cli.curriculum.target_masks import NoiseConfig, TargetMasks
from genrec_cli.data.sequences import Histories, Rows, eval_batches
from genrec_cli.engine.optim import TrainConfig, autocast, learning_rate, make_optimizer
from genrec_cli.models.mdgr import Mdgr, MdgrConfig
from genrec_cli.stages.load import load_catalog

CPU = torch.device("cpu")


@torch.no_grad()
def validated(model: Mdgr, histories: Histories) -> dict[str, float]:
    """Mean loss of masked digits of 1,000 validation targets: of all digits, and of a random half."""
    generator = torch.Generator().manual_seed(0)
    user, at = histories.targets("valid", sample=1000)
    found: dict[str, list[torch.Tensor]] = {"all_masked": [], "half_known": []}
    model.eval()
    for known in eval_batches(histories, user, at, max_length=50, batch_size=500):
        code_BK = model.codes_of(known.target_B)
        masks = {"all_masked": torch.ones_like(code_BK, dtype=torch.bool)}
        masks["half_known"] = torch.rand(code_BK.shape, generator=generator).argsort(1) < model.digits // 2
        with autocast(CPU, "bf16"):
            memory = model.read(known.batch)
            for name, mask_BK in masks.items():
                logp_BKV = model.fill(memory, code_BK.masked_fill(mask_BK, -1)[:, None])[:, 0]
                found[name].append(-logp_BKV.gather(2, code_BK[..., None])[..., 0][mask_BK])
    model.train()
    return {name: round(float(torch.cat(losses).mean()), 3) for name, losses in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--codes", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    histories = Histories.read(options.data)
    read = [Artifact(path, json.loads((path / MANIFEST).read_text())) for path in (options.data, options.codes)]
    catalog = load_catalog(dict(zip(("data", "codes"), read, strict=True)))
    config = TrainConfig(lr=2e-3, warmup_steps=100, weight_decay=0.01)
    rows = Rows.of(histories, max_length=50, windows="sliding", stride=25)
    torch.manual_seed(0)
    sizes = MdgrConfig(width=options.width, layers=2, inner=4 * options.width, temperature=0.03)
    model = Mdgr(sizes, catalog, max_length=50).train()
    optimizer = make_optimizer(model, config)
    sampler = TargetMasks(NoiseConfig(preset="curriculum"), model.digits, torch.Generator().manual_seed(0)).at(1.0)
    order = rows.order(0, 0)
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, 5 * options.steps, config)
        first = step * options.batch_size % max(len(rows) - options.batch_size, 1)
        batch = rows.batch(histories, order[first:][: options.batch_size])
        optimizer.zero_grad()
        with autocast(CPU, "bf16"):
            loss = model.losses(batch, sampler(model, batch))["next"]
        (loss.sum / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == options.steps:
            print(json.dumps({"step": step + 1, **validated(model, histories)}), flush=True)


if __name__ == "__main__":
    main()

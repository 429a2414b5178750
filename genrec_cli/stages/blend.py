"""blend: runs of one data artifact -> a run that mixes their distributions, with weights chosen on validation."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Count, Section, Seed
from genrec_cli.data.sequences import EvalBatch
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.blend_weights import calibrated, candidates, fit
from genrec_cli.errors import DataError, UsageError
from genrec_cli.models.blend import Blend
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.stages import blended
from genrec_cli.stages.train_plan import check_label
from genrec_cli.stages.trained import Run, refuse_other_data, refuse_repeated

VERSION = 1
CELLS = 1 << 20
"""Users x items of a batch."""
CALIBRATED = 1000
"""Users whose targets choose the temperatures."""


class BlendConfig(Section):
    """How the weights are chosen."""

    users: Count = 8000
    """Largest number of validation users that choose the weights; always the same users."""
    seed: Seed = 0
    """Seed of the search for weights."""
    exclude_seen: bool = False
    """Whether the weights are the best for rankings without seen items, such as the lists of recommend."""


def plan(ws: Workspace, dataset: str, config: BlendConfig, names: list[str], label: str | None = None) -> Plan:
    """Resolve the runs. Raises UsageError for runs that cannot be parts of one blend."""
    runs = [ws.find(dataset, "runs", name) for name in names]
    if not 2 <= len(runs) <= 100:
        raise UsageError(f"A blend has 2 to 100 parts, not {len(runs)}.", hint="genrec blend RUN RUN")
    refuse_repeated(runs)
    refuse_other_data(runs)
    parts = [Run(ws, run) for run in runs]
    for part in parts:
        if issubclass(part.kind, Blend) or not issubclass(part.kind, Exhaustive.interface):
            what = "is a blend itself" if issubclass(part.kind, Blend) else "does not score the whole catalogue"
            raise UsageError(f"{part.name} {what}, so it cannot be a part of a blend.", hint="Leave it out")
    check_label(label)
    sections = {"model": {"name": "blend"}, "blend": config.model_dump(mode="json")}
    sections["train"] = {"max_length": max(part.max_length for part in parts), "seed": config.seed}
    inputs = {"data": ws.input(runs[0], "data")} | {f"part{number:02}": run for number, run in enumerate(runs)}
    return Plan(dataset, "runs", label or "blend", VERSION, sections, inputs)


def run(ws: Workspace, plan: Plan, config: BlendConfig, *, device: str, bar: Callable[[int], Any]) -> Artifact:
    """Choose temperatures and weights on validation users; write ``blend.json``."""
    where = resolve_device(device)
    runs = [Run(ws, artifact, where) for name, artifact in plan.inputs.items() if name != "data"]
    first, max_length = runs[0], plan.config["train"]["max_length"]
    timed = [one for one in runs if "times" in one.needs]
    histories = (timed or runs)[0].histories
    user, at = histories.targets("valid", sample=config.users)
    if not len(user):
        raise DataError("No user has a validation target, so nothing can choose the weights.")
    if len(user) < config.users:  # all of them, in the order of the log; a sample is in a random order
        order = np.random.default_rng(0).permutation(len(user))
        user, at = user[order], at[order]

    def batches(users: int) -> Iterator[EvalBatch]:
        size = max(min(CELLS // first.catalog.items, 256), 1)
        known = first.batches(
            user[:users],
            at[:users],
            histories=histories,
            max_length=max_length,
            batch_size=size,
            exclude_seen=config.exclude_seen,
        )
        for batch in known:
            yield batch.to(where)
            progress.update(len(batch.target_B))

    few = min(CALIBRATED, len(user))
    with ws.build(plan) as draft, bar(len(runs) * few + len(user)) as progress:
        parts = [calibrated(blended.part_of(one), batches(few)) for one in runs]
        mixing, facts = fit(candidates(parts, batches(len(user)), first.catalog.train_count_I), config.seed)
        content = blended.write(draft.path, runs, parts, mixing)
        (draft.path / "config.json").write_text(json.dumps(plan.config, indent=2) + "\n", encoding="utf-8")
        draft.result |= {
            "parameters": 0,
            "needs": ["times"] if timed else [],
            "users": len(user),
            "valid": facts,
            "blend": content,
        }
    made = ws.made(plan)
    show(made)
    return made


def show(artifact: Artifact) -> None:
    """The parts with their weights, and the validation NDCG@10 that chose the form."""
    valid, blend = artifact.result["valid"], artifact.result["blend"]
    columns = ["part", "temperature", "floor", "NDCG@10, valid"]
    columns += ["weight"] if blend["by"] == "none" else [f"bucket {n + 1}" for n in range(len(blend["weights"]))]
    rows = []
    for number, part in enumerate(blend["parts"]):
        weights = [f"{row[number]:.3f}" for row in blend["weights"]]
        numbers = [f"{part['temperature']:.3g}", f"{part['floor']:.3f}", f"{valid['parts'][number]:.4f}"]
        rows.append([part["run"], *numbers, *weights])
    console.table(f"Blend: {blend['form']}, by {blend['by']} {list(blend['edges'])}", columns, rows)
    tried = ", ".join(f"{name} {valid[name]:.4f}" for name in ("sum", "product"))
    seen = "left out" if artifact.config["blend"]["exclude_seen"] else "kept"
    console.say(f"validation NDCG@10 of {artifact.result['users']:,} users, seen items {seen}: {tried}")

"""evaluate --task reconstruct: a run with a mask loss -> how well it reconstructs masked codes of held-out items."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from genrec_cli import registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Count, Fraction, Section, Seed, validate
from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.curriculum.phases import Granularity
from genrec_cli.data.sequences import drawn, eval_batches
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.reconstruction import reconstruct
from genrec_cli.errors import DataError, UsageError
from genrec_cli.models.base import Reconstructor
from genrec_cli.stages.trained import Run

VERSION = 1


class ReconstructConfig(Section):
    """Which codes are masked. The masks are random and do not depend on the masks of the training."""

    ratio: Fraction = 0.15
    """Fraction of the codes of a history that are masked."""
    granularity: Granularity = "token"
    """token: single digits; item: all digits of an item; mixed: one or the other, drawn per item."""
    users: Count | None = None
    """Number of users to measure, always the same ones; none: all."""
    batch_size: Count = 256
    """Histories per pass."""
    seed: Seed = 0
    """Seed of the masks and of the interval."""


def plan(
    ws: Workspace, dataset: str, layers: dict[str, dict[str, Any]], *, run: str | None
) -> tuple[Plan, ReconstructConfig]:
    """Resolve the run and the settings. Raises UsageError for a model that cannot reconstruct."""
    config = validate(ReconstructConfig, "reconstruct", layers.get("reconstruct", {}))
    if not config.ratio:
        raise UsageError("reconstruct.ratio is 0, which masks nothing.", hint="--set reconstruct.ratio=0.15")
    found = ws.find(dataset, "runs", run)
    name = found.config["model"]["name"]
    kind = registry.load("model", name)
    if not hasattr(kind, "reconstruct"):
        known = sorted(n for n in registry.TABLE["model"] if hasattr(registry.load("model", n), "reconstruct"))
        message = f"The model '{name}' of {found.path.name} has no mask loss, so it reconstructs nothing."
        raise UsageError(message, hint=f"Runs of: {', '.join(known)}")
    resolved = {"reconstruct": config.model_dump(mode="json")}
    return Plan(dataset, "reconstructions", found.label, VERSION, resolved, {"runs": found}), config


def run(ws: Workspace, plan: Plan, config: ReconstructConfig, *, device: str, bar: Callable[[int], Any]) -> Artifact:
    """Mask codes of the histories of all users, and measure those of the items that training did not have."""
    where = resolve_device(device)
    trained = Run(ws, plan.inputs["runs"], where)
    histories, model = trained.histories, trained.model
    assert isinstance(model, Reconstructor)
    held_out = (histories.length - histories.train_end.astype(np.int64)).astype(np.int64)
    users = histories.users if config.users is None else config.users
    user = np.sort(drawn(held_out, 1, users, config.seed))
    if not len(user):
        hint = "genrec preprocess --split leave-one-out (or time) holds items back"
        raise DataError(f"All items of '{plan.dataset}' are for training, so no other can be reconstructed.", hint=hint)
    generator = torch.Generator(where).manual_seed(config.seed)
    masks = HistoryMasks("random", config.granularity, config.ratio, "printed", generator)
    at = histories.length[user].astype(np.int64)
    batches = eval_batches(histories, user, at, max_length=trained.max_length, batch_size=config.batch_size)
    with ws.build(plan) as draft, bar(len(user)) as progress:
        sums = reconstruct(model, trained.catalog, histories, batches, masks, where, tick=progress.update)
        if not sums.total_UKX[..., 0].any():
            hint = "--set reconstruct.ratio=0.5, or more users"
            raise DataError(f"None of the held-out codes of {len(user)} users was drawn as a mask.", hint=hint)
        draft.result |= {"model": trained.model_name, "run": trained.name, "users": len(user)}
        draft.result |= sums.overall(config.seed) | {"digits": sums.digits()}
    return ws.made(plan)

"""evaluate: a run -> its metrics on a split, user by user, with seen items in the ranking and without them."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Draft, Plan, Workspace
from genrec_cli.config import Section, validate
from genrec_cli.distributed import resolve_device
from genrec_cli.engine import metrics
from genrec_cli.engine.diagnosis import invalid_codes
from genrec_cli.engine.evaluation import Outcome, evaluate, gathered
from genrec_cli.engine.protocols import PROTOCOLS
from genrec_cli.engine.ranking import ExactRanker, Ranker, recall_of
from genrec_cli.errors import DataError, UsageError
from genrec_cli.process_group import current_group
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.stages.trained import Run

VERSION = 6


class EvaluateConfig(Section):
    """What to measure, and how lists are decoded."""

    split: Literal["valid", "test"] = "test"
    """valid or test."""
    at: tuple[int, ...] = (5, 10)
    """Cutoffs of Recall, NDCG and MRR."""
    search: str = "auto"
    """auto: the model's own; exhaustive: every item is scored; graph: RPG's approximate search ([search])."""
    users: int | None = Field(None, ge=1)
    """Measure on so many users, always the same ones; none: all."""
    batch_size: int = Field(256, ge=1)
    """Users scored at once."""


def plan(
    ws: Workspace, dataset: str, layers: dict[str, dict[str, Any]], *, run: str | None
) -> tuple[Plan, EvaluateConfig]:
    """Resolve the run and the settings."""
    config = validate(EvaluateConfig, "evaluate", layers.get("evaluate", {}))
    if not config.at or min(config.at) < 1 or max(config.at) > metrics.LARGEST:
        raise UsageError(f"--at takes cutoffs from 1 to {metrics.LARGEST:,}.", hint="For example: --at 5,10")
    search = None if config.search == "auto" else config.search
    chosen = Run(ws, ws.find(dataset, "runs", run), search=search, layer=layers.get("search"))
    chosen.refuse_longer(f"--at {max(config.at)}", max(config.at))
    config = config.model_copy(update={"at": tuple(sorted(set(config.at))), "search": chosen.search_name})
    resolved = {"evaluate": config.model_dump(mode="json", exclude={"batch_size"})}
    if settings := chosen.settings.model_dump(mode="json"):
        resolved["search"] = settings
    label = f"{chosen.label}-{config.split}{chosen.search.suffix}"
    return Plan(dataset, "eval", label, VERSION, resolved, {"runs": chosen.artifact}), config


def run(
    ws: Workspace, plan: Plan, config: EvaluateConfig, *, device: str, bar: Callable[[int], Any]
) -> Artifact | None:
    """Score every user of the split; write per_user.parquet and topk.parquet.

    Several processes take the batches in turn; the first one gathers and writes, the others return None.
    """
    where, process = resolve_device(device), current_group()
    layer = plan.config.get("search")
    chosen = Run(ws, plan.inputs["runs"], where, search=config.search, layer=layer)
    user, at = chosen.histories.targets(config.split, sample=config.users)
    if len(user) == 0:
        raise DataError(f"No user of '{plan.dataset}' has a {config.split} target.")
    k, cutoffs = min(max(config.at), chosen.catalog.items), list(config.at)
    size = process.batch_size(config.batch_size, len(user))
    exact = None
    if not chosen.search.exact and isinstance(chosen.model, Exhaustive.interface):
        exact = ExactRanker(chosen.model, chosen.catalog)
    making = ws.build(plan) if process.main else nullcontext(Draft(ws.path(plan)))
    with making as draft, bar(len(user) // process.world * (2 if exact else 1)) as progress:
        process.barrier()
        clock = Clock(where)
        ranker = chosen.ranker()
        build_seconds, clock = clock.seconds(), Clock(where)

        def ranked(by: Ranker) -> Outcome:
            batches = chosen.batches(user, at, batch_size=size, first=process.rank, every=process.world)
            return gathered(evaluate(by, batches, where, k=k, tick=progress.update))

        def means(of: Outcome, level: str = "item") -> dict[str, dict[str, float]]:
            return {protocol: of.means(cutoffs, level=level, protocol=protocol) for protocol in PROTOCOLS}

        outcome, seconds = ranked(ranker), clock.seconds()
        draft.result |= {"model": chosen.model_name, "run": chosen.name, "split": config.split, "users": len(user)}
        draft.result |= {"users_per_second": console.rate(len(user) / seconds), "search": config.search}
        draft.result |= {"metrics": means(outcome), "code_metrics": means(outcome, "code")}
        draft.result |= {name: float(value.mean()) for name, value in outcome.stats.items()}
        if not chosen.search.exact:
            draft.result["build_seconds"] = round(build_seconds, 3)
        if finding := invalid_codes(draft.result.get("valid_fraction")):
            draft.result["diagnosis"] = [asdict(finding)]
        if exact:
            found = ranked(exact)
            lists = outcome.ranks["kept"].item, found.ranks["kept"].item
            draft.result |= {"recall_against_exact": recall_of(*lists), "exact_metrics": means(found)}
        if not process.main:
            return None
        _write(draft.path, outcome, chosen.histories.length[outcome.user], cutoffs)
    return ws.made(plan)


class Clock:
    """Wall time of work on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.began = device, time.perf_counter()

    def seconds(self) -> float:
        """Since the start, once the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return max(time.perf_counter() - self.began, 1e-9)


def _write(folder: Path, outcome: Outcome, length_U: np.ndarray, cutoffs: list[int]) -> None:
    """Users in the order of the user table; ids from 1. A column is named for its protocol: ``kept_NDCG@10``."""
    ids = {"user": (outcome.user + 1).astype("uint32"), "target": outcome.target.astype("uint32")}
    users: dict[str, Any] = ids | {"history_length": length_U.astype("uint32")}
    lists: dict[str, Any] = dict(ids)
    for protocol, found in outcome.ranks.items():
        users |= {f"{protocol}_rank": found.above.astype("uint32"), f"{protocol}_ties": found.ties.astype("uint32")}
        for level, above, ties in (("", found.above, found.ties), ("code_", found.code_above, found.code_ties)):
            for name, value in metrics.table(above, ties, cutoffs).items():
                users[f"{protocol}_{level}{name}"] = value.astype("float32")
        for name, value in (("items", found.item.astype("uint32")), ("scores", found.score.astype("float32"))):
            flat = pa.array(value.ravel())
            lists[f"{protocol}_{name}"] = pa.FixedSizeListArray.from_arrays(flat, value.shape[1])
    pq.write_table(pa.table(users), folder / "per_user.parquet", compression="zstd")
    pq.write_table(pa.table(lists), folder / "topk.parquet", compression="zstd")

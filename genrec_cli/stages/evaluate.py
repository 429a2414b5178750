"""evaluate: a run -> its metrics on a split, per user, with seen items kept in the ranking and with them left out."""

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
from genrec_cli.data.vectors import read_vectors
from genrec_cli.distributed import resolve_device
from genrec_cli.engine import metrics
from genrec_cli.engine.diagnosis import invalid_codes
from genrec_cli.engine.evaluation import Outcome, evaluate, gathered
from genrec_cli.engine.protocols import PROTOCOLS
from genrec_cli.engine.ranking import ExactRanker, Ranker, recall_of
from genrec_cli.errors import DataError, UsageError
from genrec_cli.process_group import current_group
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.stages.beyond import beyond_accuracy
from genrec_cli.stages.new_data import RunOnData, run_on_data
from genrec_cli.stages.trained import CPU, Run

VERSION = 7


class EvaluateConfig(Section):
    """What is measured, and by which search."""

    split: Literal["valid", "test"] = "test"
    """valid or test."""
    at: tuple[int, ...] = (5, 10)
    """Cutoffs of Recall, NDCG and MRR."""
    search: str = "auto"
    """auto: the search of the model; exhaustive: every item is scored; graph (RPG), beam (TIGER) and diffusion (MDGR):
    see [search]."""
    users: int | None = Field(None, ge=1)
    """Number of users to measure, always the same ones; none: all."""
    batch_size: int = Field(256, ge=1)
    """Users scored at once."""


def plan(
    ws: Workspace,
    dataset: str,
    layers: dict[str, dict[str, Any]],
    *,
    run: str | None,
    vectors: str | None = None,
    data: str | None = None,
    codes: str | None = None,
) -> tuple[Plan, EvaluateConfig]:
    """Resolve the run and the settings.

    Args:
        vectors: those that Diversity is measured with, in place of the run's.
        data, codes: other data than those of the training, and their codes by the codebook of the run: a transfer.
    """
    config = validate(EvaluateConfig, "evaluate", layers.get("evaluate", {}))
    if not config.at or min(config.at) < 1 or max(config.at) > metrics.LARGEST:
        raise UsageError(f"--at takes cutoffs from 1 to {metrics.LARGEST:,}.", hint="For example: --at 5,10")
    search = None if config.search == "auto" else config.search
    found = ws.find(dataset, "runs", run)
    trained = run_on_data(ws, found, CPU, data=data, codes=codes, search=search, layer=layers.get("search"))
    trained.refuse_longer(f"--at {max(config.at)}", max(config.at))
    config = config.model_copy(update={"at": tuple(sorted(set(config.at))), "search": trained.search_name})
    resolved = {"evaluate": config.model_dump(mode="json", exclude={"batch_size"})}
    if settings := trained.settings.model_dump(mode="json"):
        resolved["search"] = settings
    label = f"{trained.label}-{config.split}{trained.search.suffix}"
    inputs = {"runs": trained.artifact}
    kind = "transfers" if isinstance(trained, RunOnData) else "eval"
    if isinstance(trained, RunOnData):
        _ = trained.histories  # raises for items that the model does not know
        inputs |= trained.new
        label += f"-on-{trained.new['data'].dataset}-{trained.new['data'].label}"
    if vectors:
        inputs["vectors"] = ws.find(trained.data.dataset, "vectors", vectors, made_from=trained.data)
    return Plan(dataset, kind, label, VERSION, resolved, inputs), config


def run(
    ws: Workspace, plan: Plan, config: EvaluateConfig, *, device: str, bar: Callable[[int], Any]
) -> Artifact | None:
    """Score every user of the split; write per_user.parquet and topk.parquet.

    Several processes take the batches in turn; the main one gathers and writes, the others return None.
    """
    where, process = resolve_device(device), current_group()
    options: dict[str, Any] = {"search": config.search, "layer": plan.config.get("search")}
    if data := plan.inputs.get("data"):
        codes = plan.inputs.get("codes")
        trained: Run = RunOnData(ws, plan.inputs["runs"], where, data=data, codes=codes, **options)
    else:
        trained = Run(ws, plan.inputs["runs"], where, **options)
    user, at = trained.histories.targets(config.split, sample=config.users)
    if len(user) == 0:
        hint = "genrec preprocess --split leave-one-out (or time) holds targets back; --split none has no targets"
        raise DataError(
            f"No user of '{plan.dataset}' has a {config.split} target, so nothing can be measured.", hint=hint
        )
    k, cutoffs = min(max(config.at), trained.catalog.items), list(config.at)
    size = process.batch_size(config.batch_size, len(user))
    exact = None
    if not trained.search.exact and isinstance(trained.model, Exhaustive.interface):
        exact = ExactRanker(trained.model, trained.catalog)
    target = ws.build(plan) if process.main else nullcontext(Draft(ws.path(plan)))
    with target as draft, bar(len(user) // process.world * (2 if exact else 1)) as progress:
        process.barrier()
        start = time.perf_counter()
        ranker = trained.ranker()
        build_seconds, start = seconds_since(start, where), time.perf_counter()

        def outcome_of(ranker: Ranker) -> Outcome:
            batches = trained.batches(user, at, batch_size=size, first=process.rank, every=process.world)
            return gathered(evaluate(ranker, batches, where, k=k, tick=progress.update))

        def means(outcome: Outcome, level: str = "item") -> dict[str, dict[str, float]]:
            return {protocol: outcome.means(cutoffs, level=level, protocol=protocol) for protocol in PROTOCOLS}

        outcome, seconds = outcome_of(ranker), seconds_since(start, where)
        draft.result |= {"model": trained.model_name, "run": trained.name, "split": config.split, "users": len(user)}
        if data:
            draft.result["on"] = f"{data.dataset}/{data.path.name}"
        draft.result |= {"users_per_second": console.rate(len(user) / seconds), "search": config.search}
        draft.result |= {"metrics": means(outcome), "code_metrics": means(outcome, "code")}
        draft.result |= {name: float(value.mean()) for name, value in outcome.stats.items()}
        if not trained.search.exact:
            draft.result["build_seconds"] = round(build_seconds, 3)
        if finding := invalid_codes(draft.result.get("valid_fraction")):
            draft.result["diagnosis"] = [asdict(finding)]
        if exact:
            reference = outcome_of(exact)
            lists = outcome.ranks["kept"].item, reference.ranks["kept"].item
            draft.result |= {"recall_against_exact": recall_of(*lists), "exact_metrics": means(reference)}
        if not process.main:
            return None
        source = plan.inputs.get("vectors", trained.own_vectors)
        draft.result |= beyond_accuracy(
            trained, outcome, config.split, None if source is None else read_vectors(source.path)
        )
        _write(draft.path, outcome, trained.histories.length[outcome.user], cutoffs)
    return ws.made(plan)


def seconds_since(start: float, device: torch.device) -> float:
    """Wall time since ``start`` (``time.perf_counter``), after the work of the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - start, 1e-9)


def _write(folder: Path, outcome: Outcome, length_U: np.ndarray, cutoffs: list[int]) -> None:
    """Users in the order of the user table, ids from 1; names of columns begin with the protocol: ``kept_NDCG@10``."""
    ids = {"user": (outcome.user + 1).astype("uint32"), "target": outcome.target.astype("uint32")}
    users: dict[str, Any] = ids | {"history_length": length_U.astype("uint32")}
    lists: dict[str, Any] = dict(ids)
    for protocol, ranks in outcome.ranks.items():
        users |= {f"{protocol}_rank": ranks.above.astype("uint32"), f"{protocol}_ties": ranks.ties.astype("uint32")}
        for level, above, ties in (("", ranks.above, ranks.ties), ("code_", ranks.code_above, ranks.code_ties)):
            for name, value in metrics.table(above, ties, cutoffs).items():
                users[f"{protocol}_{level}{name}"] = value.astype("float32")
        for name, value in (("items", ranks.item.astype("uint32")), ("scores", ranks.score.astype("float32"))):
            flat = pa.array(value.ravel())
            lists[f"{protocol}_{name}"] = pa.FixedSizeListArray.from_arrays(flat, value.shape[1])
    pq.write_table(pa.table(users), folder / "per_user.parquet", compression="zstd")
    pq.write_table(pa.table(lists), folder / "topk.parquet", compression="zstd")

"""evaluate: a run -> its metrics on a split, user by user."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field

from genrec_cli import console, registry
from genrec_cli.artifacts import Artifact, Draft, Plan, Workspace
from genrec_cli.config import Section, validate
from genrec_cli.data.sequences import Histories, eval_batches
from genrec_cli.distributed import resolve_device
from genrec_cli.engine import metrics
from genrec_cli.engine.diagnosis import invalid_codes
from genrec_cli.engine.evaluation import Outcome, evaluate, gathered
from genrec_cli.engine.ranking import ExactRanker, Ranker, make_ranker, recall_of
from genrec_cli.errors import DataError, UsageError
from genrec_cli.models.base import CodeScorer, ItemScorer
from genrec_cli.ranks import here
from genrec_cli.stages.load import load_run, matching_decoder, own_decoder, refuse_longer

VERSION = 6


class EvaluateConfig(Section):
    """What to measure, and how lists are decoded."""

    split: Literal["valid", "test"] = "test"
    """valid or test."""
    at: tuple[int, ...] = (5, 10)
    """Cutoffs of Recall, NDCG and MRR."""
    decoder: str = "auto"
    """auto: the model's own; exhaustive: every item is scored; graph: RPG's approximate search ([decoder])."""
    exclude_seen: bool = False
    """Leave items of the user's own history out of the ranking; the papers do not."""
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
    config = config.model_copy(update={"at": tuple(sorted(set(config.at)))})
    chosen = ws.find(dataset, "runs", run)
    own = own_decoder(chosen)
    if config.decoder == "auto":
        config = config.model_copy(update={"decoder": own})
    decoder = matching_decoder(config.decoder, chosen.config["model"]["name"], f"--decoder {own}    is made for it")
    as_trained = {k: v for k, v in chosen.config.get("decoder", {}).items() if k != "name"}
    layer = layers.get("decoder", {})
    settings = validate(decoder.Config, "decoder", as_trained | layer if config.decoder == own else layer)
    if not decoder.exact:
        if "codes" in chosen.manifest["inputs"] and ws.input(chosen, "codes").config["tokenizer"].get("shared"):
            raise UsageError(
                f"The decoder '{config.decoder}' compares items digit by digit, which means nothing for text.",
                hint="--decoder exhaustive",
            )
        refuse_longer(f"--at {max(config.at)}", max(config.at), decoder, settings)
    resolved = {"evaluate": config.model_dump(mode="json", exclude={"batch_size"})}
    if not decoder.exact:
        resolved["decoder"] = settings.model_dump(mode="json")
    label = f"{chosen.path.name.rpartition('-')[0]}-{config.split}" + ("" if decoder.exact else f"-{config.decoder}")
    return Plan(dataset, "eval", label, VERSION, resolved, {"runs": chosen}), config


def run(
    ws: Workspace, plan: Plan, config: EvaluateConfig, *, device: str, bar: Callable[[int], Any]
) -> Artifact | None:  # fmt: skip
    """Score every user of the split; write per_user.parquet and topk.parquet.

    Several processes take the batches in turn; the first one gathers and writes, the others return None.
    """
    where = resolve_device(device)
    chosen = plan.inputs["runs"]
    model, catalog, histories = load_run(ws, chosen, where)
    user, at = histories.targets(config.split, sample=config.users)
    if len(user) == 0:
        raise DataError(f"No user of '{plan.dataset}' has a {config.split} target.")
    k = min(max(config.at), catalog.items)
    ranks = here()
    size = ranks.batch_size(config.batch_size, len(user))

    def batches() -> Any:
        max_length = chosen.config["train"]["max_length"]
        return eval_batches(
            histories, user, at, max_length=max_length, batch_size=size, first=ranks.rank, every=ranks.world,
            exclude_seen=config.exclude_seen,
        )  # fmt: skip

    kind, cutoffs = registry.load("decoder", config.decoder), list(config.at)
    settings = validate(kind.Config, "decoder", plan.config.get("decoder", {}))
    compared = not kind.exact and isinstance(model, (ItemScorer, CodeScorer))
    making = ws.build(plan) if ranks.main else nullcontext(Draft(ws.path(plan)))
    with making as draft, bar(len(user) // ranks.world * (1 + compared)) as progress:
        ranks.barrier()
        clock = Clock(where)
        ranker = make_ranker(model, catalog, kind, settings)
        build_seconds, clock = clock.seconds(), Clock(where)

        def ranked(by: Ranker) -> Outcome:
            return gathered(evaluate(by, batches(), where, k=k, tick=progress.update))

        outcome, seconds = ranked(ranker), clock.seconds()
        draft.result |= {
            "model": chosen.config["model"]["name"], "run": chosen.path.name, "split": config.split, "users": len(user),
            "users_per_second": console.rate(len(user) / seconds), "decoder": config.decoder,
            "metrics": outcome.means(cutoffs), "code_metrics": outcome.means(cutoffs, level="code"),
            **{name: float(value.mean()) for name, value in outcome.figures.items()},
        }  # fmt: skip
        if not kind.exact:
            draft.result["build_seconds"] = round(build_seconds, 3)
        if finding := invalid_codes(draft.result.get("valid_share")):
            draft.result["diagnosis"] = [asdict(finding)]
        if compared:
            exact = ranked(ExactRanker(model, catalog))
            draft.result["recall_against_exact"] = recall_of(outcome.item, exact.item)
            draft.result["exact_metrics"] = exact.means(cutoffs)
        if not ranks.main:
            return None
        _write(draft.path, outcome, histories, cutoffs)
    return ws.made(plan)


class Clock:
    """Wall time of work on a device."""

    def __init__(self, device: torch.device) -> None:
        import time

        self.device, self.now = device, time.perf_counter
        self.began = self.now()

    def seconds(self) -> float:
        """Since the start, once the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return max(self.now() - self.began, 1e-9)


def _write(folder: Any, outcome: Outcome, histories: Histories, cutoffs: list[int]) -> None:
    """Users in the order of the user table; ids as everywhere else from 1."""
    user = outcome.user
    columns: dict[str, Any] = {
        "user": (user + 1).astype("uint32"),
        "target": outcome.target.astype("uint32"),
        "rank": outcome.above.astype("uint32"),
        "ties": outcome.ties.astype("uint32"),
        "history_length": histories.length[user].astype("uint32"),
    }
    for level, above, ties in (
        ("", outcome.above, outcome.ties), ("code_", outcome.code_above, outcome.code_ties),
    ):  # fmt: skip
        found = metrics.table(above, ties, cutoffs)
        columns |= {f"{level}{name}": value.astype("float32") for name, value in found.items()}
    pq.write_table(pa.table(columns), folder / "per_user.parquet", compression="zstd")
    k = outcome.item.shape[1]
    lists = {
        "user": pa.array(columns["user"]),
        "target": pa.array(columns["target"]),
        "items": _lists(outcome.item.astype("uint32"), k),
        "scores": _lists(outcome.score.astype("float32"), k),
    }
    pq.write_table(pa.table(lists), folder / "topk.parquet", compression="zstd")


def _lists(value_Uk: np.ndarray, k: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(value_Uk.ravel()), k)

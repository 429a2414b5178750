"""evaluate: a run -> its metrics on a split, user by user."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field

from genrec_cli import registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Section, validate
from genrec_cli.data.sequences import Histories, eval_batches
from genrec_cli.distributed import resolve_device
from genrec_cli.engine import metrics
from genrec_cli.engine.evaluation import Outcome, evaluate
from genrec_cli.engine.lists import evaluate_lists
from genrec_cli.errors import DataError, UsageError
from genrec_cli.stages.train import load_run

VERSION = 1
SECTIONS = ["evaluate", "decoder"]


class EvaluateConfig(Section):
    """What to measure, and how lists are decoded."""

    split: Literal["valid", "test"] = "test"
    """valid or test."""
    at: tuple[int, ...] = (5, 10)
    """Cutoffs of Recall, NDCG and MRR."""
    decoder: str = "exhaustive"
    """exhaustive: every item is scored; graph: RPG's approximate search, with the section [decoder]."""
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
    if not config.at or min(config.at) < 1:
        raise UsageError("--at takes cutoffs of 1 or more, for example --at 5,10.")
    config = config.model_copy(update={"at": tuple(sorted(set(config.at)))})
    chosen = ws.find(dataset, "runs", run)
    model = registry.load("model", chosen.config["model"]["name"])
    decoder = registry.load("decoder", config.decoder)
    settings = validate(decoder.Config, "decoder", layers.get("decoder", {}))
    if not decoder.exact:
        name = chosen.config["model"]["name"]
        if not issubclass(model, decoder.face):
            raise UsageError(
                f"The decoder '{config.decoder}' needs a {decoder.face.__name__}, which '{name}' is not.",
                hint="--decoder exhaustive",
            )
        if "codes" in chosen.manifest["inputs"] and ws.input(chosen, "codes").config["tokenizer"].get("shared"):
            raise UsageError(
                f"The decoder '{config.decoder}' compares items digit by digit, which means nothing for text.",
                hint="--decoder exhaustive",
            )
        if max(config.at) > decoder.longest(settings):
            raise UsageError(
                f"--at {max(config.at)} is more than these settings of '{config.decoder}' can list, "
                f"which is {decoder.longest(settings)}.",
                hint=f"--set decoder.beams={max(config.at)}",
            )
        if config.exclude_seen:
            raise UsageError(
                f"The decoder '{config.decoder}' does not leave out seen items.", hint="--decoder exhaustive"
            )
    left_out = {"batch_size"} | ({"users"} if config.users is None else set())  # keys of before stay as they were
    resolved = {"evaluate": config.model_dump(mode="json", exclude=left_out)}
    if not decoder.exact:
        resolved["decoder"] = settings.model_dump(mode="json")
    label = f"{chosen.path.name.rpartition('-')[0]}-{config.split}" + ("" if decoder.exact else f"-{config.decoder}")
    return Plan(dataset, "eval", label, VERSION, resolved, {"runs": chosen}), config


def run(
    ws: Workspace, plan: Plan, config: EvaluateConfig, *, device: str, bar: Callable[[int], Any]
) -> Artifact:  # fmt: skip
    """Score every user of the split; write per_user.parquet and topk.parquet."""
    where = resolve_device(device)
    chosen = plan.inputs["runs"]
    model, catalog, histories = load_run(ws, chosen, where)
    user, at = histories.targets(config.split, sample=config.users)
    if len(user) == 0:
        raise DataError(f"No user of '{plan.dataset}' has a {config.split} target.")
    k = min(max(config.at), catalog.items)

    def batches() -> Any:
        max_length = chosen.config["train"]["max_length"]
        return eval_batches(histories, user, at, max_length=max_length, batch_size=config.batch_size)

    with ws.build(plan) as draft, bar(len(user)) as progress:
        clock = Clock(where)
        outcome = evaluate(model, catalog, batches(), where, k=k, exclude=config.exclude_seen, tick=progress.update)
        seconds = clock.seconds()
        draft.result |= {
            "model": chosen.config["model"]["name"], "run": chosen.path.name, "split": config.split, "users": len(user),
            "users_per_second": round(len(user) / seconds), "decoder": config.decoder,
            "metrics": outcome.means(list(config.at)), "code_metrics": outcome.means(list(config.at), level="code"),
        }  # fmt: skip
        kind = registry.load("decoder", config.decoder)
        if not kind.exact:
            clock = Clock(where)
            decoder = kind(model, catalog, validate(kind.Config, "decoder", plan.config["decoder"]))
            draft.result["build_seconds"] = round(clock.seconds(), 3)
            clock = Clock(where)
            outcome, found = evaluate_lists(decoder, catalog, batches(), where, outcome, missing=max(config.at))
            draft.result |= found
            draft.result["users_per_second"] = round(len(user) / clock.seconds())
            draft.result["exact_metrics"] = draft.result["metrics"]
            draft.result["metrics"] = outcome.means(list(config.at))
            draft.result["code_metrics"] = outcome.means(list(config.at), level="code")
        _write(draft.path, outcome, histories, list(config.at))
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
    order = np.argsort(outcome.user, kind="stable")
    user = outcome.user[order]
    columns: dict[str, Any] = {
        "user": (user + 1).astype("uint32"),
        "target": outcome.target[order].astype("uint32"),
        "rank": outcome.above[order].astype("uint32"),
        "ties": outcome.ties[order].astype("uint32"),
        "history_length": histories.length[user].astype("uint32"),
    }
    for level, above, ties in (
        ("", outcome.above, outcome.ties), ("code_", outcome.code_above, outcome.code_ties),
    ):  # fmt: skip
        found = metrics.table(above[order], ties[order], cutoffs)
        columns |= {f"{level}{name}": value.astype("float32") for name, value in found.items()}
    pq.write_table(pa.table(columns), folder / "per_user.parquet", compression="zstd")
    k = outcome.item.shape[1]
    lists = {
        "user": pa.array(columns["user"]),
        "target": pa.array(columns["target"]),
        "items": _lists(outcome.item[order].astype("uint32"), k),
        "scores": _lists(outcome.score[order].astype("float32"), k),
    }
    pq.write_table(pa.table(lists), folder / "topk.parquet", compression="zstd")


def _lists(value_Uk: np.ndarray, k: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(value_Uk.ravel()), k)

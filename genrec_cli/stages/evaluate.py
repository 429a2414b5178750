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
from genrec_cli.decoders.graph import Graph, GraphConfig
from genrec_cli.distributed import resolve_device
from genrec_cli.engine import metrics
from genrec_cli.engine.evaluation import Outcome, evaluate
from genrec_cli.errors import DataError, UsageError
from genrec_cli.models.base import CodeScorer, Model
from genrec_cli.stages.train import load_run

VERSION = 1
SECTIONS = ["evaluate"]


class EvaluateConfig(Section):
    """What to measure, and how lists are decoded."""

    split: Literal["valid", "test"] = "test"
    """valid or test."""
    at: tuple[int, ...] = (5, 10)
    """Cutoffs of Recall, NDCG and MRR."""
    decoder: Literal["exhaustive", "graph"] = "exhaustive"
    """exhaustive: every item is scored; graph: RPG's approximate search."""
    exclude_seen: bool = False
    """Leave items of the user's own history out of the ranking; the papers do not."""
    batch_size: int = Field(256, ge=1)
    """Users scored at once."""
    graph: GraphConfig = GraphConfig()
    """Beams, edges and steps of the graph decoder."""


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
    if config.decoder == "graph":
        if not hasattr(model, "code_logprobs"):
            raise UsageError(
                f"The decoder 'graph' needs a model of codes; '{chosen.config['model']['name']}' scores items.",
                hint="--decoder exhaustive",
            )
        if max(config.at) > config.graph.beams:
            raise UsageError(f"--at {max(config.at)} needs as many beams; there are {config.graph.beams}.",
                             hint=f"--set evaluate.graph={{beams={max(config.at)}}}")  # fmt: skip
        if config.exclude_seen:
            raise UsageError("The graph decoder does not leave out seen items.", hint="--decoder exhaustive")
    settings = config.model_dump(mode="json", exclude={"batch_size"})
    if config.decoder == "exhaustive":
        settings.pop("graph")
    label = f"{chosen.path.name.rpartition('-')[0]}-{config.split}" + ("-graph" if config.decoder == "graph" else "")
    return Plan(dataset, "eval", label, VERSION, {"evaluate": settings}, {"runs": chosen}), config


def run(
    ws: Workspace, plan: Plan, config: EvaluateConfig, *, device: str, bar: Callable[[int], Any]
) -> Artifact:  # fmt: skip
    """Score every user of the split; write per_user.parquet and topk.parquet."""
    where = resolve_device(device)
    chosen = plan.inputs["runs"]
    model, catalog, histories = load_run(ws, chosen, where)
    user, at = histories.targets(config.split)
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
        if config.decoder == "graph":
            outcome, found = _by_graph(model, catalog, batches(), where, config, outcome, k)
            draft.result |= found
            draft.result["exact_metrics"] = draft.result["metrics"]
            draft.result["metrics"] = outcome.means(list(config.at))
            draft.result["code_metrics"] = outcome.means(list(config.at), level="code")
        _write(draft.path, outcome, histories, list(config.at))
    finished = ws.read(ws.path(plan))
    assert finished is not None
    return finished


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


@torch.inference_mode()
def _by_graph(
    model: Model,
    catalog: Any,
    batches: Any,
    device: torch.device,
    config: EvaluateConfig,
    exact: Outcome,
    k: int,
) -> tuple[Outcome, dict[str, Any]]:
    """Decode by graph; ranks come from the lists, since an approximate search knows no other rank."""
    assert isinstance(model, CodeScorer)
    clock = Clock(device)
    graph = Graph(model, catalog, config.graph)
    built = clock.seconds()
    group_I = catalog.groups()
    missing = max(config.at)  # behind every cutoff, also where the whole list is shorter than one
    clock = Clock(device)
    parts = []
    for known in batches:
        batch, target_B = known.batch.to(device), known.target_B.to(device)
        top, visited_B = graph.search(model.code_logprobs(batch), batch.user_B, k)
        code_Bk = torch.where(top.item_Bk > 0, group_I[top.item_Bk - 1], -1)
        above_B = list_rank(top.item_Bk, target_B, missing)
        parts.append((*top, visited_B, above_B, code_rank(code_Bk, group_I[target_B - 1], missing)))
    seconds = clock.seconds()
    item, score, visited, above, code_above = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    one = np.ones_like(above)
    outcome = Outcome(exact.user, exact.target, above, one, code_above, one, exact.loss, item, score)
    hits = (item[:, :, None] == exact.item[:, None, :]) & (item[:, :, None] > 0)
    return outcome, {
        "recall_against_exact": float(hits.any(1).mean()), "visited": float(visited.mean()),
        "graph_seconds": round(built, 3), "users_per_second": round(len(item) / seconds),
    }  # fmt: skip


def list_rank(item_Bk: torch.Tensor, target_B: torch.Tensor, missing: int) -> torch.Tensor:
    """Position of the target in each list, from 0; ``missing`` where it is not there."""
    hit_Bk = item_Bk == target_B[:, None]
    return torch.where(hit_Bk.any(1), hit_Bk.int().argmax(1), missing)


def code_rank(code_Bk: torch.Tensor, target_B: torch.Tensor, missing: int) -> torch.Tensor:
    """The same at code level: items with equal codes count as one. A code of -1 stands for no item."""
    hit_Bk = code_Bk == target_B[:, None]
    new_Bk = torch.ones_like(hit_Bk)
    new_Bk[:, 1:] = ~(code_Bk[:, 1:, None] == code_Bk[:, None, :]).tril().any(-1)
    place_Bk = new_Bk.cumsum(1) - 1
    position_B = hit_Bk.int().argmax(1, keepdim=True)
    return torch.where(hit_Bk.any(1), place_Bk.gather(1, position_B)[:, 0], missing)


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

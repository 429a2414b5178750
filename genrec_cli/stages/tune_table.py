"""The tables of a study: all trials, the best one of each model marked, and the importance of each setting."""

import json
import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrec_cli import console
from genrec_cli.artifacts import Draft
from genrec_cli.config import merge
from genrec_cli.errors import ConfigError
from genrec_cli.stages.recipe_step import layer_of, toml_value
from genrec_cli.stages.tune_recipe import SECTIONS, Tune

if TYPE_CHECKING:
    from optuna import Study


def trial_rows(model: str, study: "Study") -> list[dict[str, Any]]:
    """One row per trial that ended. ``value``: the validation metric, None for a trial that was stopped early. If none
    reached its end, the best trial is that of the highest last validation."""
    ended = [t for t in study.get_trials(deepcopy=False) if t.state.name in ("COMPLETE", "PRUNED")]
    complete = [t for t in ended if t.state.name == "COMPLETE"]
    stopped = [t for t in ended if t.user_attrs.get("outcome") in ("out of minutes", "stopped by halving")]

    def quality(trial: Any) -> tuple[float, int]:
        value = trial.value if complete else trial.intermediate_values.get(trial.last_step or -1)
        return -math.inf if value is None else value, -trial.number

    best = max(complete or stopped, key=quality, default=None)
    return [
        {
            "model": model,
            "trial": trial.number,
            "best": best is not None and trial.number == best.number,
            "value": trial.value if trial.state.name == "COMPLETE" else None,
            "last": trial.intermediate_values.get(trial.last_step or -1),
            "epoch": trial.last_step,
            "minutes": round(trial.user_attrs.get("seconds", 0.0) / 60, 3),
            "outcome": trial.user_attrs.get("outcome", ""),
            "run": trial.user_attrs.get("run"),
            "inputs": trial.user_attrs.get("inputs", {}),
            "settings": dict(trial.params),
        }
        for trial in ended
    ]


def importance(study: "Study") -> dict[str, float]:
    """The fraction of the variance of the metric that each setting explains (fANOVA, Hutter et al. 2014), largest
    first; empty for fewer than four finished trials or if all have the same value."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if len(complete) < 4 or len({t.value for t in complete}) < 2:
        return {}
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: round(float(value), 4) for name, value in found.items()}


def write_tables(draft: Draft, tune: Tune, studies: Mapping[str, "Study"]) -> None:
    """``trials.parquet``, ``table.md``, and per model ``best-MODEL.toml`` for ``--config``; the same in the result.

    Raises:
        ConfigError: a model has no trial, or all failed.
    """
    rows = [row for name, study in studies.items() for row in trial_rows(name, study)]
    best_of: dict[str, dict[str, Any]] = {}
    for name in studies:
        own = [row for row in rows if row["model"] == name]
        reasons = ", ".join(dict.fromkeys(row["outcome"] for row in own)) or "no time for one"
        best = next((row for row in own if row["best"]), None)
        if best is None:
            message = f"No trial of '{name}' reached its end ({reasons})."
            raise ConfigError(message, hint="A larger budget (--trials, --minutes), or a smaller [tune.space]")
        if best["value"] is None:
            seen = "without a validation" if best["last"] is None else f"by its validation after epoch {best['epoch']}"
            console.warn(f"No trial of '{name}' reached its end ({reasons}); trial {best['trial']} is taken, {seen}.")
        best_of[name] = best
    flat = [row | {name: json.dumps(row[name]) for name in ("settings", "inputs")} for row in rows]
    pq.write_table(pa.Table.from_pylist(flat), draft.path / "trials.parquet")
    models: dict[str, Any] = {}
    for model in tune.models:
        own = [row for row in rows if row["model"] == model.name]
        best = best_of[model.name]
        values = [row["value"] for row in own if row["value"] is not None]
        models[model.name] = {"trials": len(own), "minutes": round(sum(row["minutes"] for row in own), 3)}
        median = statistics.median(values) if values else None
        models[model.name] |= {"finished": len(values), "median": median, "best": best}
        models[model.name] |= {"importance": importance(studies[model.name])}
        settings = merge(model.layers, layer_of(best["settings"], SECTIONS, "a trial"))
        (draft.path / f"best-{model.name}.toml").write_text(toml(settings), "utf-8")
    draft.result |= {"metric": tune.metric, "models": models, "trials": rows}
    parts = [shown_models(draft.result), shown_trials(draft.result), shown_importance(draft.result)]
    text = "\n".join(console.markdown(*part) for part in parts if part[1])
    (draft.path / "table.md").write_text(f"# {tune.config.title}\n\n{text}", "utf-8")


def toml(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Sections of settings as TOML."""
    lines = []
    for section, values in settings.items():
        lines += [f"[{section}]", *(f"{key} = {toml_value(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


Shown = tuple[list[str], list[list[Any]]]


def shown_models(result: Mapping[str, Any]) -> Shown:
    """One row per model: what its budget bought, and its best trial."""
    head = ["model", "trials", "finished", "minutes", "median", f"best {result['metric']}", "best trial", "run"]
    body = [
        [name, *(m[key] for key in ("trials", "finished", "minutes", "median"))]
        + [m["best"][key] for key in ("value", "trial", "run")]
        for name, m in result["models"].items()
    ]
    return head, body


def shown_trials(result: Mapping[str, Any]) -> Shown:
    """One row per trial, the best of each model with a star."""
    names = list(dict.fromkeys(name for row in result["trials"] for name in row["settings"]))
    head = ["model", "trial", "", result["metric"], "at the last epoch", "epoch", "minutes", *names, "outcome"]
    body = [
        [row["model"], row["trial"], "*" if row["best"] else ""]
        + [row[key] for key in ("value", "last", "epoch", "minutes")]
        + [*map(row["settings"].get, names), row["outcome"]]
        for row in result["trials"]
    ]
    return head, body


def shown_importance(result: Mapping[str, Any]) -> Shown:
    """One row per model and setting."""
    pairs = [(name, item) for name, m in result["models"].items() for item in m["importance"].items()]
    return ["model", "setting", "importance"], [[name, *item] for name, item in pairs]

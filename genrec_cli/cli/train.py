"""genrec train"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_cli.cli import complete
from genrec_cli.cli.common import Common, command, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact

MODEL = "Name of the model (see: genrec list models). Default: mhl."
INIT = "Run whose weights the training starts from."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "train", distributed=True)
    def train(
        common: Common,
        model: Annotated[str | None, typer.Option(help=MODEL, autocompletion=complete.models)] = None,
        curriculum: Annotated[str | None, typer.Option(help="Curriculum: inf, r, e, r-inf, e-inf or r-e-inf.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
        seed: Annotated[int | None, typer.Option(help="Random seed.", envvar="GENREC_SEED")] = None,
        epochs: Annotated[int | None, typer.Option(help="Upper limit of epochs.")] = None,
        batch_size: Annotated[int | None, typer.Option(help="Rows per optimiser step, over all devices.")] = None,
        lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
        precision: Annotated[str | None, typer.Option(help="fp32, tf32, bf16 or fp16.")] = None,
        data: Annotated[str | None, typer.Option(help="Data artifact: label, key or path.")] = None,
        codes: Annotated[str | None, typer.Option(help="Codes artifact: label, key or path.")] = None,
        vectors: Annotated[str | None, typer.Option(help="Vectors artifact, for models that read vectors.")] = None,
        init_from: Annotated[str | None, typer.Option(help=INIT, metavar="RUN", autocompletion=complete.runs)] = None,
        freeze: Annotated[
            list[str] | None,
            typer.Option(help="Parameters that are not trained, as a name pattern. Repeatable.", metavar="PATTERN"),
        ] = None,
        label: Annotated[str | None, typer.Option(help="Name of the run's folder. Default: MODEL-sSEED.")] = None,
        track: Annotated[str | None, typer.Option(help="Also log to tensorboard, wandb or mlflow.")] = None,
        best_so_far: Annotated[
            bool, typer.Option("--best-so-far", help="Make a run of the best epoch of a training that has not ended.")
        ] = False,
    ) -> "Artifact | None":
        """Train a model.

        The same command continues a training that was stopped."""
        from genrec_cli import console
        from genrec_cli.cli.progress import TrainProgress
        from genrec_cli.stages import train as stage
        from genrec_cli.stages import train_plan
        from genrec_cli.stages.best_so_far import plan as plan_best
        from genrec_cli.stages.tracked import tracked

        settings = {"seed": seed, "epochs": epochs, "batch_size": batch_size, "lr": lr, "precision": precision}
        named: dict[str, dict[str, Any]] = {"model": {"name": model}, "curriculum": {"preset": curriculum}}
        layers = common.layers("train", {**named, "train": {**settings, "freeze": freeze}})
        ws = common.workspace()
        name = str(layers.get("model", {}).get("name") or "mhl")
        inputs = train_plan.Inputs(data, codes, vectors, init_from)
        run = train_plan.plan(ws, ws.dataset(common.dataset), name, layers, inputs=inputs, label=label)
        common.layers(f"train --model {name}", sections=train_plan.sections_of(name))
        read = run.plan.config["train"]
        given = [key for key, value in layers.get("train", {}).items() if value is not None]
        if unread := [key for key in given if key not in read]:
            typed = {key: "--" + key.replace("_", "-") for key, value in settings.items() if value is not None}
            options = ", ".join(typed.get(key, f"train.{key}") for key in unread)
            console.warn(f"'{name}' counts in one pass over the data: it does not read {options}.")

        def work() -> "Artifact | None":
            with TrainProgress() as progress, tracked(ws, run, track, progress.attach) as callbacks_for:
                return stage.train(ws, run, device=device, force=common.force, callbacks_for=callbacks_for)

        def forecast() -> dict[str, Any]:
            estimate = stage.forecast(run, device=device)
            show_forecast(run.plan.name, estimate)
            return estimate

        plan, made = plan_best(ws, run) if best_so_far else (run.plan, work)
        artifact = make(common, plan, made, forecast=None if best_so_far else forecast)
        if artifact is not None and not common.dry_run:
            show_work(artifact)
            show_diagnosis(artifact)
        return artifact


def fitting_epochs(
    common: Common,
    seconds: float,
    *,
    model: str | None = None,
    label: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    **artifacts: str | None,
) -> tuple[int | None, int | None]:
    """The epochs with which a training takes at most ``seconds``, None for a model without gradients; and those of a
    masking phase, None without a limit."""
    from genrec_cli.config import merge
    from genrec_cli.stages import budget
    from genrec_cli.stages import train_plan as stage

    ws, given = common.workspace(), common.layers("train", {"model": {"name": model}, "train": {"seed": seed}})
    name = str(given.get("model", {}).get("name") or "mhl")
    known = stage.sections_of(name)

    layers = {section: values for section, values in given.items() if section in known}
    options: dict[str, Any] = {"inputs": stage.Inputs(**artifacts), "label": label}
    dataset = ws.dataset(common.dataset)
    full = stage.plan(ws, dataset, name, layers, **options).train.epochs
    curriculum = layers.get("curriculum", {})

    def plan_of(epochs: int | None) -> stage.TrainPlan:
        epochs = full if epochs is None else epochs
        changed = {"train": {"epochs": epochs}, "curriculum": budget.shortened(curriculum, epochs, full)}
        return stage.plan(ws, dataset, name, merge(layers, changed), **options)

    epochs = budget.fitting_epochs(ws, plan_of, seconds, device=device)
    return epochs, budget.shortened(curriculum, epochs or full, full).get("max_epochs")


def show_forecast(name: str, estimate: dict[str, Any]) -> None:
    """The estimate of a training, as tables."""
    from genrec_cli import console
    from genrec_cli.cli.progress import clock

    if "phases" not in estimate:
        console.say(f"{name}: learns without gradients, in one pass over the data")
        return
    rows = []
    for phase in estimate["phases"]:
        granularity = None if phase["mask"] == "none" else phase["granularity"]
        times = round(1000 * phase["seconds_a_step"], 1), clock(phase["seconds_an_epoch"])
        rows.append([phase["name"], phase["mask"], granularity, phase["ratio"], phase["rules"], *times])
    steps = f"{estimate['epochs']:,} epochs of {estimate['steps_per_epoch']:,} steps, {estimate['steps']:,} in all"
    columns = ["phase", "mask", "granularity", "ratio", "rules", "ms per step", "per epoch"]
    console.table(f"{name}: at most {steps}", columns, rows)
    memory, time = estimate["memory"], estimate["time"]
    kinds = ("weights", "gradients", "optimizer", "activations")
    parts = ", ".join(f"{part} {mebibytes(memory[part])}" for part in kinds)
    timed = f"{time['how']}: {time['timed_steps']} steps on {time['on']}"
    validation = f"a validation takes {clock(time['validation_seconds'])}"
    rows = [
        ["parameters", f"{estimate['parameters']:,}", "trainable"],
        ["memory", mebibytes(memory["peak"]), f"{memory['how']}: {parts}"],
        ["time", f"at most {clock(time['at_most_seconds'])}", f"{timed}; {validation}"],
    ]
    console.table("", ["", "estimate", "how"], rows)
    for finding in estimate["warnings"]:
        console.warn(f"{finding['seen']}\n  try: {finding['change']}")


def show_work(artifact: "Artifact") -> None:
    """Steps, time and throughput of a training, and the fraction of time spent waiting for data."""
    from genrec_cli import console
    from genrec_cli.cli.progress import clock

    result = artifact.result
    if "steps" not in result:
        return
    processes = f" in {result['processes']} processes" if result["processes"] > 1 else ""
    console.say(
        f"{result['steps']:,} steps in {clock(result['seconds'])}{processes}, {result['positions_per_second']:,} items "
        f"per second; {result['waited_fraction']:.1%} of the time was spent waiting for data"
    )


def show_diagnosis(artifact: "Artifact") -> None:
    """The findings of the diagnosis, each with what to change."""
    from genrec_cli import console

    for finding in artifact.result.get("diagnosis", []):
        console.say(f"{finding['sign']}: {finding['seen']}\n  try: {finding['change']}")


def mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"

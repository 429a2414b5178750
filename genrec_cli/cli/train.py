"""genrec train"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_cli.cli.common import Common, command, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "train", distributed=True)
    def train(
        common: Common,
        model: Annotated[
            str | None, typer.Option(help="Model by name; genrec list models shows all. Default: mhl.")
        ] = None,
        curriculum: Annotated[str | None, typer.Option(help="Curriculum preset, for example inf.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
        seed: Annotated[int | None, typer.Option(help="Random seed.", envvar="GENREC_SEED")] = None,
        epochs: Annotated[int | None, typer.Option(help="Upper limit of epochs.")] = None,
        batch_size: Annotated[int | None, typer.Option(help="Rows an optimiser step, over all devices.")] = None,
        lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
        precision: Annotated[str | None, typer.Option(help="fp32, tf32, bf16 or fp16.")] = None,
        data: Annotated[str | None, typer.Option(help="Data artifact: label, key or path.")] = None,
        codes: Annotated[str | None, typer.Option(help="Codes artifact: label, key or path.")] = None,
        vectors: Annotated[
            str | None, typer.Option(help="Vectors artifact, for models that read text vectors.")
        ] = None,
        init_from: Annotated[
            str | None, typer.Option("--init-from", help="Start from the weights of another run.", metavar="RUN")
        ] = None,
        freeze: Annotated[
            list[str] | None,
            typer.Option(help="Parameters that do not change, by name pattern; repeatable.", metavar="PATTERN"),
        ] = None,
        label: Annotated[str | None, typer.Option(help="Name of the run's folder. Default: MODEL-sSEED.")] = None,
        best_so_far: Annotated[
            bool, typer.Option("--best-so-far", help="Train no more: make a run of the best epoch until now.")
        ] = False,
    ) -> "Artifact | None":
        """Train a model; run it again after a kill and it goes on where it stopped."""
        from genrec_cli.cli.progress import TrainProgress
        from genrec_cli.stages import train as stage
        from genrec_cli.stages.best_so_far import plan as plan_best

        named = {
            "model": {"name": model},
            "curriculum": {"preset": curriculum},
            "train": {
                "seed": seed,
                "epochs": epochs,
                "batch_size": batch_size,
                "lr": lr,
                "precision": precision,
                "freeze": freeze,
            },
        }
        layers = common.layers("train", named)
        ws = common.workspace()
        name = str(layers.get("model", {}).get("name") or "mhl")
        inputs = stage.Inputs(data, codes, vectors, init_from)
        run = stage.plan(ws, ws.dataset(common.dataset), name, layers, inputs=inputs, label=label)
        common.layers(f"train --model {name}", sections=stage.sections_of(name))

        def work() -> "Artifact":
            with TrainProgress() as progress:
                return stage.train(ws, run, device=device, force=common.force, callbacks_for=progress.attach)

        def forecast() -> dict[str, Any]:
            found = stage.forecast(run, device=device)
            show_forecast(run.plan.name, found)
            return found

        plan, making = plan_best(ws, run) if best_so_far else (run.plan, work)
        artifact = make(common, plan, making, forecast=None if best_so_far else forecast)
        if artifact is not None and not common.dry_run:
            show_work(artifact)
            show_diagnosis(artifact)
        return artifact


def show_forecast(name: str, found: dict[str, Any]) -> None:
    """What a training would take, as tables."""
    from genrec_cli import console
    from genrec_cli.cli.progress import clock

    if "phases" not in found:
        console.say(f"{name}: learns without gradients, in one pass over the data")
        return
    rows = [
        [
            phase["name"], phase["mask"], phase["granularity"] if phase["mask"] != "none" else None, phase["ratio"],
            phase["rules"], round(1000 * phase["seconds_a_step"], 1), clock(phase["seconds_an_epoch"]),
        ]
        for phase in found["phases"]
    ]  # fmt: skip
    console.table(
        f"{name}: at most {found['epochs']:,} epochs of {found['steps_per_epoch']:,} steps, {found['steps']:,} in all",
        ["phase", "mask", "granularity", "ratio", "rules", "ms a step", "an epoch"], rows,
    )  # fmt: skip
    memory, time = found["memory"], found["time"]
    parts = ", ".join(
        f"{part} {mebibytes(memory[part])}" for part in ("weights", "gradients", "optimizer", "activations")
    )
    console.table("", ["", "estimate", "how"], [
        ["parameters", f"{found['parameters']:,}", "trainable"],
        ["memory", mebibytes(memory["peak"]), f"{memory['how']}: {parts}"],
        ["time", f"at most {clock(time['at_most_seconds'])}",
         f"{time['how']}: {time['timed_steps']} steps on {time['on']}; "
         f"a validation takes {clock(time['validation_seconds'])}"],
    ])  # fmt: skip


def show_work(artifact: "Artifact") -> None:
    """What the training took, and whether data came fast enough."""
    from genrec_cli import console
    from genrec_cli.cli.progress import clock

    result = artifact.result
    if "steps" not in result:
        return
    number = result["processes"]
    processes = f" in {number} processes" if number > 1 else ""
    console.say(
        f"{result['steps']:,} steps in {clock(result['seconds'])}{processes}, {result['positions_per_second']:,} items "
        f"a second; {result['waited_fraction']:.1%} of the time was spent waiting for data"
    )


def show_diagnosis(artifact: "Artifact") -> None:
    """What the log says about the training, each finding with what to change."""
    from genrec_cli import console

    for finding in artifact.result.get("diagnosis", []):
        console.say(f"{finding['sign']}: {finding['seen']}\n  try: {finding['change']}")


def mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"

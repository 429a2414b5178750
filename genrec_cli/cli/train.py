"""genrec train"""

from typing import Annotated

import typer

from genrec_cli.cli.common import Common, command, make


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "train")
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
        label: Annotated[str | None, typer.Option(help="Name of the run's folder. Default: MODEL-sSEED.")] = None,
    ) -> None:
        """Train a model; run it again after a kill and it goes on where it stopped."""
        from genrec_cli.cli.progress import TrainProgress
        from genrec_cli.stages import train as stage

        named = {
            "model": {"name": model},
            "curriculum": {"preset": curriculum},
            "train": {
                "seed": seed,
                "epochs": epochs,
                "batch_size": batch_size,
                "lr": lr,
                "precision": precision,
            },
        }
        layers = common.layers("train", stage.SECTIONS, named)
        ws = common.workspace()
        name = str(layers.get("model", {}).get("name") or "mhl")
        run = stage.plan(ws, ws.dataset(common.dataset), name, layers, data=data, codes=codes, label=label)

        def work() -> object:
            with TrainProgress() as progress:
                return stage.train(ws, run, device=device, force=common.force, report_to=progress.attach)

        make(common, run.plan, work)

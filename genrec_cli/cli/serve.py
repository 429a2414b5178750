"""genrec serve"""

from typing import Annotated

import typer

from genrec_cli.cli.common import Common, command

EVERY = 2.0
"""Seconds between two looks for newer runs."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "serve")
    def serve(
        common: Common,
        runs: Annotated[
            list[str] | None,
            typer.Argument(help="Labels, keys or paths of runs, or folders of exports. Default: the only run."),
        ] = None,
        host: Annotated[
            str, typer.Option(help="Address to listen on. 0.0.0.0 answers other machines, too.")
        ] = "127.0.0.1",
        port: Annotated[int, typer.Option(min=0, max=65_535, help="Port. 0: a free one.")] = 8000,
        watch: Annotated[
            bool, typer.Option("--watch", help="Replace a run when there is a newer one of its label.")
        ] = False,
        batch: Annotated[int, typer.Option(min=1, max=4096, help="Most histories in one pass of the model.")] = 64,
        wait: Annotated[
            float, typer.Option(min=0, max=1000, help="Most milliseconds that a pass waits while histories arrive.")
        ] = 2.0,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> None:
        """Serve recommendations over HTTP, and a page that shows them."""
        from genrec_cli import console
        from genrec_cli.serve.server import listening, require_extra, set_imports_aside
        from genrec_cli.serve.server import serve as answer

        require_extra()
        from genrec_cli.distributed import resolve_device
        from genrec_cli.serve.app import make_app
        from genrec_cli.serve.runs import ServedRuns, chosen

        set_imports_aside()
        common.layers("serve")  # refuses --set: a service has the settings of its runs
        ws = common.workspace()
        found = chosen(ws, common.dataset, runs or [None], watch=watch, device=resolve_device(device))
        names = [run.name for run in found]
        if common.dry_run:
            console.say(f"would serve {', '.join(names)}")
            console.emit({"schema": 1, "runs": names, "state": "would be served"})
            return
        served = ServedRuns(ws, found)
        with listening(host, port) as at:
            url = f"http://{host}:{at.getsockname()[1]}"
            console.say(f"serving {', '.join(names)}; stop with Ctrl+C")
            common.emit({"schema": 1, "url": url, "runs": names}, text=url)
            answer(make_app(served, size=batch, wait=wait / 1000, watch=EVERY if watch else 0.0), at)

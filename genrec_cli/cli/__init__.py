"""The command line: parses, calls a stage, prints. Imports typer and the standard library only."""

import importlib
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from genrec_cli import __version__
from genrec_cli.cli.common import fail, several

app = typer.Typer(
    name="genrec",
    help="Generative recommendation, from raw logs to recommendations and an honest table.\n\n"
    "Stages: download, preprocess, tokenize, train, evaluate; then recommend and case-study.\n\n"
    "Start with:  genrec run quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in (
    "download", "preprocess", "adopt", "tokenize", "train", "figures", "evaluate",
    "compare", "sweep", "recommend", "case_study", "run", "inspect",
):  # fmt: skip
    importlib.import_module(f"genrec_cli.cli.{_module}").register(app)


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"genrec {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``genrec`` command. Every way out has its exit code; see the README."""
    try:
        with ExitStack() as silenced:
            if several() and os.environ.get("RANK") != "0":  # what there is to say is said by the first process
                nothing = silenced.enter_context(Path(os.devnull).open("w"))
                silenced.enter_context(redirect_stdout(nothing))
                silenced.enter_context(redirect_stderr(nothing))
            app(args=arguments)
    except Exception as error:
        sys.exit(fail(error))

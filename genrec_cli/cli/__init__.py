"""The command line: parses the options, calls a stage, prints. Imports typer and the standard library only."""

import importlib
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from genrec_cli import __version__
from genrec_cli.cli.common import fail, in_process_group

app = typer.Typer(
    name="genrec",
    help="Generative recommendation, from raw logs to recommendations and an honest table.\n\n"
    "Stages: download, preprocess, tokenize, train, evaluate; then recommend and case-study.\n\n"
    "Start with:  genrec run quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

COMMANDS = """
    download preprocess import_tables export_data tokenize train blend figures evaluate compare table sweep tune
    report recommend export case_study serve run inspect remove
"""
for _module in COMMANDS.split():
    importlib.import_module(f"genrec_cli.cli.{_module}").register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"genrec {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version)] = False) -> None:
    """Options of the program itself: ``--version`` shows the version."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``genrec`` command; the README lists the exit codes."""
    _open_streams()
    code: str | int | None = 0
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with ExitStack() as stack:
            if in_process_group() and os.environ.get("RANK") != "0":  # only the first process prints
                devnull = stack.enter_context(Path(os.devnull).open("w"))
                stack.enter_context(redirect_stdout(devnull))
                stack.enter_context(redirect_stderr(devnull))
            _refuse_unprintable(words)
            app(args=arguments)
    except SystemExit as leaving:
        code = leaving.code
    except Exception as error:
        code = fail(error, as_json="--json" in words)
    sys.exit(_flushed(code))


def _open_streams() -> None:
    """Replace closed streams by the null device, and print characters that a stream cannot encode as ``\\u20ac``."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _refuse_unprintable(arguments: list[str]) -> None:
    """Refuse arguments that are not UTF-8 or hold control characters, since errors and manifests repeat them."""
    from genrec_cli.console import printable
    from genrec_cli.errors import UsageError

    for text in (*arguments, *(value for name, value in os.environ.items() if name.startswith("GENREC_"))):
        if printable(text) != text:
            hint = "In a configuration file such a character can be written as \\u001b"
            raise UsageError(f"The argument '{text}' holds a control character or is not UTF-8.", hint=hint)


def _flushed(code: str | int | None) -> str | int | None:
    """Flush the streams and return the exit code. A reader that ended early (``| head``) is no failure."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python reports the error again at its exit
            code = 130 if isinstance(error, BrokenPipeError) else code or fail(error)
    return code

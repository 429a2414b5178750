"""The options that all commands share, and how a command runs: set-up, errors, exit codes."""

import inspect
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_cli.cli.examples import epilog

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact, Plan, Workspace

PANEL = "Common options"
COMMANDS: dict[str, Callable[..., Any]] = {}
"""Command name -> function of the shared options and the command's options; for a stage it returns the artifact."""
LISTS = {"at", "events", "fields", "metrics", "seeds"}
"""Names of the options whose value is a list with commas."""


@dataclass(frozen=True)
class Common:
    """The shared options of one call."""

    dataset: Annotated[
        str | None,
        typer.Option(envvar="GENREC_DATASET", metavar="NAME", help="Name of the data set. Default: the only one."),
    ] = None
    root: Annotated[Path, typer.Option(envvar="GENREC_ROOT", metavar="FOLDER", help="Folder of all artifacts.")] = Path(
        "artifacts"
    )
    config: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="TOML file of settings. Repeatable; a later file wins.")
    ] = None
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting; VALUE is in TOML. Repeatable.", metavar="SECTION.KEY=VALUE"),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Make the artifact again even if it is up to date.")] = False
    allow_stale: Annotated[
        bool, typer.Option("--allow-stale", help="Use inputs that have changed; the results are marked.")
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done and do nothing.")] = False
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print more.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")] = False

    def workspace(self) -> "Workspace":
        from genrec_cli.artifacts import Workspace

        return Workspace(self.root, allow_stale=self.allow_stale)

    def emit(self, facts: dict[str, Any], text: str | None = None) -> None:
        """Print the command's result on stdout."""
        from genrec_cli import console

        console.emit(facts, text=text)

    def layers(
        self, command: str, named: dict[str, dict[str, Any]] | None = None, sections: Sequence[str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Merge ``--config`` files < ``--set`` < named options; ``sections`` default to all that the command reads."""
        from genrec_cli.config import READS, merge, parse_set, read_toml, refuse_unread

        sections = READS.get(command, ()) if sections is None else sections
        assigned = parse_set(self.set_ or [])
        refuse_unread(assigned, sections, command)
        merged = merge(*(read_toml(path) for path in self.config or []), assigned, named or {})
        return {name: values for name, values in merged.items() if name in sections}


SHARED = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(Common, name), annotation=annotation)
    for name, annotation in Common.__annotations__.items()
]
for _parameter in SHARED:
    _parameter.annotation.__metadata__[0].rich_help_panel = PANEL


class Command(typer.core.TyperCommand):
    """A command whose help shows its options by panel, as plain text: an import of rich takes longer than the rest.

    An option whose value is a list with commas may be given once: who repeats it means one list, and the last value
    would win in silence. Of other options the last one counts, so that a script can replace what a variable holds.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from genrec_cli.errors import UsageError

        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, count in Counter(given).items():
            listed = parameter.name in LISTS and not parameter.multiple
            if count > 1 and listed and not ctx.resilient_parsing:  # completion of the shell parses without errors
                option = max(parameter.opts, key=len)
                raise UsageError(f"{option} is given {count} times, and it takes one list.", hint=f"{option} A,B")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            first = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or first, []).append(record)
        for name, records in panels.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def in_process_group() -> bool:
    """Whether torchrun started this process as one of several."""
    return "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def command(
    app: typer.Typer, name: str, *, distributed: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command whose function takes ``common`` first; the shared options are added to its options.

    A ``distributed`` command can run as several processes (torchrun).
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(**options: Any) -> None:
            common = Common(**{parameter.name: options.pop(parameter.name) for parameter in SHARED})
            _prepare(common, options)
            try:
                with _process_group(name, common, distributed):
                    function(common, **options)
            except BrokenPipeError:  # the reader of stdout has ended, which is no failure
                raise typer.Exit(130) from None
            except KeyboardInterrupt:  # a stage that saves a checkpoint raises Interrupted by itself
                from genrec_cli.errors import Interrupted

                hint = f"the same 'genrec {name}' again; what was finished before is kept"
                raise Interrupted(f"'genrec {name}' was stopped before it was done.", hint=hint) from None

        _, *own = inspect.signature(function).parameters.values()
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = inspect.Signature(own + SHARED)  # type: ignore[attr-defined]
        app.command(name, cls=Command, epilog=epilog(name))(run)
        COMMANDS[name] = function
        return function

    return register


def _process_group(name: str, common: Common, distributed: bool) -> AbstractContextManager[None]:
    """Joins the process group if torchrun started several processes."""
    if not in_process_group():
        return nullcontext()
    from genrec_cli.distributed import joined
    from genrec_cli.errors import UsageError

    if not distributed or common.dry_run:
        subject = "A dry run" if distributed else f"'genrec {name}'"
        raise UsageError(f"{subject} runs as one process.", hint="Type it without torchrun")
    return joined()


def make(
    common: Common, plan: "Plan", work: Callable[[], "Artifact | None"], *, forecast: Callable[[], Any] | None = None
) -> "Artifact | None":
    """Run a stage unless its artifact is up to date; print the artifact's path or its JSON.

    Only the first process makes the artifact; in the others ``work`` returns None. A dry run adds the estimate of
    ``forecast`` to its JSON.
    """
    from genrec_cli import console
    from genrec_cli.process_group import current_group
    from genrec_cli.stages.taint import WARNING

    ws = common.workspace()
    done = None
    if not common.force:
        process = current_group()
        done = ws.done_or_copied(plan) if process.main and not common.dry_run else None
        process.barrier()  # one process copies, the others find the copy
        done = done or ws.done(plan)
    if common.dry_run or done:
        state = "up to date" if done else "would be made"
        console.say(f"{plan.kind}/{plan.name}: {state}")
    if common.dry_run:
        facts = {"schema": 1, "path": str(ws.path(plan)), "key": plan.key, "state": state, "config": plan.config}
        console.emit(facts | ({"forecast": forecast()} if forecast and not done else {}), text=str(ws.path(plan)))
        return done
    artifact = done or work()
    if artifact is None:
        return None
    facts = {"schema": 1, "path": str(artifact.path), "key": artifact.key, "digest": artifact.digest}
    facts |= {"state": "up to date" if done else "made", "result": artifact.result}
    common.emit(facts, text=str(artifact.path))
    if artifact.tainted:
        console.warn(WARNING)
    return artifact


def _prepare(common: Common, options: Mapping[str, Any]) -> None:
    """Configure the console and the signals, and refuse values that are wrong for every command."""
    from genrec_cli import console
    from genrec_cli.config import check_device
    from genrec_cli.errors import UsageError

    console.configure(verbosity=0 if common.quiet else 2 if common.verbose else 1, as_json=common.json)
    check_device(options.get("device", "auto"))
    for name, value in {**vars(common), **options}.items():
        if value == "":
            raise UsageError(f"The value of '{name}' is an empty text.", hint=f"Leave --{name.replace('_', '-')} out")
    if re.search(r"[*?\[\]]|^[^/]*:", str(common.root)):
        raise UsageError(f"--root {common.root} reads like a pattern or an address.", hint="Leave out * ? [ ] and :")
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def fail(error: Exception, *, as_json: bool = False) -> int:
    """Print an error on stderr, from the first process only, and return its exit code.

    ``as_json``: also print ``{"schema": 1, "error": {"kind", "message", "hint", "exit"}}`` on stdout.
    """
    import json
    import traceback

    from genrec_cli.console import printable
    from genrec_cli.errors import GenrecError, of_memory, of_the_disk

    known = error if isinstance(error, GenrecError) else of_the_disk(error) or of_memory(error)
    code = known.exit_code if known else 1
    if in_process_group():
        from genrec_cli.distributed import prints_error

        if not prints_error():
            return code
    if known:
        lines = [known.message if code == 130 else f"error: {known.message}"]  # stopping is no failure
        lines += [f"  try: {known.hint}"] if known.hint else []
    else:
        lines = [*traceback.format_exception(error), "error: this is a bug in genrec; please report the lines above."]
    with suppress(OSError):  # the reader of stderr may have ended
        print(printable("\n".join(line.rstrip("\n") for line in lines)), file=sys.stderr, flush=True)
        if as_json:
            kind, message = type(known or error).__name__, known.message if known else str(error)
            facts = {"kind": kind, "message": message, "hint": known.hint if known else None, "exit": code}
            print(printable(json.dumps({"schema": 1, "error": facts})), flush=True)
    return code


def environment_default(name: str, fallback: str) -> str:
    """A default that an environment variable may set, such as ``GENREC_ENCODER``."""
    return os.environ.get(name) or fallback


def whole_numbers(text: str | None, option: str, example: str) -> list[int] | None:
    """The integers of an option such as ``--at 5,10``."""
    from genrec_cli.errors import UsageError

    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        message = f"{option} takes whole numbers with commas, not '{text}'."
        raise UsageError(message, hint=f"For example: {option} {example}") from None

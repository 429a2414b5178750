"""Options that every stage shares, and the frame in which a command runs."""

import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact, Plan, Workspace

PANEL = "Common options"
COMMANDS: dict[str, Callable[..., Any]] = {}
"""Every command by its name, as a function of the shared options and its own; a stage's returns its artifact."""


@dataclass(frozen=True)
class Common:
    """The shared options of one call."""

    dataset: Annotated[
        str | None,
        typer.Option("--dataset", envvar="GENREC_DATASET", help="Data set. Default: the only one there is."),
    ] = None
    root: Annotated[Path, typer.Option("--root", envvar="GENREC_ROOT", help="Where artifacts live.")] = Path(
        "artifacts"
    )
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", help="TOML file of sections; repeatable, later files win."),
    ] = None
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, a TOML value; repeatable.", metavar="KEY=VALUE"),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Make it again even if it is up to date.")] = False
    allow_stale: Annotated[
        bool, typer.Option("--allow-stale", help="Use inputs that changed since; marks every later number.")
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only warnings and errors.")] = False

    def workspace(self) -> "Workspace":
        from genrec_cli.artifacts import Workspace

        return Workspace(self.root, allow_stale=self.allow_stale)

    def emit(self, facts: dict[str, Any], text: str | None = None) -> None:
        """The result of the command on stdout."""
        from genrec_cli import console

        console.emit(facts, text=text)

    def layers(
        self, command: str, named: dict[str, dict[str, Any]] | None = None, sections: Sequence[str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Merge ``--config`` files < ``--set`` < named options, for the sections that a command reads.

        Args:
            sections: where these are not all sections that the command can read.
        """
        from genrec_cli.config import READS, merge, parse_set, read_toml, refuse_foreign

        sections = READS.get(command, ()) if sections is None else sections
        assigned = parse_set(self.set_ or [])
        refuse_foreign(assigned, sections, command)
        merged = merge(*(read_toml(path) for path in self.config or []), assigned, named or {})
        return {name: values for name, values in merged.items() if name in sections}


class PlainHelp(typer.core.TyperCommand):
    """A command whose help keeps words in square brackets: rich reads them as markup unless they are escaped."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params if self.rich_markup_mode == "rich" else ():
            parameter.help = re.sub(r"\[(?=[a-z/@#])", r"\\[", getattr(parameter, "help", None) or "")
        super().format_help(ctx, formatter)


def several() -> bool:
    """Whether torchrun started this process as one of several."""
    return "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def command(
    app: typer.Typer, name: str, *, panel: str | None = None, distributed: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command whose function takes ``common`` first; the shared options are added to its own.

    Args:
        distributed: whether several processes can share its work (torchrun).
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        shared = {
            field: inspect.Parameter(
                field,
                inspect.Parameter.KEYWORD_ONLY,
                default=getattr(Common, field),
                annotation=_with_panel(annotation),
            )
            for field, annotation in Common.__annotations__.items()
        }
        own = [p for p in inspect.signature(function).parameters.values() if p.name != "common"]

        def run(**given: Any) -> None:
            common = Common(**{field: given.pop(field) for field in shared})
            _prepare(common, given)
            try:
                with _together(name, common, distributed):
                    function(common, **given)
            except BrokenPipeError:  # nobody reads what is printed any more: this is no failure, so nothing is said
                raise typer.Exit(130) from None
            except KeyboardInterrupt:  # a stage that can save something has said so by an error of its own
                from genrec_cli.errors import Interrupted

                hint = f"the same 'genrec {name}' again; what was finished before is kept"
                raise Interrupted(f"'genrec {name}' was stopped before it was done.", hint=hint) from None

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + list(shared.values())
        )
        app.command(name, cls=PlainHelp, rich_help_panel=panel, no_args_is_help=False)(run)
        COMMANDS[name] = function
        return function

    return register


def _together(name: str, common: Common, distributed: bool) -> AbstractContextManager[None]:
    """Joins the other processes, where torchrun started several."""
    if not several():
        return nullcontext()
    from genrec_cli.distributed import joined
    from genrec_cli.errors import UsageError

    if not distributed or common.dry_run:
        what = "A dry run" if distributed else f"'genrec {name}'"
        raise UsageError(f"{what} is work for one process.", hint="Type it without torchrun")
    return joined()


def make(
    common: Common,
    plan: "Plan",
    work: Callable[[], "Artifact | None"],
    *,
    forecast: Callable[[], dict[str, Any]] | None = None,
) -> "Artifact | None":
    """Run a stage's work unless it is done already; print the artifact's path or its JSON.

    ``work`` gives None in a process that only lends a hand: another one makes the artifact.
    ``forecast`` says what the work would take; a dry run asks it and adds its answer to the JSON.
    """
    from genrec_cli import console
    from genrec_cli.stages.taint import WARNING

    ws = common.workspace()
    stage = f"{plan.kind}/{plan.name}"
    done = None if common.force else ws.done(plan)
    if common.dry_run:
        state = "up to date" if done else "would be made"
        console.say(f"{stage}: {state}")
        told = {"schema": 1, "path": str(ws.path(plan)), "key": plan.key, "state": state, "config": plan.config}
        console.emit(told | ({"forecast": forecast()} if forecast and not done else {}), text=str(ws.path(plan)))
        return done
    if done:
        console.say(f"{stage}: up to date")
    artifact = done or work()
    if artifact is None:
        return None
    facts = {"schema": 1, "path": str(artifact.path), "key": artifact.key, "digest": artifact.digest}
    facts |= {"state": "up to date" if done else "made", "result": artifact.result}
    common.emit(facts, text=str(artifact.path))
    if artifact.tainted:
        console.warn(WARNING)
    return artifact


def _with_panel(annotation: Any) -> Any:
    annotation.__metadata__[0].rich_help_panel = PANEL
    return annotation


def _prepare(common: Common, given: Mapping[str, Any]) -> None:
    """Set up the console and refuse what no command can mean, before any work."""
    from genrec_cli import console
    from genrec_cli.config import check_device
    from genrec_cli.errors import UsageError

    console.configure(verbosity=0 if common.quiet else 2 if common.verbose else 1, as_json=common.json)
    check_device(given.get("device", "auto"))
    for name, value in {**vars(common), **given}.items():
        if value == "":
            raise UsageError(f"'{name}' is given as an empty text.", hint=f"Leave --{name.replace('_', '-')} out")
    if re.search(r"[*?\[\]]|^[^/]*:", str(common.root)):
        raise UsageError(f"--root {common.root} reads like a pattern or an address.", hint="Leave out * ? [ ] and :")
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def fail(error: Exception) -> int:
    """Print an error the way a person reads it, once for all processes, and return its exit code."""
    import traceback

    from genrec_cli.console import printable
    from genrec_cli.errors import GenrecError, of_memory, of_the_disk

    known = error if isinstance(error, GenrecError) else of_the_disk(error) or of_memory(error)
    code = known.exit_code if known else 1
    if several():
        from genrec_cli.distributed import prints_error

        if not prints_error():
            return code
    if known:
        lines = [known.message if code == 130 else f"error: {known.message}"]  # stopping is no failure
        lines += [f"  try: {known.hint}"] if known.hint else []
    else:
        lines = [*traceback.format_exception(error), "error: this is a bug in genrec; please report the lines above."]
    with suppress(OSError):  # nobody reads stderr any more
        print(printable("\n".join(line.rstrip("\n") for line in lines)), file=sys.stderr, flush=True)
    return code


def environment_default(name: str, fallback: str) -> str:
    """A default that an environment variable may set, such as ``GENREC_ENCODER``."""
    return os.environ.get(name) or fallback


def whole_numbers(text: str | None, option: str, example: str) -> list[int] | None:
    """The numbers of an option such as ``--at 5,10``."""
    from genrec_cli.errors import UsageError

    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        message = f"{option} takes whole numbers with commas, not '{text}'."
        raise UsageError(message, hint=f"For example: {option} {example}") from None

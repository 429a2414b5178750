"""What the user sees: talk on stderr, results on stdout, tables for people, ``--json`` for programs."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_state = {"verbosity": 1, "json": False}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def configure(*, verbosity: int = 1, as_json: bool = False) -> None:
    """Set how much is said: 0 only errors, 1 normal, 2 more. ``as_json`` keeps stdout for one object."""
    _state.update(verbosity=verbosity, json=as_json)


def json_mode() -> bool:
    return bool(_state["json"])


def printable(text: str) -> str:
    """The text with control characters and unpaired surrogates written as ``\\u001b``; tabs and line feeds stay.

    Titles, names and settings come from outside: printed raw they could move the cursor, colour the terminal or
    retype its title. In JSON this notation means the same character, so JSON stays JSON.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str, *, level: int = 1) -> None:
    """A line for the person watching, on stderr."""
    if _state["verbosity"] >= level:
        from tqdm import tqdm

        tqdm.write(printable(text), file=sys.stderr)


def warn(text: str) -> None:
    """Something that the user should know and may want to change; shown even with ``-q``."""
    say(f"warning: {text}", level=0)


def emit(value: Any, *, text: str | None = None) -> None:
    """The result on stdout: one JSON object with ``--json``, otherwise ``text`` (or nothing)."""
    if _state["json"]:
        unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
        print(printable(json.dumps(value, ensure_ascii=not unicode, default=str)), flush=True)
    elif text is not None:
        print(printable(text), flush=True)


def progress(items: Iterable[T] | None = None, *, desc: str = "", **options: Any) -> Any:
    """A tqdm bar on stderr; silent when stderr is no terminal, with ``-q`` or with ``--json``."""
    from tqdm import tqdm

    options["desc"] = printable(desc) or None

    silent = _state["verbosity"] < 1 or json_mode() or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb"
    return tqdm(items, disable=silent, file=sys.stderr, dynamic_ncols=True, leave=False, **options)


def user_bar(doing: str) -> Callable[[int], Any]:
    """Makes a bar over so many users, for a stage that finds their number out itself."""
    return lambda users: progress(total=users, unit="user", desc=doing)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, to_stdout: bool = False) -> None:
    """A table for people. Numbers stand right, text left. Not printed with ``--json``."""
    if json_mode() or (_state["verbosity"] < 1 and not to_stdout):
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    view = Table(
        title=Text(printable(title)) if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], (int, float)) or row[index] is None for row in rows)
        view.add_column(Text(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        view.add_row(*(Text(printable(cell(value))) for value in row))
    stream = sys.stdout if to_stdout else sys.stderr
    try:
        Console(file=stream, width=None if stream.isatty() else 160, highlight=False).print(view)
    except SystemExit:  # rich ends the process by itself, as a failure, when nobody reads what it prints
        raise BrokenPipeError from None


def cell(value: Any) -> str:
    """How a value stands in a table: thousands separated, metrics with four digits, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return str(value)


def rate(value: float) -> float:
    """A speed or cost as it is reported: whole from 100 on, below with three significant digits."""
    return round(value) if abs(value) >= 100 else float(f"{value:.3g}")


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The same table as Markdown text."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(printable(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    def lines() -> Iterator[str]:
        yield line(columns)
        yield line("---" for _ in columns)
        for row in rows:
            yield line(cell(value) for value in row)

    return "\n".join(lines()) + "\n"

"""What the user sees: talk on stderr, results on stdout, tables for people, ``--json`` for programs."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_state = {"verbosity": 1, "json": False}


def configure(*, verbosity: int = 1, as_json: bool = False) -> None:
    """Set how much is said: 0 only errors, 1 normal, 2 more. ``as_json`` keeps stdout for one object."""
    _state.update(verbosity=verbosity, json=as_json)


def json_mode() -> bool:
    return bool(_state["json"])


def say(text: str, *, level: int = 1) -> None:
    """A line for the person watching, on stderr."""
    if _state["verbosity"] >= level:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)


def warn(text: str) -> None:
    """Something that the user should know and may want to change; shown even with ``-q``."""
    say(f"warning: {text}", level=0)


def emit(value: Any, *, text: str | None = None) -> None:
    """The result on stdout: one JSON object with ``--json``, otherwise ``text`` (or nothing)."""
    if _state["json"]:
        print(json.dumps(value, ensure_ascii=False, default=str), flush=True)
    elif text is not None:
        print(text, flush=True)


def progress(items: Iterable[T] | None = None, **options: Any) -> Any:
    """A tqdm bar on stderr; silent when stderr is no terminal, with ``-q`` or with ``--json``."""
    from tqdm import tqdm

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
        title=Text(title) if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], (int, float)) or row[index] is None for row in rows)
        view.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        view.add_row(*(Text(cell(value)) for value in row))
    stream = sys.stdout if to_stdout else sys.stderr
    Console(file=stream, width=None if stream.isatty() else 160, highlight=False).print(view)


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
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    def lines() -> Iterator[str]:
        yield line(columns)
        yield line("---" for _ in columns)
        for row in rows:
            yield line(cell(value) for value in row)

    return "\n".join(lines()) + "\n"

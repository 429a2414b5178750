"""Output: messages and progress on stderr, results on stdout, tables for people, ``--json`` for programs."""

import contextlib
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
BOLD = "\0bold"
PROGRESS = "{percentage:3.0f}%|{bar:10}| {elapsed}<{remaining} {n_fmt}/{total_fmt} {rate_fmt} {desc}"

_state = {"verbosity": 1, "json": False, "python": False}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def configure(*, verbosity: int = 1, as_json: bool = False) -> None:
    """Set the verbosity (0 errors and warnings, 1 normal, 2 more) and whether stdout holds one JSON object."""
    _state.update(verbosity=verbosity, json=as_json)


@contextlib.contextmanager
def for_python(*, verbose: bool) -> Iterator[None]:
    """In calls from Python nothing is printed unless ``verbose``; warnings become those of Python."""
    before = dict(_state)
    _state.update(verbosity=1 if verbose else -1, json=False, python=True)
    try:
        yield
    finally:
        _state.update(before)


def printable(text: str) -> str:
    """The text with control characters, which could control the terminal, and unpaired surrogates as JSON escapes such
    as ``\\u001b``; tabs and line feeds are kept."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def say(text: str, *, level: int = 1) -> None:
    """Print a message to stderr."""
    if _state["verbosity"] >= level:
        from tqdm import tqdm

        tqdm.write(printable(text), file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning, also with ``-q``; in calls from Python it is a ``UserWarning``."""
    if _state["python"]:
        warnings.warn(printable(text), UserWarning, stacklevel=2)
    else:
        say(f"warning: {text}", level=0)


def emit(value: Any, *, text: str | None = None) -> None:
    """Print the result to stdout: one JSON object with ``--json``, otherwise ``text`` if given."""
    if _state["json"]:
        unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
        print(printable(json.dumps(value, ensure_ascii=not unicode, default=str)), flush=True)
    elif text is not None:
        print(printable(text), flush=True)


def progress(items: Iterable[T] | None = None, *, desc: str = "", **options: Any) -> Any:
    """A tqdm bar on stderr; disabled if stderr is no terminal, with ``-q`` and with ``--json``."""
    from tqdm import tqdm

    options["desc"] = printable(desc) or None
    if items is not None or options.get("total"):  # the time first, as a narrow terminal cuts the end
        options.setdefault("bar_format", PROGRESS)
    silent = _state["verbosity"] < 1 or _state["json"] or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb"
    return tqdm(items, disable=silent, file=sys.stderr, dynamic_ncols=True, leave=False, **options)


def user_bar(doing: str) -> Callable[[int], Any]:
    """A function from a count of users to a progress bar."""
    return lambda users: progress(total=users, unit="user", desc=doing)


def width(stream: Any = None) -> int:
    """Columns of the terminal of a stream (stdout); of a file or a pipe 160, or the variable ``COLUMNS``."""
    from rich.console import Console

    stream = stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() or "COLUMNS" in os.environ else 160).width


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, keys: int = 1, to_stdout: bool = False
) -> None:
    """Print a table, with numbers aligned to the right. Nothing is printed with ``--json``.

    A text that begins with :data:`BOLD` is bold in a terminal. If the terminal is too narrow, the columns are divided
    into blocks that repeat the first ``keys`` columns.
    """
    if _state["json"] or (_state["verbosity"] < 1 and not to_stdout):
        return
    from rich.console import Console
    from rich.text import Text

    from genrec_cli.console_table import Column, show

    def text_of(value: Any) -> Text:
        shown = cell(value)
        return Text(printable(shown.removeprefix(BOLD)), "bold" if shown.startswith(BOLD) else "")

    rows, stream = list(rows), sys.stdout if to_stdout else sys.stderr
    columns_X = []
    for index, name in enumerate(columns):
        values = [row[index] for row in rows]
        numeric = all(isinstance(value, (int, float)) or value is None for value in values)
        columns_X.append(Column(printable(name), [text_of(value) for value in values], numeric))
    try:
        show(Console(file=stream, width=width(stream), highlight=False), printable(title), columns_X, keys)
    except SystemExit:  # what rich does on a closed pipe
        raise BrokenPipeError from None


def cell(value: Any) -> str:
    """A value as text for a table: thousands separated, metrics with four digits, None as a dash."""
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
    """A speed or cost, rounded to three significant digits below 100 and to an integer above."""
    return round(value) if abs(value) >= 100 else float(f"{value:.3g}")


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as Markdown text."""
    lines = [columns, ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    escaped = ([printable(text).replace("|", "\\|").replace("\n", " ") for text in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)

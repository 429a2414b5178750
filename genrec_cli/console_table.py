"""Tables for a terminal of any width: texts wrap, then columns are divided into blocks, then rows become lines.

The first columns of a table name its rows, and every block repeats them. They are its keys.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2
"""Blanks between two columns."""
WRAPPED = 24
"""Width to which a column of texts with blanks may wrap."""


@dataclass(frozen=True)
class Column:
    """A column and its cells. ``numeric``: aligned to the right."""

    name: str
    cells: Sequence[Text]
    numeric: bool = False

    @property
    def widest(self) -> int:
        """The width of the longest cell."""
        return max((cell_len(line) for cell in self.cells for line in cell.plain.splitlines()), default=0)

    @property
    def full(self) -> int:
        """The width in which no cell wraps, and the name only after a comma."""
        return max([self.widest, *map(cell_len, _parts(self.name))])

    @property
    def least(self) -> int:
        """The width that the column needs: the name wraps between words, and so do texts."""
        texts = not self.numeric and any(" " in cell.plain for cell in self.cells)
        return max([min(self.widest, WRAPPED) if texts else self.widest, *map(cell_len, self.name.split())])


def show(console: Console, title: str, columns: Sequence[Column], keys: int = 1) -> None:
    """Print a table whose first ``keys`` columns name the rows."""
    if title:
        console.print(Text(title, "italic"))
    parts = blocks([column.least for column in columns], keys, console.width)
    if parts is None:
        console.print(_block(_as_lines(columns), console.width, wrap=True))
        return
    for number, part in enumerate(parts):
        if number:
            console.print()
        console.print(_block([columns[place] for place in part], console.width))


def blocks(width_X: Sequence[int], keys: int, limit: int) -> list[list[int]] | None:
    """The columns of each block: as few blocks as fit into ``limit``, and the narrowest of this number.

    None: a block of the keys and one other column is wider than the limit.
    """
    first, rest = list(range(keys)), list(range(keys, len(width_X)))
    if _total(width_X) <= limit:
        return [first + rest]
    narrowest = max((_total([*width_X[:keys], width_X[place]]) for place in rest), default=limit + 1)
    found = [_filled(width_X, first, rest, width) for width in range(narrowest, limit + 1)]
    return min(found, key=len, default=None)


def _filled(width_X: Sequence[int], first: list[int], rest: Sequence[int], limit: int) -> list[list[int]]:
    """Blocks that are filled one after the other, each after the columns ``first``."""
    parts = [[*first]]
    for place in rest:
        if _total([width_X[other] for other in [*parts[-1], place]]) > limit:
            parts.append([*first])
        parts[-1].append(place)
    return parts


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _as_lines(columns: Sequence[Column]) -> list[Column]:
    """Two columns: the name and the value of each cell, row after row with an empty line between."""
    names: list[Text] = []
    values: list[Text] = []
    for row in zip(*(column.cells for column in columns), strict=True):
        names += [*([Text("")] if names else []), *(Text(column.name) for column in columns)]
        values += [*([Text("")] if values else []), *row]
    return [Column("", names), Column("", values)]


def _parts(name: str) -> list[str]:
    """A name such as ``NDCG@10, seen left out`` as two lines."""
    return name.replace(", ", ",\n").splitlines() or [""]


def _block(columns: Sequence[Column], limit: int, *, wrap: bool = False) -> Table:
    squeezed = _total([column.full for column in columns]) > limit
    view = Table(box=None, pad_edge=False, header_style="bold", show_header=any(column.name for column in columns))
    for column in columns:
        width = max(column.least if squeezed else column.full, 1)
        name = Text("\n".join(textwrap.fill(part, width, break_long_words=False) for part in _parts(column.name)))
        fixed = column.widest <= column.least and not wrap
        view.add_column(name, justify="right" if column.numeric else "left", overflow="fold", no_wrap=fixed)
    for row in zip(*(column.cells for column in columns), strict=True):
        view.add_row(*row)
    return view

"""Python literals, as in Amazon's 2014 metadata (``{'asin': 'B00', 'title': "Dr. Scholl's"}``), read safely.

Nothing is ever evaluated. A simple line (outside of its strings only brackets, commas, colons and numbers; inside only
escapes that JSON has too) is requoted to JSON and read by the faster JSON parser. :func:`ast.literal_eval`, the slow
reference with the same results, reads every other line.
"""

import ast
import json
import re
import warnings
from typing import Any

LONGEST_SLOW = 2**20
"""Characters of the longest line for the slow parser: its syntax tree needs up to 500 bytes per character."""

_STRING = re.compile(r"""('[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")""")
_SIMPLE_OUTSIDE = re.compile(r"[{}\[\]:, \t\n0-9.eE+-]*")
_SPECIAL = re.compile(r'\\x([0-9a-fA-F]{2})|\\(.)|"')


def parse_literal(line: str) -> Any:
    """The value of a line. Raises :class:`ValueError` if it is not a literal, for example a call or a name."""
    text = _as_json(line)
    if text is not None:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass  # adjacent strings, a trailing comma, a tab in a string: valid in Python
    return parse_literal_slowly(line)


def parse_literal_slowly(line: str) -> Any:
    """The reference for the fast path: :func:`ast.literal_eval` alone."""
    if len(line) > LONGEST_SLOW:
        raise ValueError(f"not a plain literal and longer than {LONGEST_SLOW:,} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes such as '\d'
            return ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("not a Python literal") from None


def _as_json(line: str) -> str | None:
    """The JSON text of a simple line, or None."""
    if "\\" not in line:
        parts = line.split('"')  # outside and inside of "strings", unless a 'string' holds a "
        outside = parts[::2]
        if len(parts) % 2 and not any(part.count("'") % 2 for part in outside):
            if not _SIMPLE_OUTSIDE.fullmatch("".join("".join(part.split("'")[::2]) for part in outside)):
                return None
            parts[::2] = [part.replace("'", '"') for part in outside]
            return '"'.join(parts)
    parts = _STRING.split(line)
    if not _SIMPLE_OUTSIDE.fullmatch("".join(parts[::2])):
        return None
    try:
        parts[1::2] = [
            string.replace("'", '"') if '"' not in string and "\\" not in string else _requoted(string)
            for string in parts[1::2]
        ]
    except ValueError:
        return None
    return "".join(parts)


def _requoted(string: str) -> str:
    """A quoted Python string as a JSON string. Raises ValueError for an escape that JSON does not have."""
    return f'"{_SPECIAL.sub(_json_escape, string[1:-1])}"'


def _json_escape(match: re.Match[str]) -> str:
    code, letter = match.groups()
    if code:
        return f"\\u00{code}"
    if letter is None:
        return '\\"'
    if letter in '\\"nrtbf':
        return match[0]
    if letter == "'":
        return letter
    raise ValueError(f"left to the slow parser: {match[0]}")

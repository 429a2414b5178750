"""Histories and user ids from small files of the caller, for ``recommend``.

CSV or TSV with a header and the columns user and item (rows in order of time), or JSON lines such as
``{"user": "u1", "items": ["B00A", "B00B"]}``; also as gzip.
"""

from pathlib import Path
from typing import Any

from genrec_cli.errors import DataError, UsageError, refuse_special


def read_histories(path: Path) -> dict[str, list[str]]:
    """User -> raw item ids, oldest first. Errors name file and line."""
    from genrec_cli.sources.base import BadRows
    from genrec_cli.sources.json_lines import JsonLines
    from genrec_cli.sources.lines import read_blocks
    from genrec_cli.sources.logs import JSON_LINES
    from genrec_cli.sources.separated import Separated

    require_file(path)
    ending = Path(path.name.removesuffix(".gz")).suffix
    lines = ending in JSON_LINES
    hint = 'Each line is {"user": "u1", "items": ["B00A", "B00B"]}' if lines else "The header must be: user,item"
    reader = JsonLines() if lines else Separated(path, "\t" if ending == ".tsv" else ",")
    names = reader.columns(path)
    if not lines and sorted(name for name in names if name in ("user", "item")) != ["item", "user"]:
        raise DataError(f"{path} must have the columns user and item, once; it has: {', '.join(names)}.", hint=hint)
    bad, histories = BadRows(), dict[str, list[str]]()
    for line, values, reason in reader.records(read_blocks(path, bad)):
        items = values.get("items") if lines else [values.get("item")]
        ids = _ids([values.get("user"), *items]) if isinstance(items, list) else None
        if reason or ids is None:
            problem = reason or ("not a history" if lines else "user and item must both be given")
            raise DataError(
                f"{path}, line {line}: {problem}.", hint="Close every quote" if reason and not lines else hint
            )
        histories.setdefault(ids[0], []).extend(ids[1:])
    bad.check()
    if not histories:
        raise DataError(f"{path} holds no history.", hint=hint)
    return histories


def _ids(values: list[Any]) -> list[str] | None:
    """Values as ids, or None if one of them is not an id."""
    ids = [str(value).strip() if isinstance(value, str | int) else "" for value in values]
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return ids if all(ids) else None


def read_users(path: Path) -> list[str]:
    """Raw user ids, one per line."""
    return read_lines(path, "user id")


def read_lines(path: Path, noun: str) -> list[str]:
    """Raw ids, one per line; ``noun`` names them in errors."""
    require_file(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not readable text: {error}.", hint="Save it as UTF-8") from None
    if not (ids := [line.strip() for line in lines if line.strip()]):
        raise DataError(f"{path} holds no {noun}.", hint=f"Write one raw {noun} per line")
    return ids


def require_file(path: Path) -> None:
    """Raise an error for a missing file, a folder or a pipe."""
    refuse_special(path)
    if not path.exists():
        raise UsageError(f"{path} cannot be read: there is no such file.")

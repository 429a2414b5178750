"""Histories and user ids from a user's own small files, for ``recommend``.

CSV or TSV with a header and the columns user and item (rows in order of time), or JSON lines such as
``{"user": "u1", "items": ["B00A", "B00B"]}``.
"""

import csv
import json
from pathlib import Path

from genrec_cli.errors import DataError, UsageError, refuse_special


def read_histories(path: Path) -> dict[str, list[str]]:
    """User -> raw item ids, oldest first. Errors name file and line."""
    refuse_special(path)
    found: dict[str, list[str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:  # spreadsheets write a byte-order mark
            if path.suffix in (".jsonl", ".ndjson", ".json"):
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        user, items = _json_line(line, path, number)
                        found.setdefault(user, []).extend(items)
            else:
                reader = csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
                missing = {"user", "item"} - set(reader.fieldnames or [])
                if missing:
                    there = ", ".join(reader.fieldnames or ["nothing"])
                    raise DataError(
                        f"{path} has no column '{sorted(missing)[0]}'; it has: {there}.",
                        hint="The header must be: user,item",
                    )
                for row in reader:
                    user, item = ((row[name] or "").strip() for name in ("user", "item"))
                    if not user or not item:
                        raise DataError(f"{path}, line {reader.line_num}: user and item must both be given.")
                    found.setdefault(user, []).append(item)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num + 1}: not a valid record ({error}).",
            hint="Close every quote, or leave it out",
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not readable text: {error}.", hint="Save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    if not found:
        raise DataError(f"{path} holds no history.")
    return found


def _json_line(line: str, path: Path, number: int) -> tuple[str, list[str]]:
    try:
        value = json.loads(line)
        user, items = value["user"], value["items"]
        json.dumps([user, items], ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(
            f"{path}, line {number}: not a history.",
            hint='Each line is {"user": "u1", "items": ["B00A", "B00B"]}',
        ) from None
    if not isinstance(user, str | int):
        raise DataError(f"{path}, line {number}: 'user' must be a user id.")
    if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
        raise DataError(f"{path}, line {number}: 'items' must be a list of item ids.")
    return str(user).strip(), [str(item).strip() for item in items]


def read_users(path: Path) -> list[str]:
    """Raw user ids, one per line."""
    refuse_special(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not readable text: {error}.", hint="Save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    users = [line.strip() for line in lines if line.strip()]
    if not users:
        raise DataError(f"{path} holds no user id.", hint="Write one raw user id per line")
    return users

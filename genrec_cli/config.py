"""Strict, typed configuration: sections, TOML files, ``--set`` and canonical JSON.

A stage declares its sections as subclasses of :class:`Section`; the docstring under a field is its
help. Layers are merged in the order recipe < ``--config`` files < ``--set`` < named options, then
validated strictly: a key that does not exist or a value of another type is an error, never a guess.
"""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrec_cli.errors import ConfigError, UsageError

Layer = Mapping[str, Mapping[str, Any]]
"""Section name -> key -> value, as read from one source."""

READS: Mapping[str, tuple[str, ...]] = {
    "download": ("source",),
    "preprocess": ("preprocess", "source"),
    "tokenize": ("encoder", "tokenizer"),
    "train": ("model", "train", "curriculum", "noise", "search"),
    "evaluate": ("evaluate", "search"),
    "recommend": ("search",),
    "case-study": ("case_study",),
    "compare": ("compare",),
    "figures": ("figures",),
    "sweep": ("sweep", "encoder", "tokenizer", "model", "train", "curriculum", "noise", "search", "evaluate"),
}
"""Command -> the sections that it reads; a command that is not here reads none. Some read fewer, depending on what
they are given: ``preprocess`` reads ``source`` for your own files only, and ``train`` what its model reads."""
SECTIONS = frozenset({"recipe"}.union(*READS.values()))
"""Every section that any command reads. A file may hold all of them; a command takes its own.
``recipe`` and ``sweep`` belong to the commands ``run`` and ``sweep``: such a file is also a ``--config`` file."""


Count = Annotated[int, Field(ge=1, lt=2**31)]
"""A whole number of at least 1."""
Natural = Annotated[int, Field(ge=0, lt=2**31)]
"""A whole number of at least 0."""
Seed = Annotated[int, Field(ge=0, le=2_000_000_000)]
"""What every generator takes; FAISS's have 31 bits, and a little is added to it."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
"""A share or probability."""
Dropout = Annotated[float, Field(ge=0, lt=1)]

DEVICE = r"auto|(cpu|cuda|mps)(:[0-9]{1,3})?"
"""What names a device: a regular expression."""
MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 20
"""How deep the lists and tables of one setting may be nested."""


class Section(BaseModel):
    """A frozen group of settings. Subclass it; document each field by the string below it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


S = TypeVar("S", bound=Section)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. Keys and digests hash this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest known word, or an empty string. A setting's word may be a number."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """Read a configuration file of sections. Errors name the file."""
    content = read_document(path)
    for name, section in content.items():
        _check_section(name, where=str(path))
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: '{name}' must be a section: write [{name}] above its keys.")
    return content


def read_document(path: Path) -> dict[str, Any]:
    """Read a TOML file of any content. A pipe or device is refused: reading it could wait without end."""
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= MAX_FILE_BYTES):
            raise UsageError(f"{path} cannot be read: it is not a regular file of at most {MAX_FILE_BYTES:,} bytes.")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no configuration file {path}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # syntax, encoding, an integer of 5,000 digits; lists in lists
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None


def parse_set(assignments: Iterable[str]) -> dict[str, dict[str, Any]]:
    """``section.key=value`` words to a layer.

    The value is a TOML value. Anything else is text, as it was typed: whether the setting takes text, :func:`validate`
    decides by the setting's type. Text that begins like a string, list or table of TOML is a mistake in it.
    """
    layer: dict[str, dict[str, Any]] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and section and key):
            raise UsageError(f"--set takes section.key=value, not '{text}'.", hint="For example: --set train.lr=5e-4")
        _check_section(section, where="--set")
        layer.setdefault(section, {})[key] = _toml_value(value.strip(), text)
    return layer


def merge(*layers: Layer) -> dict[str, dict[str, Any]]:
    """Later layers win, key by key. ``None`` means 'not given' and never wins."""
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for name, section in layer.items():
            kept = {key: value for key, value in section.items() if value is not None}
            merged.setdefault(name, {}).update(kept)
    return merged


def validate(section: type[S], name: str, values: Mapping[str, Any]) -> S:
    """Build one section strictly. The error names ``section.key``, its value and what is allowed.

    A date is its text, as in ISO 8601: TOML reads one without quotes as a date.
    """
    values = {key: value.isoformat() if isinstance(value, date) else value for key, value in values.items()}
    for key, value in values.items():
        if not _is_plain(value):
            what = f"a finite number of at most 64 bits, text or list (given: {_brief(value)})"
            raise ConfigError(f"{name}.{key} must be {what}.")
    text = canonical_json(dict(values))
    try:
        return section.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([name, *(str(part) for part in first["loc"])])
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][-1])
            message = f"{where}: there is no such key.{did_you_mean(key, section.model_fields)}"
            raise ConfigError(message, hint=f"[{name}] has: {', '.join(section.model_fields) or 'no keys'}") from None
        given = "" if first["type"] == "missing" else f" (given: {_brief(first.get('input'))})"
        hint = f"Quote text: --set '{where}=\"TEXT\"'" if first["type"] == "string_type" else None
        raise ConfigError(f"{where}: {first['msg']}{given}.", hint=hint) from None


def check_device(name: str) -> None:
    """Refuse what cannot name a device, before torch is imported and before any work."""
    if not re.fullmatch(DEVICE, name):
        raise UsageError(f"There is no device '{name}'.", hint="--device takes auto, cpu, cuda or mps")


def refuse_foreign(layer: Layer, allowed: Iterable[str], command: str) -> None:
    """An explicit ``--set`` of a section that the command does not read is a mistake: say so."""
    allowed = list(allowed)
    for name in layer:
        if name not in allowed:
            raise UsageError(
                f"'genrec {command}' does not read the section '{name}'.",
                hint=f"It reads: {', '.join(allowed) or 'no settings'}",
            )


def _check_section(name: str, where: str) -> None:
    if name not in SECTIONS:
        raise ConfigError(
            f"{where}: there is no section '{name}'.{did_you_mean(name, SECTIONS)}",
            hint=f"Sections: {', '.join(sorted(SECTIONS))}",
        )


def _toml_value(value: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {value}")
        if list(parsed) == ["value"]:  # a second line could smuggle in a second key
            return parsed["value"]
    except (ValueError, RecursionError):
        if "\n" not in value and value[:1] not in "\"'[{":  # an empty text is in every text
            return value
    raise UsageError(f"--set {text}: '{value}' is not a TOML value.", hint='Quote text: key="a b"')


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value has a JSON form and later code can hold it: finite, 64 bits, no NUL in text, not deep."""
    if isinstance(value, list | tuple | dict):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return depth < MAX_DEPTH and all(_is_plain(part, depth + 1) for part in parts)
    if isinstance(value, str):
        return "\0" not in value
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < 2**63)


def _brief(value: Any) -> str:
    """A value as an error shows it, in at most 200 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python prints no integer of 5,000 digits
        return "a value too long to print"
    return text if len(text) <= 200 else f"{text[:200]}..."

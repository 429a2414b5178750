"""Typed settings: sections, TOML files, ``--set`` and canonical JSON.

A stage declares its sections as subclasses of :class:`Section`; the string under a field is its help. Later layers win:
recipe < ``--config`` files < ``--set`` < named options. An unknown key or a value of another type is an error.
"""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrec_cli.errors import ConfigError, UsageError

Layer = Mapping[str, Mapping[str, Any]]
"""Section -> key -> value, from one source."""

READS: Mapping[str, tuple[str, ...]] = {
    "download": ("source",),
    "preprocess": ("preprocess", "source"),
    "tokenize": ("encoder", "tokenizer", "behaviour"),
    "train": ("model", "train", "curriculum", "noise", "search"),
    "blend": ("blend",),
    "evaluate": ("evaluate", "search", "reconstruct"),
    "recommend": ("search",),
    "export": (),
    "case-study": ("case_study",),
    "compare": ("compare",),
    "figures": ("figures",),
    "report": ("report",),
    "table": (),
    "sweep": (
        "sweep",
        "preprocess",
        "encoder",
        "tokenizer",
        "behaviour",
        "model",
        "train",
        "curriculum",
        "noise",
        "search",
        "evaluate",
    ),
    "tune": ("tune", "encoder", "tokenizer", "behaviour", "model", "train", "curriculum", "noise", "search"),
}
"""Command -> the sections that it reads. ``preprocess`` reads ``source`` only with your own files, and ``train`` only
the sections that its model uses."""
SECTIONS = frozenset({"recipe"}.union(*READS.values()))
"""All sections. A ``--config`` file may hold any of them; a command takes those that it reads."""

Count = Annotated[int, Field(ge=1, lt=2**31)]
Natural = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, le=2_000_000_000)]
"""31 bits, as of FAISS, less small offsets."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]

MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 20
"""Of nested lists and tables in one setting."""


class Section(BaseModel):
    """A frozen group of settings; the string under a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


S = TypeVar("S", bound=Section)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, for hashes. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with the most similar known word; an empty string if none is similar."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """Read a TOML file of sections. Errors name the file."""
    for name, section in (content := read_document(path)).items():
        _check_section(name, where=str(path))
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: '{name}' must be a section: write [{name}] above its keys.")
    return content


def read_document(path: Path) -> dict[str, Any]:
    """Read a TOML file. Only a regular file is read, as reading a pipe may never end."""
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= MAX_FILE_BYTES):
            raise UsageError(f"{path} cannot be read: it is not a regular file of at most {MAX_FILE_BYTES:,} bytes.")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no configuration file {path}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits, deep lists
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None


def parse_set(assignments: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A layer from ``section.key=value`` words. The value is a TOML value or, if it is not one, text as typed."""
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
    """Merge layers key by key; later ones win, and None counts as not given."""
    merged: dict[str, dict[str, Any]] = {}
    for name, section in (item for layer in layers for item in layer.items()):
        given = {key: value for key, value in section.items() if value is not None}
        merged.setdefault(name, {}).update(given)
    return merged


def validate(section: type[S], name: str, values: Mapping[str, Any]) -> S:
    """Build a section. The ConfigError names ``section.key``, the value and what is allowed.

    TOML reads a date without quotes as a date; here it becomes text in ISO 8601.
    """
    values = {key: value.isoformat() if isinstance(value, date) else value for key, value in values.items()}
    for key, value in values.items():
        if not _is_plain(value):
            allowed = "a finite number of at most 64 bits, text or list"
            raise ConfigError(f"{name}.{key} must be {allowed} (given: {_brief(value)}).")
    try:
        return section.model_validate_json(canonical_json(values), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([name, *(str(part) for part in first["loc"])])
        if first["type"] == "extra_forbidden":
            message = f"{where}: there is no such key.{did_you_mean(first['loc'][-1], section.model_fields)}"
            raise ConfigError(message, hint=f"[{name}] has: {', '.join(section.model_fields) or 'no keys'}") from None
        given = "" if first["type"] == "missing" else f" (given: {_brief(first.get('input'))})"
        hint = f"Quote text: --set '{where}=\"TEXT\"'" if first["type"] == "string_type" else None
        raise ConfigError(f"{where}: {first['msg']}{given}.", hint=hint) from None


def check_device(name: str) -> None:
    """Refuse a name that is no device, before torch is imported."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps)(:[0-9]{1,3})?", name):
        raise UsageError(f"There is no device '{name}'.", hint="--device takes auto, cpu, cuda or mps")


def refuse_unread(layer: Layer, read: Collection[str], command: str) -> None:
    """Refuse a ``--set`` of a section that the command does not read."""
    for name in layer:
        if name not in read:
            hint = f"It reads: {', '.join(read) or 'no settings'}"
            raise UsageError(f"'genrec {command}' does not read the section '{name}'.", hint=hint)


def _check_section(name: str, where: str) -> None:
    if name not in SECTIONS:
        message = f"{where}: there is no section '{name}'.{did_you_mean(name, SECTIONS)}"
        raise ConfigError(message, hint=f"Sections: {', '.join(sorted(SECTIONS))}")


def _toml_value(value: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {value}")
        if list(parsed) == ["value"]:  # a line break in the value could add a key
            return parsed["value"]
    except (ValueError, RecursionError):
        if "\n" not in value and value[:1] not in "\"'[{":  # an empty text is a substring of all texts
            return value
    raise UsageError(f"--set {text}: '{value}' is not a TOML value.", hint='Quote text: key="a b"')


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value fits into JSON and 64 bits, has no NUL in text and is not nested deeply."""
    if isinstance(value, list | tuple | dict):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return depth < MAX_DEPTH and all(_is_plain(part, depth + 1) for part in parts)
    if isinstance(value, str):
        return "\0" not in value
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < 2**63)


def _brief(value: Any) -> str:
    """A value for an error message, in at most 200 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python prints no integer of 5,000 digits
        return "a value too long to print"
    return text if len(text) <= 200 else f"{text[:200]}..."

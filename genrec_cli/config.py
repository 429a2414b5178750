"""Strict, typed configuration: sections, TOML files, ``--set`` and canonical JSON.

A stage declares its sections as subclasses of :class:`Section`; the docstring under a field is its
help. Layers are merged in the order recipe < ``--config`` files < ``--set`` < named options, then
validated strictly: a key that does not exist or a value of another type is an error, never a guess.
"""

import difflib
import json
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
    "train": ("model", "train", "curriculum", "noise", "decoder"),
    "evaluate": ("evaluate", "decoder"),
    "recommend": ("decoder",),
    "case-study": ("case_study",),
    "compare": ("compare",),
    "figures": ("figures",),
    "sweep": ("sweep", "encoder", "tokenizer", "model", "train", "curriculum", "noise", "decoder", "evaluate"),
}
"""Command -> the sections that it reads; a command that is not here reads none. Some read fewer, depending on what
they are given: ``preprocess`` reads ``source`` for your own files only, and ``train`` what its model reads."""
SECTIONS = frozenset({"recipe"}.union(*READS.values()))
"""Every section that any command reads. A file may hold all of them; a command takes its own.
``recipe`` and ``sweep`` belong to the commands ``run`` and ``sweep``: such a file is also a ``--config`` file."""


Count = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""
Natural = Annotated[int, Field(ge=0)]
"""A whole number of at least 0."""
Seed = Annotated[int, Field(ge=0, le=2_000_000_000)]
"""What every generator takes; FAISS's have 31 bits, and a little is added to it."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
"""A share or probability."""
Dropout = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen group of settings. Subclass it; document each field by the string below it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


S = TypeVar("S", bound=Section)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. Keys and digests hash this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """Read a configuration file of sections. Errors name the file."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no configuration file {path}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    for name, section in content.items():
        _check_section(name, where=str(path))
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: '{name}' must be a section: write [{name}] above its keys.")
    return content


def parse_set(assignments: Iterable[str]) -> dict[str, dict[str, Any]]:
    """``section.key=value`` words to a layer. The value is a TOML value, or a bare word as a string."""
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
        try:
            canonical_json(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{name}.{key} must be a finite number, text or list (given: {value}).") from None
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
        given = "" if first["type"] == "missing" else f" (given: {first.get('input')!r})"
        raise ConfigError(f"{where}: {first['msg']}{given}.") from None


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
    except tomllib.TOMLDecodeError:
        if re.fullmatch(r"[A-Za-z_][\w./@+-]*", value):
            return value
    raise UsageError(f"--set {text}: '{value}' is not a TOML value.", hint='Quote text: key="a b"')

"""What the files of ``genrec run`` and ``genrec sweep`` have in common: lookup by name or path, and settings."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from genrec_cli.config import SECTIONS, did_you_mean, read_toml
from genrec_cli.errors import ConfigError, UsageError

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
SWEEPS = RECIPES / "sweeps"


def names(folder: Path) -> list[str]:
    """Names of the TOML files in a folder of the package."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def read_file(name: str, folder: Path, table: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The path and the sections of a file with a ``table``, by its name in ``folder`` or by its path.

    Raises UsageError if there is no such file, ConfigError if it is not valid TOML or lacks the table.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not name.endswith(".toml") and name not in (known := names(folder)):
        message = f"There is no {table} '{name}'.{did_you_mean(name, known)}"
        raise UsageError(message, hint=f"There are: {', '.join(known)}; or give a FILE.toml")
    content = read_toml(path)
    if table not in content:
        hint = "genrec run takes a [recipe], genrec sweep a [sweep], and --config FILE.toml any settings"
        raise ConfigError(f"{path} has no [{table}] table.", hint=hint)
    return path, content


def layer_of(settings: Mapping[str, Any], allowed: Collection[str], where: str) -> dict[str, dict[str, Any]]:
    """Settings as section -> key -> value, from ``{"train.lr": x}`` or ``{"train": {"lr": x}}``.

    Raises ConfigError for a name without a section, or with a section that is not in ``allowed``.
    """
    layer: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        section, dot, key = name.partition(".")
        if not dot and not isinstance(value, dict):
            raise ConfigError(f"{where}: write section.key, not '{name}'.", hint="For example: { train.lr = 5e-4 }")
        if section not in allowed:
            hint = f"Sections: {', '.join(allowed) or 'none'}"
            raise ConfigError(f"{where} cannot set '{section}'.{did_you_mean(section, SECTIONS)}", hint=hint)
        layer.setdefault(section, {}).update({key: value} if dot else value)
    return layer

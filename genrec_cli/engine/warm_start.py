"""Warm start and freezing: start a training from the weights of another run, and leave some parameters unchanged."""

from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from genrec_cli.engine.checkpoint import read_weights
from genrec_cli.errors import ConfigError


class WarmStart(NamedTuple):
    """What a warm start did, by parameter name."""

    loaded: list[str]
    kept: list[str]
    """Parameters that keep their own initialisation."""


def warm_start(model: nn.Module, path: Path, *, same_ids: bool) -> WarmStart:
    """Load the weights of a file that fit the model by name and shape.

    Args:
        same_ids: whether row i of a table means the same in both, so that the common leading rows of two tables of
            different length are loaded too. Extra rows, such as mask tokens, come last in all our tables.

    Raises:
        ConfigError: nothing fits.
    """
    given, loaded, kept = read_weights(path), [], []
    for name, own in model.named_parameters():
        found = given.get(name)
        if found is None or not _fits(found, own, same_ids):
            kept.append(name)
            continue
        rows = min(len(found), len(own)) if own.dim() else None
        own.data[:rows].copy_(found[:rows]) if own.dim() else own.data.copy_(found)
        loaded.append(name)
    if not loaded:
        raise ConfigError(
            f"No parameter of {path} fits this model by name and shape.",
            hint="--init-from takes a run of the same or a related model, with the same width and codes",
        )
    return WarmStart(loaded, kept)


def _fits(found: Tensor, own: Tensor, same_ids: bool) -> bool:
    if found.shape == own.shape:
        return True
    return same_ids and found.dim() == own.dim() == 2 and found.shape[1] == own.shape[1]


def freeze(model: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """Switch off the gradients of the parameters that match a pattern; returns their names.

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left to learn.
    """
    if not patterns:
        return []
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            first = ", ".join(dict.fromkeys(name.partition(".")[0] + ".*" for name in names))
            raise ConfigError(f"--freeze '{pattern}' matches no parameter.", hint=f"Parameters: {first}")
    frozen = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    if len(frozen) == len(names):
        raise ConfigError("--freeze leaves no parameter to learn.", hint="Freeze fewer parameters")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return frozen

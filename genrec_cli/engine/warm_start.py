"""Warm start and freezing: start a training from the weights of another run, and keep some parameters unchanged."""

from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from genrec_cli.engine.checkpoint import read_weights
from genrec_cli.errors import ConfigError
from genrec_cli.nn.codes import CodeEmbedding

OF_DATA = {"item", "user", "attribute", "free", "output"}
"""Names of tables whose rows are ids of the data: row i means nothing on other data."""


class WarmStart(NamedTuple):
    """The parameters that a warm start loaded, and those that keep their initial values, by name."""

    loaded: list[str]
    kept: list[str]


def warm_start(model: nn.Module, path: Path, *, same_ids: bool, same_data: bool = True) -> WarmStart:
    """Load the weights of a file that fit the model by name and shape; ConfigError if nothing fits.

    ``same_ids``: row i of a table means the same in both. Then the common leading rows of tables of different length
    are loaded too, without the special tokens that come last: those of another model mean something else. Without
    ``same_data`` tables of items, users and attributes keep their initial values.
    """
    weights, result = read_weights(path), WarmStart([], [])
    if not same_data:
        of_data = _of_data(model)
        weights = {name: weight for name, weight in weights.items() if name not in of_data}
    codes = ((name, part) for name, part in model.named_modules() if isinstance(part, CodeEmbedding))
    free = {f"{name}.table.weight": part.free for name, part in codes}
    for name, parameter in model.named_parameters():
        weight = weights.get(name)
        if weight is None or not _fits(weight, parameter, same_ids):
            result.kept.append(name)
            continue
        if weight.shape == parameter.shape:
            parameter.data.copy_(weight)
        else:
            rows = min(len(weight), len(parameter), free.get(name, len(weight)))
            parameter.data[:rows].copy_(weight[:rows])
        result.loaded.append(name)
    if not result.loaded:
        raise ConfigError(
            f"No parameter of {path} fits this model by name and shape.",
            hint="--init-from takes a run of the same or a related model, with the same width and codes",
        )
    return result


def _of_data(model: nn.Module) -> set[str]:
    """The names of the tables of ids of the data, and of the bias of each item."""
    tables = [name for name, part in model.named_modules() if isinstance(part, nn.Embedding)]
    return {"bias", *(f"{name}.weight" for name in tables if name.rpartition(".")[2] in OF_DATA)}


def _fits(weight: Tensor, parameter: Tensor, same_ids: bool) -> bool:
    tables = weight.dim() == parameter.dim() == 2 and weight.shape[1] == parameter.shape[1]
    return weight.shape == parameter.shape or (same_ids and tables)


def freeze(model: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """Switch off the gradients of the parameters that match a pattern; returns their names. ConfigError if a pattern
    matches nothing, or if no parameter is left to train."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            first = ", ".join(dict.fromkeys(name.partition(".")[0] + ".*" for name in names))
            raise ConfigError(f"--freeze '{pattern}' matches no parameter.", hint=f"Parameters: {first}")
    frozen = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    if frozen and len(frozen) == len(names):
        raise ConfigError("--freeze leaves no parameter to train.", hint="Freeze fewer parameters")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return frozen

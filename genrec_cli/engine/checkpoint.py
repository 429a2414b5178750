"""Checkpoints: one safetensors file that holds everything needed to go on with the same bits.

Weights, optimiser, random states and counters go into a single file that is replaced in one rename, so a
kill at any moment leaves the old checkpoint or the new one. No pickle anywhere.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from genrec_cli.errors import DataError
from genrec_cli.files import write_atomically

LAST = "unfinished/state.safetensors"
"""In the folder of an artifact that is dropped once it is finished: only going on needs it, and it is three times
the size of the weights."""
BEST = "model.safetensors"


def save_weights(path: Path, model: nn.Module, *, epoch: int | None = None) -> None:
    """Write a model's weights, and after which epoch they were so. One fact, as several come in no fixed order."""
    weights = {name: value.detach().contiguous().cpu() for name, value in model.state_dict().items()}
    facts = {"format": "pt"} if epoch is None else {"epoch": str(epoch)}
    write_atomically(path, save(weights, metadata=facts))


def epoch_of(path: Path) -> int | None:
    """After which epoch the weights of a file were so; None: it does not say."""
    with safe_open(path, framework="pt") as file:
        epoch = (file.metadata() or {}).get("epoch")
    return None if epoch is None else int(epoch)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a file by name, on the CPU."""
    return _read(path)[1]


def load_weights(path: Path, model: nn.Module) -> None:
    """Read weights that fit the model exactly. The error names the file and the first mismatch."""
    _fill(path, model, read_weights(path))


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    counters: dict[str, Any],
    random: dict[str, Tensor],
) -> None:
    """Write everything that training needs to go on.

    Args:
        random: random states by name, a row for each process.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors |= {f"random.{name}": state for name, state in random.items()}
    tensors = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    facts = {"counters": counters, "scaler": scaler.state_dict()}
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, save(tensors, metadata={"state": json.dumps(facts)}))


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Restore what :func:`save_state` wrote; returns the counters and the random states."""
    metadata, tensors = _read(path)
    try:
        facts = json.loads(metadata["state"])
        weights = {n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")}
        _fill(path, model, weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, moment = name.split(".", 2)
                moments.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        scaler.load_state_dict(facts["scaler"])
        random = {n.removeprefix("random."): v for n, v in tensors.items() if n.startswith("random.")}
        return dict(facts["counters"]), random
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{path} is not a checkpoint of this run: {error}.", hint="--force starts anew") from None


def read_counters(path: Path) -> dict[str, Any]:
    """The counters alone, of a state that may still be written to."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {})["state"])["counters"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", hint="Train again with --force") from None


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.", hint="Train again with --force") from None


def _fill(path: Path, model: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise DataError(f"{path} does not fit the model: {str(error).splitlines()[-1].strip()}") from None

"""Checkpoints: one safetensors file with the whole state of a training, without pickle.

The file is replaced in one rename, so that after a kill there is the old checkpoint or the new one.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from genrec_cli.engine.averaging import AveragedWeights
from genrec_cli.errors import DataError
from genrec_cli.files import write_atomically

LAST = "unfinished/state.safetensors"  # in a folder that is deleted once the artifact is finished
BEST = "model.safetensors"


def save_weights(path: Path, model: nn.Module, *, epoch: int | None = None) -> None:
    """Write a model's weights and the epoch that they are from."""
    # One entry: safetensors writes several in random order.
    metadata = {"format": "pt"} if epoch is None else {"epoch": str(epoch)}
    write_atomically(path, save(_on_host(model.state_dict()), metadata=metadata))


def epoch_of(path: Path) -> int | None:
    """The epoch that the weights of a file are from; None: the file does not say."""
    with _opened(path) as file:
        epoch = (file.metadata() or {}).get("epoch")
    return None if epoch is None else int(epoch)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a file by name, on the CPU."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def load_weights(path: Path, model: nn.Module) -> None:
    """Read weights that fit the model exactly. The error names the file and the first mismatch."""
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise DataError(f"{path} does not fit the model: {str(error).splitlines()[-1].strip()}") from None


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    counters: dict[str, Any],
    random: dict[str, Tensor],
    average: AveragedWeights | None = None,
) -> None:
    """Write the whole state of a training; ``random`` has random states by name, one row per process."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors |= {f"random.{name}": state for name, state in random.items()}
    if average:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    state = json.dumps({"counters": counters, "scaler": scaler.state_dict()})
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, save(_on_host(tensors), metadata={"state": state}))


def load_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    average: AveragedWeights | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Restore what :func:`save_state` wrote; returns the counters and the random states."""
    state, tensors = _state(path), read_weights(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}, "average": {}}
    try:
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        model.load_state_dict(parts["model"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        scaler.load_state_dict(state["scaler"])
        if average:
            average.load_state_dict(parts["average"])
        return dict(state["counters"]), parts["random"]
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).rpartition("\n")[2].strip()  # the first mismatch is the last line of torch's error
        raise DataError(f"{path} is not a checkpoint of this run: {reason}.", hint="--force starts anew") from None


def read_counters(path: Path) -> dict[str, Any]:
    """The counters of a checkpoint whose run may still be training."""
    return dict(_state(path)["counters"])


def _state(path: Path) -> dict[str, Any]:
    with _opened(path) as file:
        return json.loads((file.metadata() or {})["state"])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", hint="Train again with --force") from None


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous().cpu() for name, value in tensors.items()}

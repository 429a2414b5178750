"""What a training will take, before it starts: steps, memory and time, measured on a few real steps.

The loop that is measured takes the steps itself, so what is timed is what will run; it is of no use afterwards.
Nothing is written. How long a phase lasts is decided by validation, so the time is an upper limit: every epoch
that may belong to several phases is counted in the slowest of them.
"""

import itertools
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_cli.curriculum.phases import Curriculum, CurriculumState, Phase
from genrec_cli.data.sequences import eval_batches
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.graphs import FlatBatch
from genrec_cli.engine.loop import VALIDATION_BATCH, Loop
from genrec_cli.engine.optim import autocast, moment_bytes

MEASURE_SECONDS = 2.0
"""Over all phases together; at least one step of each is timed."""
MOST_STEPS = 30
"""Of a phase: fast steps are measured well enough by then."""


def estimate(loop: Loop) -> dict[str, Any]:
    """Steps, phases, parameters, memory (bytes) and time (seconds) of a run; plain values for JSON."""
    phases, config = loop.curriculum.phases, loop.config
    if loop.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(loop.device)
    seconds_of = [_seconds_a_step(loop, number, MEASURE_SECONDS / len(phases)) for number in range(len(phases))]
    validation = _seconds_of_validation(loop)
    epochs = loop.steps / len(loop.batches)
    told = [
        {
            "name": phase.name, "mask": phase.mask, "granularity": phase.granularity, "ratio": phase.ratio,
            "rules": rules(phase), "max_epochs": phase.max_epochs, "seconds_a_step": seconds,
            "seconds_an_epoch": seconds * len(loop.batches) + validation / config.eval_every,
        }
        for phase, (seconds, _) in zip(phases, seconds_of, strict=True)
    ]  # fmt: skip
    return {
        "rows": len(loop.batches.rows),
        "epochs": config.epochs,
        "steps_per_epoch": len(loop.batches),
        "steps": loop.steps,
        "warmup_steps": config.warmup_steps,
        "phases": told,
        "parameters": sum(p.numel() for p in loop.model.parameters() if p.requires_grad),
        "memory": memory(loop),
        "time": {
            "how": "measured",
            "on": _device(loop.device),
            "timed_steps": sum(steps for _, steps in seconds_of),
            "validation_seconds": validation,
            "at_most_seconds": longest([(t["seconds_an_epoch"], t["max_epochs"]) for t in told], epochs),
        },
    }


def longest(phases: list[tuple[float, int | None]], epochs: float) -> float:
    """The most seconds that so many epochs can take.

    Args:
        phases: seconds an epoch and the limit of epochs of each phase.
    """
    total = 0.0
    for seconds, limit in sorted(phases, key=lambda phase: -phase[0]):
        here = min(epochs, limit if limit is not None else epochs)
        total, epochs = total + here * seconds, epochs - here
    return total


def rules(phase: Phase) -> str:
    """A phase's ratio law and exit rule in words."""
    parts, law, until = [], phase.law, phase.until
    if law is not None:
        step = f"minus {law.step:.0%} of its start" if law.kind == "linear" else f"times {law.eta:g}"
        parts.append(f"ratio {step} after {law.on_plateau} stale evaluations")
    if until.plateau is not None:
        parts.append(f"until {until.plateau} stale evaluations")
    if until.ratio_at is not None:
        parts.append(f"until the ratio is {until.ratio_at:g}")
    if phase.max_epochs is not None:
        parts.append(f"at most {phase.max_epochs} epochs")
    return ", ".join(parts) or "to the end of the run"


def memory(loop: Loop) -> dict[str, Any]:
    """Bytes on the device: weights, gradients, the optimiser's moments, and the activations of one step.

    On CUDA ``peak`` is what the allocator really held during the measured steps; elsewhere it is the sum.
    """
    weights = sum(p.numel() * p.element_size() for p in loop.model.parameters() if p.requires_grad)
    moments = moment_bytes(loop.model, loop.config)
    found = {"weights": weights, "gradients": weights, "optimizer": moments, "activations": _saved_bytes(loop)}
    if loop.device.type == "cuda":
        return {**found, "peak": torch.cuda.max_memory_allocated(loop.device), "how": "measured"}
    return {**found, "peak": sum(found.values()), "how": "weights, gradients, moments and what a step keeps"}


def _saved_bytes(loop: Loop) -> int:
    """Bytes that the forward pass of one part of a step keeps for the gradient, each storage once."""
    own = {p.untyped_storage().data_ptr() for p in loop.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    _enter(loop, 0)
    order, size = loop.batches.rows.order(loop.config.seed, 0), loop.config.micro_batch_size or loop.config.batch_size
    first = loop.batches.rows.batch(loop.histories, order[:size])
    loop.model.train()
    batch, mask = loop.step.draw(first.to(loop.device))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = loop.step.losses(batch, mask)
    del losses
    return sum(kept.values())


def _seconds_a_step(loop: Loop, phase: int, limit: float) -> tuple[float, int]:
    """Seconds of one step in a phase, and over how many it was timed, after one that warms up."""
    _enter(loop, phase)
    loop.model.train()
    prepared = loop.batches.epoch(0, 0, len(loop.batches), captured=loop.step.capturable)
    first = next(prepared)
    loop.step(first, 0)
    _wait(loop.device)
    steps, began = 0, time.perf_counter()
    again = itertools.repeat(first)  # a new shape would be captured anew
    for batch in again if isinstance(first.parts, FlatBatch) else itertools.chain(prepared, again):
        loop.step(batch, 0)
        _wait(loop.device)
        steps, spent = steps + 1, time.perf_counter() - began
        if spent > limit or steps == MOST_STEPS:
            break
    prepared.close()
    return spent / steps, steps


def _seconds_of_validation(loop: Loop) -> float:
    """Seconds of one validation, from two batches of users of all lengths."""
    user, at = loop.histories.targets("valid")
    size = VALIDATION_BATCH.get(loop.device.type, 256)
    chosen = np.random.default_rng(0).permutation(len(user))[: 2 * size]
    config = loop.config
    batches = list(
        eval_batches(loop.histories, user[chosen], at[chosen], max_length=config.max_length, batch_size=size)
    )
    began = time.perf_counter()
    with autocast(loop.device, config.precision):
        evaluate(loop.make_ranker(), batches, loop.device)
    _wait(loop.device)
    spent = time.perf_counter() - began
    return spent / len(chosen) * min(len(user), config.valid_users or len(user))


def _enter(loop: Loop, phase: int) -> None:
    """Put a loop at the start of a phase."""
    loop.curriculum = Curriculum(loop.curriculum_config)
    loop.curriculum.state = CurriculumState(phase=phase, ratio=loop.curriculum.phases[phase].ratio)
    loop.step.sampler = loop.sampler()


def _wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type

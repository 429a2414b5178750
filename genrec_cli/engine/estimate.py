"""What a training will take: steps, memory and time, measured on a few real steps before it starts.

The measured loop must not be used afterwards. Validation decides how long a phase lasts, so the time is an upper limit:
an epoch that may belong to several phases counts for the slowest.
"""

import itertools
import math
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_cli.curriculum.phases import Curriculum, CurriculumState, Phase
from genrec_cli.data.sequences import eval_batches
from genrec_cli.engine.diagnosis import Finding, foreseen
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.graphs import FlatBatch
from genrec_cli.engine.loop import VALIDATION_BATCH, Loop
from genrec_cli.engine.optim import autocast

MEASURE_SECONDS = 2.0  # over all phases together; at least one step of each is timed
MAX_STEPS = 30  # timed steps per phase


def estimate(loop: Loop) -> dict[str, Any]:
    """Steps, phases, parameters, memory (bytes) and time (seconds) of a run; plain values for JSON."""
    phases, config, steps_per_epoch = loop.curriculum.phases, loop.config, len(loop.batches)
    if loop.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(loop.device)
    timed = [_seconds_per_step(loop, number, MEASURE_SECONDS / len(phases)) for number in range(len(phases))]
    validation = _seconds_per_validation(loop)
    epoch_seconds = [seconds * steps_per_epoch + validation / config.eval_every for seconds, _ in timed]
    limits = [phase.max_epochs for phase in phases]
    fields = {"name", "mask", "granularity", "ratio", "max_epochs"}
    phase_rows = [
        phase.model_dump(include=fields) | {"rules": rules(phase), "seconds_a_step": seconds, "seconds_an_epoch": epoch}
        for phase, (seconds, _), epoch in zip(phases, timed, epoch_seconds, strict=True)
    ]
    at_most = longest(list(zip(epoch_seconds, limits, strict=True)), loop.steps / steps_per_epoch)
    measured = {"how": "measured", "on": _device(loop.device), "timed_steps": sum(steps for _, steps in timed)}
    parameters = sum(p.numel() for p in loop.model.parameters() if p.requires_grad)
    steps = {"steps_per_epoch": steps_per_epoch, "steps": loop.steps, "warmup_steps": config.warmup_steps}
    result = {"rows": len(loop.batches.rows), "epochs": config.epochs, **steps, "phases": phase_rows}
    result |= {"parameters": parameters, "memory": memory(loop)}
    result |= {"warnings": [asdict(finding) for finding in expected_faults(loop)]}
    return result | {"time": {**measured, "validation_seconds": validation, "at_most_seconds": at_most}}


def expected_faults(loop: Loop) -> list[Finding]:
    """What will go wrong in a training, known before its first step."""
    config = loop.config
    return foreseen(
        loop.curriculum_config,
        steps=loop.steps,
        epochs=math.ceil(loop.steps / len(loop.batches)),
        warmup_steps=config.warmup_steps,
        every=config.eval_every,
    )


def longest(phases: list[tuple[float, int | None]], epochs: float) -> float:
    """The maximum of seconds that a count of epochs can take, from seconds per epoch and epoch limit of each phase."""
    total = 0.0
    for seconds, limit in sorted(phases, key=lambda phase: -phase[0]):
        spent = epochs if limit is None else min(epochs, limit)
        total, epochs = total + spent * seconds, epochs - spent
    return total


def rules(phase: Phase) -> str:
    """A phase's ratio law and exit rule in words."""
    law, until = phase.law, phase.until
    step = law and (f"minus {law.step:.0%} of its start" if law.kind == "linear" else f"times {law.eta:g}")
    parts = [
        law and f"ratio {step} after {law.on_plateau} stale evaluations",
        until.plateau and f"until {until.plateau} stale evaluations",
        None if until.ratio_at is None else f"until the ratio is {until.ratio_at:g}",
        phase.max_epochs and f"at most {phase.max_epochs} epochs",
    ]
    return ", ".join(str(part) for part in parts if part) or "to the end of the run"


def memory(loop: Loop) -> dict[str, Any]:
    """Bytes of weights, gradients, moments and averages (after a step), and activations of one step. On CUDA ``peak``
    is the allocator's maximum during the measured steps; elsewhere it is the sum."""
    weights = sum(p.numel() * p.element_size() for p in loop.model.parameters() if p.requires_grad)
    states = [state.items() for state in loop.step.optimizer.state.values()]
    moments = weights if loop.step.average else 0
    moments += sum(value.nbytes for state in states for name, value in state if name != "step")
    parts = {"weights": weights, "gradients": weights, "optimizer": moments, "activations": _saved_bytes(loop)}
    if loop.device.type == "cuda":
        return {**parts, "peak": torch.cuda.max_memory_allocated(loop.device), "how": "measured"}
    return {**parts, "peak": sum(parts.values()), "how": "weights, gradients, moments and activations of a step"}


def _saved_bytes(loop: Loop) -> int:
    """Bytes that one forward pass saves for the gradient, each storage once."""
    parameters = {p.untyped_storage().data_ptr() for p in loop.model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    _enter(loop, 0)
    rows = loop.batches.rows.order(loop.config.seed, 0)[: loop.config.micro_batch_size or loop.config.batch_size]
    batch, mask = loop.step.draw(loop.batches.rows.batch(loop.histories, rows).to(loop.device))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = loop.step.losses(batch, mask)
    del losses
    return sum(saved.values())


def _seconds_per_step(loop: Loop, phase: int, limit: float) -> tuple[float, int]:
    """Mean seconds per step in a phase and the count of timed steps, after one warm-up step."""
    _enter(loop, phase)
    prepared = loop.batches.epoch(0, 0, len(loop.batches), captured=loop.step.capturable)
    first = next(prepared)
    loop.step(first, 0)
    _synchronise(loop.device)
    steps, started = 0, time.perf_counter()
    repeated = itertools.repeat(first)  # a new shape would be captured anew
    for batch in repeated if isinstance(first.parts, FlatBatch) else itertools.chain(prepared, repeated):
        loop.step(batch, 0)
        _synchronise(loop.device)
        steps, spent = steps + 1, time.perf_counter() - started
        if spent > limit or steps == MAX_STEPS:
            break
    prepared.close()
    return spent / steps, steps


def _seconds_per_validation(loop: Loop) -> float:
    """Seconds of one validation, from two batches of users of all lengths."""
    config, size = loop.config, VALIDATION_BATCH.get(loop.device.type, 256)
    user, at = loop.histories.targets("valid")
    if len(user) == 0:
        return 0.0
    drawn = np.random.default_rng(0).permutation(len(user))[: 2 * size]
    known = eval_batches(loop.histories, user[drawn], at[drawn], max_length=config.max_length, batch_size=size)
    batches, started = list(known), time.perf_counter()
    with autocast(loop.device, config.precision):
        evaluate(loop.make_ranker(), batches, loop.device)
    _synchronise(loop.device)
    return (time.perf_counter() - started) / len(drawn) * min(len(user), config.valid_users or len(user))


def _enter(loop: Loop, phase: int) -> None:
    """Put a loop at the start of a phase."""
    loop.curriculum = Curriculum(loop.curriculum_config)
    loop.curriculum.state = CurriculumState(phase=phase, ratio=loop.curriculum.phases[phase].ratio)
    loop.step.sampler = loop.sampler()
    loop.model.train()


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type

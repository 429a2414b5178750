"""The optimiser, its learning-rate schedule, and precision."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn

from genrec_cli.config import Count, Natural, NonNegative, Positive, Section, Seed
from genrec_cli.data.sequences import Windows

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class TrainConfig(Section):
    """How to train: the optimiser, the batches, the validation."""

    epochs: Count = 150
    """Upper limit of passes over the training rows; the cosine runs over all of them."""
    max_steps: Count | None = None
    """Upper limit of optimiser steps, for a first look at large data; then the cosine runs over them."""
    batch_size: Count = 64
    """Training rows an optimiser step, over all devices and accumulation steps together."""
    micro_batch_size: Count | None = None
    """Rows that go through the model at once; smaller than the batch size accumulates gradients."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """adamw: every weight moves by about the rate in a step. adafactor (Shazeer and Stern, ICML 2018), T5's: by about
    the rate times the size (root mean square) of its tensor, the rate being at most 1/sqrt(step)."""
    lr: Positive = 5e-4
    """Peak learning rate."""
    weight_decay: NonNegative = 0.0
    """Decoupled, on matrices only."""
    warmup_steps: Natural = 1000
    """Steps of linear warm-up before the cosine."""
    clip: NonNegative = 1.0
    """Gradient norm; 0: no clipping."""
    precision: Precision = "fp32"
    """Of the matrix products; weights and optimiser stay in fp32. tf32 is fp32 where there is no CUDA."""
    seed: Seed = 0
    """Decides the start, the order of rows, dropout and masks."""
    max_length: Count = 50
    """T_max: items of a history that the model reads."""
    windows: Windows = "sliding"
    """sliding: every training item of a long history is a target (RPG); recent: only the last T_max (SASRec); each:
    every target is a row of its own (TIGER)."""
    stride: Count = 25
    """sliding: how many targets each window behind the first adds. 1 (RPG's own): each has T_max items before it, and
    a long history is read once a target; s: at least T_max - s + 1, in a s-th of the work."""
    metric: str = "NDCG@10"
    """What validation selects the best epoch by."""
    eval_every: Count = 1
    """Epochs between validations."""
    valid_users: Count | None = None
    """Validate on so many users, drawn once by the seed; none: all."""
    graphs: bool = True
    """Record steps as CUDA graphs, where there is CUDA, one process, one part a step, and a model that allows it."""
    graphs_of_masks: bool = False
    """Steps with masks or noise too (mhl, mdgr). Off, as no device has run them yet."""
    checkpoint_minutes: Positive = 5.0
    """Minutes between checkpoints within an epoch; one is always written after each epoch. It is in the key: with
    another one a training starts anew."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW in one fused kernel, or Adafactor; weight decay on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=config.lr)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def moment_bytes(model: nn.Module, config: TrainConfig) -> int:
    """What the optimiser keeps: AdamW two moments of each weight, Adafactor one of each row and column."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return sum(2 * p.numel() * p.element_size() for p in parameters)
    sizes = [(p.numel() // p.shape[-1] + p.numel() // p.shape[-2] if p.dim() > 1 else p.numel()) for p in parameters]
    return sum(size * p.element_size() for size, p in zip(sizes, parameters, strict=True))


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine to zero. ``step`` counts from 0.

    A pure function, so that resuming needs no state.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(total_steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min((step - config.warmup_steps) / span, 1.0)))


@contextmanager
def products_kept() -> Iterator[None]:
    """Leave the precision of matrix products as it was: it is the whole process's, which may evaluate later."""
    before = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Run matrix products in the named precision; those in TF32 until the next call, so gradients are taken in it."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision in ("fp32", "tf32"):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)

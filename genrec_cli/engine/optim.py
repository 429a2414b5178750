"""The optimiser, its learning-rate schedule, and precision."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from genrec_cli.config import Count, Natural, NonNegative, Positive, Section, Seed
from genrec_cli.data.sequences import Windows

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class TrainConfig(Section):
    """How to train: the optimiser, the batches, the validation."""

    epochs: Count = 150
    """Maximum of passes over the training rows; the cosine schedule covers all of them."""
    max_steps: Count | None = None
    """Maximum of optimiser steps, for a first look at large data; then the cosine schedule covers these steps."""
    batch_size: Count = 64
    """Training rows per optimiser step, over all devices and accumulation steps together."""
    micro_batch_size: Count | None = None
    """Rows per forward pass; a value below the batch size accumulates gradients."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """adamw: a step moves every weight by about the learning rate. adafactor (Shazeer and Stern, ICML 2018), as in T5:
    by about the learning rate, at most 1/sqrt(step), times the root mean square of the weight's tensor."""
    lr: Positive = 5e-4
    """Peak learning rate."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay, on matrices only."""
    warmup_steps: Natural = 1000
    """Steps of linear warm-up before the cosine."""
    clip: NonNegative = 1.0
    """Maximum norm of the gradient; 0: no clipping."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential moving average (EMA) of the weights, for example 0.999. The averages are
    validated and kept. 0: no average."""
    precision: Precision = "fp32"
    """Of matrix products; weights and optimiser stay in fp32. Without CUDA, tf32 is fp32."""
    seed: Seed = 0
    """Seed of the initial weights, the order of rows, dropout and masks."""
    max_length: Count = 50
    """T_max: the model reads at most this many items of a history."""
    windows: Windows = "sliding"
    """sliding: every training item of a long history is a target (RPG); recent: only the last T_max (SASRec); each:
    every target is a row of its own (TIGER)."""
    stride: Count = 25
    """sliding: count of targets that each later window adds. 1 (as in RPG): each target has T_max items before
    it, and a long history is read once per target. s: at least T_max - s + 1 items, and about 1/s of the work."""
    metric: str = "NDCG@10"
    """The validation metric that selects the best epoch; "NDCG@10, seen left out" ranks without the items of the
    history, as ``recommend`` does."""
    eval_every: Count = 1
    """Epochs between validations."""
    valid_users: Count | None = None
    """Count of users to validate on; none: all."""
    valid_seed: Seed = 0
    """Seed by which these users are drawn. It is not ``seed``, so that runs with other seeds validate on the same
    users."""
    select: Literal["metric", "last"] = "metric"
    """metric: keep the weights of the best epoch by validation; last: those of the last epoch, for pre-training."""
    freeze: tuple[str, ...] = ()
    """Parameters that training does not change, by name patterns such as "backbone.*"."""
    graphs: bool = True
    """Capture steps without masks as CUDA graphs. Needs CUDA, one process, no accumulation, and a capturable model."""
    checkpoint_minutes: Positive = 5.0
    """Minutes between checkpoints within an epoch; each epoch also ends with one. Part of the key: with another value a
    training starts anew."""


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


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine to zero; a pure function of the step (from 0), so that resuming needs no
    state."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(total_steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min((step - config.warmup_steps) / span, 1.0)))


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Run matrix products in a precision. TF32 stays on until the next call, so that gradients use it too."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision in ("fp32", "tf32"):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)

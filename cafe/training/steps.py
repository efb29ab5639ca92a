"""The optimiser steps of one stacked group: one by one from Python, or recorded once and replayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.training.optimizers import Update, make_update

# Steps whose batches are drawn at once.
DRAWN_STEPS = 256

Step = Callable[[dict[str, Tensor], Tensor, bool], tuple[Tensor | None, dict[str, Tensor]]]


@dataclass(frozen=True)
class Configuration:
    """One fit.

    Attributes
    ----------
    rows : ndarray of shape (n,), int64
        Rows of X and y to train on.
    random_state : int
        Seed of initial weights and batch order.
    shape : hashable
        Whatever the objective needs configurations to share.
    hyper : mapping of str to float
        Numbers that may differ within a group, such as ``alpha`` and ``logit_scale``.
    steps : int
        Optimiser steps.
    batch_size : int
        Rows of a step; at most n are used.
    lr, weight_decay : float
        Peak learning rate of the cosine schedule; decay as the optimiser defines it.
    optimizer : str
        ``"adamw"`` or ``"sgd"`` (momentum 0.9).
    warmup_steps : int, default=0
        Steps at a constant 1e-5 before the cosine starts (CoOp's schedule).
    eps : float, default=1e-8
        AdamW's; Tip-Adapter-F has 1e-4.
    """

    rows: NDArray[np.int64]
    random_state: int
    shape: Hashable
    hyper: Mapping[str, float]
    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: str
    warmup_steps: int = 0
    eps: float = 1e-8


def one_by_one(
    take: Step,
    first: Configuration,
    parameters: dict[str, Tensor],
    batches: Iterator[Tensor],
    lr: Tensor,
    decay: Tensor,
) -> Tensor:
    """Train parameters in place, and return the mean losses (g,) over the last tenth of the steps."""
    update: Update = make_update(first.optimizer, parameters, decay, first.eps)
    factor = schedule(first.steps, first.warmup_steps)
    tail = torch.zeros_like(lr)
    tail_start = first.steps - _tail(first.steps)
    for step in range(first.steps):
        if step % DRAWN_STEPS == 0:
            drawn = next(batches).to(lr.device)  # (g, DRAWN_STEPS or the rest, b)
        losses, gradients = take(parameters, drawn[:, step % DRAWN_STEPS], step >= tail_start)
        update(parameters, gradients, factor(step, lr))
        if step >= tail_start and losses is not None:
            tail += losses.to(tail.dtype)
    return tail.div_(first.steps - tail_start)


def replayed(
    take: Step,
    first: Configuration,
    parameters: dict[str, Tensor],
    batches: Iterator[Tensor],
    lr: Tensor,
    decay: Tensor,
) -> Tensor:
    """Do the same with steps that are recorded once and replayed."""
    from cafe.kernels.graph_capture import replay_steps
    from cafe.kernels.triton_update import TritonUpdate

    update = TritonUpdate(first.optimizer, parameters, decay, first.steps, first.eps)
    factor, peak = schedule(first.steps, first.warmup_steps), lr.cpu()
    rates = torch.stack([factor(step, peak) for step in range(first.steps)]).to(lr.device)
    return replay_steps(take, update, parameters, batches, rates, _tail(first.steps))


def _tail(steps: int) -> int:
    """Return how many steps the reported loss is over."""
    return max(1, steps // 10)


def schedule(steps: int, warmup_steps: int) -> Callable[[int, Tensor], Tensor]:
    """Cosine from the peak to zero, after a warm-up at a constant 1e-5 (Dassl's ConstantWarmupScheduler)."""

    def learning_rate(step: int, peak: Tensor) -> Tensor:
        if step < warmup_steps:
            return torch.full_like(peak, 1e-5)
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
        return peak * (0.5 * (1 + math.cos(math.pi * progress)))

    return learning_rate

"""The optimiser steps of one stack: one by one from Python, or recorded once and replayed.

Recorded steps are a CUDA graph on CUDA, and the step called again elsewhere. What differs between them is read from
memory on the device, at a counter that the step itself moves on:

    index  = batches[:, at]        batches are copied in blocks of many steps
    rates  = schedule[done]        the learning rates of every step are a table
    tail  += losses share[done]    share is 1 / (steps of the tail) there, 0 before

so that replaying needs nothing from the host, and the host waits for nothing. The CUDA part has never run on a GPU;
the rest is tested on a CPU, where recording is running the step once, undoing it, and returning it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.kernels.optimizers import make_update

# Runs before capture: the first compiles kernels and makes buffers, the others let libraries choose theirs.
WARM_UPS = 3

Step = Callable[[dict[str, Tensor], Tensor, bool], tuple[Tensor | None, dict[str, Tensor]]]
Body = Callable[[], None]
Record = Callable[[Body, Sequence[Tensor]], Body]


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


def tail_length(steps: int) -> int:
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


@dataclass(frozen=True)
class Batch:
    """What one step of a stack of g configurations computes its losses from.

    Attributes
    ----------
    shape : hashable
        Of the configurations; they share it.
    parameters : dict of str to Tensor of shape (g, ...)
        Trained.
    hyper : dict of str to Tensor of shape (g,)
        Numbers that differ among the configurations.
    features : Tensor of shape (g, b, d)
        Of each configuration's rows.
    labels : Tensor of shape (g, b), int64
        Their class rows.
    feature_mean : Tensor of shape (g, 1, d)
        Mean training feature of each configuration.
    """

    shape: Any
    parameters: dict[str, Tensor]
    hyper: dict[str, Tensor]
    features: Tensor
    labels: Tensor
    feature_mean: Tensor


def one_by_one(
    take: Step,
    first: Configuration,
    parameters: dict[str, Tensor],
    blocks: Iterable[Tensor],
    lr: Tensor,
    decay: Tensor,
) -> Tensor:
    """Train parameters in place, and return the mean losses (g,) over the last tenth of the steps.

    Parameters
    ----------
    take : callable
        Returns losses and gradients of one step.
    first : Configuration
        Any one of the group, which share everything that is read from it.
    parameters : dict of str to Tensor of shape (g, ...)
        Trained in place.
    blocks : iterable of Tensor of shape (g, some steps, b), int64
        Rows of every step's batch, on the CPU, in order.
    lr, decay : Tensor of shape (g,)
        Peak learning rates and weight decays.
    """
    update = make_update(first.optimizer, parameters, decay, first.eps)
    factor = schedule(first.steps, first.warmup_steps)
    tail = torch.zeros_like(lr)
    tail_start = first.steps - tail_length(first.steps)
    batches = (index for block in blocks for index in block.to(lr.device).unbind(1))  # (g, b) each
    for step, index in enumerate(batches):
        losses, gradients = take(parameters, index, step >= tail_start)
        update(parameters, gradients, factor(step, lr))
        if step >= tail_start and losses is not None:
            tail += losses.to(tail.dtype)
    return tail.div_(first.steps - tail_start)


def replayed(
    take: Step,
    first: Configuration,
    parameters: dict[str, Tensor],
    blocks: Iterable[Tensor],
    lr: Tensor,
    decay: Tensor,
) -> Tensor:
    """Do what :func:`one_by_one` does with steps that are recorded once and replayed; arguments as there."""
    from cafe.kernels.triton_optimizers import TritonUpdate

    update = TritonUpdate(first.optimizer, parameters, decay, first.steps, first.eps)
    factor, peak = schedule(first.steps, first.warmup_steps), lr.cpu()
    rates = torch.stack([factor(step, peak) for step in range(first.steps)]).to(lr.device)
    return replay_steps(take, update, parameters, blocks, rates, tail_length(first.steps))


class DeviceUpdate(Protocol):
    """An optimiser that counts its steps on the device, such as ``kernels.triton_optimizers.TritonUpdate``."""

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes, beside the parameters."""

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Tensor) -> None:
        """Take one step."""


def replay_steps(
    take: Step,
    update: DeviceUpdate,
    parameters: dict[str, Tensor],
    blocks: Iterable[Tensor],
    rates: Tensor,
    tail_steps: int,
    record: Record | None = None,
) -> Tensor:
    """Take all steps of a group, and return the mean losses (g,) over the last ``tail_steps`` of them.

    Parameters
    ----------
    take : callable
        As for :func:`one_by_one`; always given the same tensors.
    update : DeviceUpdate
        The optimiser.
    parameters : dict of str to Tensor of shape (g, ...)
        Trained in place.
    blocks : iterable of Tensor of shape (g, steps, b), int64
        Batches of rows, on the CPU, in order; none longer than the first.
    rates : Tensor of shape (steps, g)
        Learning rates, on the device.
    tail_steps : int
        How many steps the returned loss is over.
    record : callable, default=None
        Makes a replay of a step; None for a CUDA graph on CUDA, else :func:`record_by_calling`.
    """
    steps, g = rates.shape
    device = rates.device
    share = torch.zeros(steps, dtype=rates.dtype, device=device)
    share[steps - tail_steps :] = 1 / tail_steps
    at, done = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
    tail = torch.zeros(g, dtype=rates.dtype, device=device)
    batches: Tensor = torch.empty(0)

    def body() -> None:
        losses, gradients = take(parameters, batches.index_select(1, at)[:, 0], True)
        update(parameters, gradients, rates.index_select(0, done)[0])
        if losses is not None:
            tail.add_(losses.to(tail.dtype) * share.index_select(0, done))
        at.add_(1)
        done.add_(1)

    on_cuda = device.type == "cuda"
    if record is None:
        record = record_on_cuda if on_cuda else record_by_calling
    replay: Body | None = None
    with torch.cuda.device(device) if on_cuda else nullcontext():
        for block in blocks:
            if replay is None:
                batches = torch.zeros_like(block, device=device)
            # From pinned memory, or the copy would wait.
            batches[:, : block.shape[1]].copy_(block.pin_memory() if on_cuda else block, non_blocking=True)
            if replay is None:
                replay = record(body, [*parameters.values(), *update.state(), at, done, tail])
            at.zero_()
            for _ in range(block.shape[1]):
                replay()
        if on_cuda:
            torch.cuda.current_stream().synchronize()  # once, at the end: the graph goes when this returns
    return tail


def record_by_calling(body: Body, state: Sequence[Tensor]) -> Body:
    """Run the step once, undo it, and return it: what a CUDA graph does, without one."""
    _undone(body, state)
    return body


def record_on_cuda(body: Body, state: Sequence[Tensor]) -> Body:
    """Warm the step up on a stream of its own, undo that, capture it in a CUDA graph, and return its replay.

    Source: PyTorch's notes on CUDA graphs, "whole-network capture": warm up on a side stream, then capture.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        _undone(body, state, WARM_UPS)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


def _undone(body: Body, state: Sequence[Tensor], times: int = 1) -> None:
    """Run the step and put every tensor that it changes back, each time."""
    before = [value.clone() for value in state]
    for _ in range(times):
        body()
        for value, old in zip(state, before, strict=True):
            value.copy_(old)

"""The optimiser steps of one stack: one by one from Python, or recorded once and replayed.

Recorded steps are a CUDA graph on CUDA, and the step called again elsewhere. What differs between them is read from
memory on the device, at a counter that the step itself moves on:

    index  = batches[:, at]        batches are copied in blocks of many steps
    rates  = schedule[done]        the learning rates of every step are a table
    tail  += losses share[done]    share is 1 / (steps of the tail) there, 0 before

so that replaying needs nothing from the host, and the host waits for nothing (:class:`Tables`). Stacks of one form are
trained by one recording (recordings.py). The CUDA part has never run on a GPU; the rest is tested on a CPU, where
recorded steps are the steps themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.compute import capture_stream, leave_if_given_up
from cafe.kernels.optimizers import Update, make_update

# Runs before capture: it compiles kernels, makes buffers and lets libraries choose theirs.
WARM_UPS = 1
# Steps of one graph: its launch costs some microseconds, and each step then a sixteenth of it.
GRAPH_STEPS = 16
# Steps of a fit below which recording (a run, its capture and the graph's instantiation, some milliseconds) costs more
# than the launches that it saves, about a third of a millisecond a step. An estimate: no GPU was at hand.
LEAST_FOR_GRAPH = 64

Step = Callable[[dict[str, Tensor], Tensor, bool], tuple[Tensor | None, dict[str, Tensor]]]
Body = Callable[[], None]
Record = Callable[[Body, Sequence[Tensor]], Body]


@dataclass(frozen=True)
class Configuration:
    """The settings of one fit.

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
    """The inputs from which one step of a stack of g configurations computes its losses.

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


def learning_rates(steps: int, warmup_steps: int, peak: Tensor) -> Tensor:
    """Return :func:`schedule` of every step at once, (steps, g), on the device of the peaks (g,)."""
    factors = [
        0.5 * (1 + math.cos(math.pi * ((step - warmup_steps) / max(1, steps - warmup_steps))))
        for step in range(warmup_steps, steps)
    ]
    rates = torch.tensor(factors, dtype=torch.float64).to(peak)[:, None] * peak
    return torch.cat([peak.new_full((min(steps, warmup_steps), len(peak)), 1e-5), rates])


def drawn_ahead(blocks: Iterable[Tensor], pin: bool) -> Iterator[Tensor]:
    """Yield blocks of batches, each drawn by another thread while the one before is used; pinned for CUDA's copies."""
    source = iter(blocks)

    def draw() -> Tensor | None:
        block = next(source, None)
        return block.pin_memory() if pin and block is not None else block

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(draw)
        while (block := waiting.result()) is not None:
            waiting = thread.submit(draw)
            yield block


def train_step_by_step(
    take: Step,
    first: Configuration,
    parameters: dict[str, Tensor],
    blocks: Iterable[Tensor],
    lr: Tensor,
    decay: Tensor,
) -> Tensor:
    """Train g stacked fits in place, a step after another; return mean losses (g,) of the last tenth of the steps.

    Parameters
    ----------
    take : callable
        Returns losses and gradients of one step; may have an optimiser of its own, ``make_update``, whose arguments
        are those of :func:`cafe.kernels.optimizers.make_update`.
    first : Configuration
        Any configuration of the stack; all share its steps, warm-up and optimizer.
    parameters : dict of str to Tensor of shape (g, ...)
        Trained in place.
    blocks : iterable of Tensor of shape (g, some steps, b), int64
        Rows of every step's batch, on the CPU, in order.
    lr, decay : Tensor of shape (g,)
        Peak learning rates and weight decays.
    """
    update: Update = getattr(take, "make_update", make_update)(first.optimizer, parameters, decay, first.eps)
    rates = learning_rates(first.steps, first.warmup_steps, lr)  # (steps, g)
    tail = torch.zeros_like(lr)
    tail_start = first.steps - tail_length(first.steps)
    if lr.device.type == "cuda":
        blocks = drawn_ahead(blocks, True)
    batches = (index for block in blocks for index in block.to(lr.device, non_blocking=True).unbind(1))  # (g, b) each
    each_rates = rates.tolist() if update.takes_numbers else rates
    for step, index in enumerate(batches):
        leave_if_given_up()
        losses, gradients = take(parameters, index, step >= tail_start)
        update(parameters, gradients, each_rates[step])
        if step >= tail_start and losses is not None:
            tail += losses.to(tail.dtype)
    return tail.div_(first.steps - tail_start)


class DeviceUpdate(Protocol):
    """An optimiser that counts its steps on the device, such as ``kernels.cuda.optimizers.TritonUpdate``."""

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes, beside the parameters."""

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Tensor) -> None:
        """Take one step."""


@dataclass(frozen=True)
class Tables:
    """What differs between the steps of a recording, on the device: a step reads its own at the counters.

    Attributes
    ----------
    batches : Tensor of shape (g, some steps, b), int64
        Rows of the batches of a block of steps.
    rates : Tensor of shape (steps, g)
        Learning rates of all steps.
    share : Tensor of shape (steps,)
        Weight of each step's losses in ``tail``.
    at, done : Tensor of shape (1,), int64
        The next batch of the block, and how many steps were taken.
    tail : Tensor of shape (g,)
        Sum of the weighted losses.
    """

    batches: Tensor
    rates: Tensor
    share: Tensor
    at: Tensor
    done: Tensor
    tail: Tensor


class WholeStep(Protocol):
    """A step from the batch's rows to updated parameters, which never waits for its device."""

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes, beside parameters and tables."""

    def restart(self) -> None:
        """Start again from the parameters' present values, with moments of zero."""

    def __call__(self, tables: Tables) -> None:
        """Take the step that the counters say, add its weighted losses to ``tail``, and move the counters on."""


class LossThenUpdate:
    """A whole step of two: losses and gradients, then an optimiser.

    Parameters
    ----------
    take : callable
        As for :func:`train_step_by_step`; always given the same tensors.
    update : DeviceUpdate
        The optimiser.
    parameters : dict of str to Tensor of shape (g, ...)
        Trained in place.
    """

    def __init__(self, take: Step, update: DeviceUpdate, parameters: dict[str, Tensor]) -> None:
        self.take, self.update, self.parameters = take, update, parameters

    def state(self) -> list[Tensor]:
        """Return the optimiser's."""
        return self.update.state()

    def restart(self) -> None:
        """Set the optimiser's state to zero."""
        for value in self.update.state():
            value.zero_()

    def __call__(self, tables: Tables) -> None:
        """Take one step."""
        losses, gradients = self.take(self.parameters, tables.batches.index_select(1, tables.at)[:, 0], True)
        self.update(self.parameters, gradients, tables.rates.index_select(0, tables.done)[0])
        if losses is not None:
            tables.tail.add_(losses.to(tables.tail.dtype) * tables.share.index_select(0, tables.done))
        tables.at.add_(1)
        tables.done.add_(1)


def whole_step(
    take: Any, optimizer: str, parameters: dict[str, Tensor], decay: Tensor, steps: int, eps: float
) -> WholeStep:
    """Return the whole step of an objective's step: its own (a method of this name), or with Triton's optimiser."""
    own = getattr(take, "whole_step", None)
    if own is not None:
        step: WholeStep = own(optimizer, parameters, decay, steps, eps)
        return step
    from cafe.kernels.cuda.optimizers import TritonUpdate

    return LossThenUpdate(take, TritonUpdate(optimizer, parameters, decay, steps, eps), parameters)


class RecordedSteps:
    """Steps of a stack that are recorded once, several together and one alone, and replayed.

    Parameters
    ----------
    step : WholeStep
        Always given the same tensors.
    parameters : dict of str to Tensor of shape (g, ...)
        What it trains in place.
    rates : Tensor of shape (steps, g)
        Learning rates, on the device.
    tail_steps : int
        How many steps the returned loss is over.
    record : callable, default=None
        Makes a replay of some steps; None for a CUDA graph on CUDA, else :func:`record_by_calling`.
    graph_steps : int, default=GRAPH_STEPS
        Steps that are recorded together.
    """

    def __init__(
        self,
        step: WholeStep,
        parameters: dict[str, Tensor],
        rates: Tensor,
        tail_steps: int,
        record: Record | None = None,
        graph_steps: int = GRAPH_STEPS,
    ) -> None:
        self.graph_steps = graph_steps
        self.step, self.parameters, self.rates = step, parameters, rates
        (steps, g), self.device = rates.shape, rates.device
        self.share = torch.zeros(steps, dtype=rates.dtype, device=self.device)
        self.share[steps - tail_steps :] = 1 / tail_steps
        self.at, self.done = (torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(2))
        self.tail = torch.zeros(g, dtype=rates.dtype, device=self.device)
        self.tables: Tables | None = None  # with the first block of batches
        self.on_cuda = self.device.type == "cuda"
        self.record = record or (record_on_cuda if self.on_cuda else record_by_calling)
        self.replays: dict[int, Body] = {}  # by how many steps they take

    def restart(self, rates: Tensor) -> None:
        """Start from the first step again, with other learning rates and moments of zero."""
        self.rates.copy_(rates)
        self.step.restart()
        for value in (self.at, self.done, self.tail):
            value.zero_()

    def _replay(self, steps: int, tables: Tables) -> None:
        """Take so many steps, recorded when they are first wanted."""
        if steps not in self.replays:
            state = [*self.parameters.values(), *self.step.state(), self.at, self.done, self.tail]

            def body() -> None:
                for _ in range(steps):
                    self.step(tables)

            self.replays[steps] = self.record(body, state)
        self.replays[steps]()

    def __call__(self, blocks: Iterable[Tensor]) -> Tensor:
        """Take all steps, and return the mean losses (g,) over the last of them.

        Parameters
        ----------
        blocks : iterable of Tensor of shape (g, steps, b), int64
            Batches of rows, on the CPU, in order; none longer than the first.
        """
        with torch.cuda.device(self.device) if self.on_cuda else nullcontext():
            for block in drawn_ahead(blocks, self.on_cuda):
                if self.tables is None:
                    batches = torch.zeros_like(block, device=self.device)
                    self.tables = Tables(batches, self.rates, self.share, self.at, self.done, self.tail)
                self.tables.batches[:, : block.shape[1]].copy_(block, non_blocking=True)
                self.at.zero_()
                for _ in range(block.shape[1] // self.graph_steps):
                    self._replay(self.graph_steps, self.tables)
                for _ in range(block.shape[1] % self.graph_steps):
                    self._replay(1, self.tables)
            if self.on_cuda:
                # Once, at the end: pinned blocks may go when this returns.
                torch.cuda.synchronize(self.device)
        return self.tail


def record_by_calling(body: Body, state: Sequence[Tensor]) -> Body:
    """Return the steps themselves: what a CUDA graph does, without one."""
    return body


def record_on_cuda(body: Body, state: Sequence[Tensor]) -> Body:
    """Warm the steps up on the current device's capture stream, undo that, capture them, and return their replay.

    Source: PyTorch's notes on CUDA graphs, "whole-network capture". The two calls are what ``torch.cuda.graph`` does
    without emptying the allocator's cache and collecting garbage, which costs more than a short fit. The mode lets
    other threads allocate: batches are pinned in one.
    """
    side = capture_stream(torch.cuda.current_device())
    side.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        _undone(body, state, WARM_UPS)
        side.synchronize()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            body()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(side)
    return graph.replay


def _undone(body: Body, state: Sequence[Tensor], times: int = 1) -> None:
    """Run the step and put every tensor that it changes back, each time."""
    before = [value.clone() for value in state]
    for _ in range(times):
        body()
        for value, old in zip(state, before, strict=True):
            value.copy_(old)

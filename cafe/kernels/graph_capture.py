"""Steps of one stacked group, recorded once and replayed: on CUDA as a graph, elsewhere by calling them again.

What differs between steps is read from memory on the device, at a counter that the step itself moves on:

    index  = batches[:, at]        batches are copied in blocks of many steps
    rates  = schedule[done]        the learning rates of every step are a table
    tail  += losses share[done]    share is 1 / (steps of the tail) there, 0 before

so that replaying needs nothing from the host, and the host waits for nothing. The CUDA part has never run on a GPU;
the rest is tested on a CPU, where recording is running the step once, undoing it, and returning it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor

Body = Callable[[], None]
Record = Callable[[Body, Sequence[Tensor]], Body]
Take = Callable[[dict[str, Tensor], Tensor, bool], tuple[Tensor | None, dict[str, Tensor]]]

# Runs before capture: the first compiles kernels and makes buffers, the others let libraries choose theirs.
WARM_UPS = 3


class DeviceUpdate(Protocol):
    """An optimiser that counts its steps on the device, such as ``triton_update.TritonUpdate``."""

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes, beside the parameters."""

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Tensor) -> None:
        """Take one step."""


def replay_steps(
    take: Take,
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
        Loss and gradients, as ``training.Step``; always given the same tensors.
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

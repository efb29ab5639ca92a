"""The one trainer: any number of configurations fitted side by side on the same cached features.

A single fit is a grid of one. Configurations that share a shape make a group; a group is cut into stacks, whose
members lie along a leading axis of g and take their optimiser steps together. They share features and class
embeddings in memory, and nothing else.

Initial weights and batch order come from a CPU generator seeded by ``random_state`` alone, per configuration,
so every kernel, device and batch of fits sees the same problem. Batches are cut from a stream of permutations
of the configuration's rows, one after the other, so that every batch has the same size.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.compute import SMALL, run_each, threads_for
from cafe.kernels.optimizers import copied_in_a_row
from cafe.training.recordings import Recording, form_of, kept_recordings, recorded_as
from cafe.training.steps import Batch as Batch
from cafe.training.steps import Configuration as Configuration
from cafe.training.steps import Step as Step
from cafe.training.steps import train_step_by_step

# Steps whose batches are drawn at once: 12,500 steps of 45 fits would fill a gigabyte.
DRAWN_STEPS = 256
# Bytes that one stack may use for its batches' activations; larger groups are cut.
MEMORY_BUDGET = 512 * 2**20
# Bytes of the longest batches that stacks share; longer ones are drawn again by each stack. 64 ratios of one seed then
# draw once, and the seeds of a grid together hold some tens of megabytes.
SHARED_BYTES = 4 * 2**20
# On a CPU, bytes of parameters, gradients and optimiser state that one stack may have: what a core's share
# of a last-level cache holds. A larger stack would read its state from memory at every step.
STATE_BUDGET = 8 * 2**20


class Objective(Protocol):
    """A model to train: its initial parameters, and its losses with gradients on batches.

    An objective may also have ``stepper(shape, hyper, X, y, feature_mean)``, which is called once per stack
    and returns None or a function ``(parameters, index, with_losses) -> (losses or None, gradients)``. The
    function takes the place of ``losses_and_gradients`` for that stack, and may keep what is constant and reuse its
    buffers: the gradients are read before the next call. One with ``uses_feature_mean(shape)`` gets zeros for means
    where that is false: they cost a pass over all rows. One with ``threads(configuration)`` says on how many threads a
    step runs fastest on a CPU, or None; one with ``in_order_of_step(parameters)`` returns them in the order in memory
    that its step reads fastest there; one whose ``stacks_large_steps`` is true gains by stacks on a CPU however large
    its steps are. One whose ``on_device`` is true has a stepper that never waits for its device; its steps are recorded
    and replayed (training/steps.py), with Triton's optimisers.
    """

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw one configuration's parameters on the CPU in float32."""

    def losses_and_gradients(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients."""

    def activation_bytes(self, configuration: Configuration) -> int:
        """Estimate of what one configuration's step needs beside its parameters."""

    def multiply_adds(self, configuration: Configuration) -> int:
        """Estimate of the multiply-adds of one configuration's step."""


@dataclass(frozen=True)
class Trained:
    """One fit's result: parameters as float arrays on the CPU, and the mean loss over the last tenth of its steps."""

    parameters: dict[str, NDArray[Any]]
    loss: float


def steps_for(epochs: float, n_rows: int, batch_size: int) -> int:
    """Return how many optimiser steps are that many passes over the rows.

    Examples
    --------
    >>> steps_for(200, 1600, 32), steps_for(1, 10, 256)
    (10000, 1)
    """
    return max(1, math.ceil(epochs * n_rows / min(batch_size, n_rows)))


def train_many(
    objective: Objective,
    X: Tensor,
    y: Tensor,
    configurations: Sequence[Configuration],
    memory: int = MEMORY_BUDGET,
) -> list[Trained]:
    """Fit all configurations, in stacks of equal shape.

    Parameters
    ----------
    objective : Objective
        What is trained.
    X : Tensor of shape (n, d)
        Features on the device and in the dtype to train in.
    y : Tensor of shape (n,), int64
        Class rows, on the same device.
    configurations : sequence of Configuration
        In any order and mix.
    memory : int, default=MEMORY_BUDGET
        Bytes that one stack may use for its batches' activations.

    Returns
    -------
    list of Trained
        In the order of the configurations.
    """
    stacks = [stack for alike in _group(configurations) for stack in _cut(objective, X, configurations, alike, memory)]
    results: dict[int, Trained] = {}
    recordings: dict[Hashable, tuple[Hashable, Recording]] = {}  # by the stacks' form: the whole form, the recording
    shared = SharedBatches()

    def fit(stack: list[int]) -> None:
        trained = _fit_stack(objective, X, y, [configurations[i] for i in stack], recordings, shared)
        results.update(zip(stack, trained, strict=True))

    work = [sum(objective.multiply_adds(configurations[i]) for i in stack) for stack in stacks]
    if len(stacks) > 1 and X.device.type == "cpu" and torch.get_num_threads() > 1 and sum(work) >= SMALL:
        # The longest first, so that no thread is left with a long one at the end; and where threads would not get
        # equally many, the shortest in parts.
        steps = [configurations[stack[0]].steps for stack in stacks]
        *order, last = sorted(range(len(stacks)), key=lambda k: -work[k] * steps[k])
        parts = [stacks[last]] if len(stacks) % torch.get_num_threads() == 0 else [[i] for i in stacks[last]]
        run_each([partial(fit, stack) for stack in [*(stacks[k] for k in order), *parts]])
    else:
        for stack, multiply_adds in zip(stacks, work, strict=True):
            with threads_for(0 if _runs_on_one_thread(objective, X, configurations[stack[0]]) else multiply_adds):
                fit(stack)
    for form, recording in recordings.values():
        if form is not None and recording.is_graph:
            kept_recordings.keep(form, recording)
    return [results[i] for i in range(len(configurations))]


def _runs_on_one_thread(objective: Objective, X: Tensor, configuration: Configuration) -> bool:
    """Return whether the objective asks for one thread, since its step was measured to be faster so."""
    threads = getattr(objective, "threads", None) if X.device.type == "cpu" else None
    return threads is not None and threads(configuration) == 1


def _group(configurations: Sequence[Configuration]) -> list[list[int]]:
    """Return groups of the positions of configurations whose steps can be computed together."""
    groups: dict[Hashable, list[int]] = {}
    for i, each in enumerate(configurations):
        batch = min(each.batch_size, len(each.rows))
        key = (each.shape, each.steps, batch, each.optimizer, each.warmup_steps, each.eps)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _cut(
    objective: Objective, X: Tensor, configurations: Sequence[Configuration], alike: list[int], memory: int
) -> list[list[int]]:
    """Cut a group into stacks: each fits in memory, on a CPU in cache, and threads end together."""
    if len(alike) == 1:
        return [alike]
    first = configurations[alike[0]]
    size = max(1, memory // max(1, objective.activation_bytes(first)))
    if X.device.type == "cpu":
        initial = objective.initial(first, torch.Generator().manual_seed(0))
        # Parameters, gradients, two moments, and a copy in the products' dtype.
        state = 5 * X.element_size() * sum(value.numel() for value in initial.values())
        size = max(1, min(size, STATE_BUDGET // max(1, state)))
        work, threads = objective.multiply_adds(first), torch.get_num_threads()
        if len(alike) * work >= SMALL:
            size = min(size, math.ceil(len(alike) / threads))
        if work >= SMALL and threads > 1 and not getattr(objective, "stacks_large_steps", False):
            size = 1  # large enough to gain nothing by a stack, and many short fits leave no thread idle at the end
    # Configurations that share their seed and rows come next to each other: a stack draws their batches once.
    alike = sorted(alike, key=lambda i: (configurations[i].random_state, configurations[i].rows.tobytes(), i))
    return [alike[start : start + size] for start in range(0, len(alike), size)]


def _fit_stack(
    objective: Objective,
    X: Tensor,
    y: Tensor,
    stack: Sequence[Configuration],
    recordings: dict[Hashable, tuple[Hashable, Recording]],
    shared: SharedBatches,
) -> list[Trained]:
    """Train configurations of one shape, stacked along the leading axis.

    ``recordings`` has the recorded steps of earlier stacks by form, and takes this stack's; ``shared`` has the batches
    that stacks share.
    """
    first = stack[0]
    initial, blocks = _draw(objective, stack, shared, one_copy=X.device.type == "cpu")

    def tensor(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=X.device, dtype=X.dtype)

    parameters = {name: value.to(X) for name, value in initial.items()}
    if X.device.type == "cpu":
        ordered = getattr(objective, "in_order_of_step", dict)(parameters)
        parameters = copied_in_a_row(ordered)
    hyper = {k: tensor([float(c.hyper[k]) for c in stack]) for k in first.hyper}
    feature_mean = torch.stack([_feature_mean(objective, X, c) for c in stack])
    lr, decay = tensor([c.lr for c in stack]), tensor([c.weight_decay for c in stack])
    if getattr(objective, "on_device", False):
        form = form_of(first, len(stack))
        if form not in recordings:
            take = _stepper(objective, first.shape, hyper, X, y, feature_mean)
            recordings[form] = _recording(take, form, hyper, parameters, feature_mean, decay)
        recording = recordings[form][1]
        recording.fill(hyper, parameters, feature_mean, decay)
        parameters = recording.parameters
        mean_losses = recording.train(first, blocks, torch.tensor([c.lr for c in stack], dtype=X.dtype))
    else:
        take = _stepper(objective, first.shape, hyper, X, y, feature_mean)
        with torch.cuda.device(X.device) if X.device.type == "cuda" else nullcontext():
            mean_losses = train_step_by_step(take, first, parameters, blocks, lr, decay)
    arrays = {name: value.cpu().numpy() for name, value in parameters.items()}
    losses = mean_losses.tolist()
    return [Trained({k: v[i].copy() for k, v in arrays.items()}, losses[i]) for i in range(len(stack))]


def _recording(
    take: Step,
    stack_form: tuple[Hashable, ...],
    hyper: dict[str, Tensor],
    parameters: dict[str, Tensor],
    feature_mean: Tensor,
    decay: Tensor,
) -> tuple[Hashable, Recording]:
    """Return the form of a stack together with that of its step, and a recording of both: a kept one, or a new one."""
    own = recorded_as(take)
    form = None if own is None else (stack_form, own[0])
    if own is not None and form is not None and (kept := kept_recordings.take(form)) is not None:
        kept.use(own[1])
        return form, kept
    return form, Recording(take, hyper, parameters, feature_mean, decay)


def _feature_mean(objective: Objective, X: Tensor, configuration: Configuration) -> Tensor:
    """Return the mean training feature, (1, d), of the objective if it defines one, else of X; zeros if unused."""
    uses = getattr(objective, "uses_feature_mean", None)
    if uses is not None and not uses(configuration.shape):
        return X.new_zeros(1, X.shape[1])
    own = getattr(objective, "feature_mean", None)
    if own is None:
        return X[torch.as_tensor(configuration.rows, device=X.device)].mean(0, keepdim=True)
    mean: Tensor = own(configuration.rows)
    return mean.to(X)


def _stepper(
    objective: Objective, shape: Any, hyper: dict[str, Tensor], X: Tensor, y: Tensor, feature_mean: Tensor
) -> Step:
    """Return the objective's own step, or else a step that gathers a batch and calls ``losses_and_gradients``."""
    own = getattr(objective, "stepper", None)
    step: Step | None = own(shape, hyper, X, y, feature_mean) if own is not None else None
    if step is not None:
        return step

    def gathered(
        parameters: dict[str, Tensor], index: Tensor, with_losses: bool
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        return objective.losses_and_gradients(Batch(shape, parameters, hyper, X[index], y[index], feature_mean))

    return gathered


def _draw(
    objective: Objective, stack: Sequence[Configuration], shared: SharedBatches, one_copy: bool
) -> tuple[dict[str, Tensor], Iterator[Tensor]]:
    """Draw initial parameters (g, ...) and batches of rows, each configuration from its own seed.

    Batches come as blocks (g, steps, b) of up to DRAWN_STEPS steps. Where ``one_copy`` is true and all configurations
    share their batches, the blocks have a stride of 0 along the first axis.
    """
    initial: list[dict[str, Tensor]] = []
    # Configurations that differ in a ratio alone share their seed and rows, and so their batches: drawn once.
    streams: dict[Hashable, Iterator[Tensor]] = {}
    owners: list[int] = []
    for configuration in stack:
        generator = torch.Generator().manual_seed(configuration.random_state)
        initial.append(objective.initial(configuration, generator))
        b = min(configuration.batch_size, len(configuration.rows))
        key = (generator.get_state().numpy().tobytes(), configuration.rows.tobytes(), configuration.steps, b)
        if key not in streams:
            streams[key] = shared.blocks(key, configuration, generator)
        owners.append(list(streams).index(key))
    if one_copy and len(streams) == 1:
        blocks = (drawn.expand(len(stack), -1, -1) for drawn in next(iter(streams.values())))
    else:
        blocks = (torch.stack([drawn[owner] for owner in owners]) for drawn in zip(*streams.values(), strict=True))
    return {k: torch.stack([p[k] for p in initial]) for k in initial[0]}, blocks


class SharedBatches:
    """The batches of one call's configurations, which its stacks share: those of one seed and its rows are drawn once.

    A stack may hold a single configuration, and stacks are trained by several threads.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._drawn: dict[Hashable, list[Tensor]] = {}

    def blocks(self, key: Hashable, configuration: Configuration, generator: torch.Generator) -> Iterator[Tensor]:
        """Return blocks (steps, b) of batches; equal keys get the same blocks, if these fit into ``SHARED_BYTES``.

        Parameters
        ----------
        key : hashable
            Equal for configurations whose batches are equal.
        configuration : Configuration
            Its rows, number of steps and batch size determine the batches.
        generator : torch.Generator
            In the state to draw from.
        """
        b = min(configuration.batch_size, len(configuration.rows))
        if configuration.steps * b * torch.int64.itemsize > SHARED_BYTES:
            return _batches(configuration, generator)
        with self._lock:
            if key not in self._drawn:
                self._drawn[key] = list(_batches(configuration, generator))
            return iter(self._drawn[key])


def _batches(configuration: Configuration, generator: torch.Generator) -> Iterator[Tensor]:
    """Cut a stream of permutations of the rows into blocks (steps, b) of batches."""
    rows = torch.as_tensor(configuration.rows)
    b = min(configuration.batch_size, len(rows))
    left = rows[:0]
    for start in range(0, configuration.steps, DRAWN_STEPS):
        steps = min(DRAWN_STEPS, configuration.steps - start)
        permutations = max(0, math.ceil((steps * b - len(left)) / len(rows)))
        fresh = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(permutations)]
        stream = torch.cat([left, *fresh])
        left = stream[steps * b :]
        yield stream[: steps * b].view(steps, b)

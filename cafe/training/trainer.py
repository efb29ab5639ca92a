"""The one trainer: any number of configurations fitted side by side on the same cached features.

A single fit is a grid of one. Configurations that share a shape are stacked along a leading axis and take
their optimiser steps together; they share features and class embeddings in memory, and nothing else.

Initial weights and batch order come from a CPU generator seeded by ``random_state`` alone, per configuration,
so every kernel, device and batch of fits sees the same problem. Batches are cut from a stream of permutations
of the configuration's rows, one after the other, so that every batch has the same size.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.compute import SMALL, run_each, threads_for
from cafe.training.steps import Configuration as Configuration
from cafe.training.steps import Step as Step
from cafe.training.steps import one_by_one, replayed

# Steps whose batches are drawn at once: 12,500 steps of 45 fits would fill a gigabyte.
DRAWN_STEPS = 256
# Bytes that one stacked group may use for its batches' activations; larger groups are cut into parts.
MEMORY_BUDGET = 512 * 2**20
# On a CPU, bytes of parameters, gradients and optimiser state that one stacked group may have: what a core's share
# of a last-level cache holds. A larger stack would read its state from memory at every step.
STATE_BUDGET = 8 * 2**20


class Objective(Protocol):
    """What is trained: initial parameters, and losses with gradients on batches.

    An objective may also have ``stepper(shape, hyper, X, y, feature_mean)``, which is called once per stacked
    group and returns None or a function ``(parameters, index, with_losses) -> (losses or None, gradients)``. The
    function takes the place of ``losses_and_gradients`` for that group, and may keep what is constant and reuse its
    buffers: the gradients are read before the next call. One whose ``on_device`` is true has a stepper that never
    waits for its device; its steps are recorded and replayed (training/steps.py), with Triton's optimisers.
    """

    def initial(self, configuration: Configuration, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw one configuration's parameters on the CPU in float32."""

    def losses_and_gradients(
        self,
        shape: Any,
        parameters: dict[str, Tensor],
        hyper: dict[str, Tensor],
        features: Tensor,
        labels: Tensor,
        feature_mean: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return losses (g,) and gradients, from features (g, b, d), labels (g, b), feature_mean (g, 1, d)."""

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
) -> list[Trained]:
    """Fit all configurations, in groups of equal shape.

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

    Returns
    -------
    list of Trained
        In the order of the configurations.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, one in enumerate(configurations):
        batch = min(one.batch_size, len(one.rows))
        key = (one.shape, one.steps, batch, one.optimizer, one.warmup_steps, one.eps)
        groups.setdefault(key, []).append(i)
    results: dict[int, Trained] = {}
    parts = [part for members in groups.values() for part in _parts(objective, X, configurations, members)]
    work = [sum(objective.multiply_adds(configurations[i]) for i in part) for part in parts]

    def fit(part: list[int]) -> None:
        trained = _fit_group(objective, X, y, [configurations[i] for i in part])
        results.update(zip(part, trained, strict=True))

    if len(parts) > 1 and X.device.type == "cpu" and torch.get_num_threads() > 1 and sum(work) >= SMALL:
        # The longest first, so that no thread is left with a long one at the end.
        steps = [configurations[part[0]].steps for part in parts]
        order = sorted(range(len(parts)), key=lambda k: -work[k] * steps[k])
        run_each([partial(fit, parts[k]) for k in order])
    else:
        for part, multiply_adds in zip(parts, work, strict=True):
            with threads_for(multiply_adds):
                fit(part)
    return [results[i] for i in range(len(configurations))]


def _parts(
    objective: Objective, X: Tensor, configurations: Sequence[Configuration], members: list[int]
) -> list[list[int]]:
    """Cut a group so that each part fits in memory, on a CPU in cache, and threads end together."""
    first = configurations[members[0]]
    size = max(1, MEMORY_BUDGET // max(1, objective.activation_bytes(first)))
    if X.device.type == "cpu":
        initial = objective.initial(first, torch.Generator().manual_seed(0))
        # Parameters, gradients, two moments, and a copy in the products' dtype.
        state = 5 * X.element_size() * sum(value.numel() for value in initial.values())
        size = max(1, min(size, STATE_BUDGET // max(1, state)))
        work, threads = objective.multiply_adds(first), torch.get_num_threads()
        if len(members) * work >= SMALL:
            size = min(size, math.ceil(len(members) / threads))
        if work >= SMALL and threads > 1:
            size = 1  # large enough to gain nothing by a stack, and many short parts leave no thread idle at the end
    return [members[start : start + size] for start in range(0, len(members), size)]


def _fit_group(objective: Objective, X: Tensor, y: Tensor, group: Sequence[Configuration]) -> list[Trained]:
    """Train configurations of one shape, stacked along the leading axis."""
    first = group[0]
    initial, batches = _draw(objective, group)

    def tensor(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=X.device, dtype=X.dtype)

    parameters = {name: value.to(X) for name, value in initial.items()}
    hyper = {k: tensor([float(c.hyper[k]) for c in group]) for k in first.hyper}
    feature_mean = torch.stack([_feature_mean(objective, X, c) for c in group])
    lr, decay = tensor([c.lr for c in group]), tensor([c.weight_decay for c in group])
    take = _stepper(objective, first.shape, hyper, X, y, feature_mean)
    run = replayed if getattr(objective, "on_device", False) else one_by_one
    tail = run(take, first, parameters, batches, lr, decay)
    arrays = {name: value.cpu().numpy() for name, value in parameters.items()}
    return [Trained({k: v[i].copy() for k, v in arrays.items()}, float(tail[i])) for i in range(len(group))]


def _feature_mean(objective: Objective, X: Tensor, one: Configuration) -> Tensor:
    """Return the mean training feature, (1, d): the objective's own, where its features are not in X."""
    own = getattr(objective, "feature_mean", None)
    mean: Tensor = X[torch.as_tensor(one.rows, device=X.device)].mean(0, keepdim=True) if own is None else own(one.rows)
    return mean.to(X)


def _stepper(
    objective: Objective, shape: Any, hyper: dict[str, Tensor], X: Tensor, y: Tensor, feature_mean: Tensor
) -> Step:
    """Return the objective's own step function, or one that gathers a batch and calls ``losses_and_gradients``."""
    own = getattr(objective, "stepper", None)
    found: Step | None = own(shape, hyper, X, y, feature_mean) if own is not None else None
    if found is not None:
        return found

    def gathered(
        parameters: dict[str, Tensor], index: Tensor, with_losses: bool
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        return objective.losses_and_gradients(shape, parameters, hyper, X[index], y[index], feature_mean)

    return gathered


def _draw(objective: Objective, group: Sequence[Configuration]) -> tuple[dict[str, Tensor], Iterator[Tensor]]:
    """Draw initial parameters (g, ...) and batches of rows, each configuration from its own seed.

    Batches come as blocks (g, steps, b) of up to DRAWN_STEPS steps: 12,500 steps of 45 fits would fill a gigabyte.
    """
    initial: list[dict[str, Tensor]] = []
    streams: list[Iterator[Tensor]] = []
    for one in group:
        generator = torch.Generator().manual_seed(one.random_state)
        initial.append(objective.initial(one, generator))
        streams.append(_batches(one, generator))
    blocks = (torch.stack(blocks) for blocks in zip(*streams, strict=True))
    return {k: torch.stack([p[k] for p in initial]) for k in initial[0]}, blocks


def _batches(one: Configuration, generator: torch.Generator) -> Iterator[Tensor]:
    """Cut a stream of permutations of the rows into blocks (steps, b) of batches."""
    rows = torch.as_tensor(one.rows)
    b = min(one.batch_size, len(rows))
    left = rows[:0]
    for start in range(0, one.steps, DRAWN_STEPS):
        steps = min(DRAWN_STEPS, one.steps - start)
        passes = max(0, math.ceil((steps * b - len(left)) / len(rows)))
        fresh = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(passes)]
        stream = torch.cat([left, *fresh])
        left = stream[steps * b :]
        yield stream[: steps * b].view(steps, b)

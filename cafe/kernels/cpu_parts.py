"""The adapter's step on several threads of a CPU, each with rows of its own, in place of one operation after the other.

Letters and formulas as in cpu.py. A step is some twenty short operations, and where PyTorch splits each of them, all
threads wait for each other after each, and numbers move between the cores' caches. Here they meet twice. With T
threads, thread t takes the rows t of the batch, which need all weights and nothing of each other,

    x_t    H_t = ReLU(x_t W1)    q_t    D_t    dA_t    dH_t = dA_t W2^T, 0 where H_t = 0         (b / T rows)

and, when all rows are there, a share of the weights' rows, of which it makes gradient, update and rounded copy alone:

    dW1 = x^T dH  for the first half of the threads    dW2 = H^T dA  for the second    (2 d / T and 2 h / T rows)

So nothing is added up that another thread has made, and what a step computes is what the whole step does, up to the
order of sums inside a product. It exists for an image adapter with a given ratio: its classes do not change.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor

from cafe.compute import run_each
from cafe.kernels.cpu import BLOCK_BYTES, LEAST_ROWS, CpuAdapterStep
from cafe.kernels.cpu_sides import Buffers
from cafe.kernels.optimizers import make_update
from cafe.kernels.reference import AdapterShape, Parameters

# How often a thread looks for the others before it sleeps between two looks, about a third of a millisecond, and how
# long it then sleeps: where other programs run, the others may not come soon. Waiting in locks took 3 % of a step more.
LOOKS, SLEEP = 300, 1e-4
# Buffers of every row in the batch, d or h wide: each thread writes its own rows.
SHARED = {"x": "d", "image h": "h", "image dh": "h", "da": "d"}


def parts_of(
    shape: AdapterShape, batch: int, width: int, classes: int, threads: int, least_rows: int = LEAST_ROWS
) -> int:
    """Return among how many threads the rows of a batch are divided; 1 where the step is not divided.

    The number is even, since half of the threads update W1 and the other half W2. A step is divided where it adapts
    images alone with a given ratio, and each thread's logits and rows stay in its core's cache.

    Examples
    --------
    >>> parts_of(AdapterShape("image", "paper", 128), 256, 512, 1000, 3)
    2
    """
    if shape.variant != "image" or shape.alpha_mode != "fixed":
        return 1
    parts = min(threads, batch // least_rows) // 2 * 2
    is_in_cache = parts > 0 and batch * (classes + 2 * width) * torch.float32.itemsize <= parts * BLOCK_BYTES
    return parts if is_in_cache else 1


class BarrierBrokenError(Exception):
    """Another thread has failed, so the barrier would never open."""


class Barrier:
    """A barrier: threads wait at it until all have arrived. They spin before they sleep, so it takes microseconds.

    Parameters
    ----------
    threads : int
        How many threads; each calls with its number.
    """

    def __init__(self, threads: int) -> None:
        self.arrivals = [0] * threads
        self.is_broken = False

    def __call__(self, thread: int) -> None:
        """Wait for the other threads; raise BarrierBrokenError where one of them has failed."""
        self.arrivals[thread] += 1
        own_arrivals = self.arrivals[thread]
        for looks in count():
            if min(self.arrivals) >= own_arrivals:
                return
            if self.is_broken:
                raise BarrierBrokenError
            time.sleep(0 if looks < LOOKS else SLEEP)


class _RowsOfAll(Buffers):
    """Buffers of one thread, of which those in ``SHARED`` are its rows in the buffers of all."""

    def __init__(self, of_all: dict[str, Tensor], rows: slice) -> None:
        super().__init__()
        self.of_all, self.rows = of_all, rows
        self.shared = {name: value[rows] for name, value in of_all.items()}

    def __call__(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return the buffer of that name and shape; see the base class."""
        return self.shared[name] if name in SHARED else super().__call__(name, like, *shape, dtype=dtype)


@dataclass(frozen=True)
class StepSettings:
    """The learning rates and the optimiser of a fit's steps, and which steps' losses are summed.

    Attributes
    ----------
    rates : Tensor of shape (steps, 1)
        Learning rate of every step.
    tail_start : int
        The first step whose losses are summed.
    optimizer : str
        ``"adamw"`` or ``"sgd"``.
    decay : Tensor of shape (1,)
        Weight decay.
    eps : float
        AdamW's.
    """

    rates: Tensor
    tail_start: int
    optimizer: str
    decay: Tensor
    eps: float


class CpuPartedSteps:
    """Steps of one configuration, with an image adapter whose ratio is given, each thread with rows of its own.

    Parameters
    ----------
    step : CpuAdapterStep
        The whole step, in the direct or the folded form.
    threads : int
        As many as PyTorch has; :func:`parts_of` says how many of them are used.
    least_rows : int
        Rows that a thread has at least.
    """

    def __init__(self, step: CpuAdapterStep, threads: int, least_rows: int = LEAST_ROWS) -> None:
        self.step, self.threads, self.least_rows = step, threads, least_rows

    def train(self, parameters: Parameters, blocks: Iterable[Tensor], settings: StepSettings) -> Tensor:
        """Take all steps, and return the sum (1,) of the losses from step ``settings.tail_start`` on.

        Parameters
        ----------
        parameters : dict of str to Tensor of shape (1, ...)
            ``image_down`` and ``image_up``, trained in place.
        blocks : iterable of Tensor of shape (1, some steps, b), int64
            Rows of every step's batch, in order.
        settings : StepSettings
            Learning rates and optimiser.
        """
        workers: list[_Worker] = []
        done = 0
        for block in blocks:
            workers = workers or self._workers(parameters, block.shape[-1], settings)
            run_each([partial(worker.take, block[0], done) for worker in workers])
            done += block.shape[1]
        return sum((worker.losses for worker in workers), torch.zeros_like(settings.decay))

    def _workers(self, parameters: Parameters, b: int, settings: StepSettings) -> list[_Worker]:
        """Return what each thread runs."""
        c, d = self.step.text.shape[1:]
        parts = parts_of(self.step.shape, b, d, c, self.threads, self.least_rows)
        self.step.prepare_for(parameters, b)
        sizes = {"d": d, "h": parameters["image_down"].shape[2]}
        of_all = {name: self.step.narrow_text.new_empty(b, sizes[width]) for name, width in SHARED.items()}
        barrier, half = Barrier(parts), parts // 2
        workers = []
        for t in range(parts):
            rows = _RowsOfAll(of_all, _share(b, t, parts))
            name = "image_down" if t < half else "image_up"
            share = _share(parameters[name].shape[1], t % half, half)
            workers.append(_Worker(self.step, t, barrier, rows, name, share, parameters, settings))
        return workers


class _Worker(CpuAdapterStep):
    """The part of one thread; all constants are those of the whole step.

    Parameters
    ----------
    step : CpuAdapterStep
        The whole step, prepared.
    number : int
        Of the thread.
    barrier : Barrier
        Of all threads.
    rows : _RowsOfAll
        Buffers, with the thread's rows of the batch.
    name : str
        The map of which the thread updates some rows, ``share``.
    parameters, settings
        As for :meth:`CpuPartedSteps.train`.
    """

    def __init__(
        self,
        step: CpuAdapterStep,
        number: int,
        barrier: Barrier,
        rows: _RowsOfAll,
        name: str,
        share: slice,
        parameters: Parameters,
        settings: StepSettings,
    ) -> None:
        vars(self).update(vars(step))
        self.number, self.barrier, self.buffers, self.rows, self.settings = number, barrier, rows, rows, settings
        self.name, self.share, self.parameters = name, share, parameters
        self.narrow = step.prepare(parameters)
        self.own, self.own_narrow, self.own_gradients, self.own_narrow_gradients = (
            {name: tensors[name][:, share]}
            for tensors in (parameters, self.narrow, self.gradients, self._narrow_gradients)
        )
        self.is_wide = self.narrow is parameters
        self.update = make_update(settings.optimizer, self.own, settings.decay, settings.eps)
        self.losses = torch.zeros_like(settings.decay)

    def take(self, batches: Tensor, done: int) -> None:
        """Take a step for each batch of rows, (some steps, b); ``done`` steps were taken before."""
        try:
            for step, index in enumerate(batches.unbind(), done):
                self._forward_and_back(index[self.rows.rows], self.losses if step >= self.settings.tail_start else None)
                self.barrier(self.number)
                self._update(self.settings.rates[step])
                self.barrier(self.number)
        except BaseException:
            self.barrier.is_broken = True
            raise

    def _forward_and_back(self, block: Tensor, losses: Tensor | None) -> None:
        """Write x, H, dA and dH of the thread's rows."""
        x = self._rows_of(block)
        image = self._forward("image", self.parameters, self.narrow, x, 0)
        run_block = self._folded_block if self.folded else self._direct_block
        _, _, dq, _ = run_block(image, x, self._classes(None, 0), block, 0, len(self.rows.of_all["x"]), losses)
        if dq is not None:
            da, _ = image.through_maps(dq, self.weighted)
            self.buffers("da", da, *da.shape).copy_(da)

    def _update(self, rate: Tensor) -> None:
        """Make the gradient of the thread's share of a map from all rows, update it, and round its copy."""
        left, right = ("x", "image dh") if self.name == "image_down" else ("image h", "da")
        gradients = self.own_gradients if self.is_wide else self.own_narrow_gradients
        torch.mm(self.rows.of_all[left][:, self.share].mT, self.rows.of_all[right], out=gradients[self.name][0])
        if not self.is_wide:
            self.own_gradients[self.name].copy_(gradients[self.name])
        self.update(self.own, self.own_gradients, rate)
        if not self.is_wide:
            self.own_narrow[self.name].copy_(self.own[self.name])


def _share(rows: int, number: int, parts: int) -> slice:
    """Return the rows of one of several parts that are as equal as can be."""
    return slice(rows * number // parts, rows * (number + 1) // parts)

"""Recorded steps that are used again: by other stacks of one call, and by later calls of the same form.

Recording a fit's steps takes a run of them, their capture and the graph's instantiation: some milliseconds, and seconds
where kernels are compiled or loaded. A graph reads and writes always the same memory, so what another fit of the same
form needs is copied there: initial parameters, numbers, means, and, from one call to the next, features, labels and
text. Between calls a recording belongs to nobody; a call takes it out, so that no two threads train in one.

What is kept is bounded: MOST_KEPT recordings and KEPT_BYTES of the device's memory, the longest unused go first. The
CUDA part has never run on a GPU; tests replay recorded operations on a CPU (tests/helpers/labelled_device.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from torch import Tensor

from cafe.training.steps import (
    LEAST_FOR_GRAPH,
    Configuration,
    RecordedSteps,
    Step,
    learning_rates,
    record_by_calling,
    tail_length,
    whole_step,
)

# Of a device's memory that is kept between calls; features of a few-shot fit are 1 to 64 MB.
KEPT_BYTES = 256 * 2**20
# Each graph has a memory pool of its own, and some hundred kilobytes in the driver.
MOST_KEPT = 16


@dataclass
class Recording:
    """Steps that were recorded for one stack, and the tensors that they read and write.

    Another stack of the same form is trained by the same graph: its numbers are copied to these tensors.

    Attributes
    ----------
    take : callable
        The step, made of ``hyper`` and ``feature_mean``.
    hyper, parameters : dict of str to Tensor
        As the step has them.
    feature_mean, decay : Tensor
        The same.
    steps : RecordedSteps or None
        Set when the first stack has been trained.
    """

    take: Step
    hyper: dict[str, Tensor]
    parameters: dict[str, Tensor]
    feature_mean: Tensor
    decay: Tensor
    steps: RecordedSteps | None = None

    def fill(
        self, hyper: dict[str, Tensor], parameters: dict[str, Tensor], feature_mean: Tensor, decay: Tensor
    ) -> None:
        """Put another stack's numbers in the places of those that were recorded with."""
        for own, new in ((self.hyper, hyper), (self.parameters, parameters)):
            for name, value in own.items():
                value.copy_(new[name])
        self.feature_mean.copy_(feature_mean)
        self.decay.copy_(decay)

    def train(self, first: Configuration, blocks: Iterable[Tensor], lr: Tensor) -> Tensor:
        """Train ``parameters`` in place, and return losses like :func:`train_step_by_step`; ``lr`` is on the CPU."""
        rates = learning_rates(first.steps, first.warmup_steps, lr).to(self.decay.device)
        if self.steps is None:
            step = whole_step(self.take, first.optimizer, self.parameters, self.decay, first.steps, first.eps)
            record = record_by_calling if first.steps < LEAST_FOR_GRAPH else None
            self.steps = RecordedSteps(step, self.parameters, rates, tail_length(first.steps), record)
        else:
            self.steps.restart(rates)
        return self.steps(blocks)

    @property
    def is_graph(self) -> bool:
        """Whether the steps are recorded as a graph; steps that are only called again cost nothing to make anew."""
        return self.steps is not None and self.steps.record is not record_by_calling

    def use(self, inputs: Sequence[Tensor]) -> None:
        """Put another fit's features, labels and text in the places of those that were recorded with."""
        recorded = recorded_as(self.take)
        assert recorded is not None, "only steps that say what they were made of are kept"
        for own, new in zip(recorded[1], inputs, strict=True):
            own.copy_(new)


def form_of(first: Configuration, members: int) -> tuple[Hashable, ...]:
    """Return what stacks of one call share that are trained by one recording: sizes, and what the host decides."""
    b = min(first.batch_size, len(first.rows))
    return first.shape, members, first.steps, b, first.optimizer, first.warmup_steps, first.eps


def recorded_as(take: Any) -> tuple[Hashable, list[Tensor]] | None:
    """Return what else a step's launches depend on, and the tensors that it was made of; None if it does not say.

    A step that may be kept has a method ``recorded_as`` that returns both: the tensors are those made of features,
    labels and text, and everything else that a launch reads is in the parameters, the numbers or its own buffers.
    """
    own = getattr(take, "recorded_as", None)
    if own is None:
        return None
    code, inputs = own()
    sizes = tuple((tuple(value.shape), value.dtype, str(value.device)) for value in inputs)
    return (type(take), code, sizes), inputs


class KeptRecordings:
    """Recordings between calls, by form.

    Parameters
    ----------
    most_bytes, most : int
        Of memory, and of recordings.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES, most: int = MOST_KEPT) -> None:
        self.most_bytes, self.most = most_bytes, most
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, tuple[Recording, int]] = OrderedDict()  # the longest unused first

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Memory that is held."""
        return sum(size for _, size in self._kept.values())

    def take(self, form: Hashable) -> Recording | None:
        """Return and forget the kept recording of a form; None if no recording has this form."""
        with self._lock:
            recording, _ = self._kept.pop(form, (None, 0))
        return recording

    def keep(self, form: Hashable, recording: Recording) -> None:
        """Keep an unused recording, if it is not too large; the oldest recordings are dropped to make room."""
        size = held_bytes(recording)
        with self._lock:
            if size > self.most_bytes:
                return
            self._kept.pop(form, None)
            self._kept[form] = recording, size
            while len(self._kept) > self.most or self.bytes > self.most_bytes:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Let go of all, and so of their memory."""
        with self._lock:
            self._kept.clear()


kept_recordings = KeptRecordings()


def held_bytes(recording: Recording) -> int:
    """Return the bytes of the tensors that a recording reaches, each memory once.

    A graph's own pool, the temporaries of a step, is not seen; in steps made for recording that is a few rows.
    """
    storages: dict[int, int] = {}
    for tensor in _tensors(recording, set()):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield every tensor of a tree of containers and of this program's objects."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part, seen)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not callable(getattr(value, "replay", None)):
        yield from _tensors(vars(value), seen)

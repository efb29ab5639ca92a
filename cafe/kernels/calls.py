"""A step as a list of calls with fixed arguments: laid out once, and then run at every step.

A step of training is some forty short operations on tensors that lie in the same memory every time. Views of them,
choices between forms and lookups of attributes come out the same at every step, so they are done while the step is laid
out, and what is left of Python in a step is a loop over calls. On an AMD EPYC with two cores a step of 256 rows of 512
numbers and 102 classes takes a tenth less time so on one thread or on both. Two fits side by side take a quarter less,
since two threads cannot be in Python at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import is_not

import torch
from torch import Tensor


class Buffers:
    """Memory by name, made once: fresh memory costs a page fault per 4 KiB, as much as the arithmetic on it."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return the uninitialised buffer of that name and shape, of ``like``'s device and dtype."""
        buffer = self._buffers.get((name, shape))
        if buffer is None:
            buffer = like.new_empty(shape, dtype=dtype or like.dtype)
            self._buffers[name, shape] = buffer
        return buffer

    def filled(self, value: float, like: Tensor, *shape: int) -> Tensor:
        """Return a tensor of that shape with one value everywhere, to be read alone."""
        key = f"filled with {value} in {like.dtype}", shape
        if key not in self._buffers:
            self._buffers[key] = like.new_full(shape, value)
        return self._buffers[key]

    def in_dtype_of(self, like: Tensor, value: Tensor, name: str) -> Tensor:
        """Return the value in the dtype of ``like``, in the buffer of that name where that is another than its own."""
        return value if value.dtype == like.dtype else self(name, like, *value.shape).copy_(value)


class Calls:
    """Calls of functions with fixed arguments, in the order in which they were added.

    Parameters
    ----------
    buffers : Buffers
        Memory that the calls write to.

    Examples
    --------
    >>> x, total = torch.tensor([1.0, 2.0]), torch.zeros(2)
    >>> calls = Calls(Buffers())
    >>> calls.add(total.add_, x)
    >>> calls.run(); calls.run()
    >>> total
    tensor([2., 4.])
    """

    def __init__(self, buffers: Buffers) -> None:
        self.buffers = buffers
        self._calls: list[Callable[[], object]] = []

    def run(self) -> None:
        """Make the calls."""
        for call in self._calls:
            call()

    def add(self, function: Callable[..., object], *arguments: object, **named: object) -> None:
        """Add a call; what the function returns is not kept."""
        self._calls.append(partial(function, *arguments, **named) if arguments or named else function)

    def into(self, out: Tensor, function: Callable[..., object], *arguments: object, **named: object) -> Tensor:
        """Add a call that writes to ``out``, and return that."""
        self.add(function, *arguments, out=out, **named)
        return out

    def cast(self, like: Tensor, value: Tensor, name: str) -> Tensor:
        """Return the value, or the buffer of that name into which it is copied, in the dtype of ``like``."""
        if value.dtype == like.dtype:
            return value
        copy = self.buffers(name, like, *value.shape)
        self.add(copy.copy_, value)
        return copy

    def product(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        """Add the product of two matrices, or of two stacks of them (k, ., .), and return ``out``.

        Stacks in bfloat16 are multiplied matrix by matrix: there ``torch.bmm`` takes up to twice as long where an
        operand is transposed.
        """
        if a.ndim == 3 and a.dtype == torch.bfloat16:
            for left, right, result in zip(a, b, out, strict=True):
                self.into(result, torch.mm, left, right)
            return out
        return self.into(out, torch.bmm if a.ndim == 3 else torch.mm, a, b)


@dataclass(frozen=True)
class LaidOut:
    """A step that is laid out, for parameters that lie in the same memory at every step.

    Attributes
    ----------
    calls : Calls
        The whole step.
    index : Tensor of shape (g or 1, b), int64, or None
        Where the calls read the rows of the batch; one row where all configurations share theirs. None for all rows.
    losses : Tensor of shape (g,) or None
        Where they write the losses, if these are wanted.
    """

    calls: Calls
    index: Tensor | None
    losses: Tensor | None

    def run(self, index: Tensor | None) -> Tensor | None:
        """Make the calls for the batch of these rows (g, b), and return its losses (g,), if they are wanted."""
        if self.index is not None and index is not None:
            self.index.copy_(index[: len(self.index)])
        self.calls.run()
        return None if self.losses is None else self.losses.clone()


class Layouts:
    """What a step laid out, by the sizes of batches; void as soon as parameters lie elsewhere."""

    def __init__(self) -> None:
        self._laid: dict[Hashable, LaidOut] = {}
        self._parameters: list[Tensor] = []

    def __call__(self, parameters: Mapping[str, Tensor], key: Hashable, lay_out: Callable[[], LaidOut]) -> LaidOut:
        """Return what was laid out for these parameters under that key, or else lay it out."""
        values = list(parameters.values())
        if len(values) != len(self._parameters) or any(map(is_not, values, self._parameters)):
            self._laid, self._parameters = {}, values
        if key not in self._laid:
            self._laid[key] = lay_out()
        return self._laid[key]

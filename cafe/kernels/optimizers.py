"""Optimiser steps on stacked parameters: the leading axis is the configuration, each with its own rates.

Written here because torch's optimisers know one learning rate per parameter tensor; tested against them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from operator import is_not
from typing import Any, Protocol

import torch
from torch import Tensor

from cafe.errors import unknown_name

OPTIMIZERS = ("adamw", "sgd")
# AdamW's, as torch's defaults.
BETAS, EPS = (0.9, 0.999), 1e-8
# SGD's: Dassl's default, which CLIP-Adapter's released code inherits.
MOMENTUM = 0.9


class Update(Protocol):
    """One optimiser step, in place.

    Attributes
    ----------
    takes_numbers : bool
        Whether learning rates may be a list of numbers, which spares a step their conversion.
    """

    takes_numbers: bool

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Any) -> None:
        """Update parameters (g, ...) with gradients of the same shapes and learning rates (g,), a tensor or numbers."""


def empty_in_a_row(like: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return empty tensors of the shapes of ``like``, one after the other in memory, so that one call updates all.

    Each keeps the order of its axes in memory.

    Examples
    --------
    >>> weights = empty_in_a_row({"down": torch.ones(1, 4, 2), "up": torch.ones(1, 2, 4)})
    >>> in_a_row(weights).shape
    torch.Size([16])
    """
    if not like:
        return {}
    first = next(iter(like.values()))
    flat = first.new_empty(sum(value.numel() for value in like.values()), dtype=dtype or first.dtype)
    parts = torch.split(flat, [value.numel() for value in like.values()])
    return {
        name: part.as_strided(value.shape, torch.empty_like(value, device="meta").stride())
        for (name, value), part in zip(like.items(), parts, strict=True)
    }


def copied_in_a_row(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that lie one after the other in memory."""
    copies = empty_in_a_row(tensors)
    for name, value in copies.items():
        value.copy_(tensors[name])
    return copies


def in_a_row(tensors: dict[str, Tensor]) -> Tensor | None:
    """Return all numbers of the tensors, (n,), if they lie one after the other in memory; else None."""
    values = list(tensors.values())
    first = values[0]
    end = first.data_ptr()
    for value in values:
        dense = value.is_contiguous() or (value.ndim > 1 and value.mT.is_contiguous())
        if value.data_ptr() != end or not dense or value.dtype != first.dtype:
            return None
        end += value.numel() * value.element_size()
    total = (end - first.data_ptr()) // first.element_size()
    offset = first.storage_offset()
    if (offset + total) * first.element_size() > first.untyped_storage().nbytes():
        return None  # neighbours by chance
    return first.as_strided((total,), (1,), offset)


def _in_order_of(like: Tensor, value: Tensor) -> Tensor:
    """Return the value with its axes in memory as those of ``like``: itself, or a copy."""
    return value if value.stride() == like.stride() else torch.empty_like(like).copy_(value)


def _counts() -> Iterator[Tensor]:
    """Yield 1, 2, 3, ... as tensors of a number each, which the fused kernels take; made many at a time."""
    for start in itertools.count(1, 256):
        yield from torch.arange(start, start + 256, dtype=torch.float32).unbind()


class Row:
    """Remembers where a dictionary's tensors lie in a row, since it is asked for at every step.

    Parameters
    ----------
    like : dict of str to Tensor
        Has the names that the dictionary must have, in their order, and the order of each tensor's axes in memory.
    """

    def __init__(self, like: dict[str, Tensor]) -> None:
        self._order = _order(like)
        self._tensors: list[Tensor] = []
        self._row: Tensor | None = None

    def __call__(self, tensors: dict[str, Tensor]) -> Tensor | None:
        """Return :func:`in_a_row` of them, if they have those names and orders."""
        values = list(tensors.values())
        if len(values) != len(self._tensors) or any(map(is_not, values, self._tensors)):
            self._tensors = values
            self._row = in_a_row(tensors) if _order(tensors) == self._order else None
        return self._row


def _order(tensors: dict[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and strides."""
    return [(name, value.stride()) for name, value in tensors.items()]


def _along(values: Tensor, like: Tensor) -> Tensor:
    """View (g,) so that it broadcasts over (g, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2).

        m <- b1 m + (1 - b1) g          v <- b2 v + (1 - b2) g^2
        p <- p - lr ( wd p  +  (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) )

    Parameters
    ----------
    parameters : dict of str to Tensor of shape (g, ...)
        What will be updated.
    weight_decay : Tensor of shape (g,)
        One per configuration.
    betas, eps
        As torch's defaults.
    """

    takes_numbers = False

    def __init__(
        self,
        parameters: dict[str, Tensor],
        weight_decay: Tensor,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
    ) -> None:
        self.weight_decay = weight_decay
        self.betas = betas
        self.eps = eps
        self.first = {k: torch.zeros_like(v) for k, v in parameters.items()}
        self.second = {k: torch.zeros_like(v) for k, v in parameters.items()}
        self.t = 0

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Tensor) -> None:
        """Take one step; see the class."""
        self.t += 1
        b1, b2 = self.betas
        for name, p in parameters.items():
            g, m, v = gradients[name], self.first[name], self.second[name]
            m.lerp_(g, 1 - b1)
            v.mul_(b2).addcmul_(g, g, value=1 - b2)
            rate = _along(lr, p)
            p.mul_(1 - rate * _along(self.weight_decay, p))
            p.sub_(rate / (1 - b1**self.t) * m / ((v / (1 - b2**self.t)).sqrt_() + self.eps))


class SGD:
    """Stochastic gradient descent with momentum, as torch has it.

        g <- g + wd p      m <- momentum m + g      p <- p - lr m

    Parameters
    ----------
    parameters : dict of str to Tensor of shape (g, ...)
        What will be updated.
    weight_decay : Tensor of shape (g,)
        One per configuration.
    momentum : float, default=0.9
        Share of the last step that is taken again.
    """

    takes_numbers = False

    def __init__(self, parameters: dict[str, Tensor], weight_decay: Tensor, momentum: float = MOMENTUM) -> None:
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.velocity = {k: torch.zeros_like(v) for k, v in parameters.items()}

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Tensor) -> None:
        """Take one step; see the class."""
        for name, p in parameters.items():
            velocity = self.velocity[name]
            velocity.mul_(self.momentum).add_(gradients[name]).add_(_along(self.weight_decay, p) * p)
            p.sub_(_along(lr, p) * velocity)


class FusedUpdate:
    """AdamW or SGD on a CPU in one pass over memory, by the kernels that ``torch.optim`` runs with ``fused=True``.

    They take one rate and one decay per call, so configurations are grouped by both; a grid that shares them, as
    grids over seeds and ratios do, takes a single call.

    Parameters
    ----------
    name : str
        ``"adamw"`` or ``"sgd"``; formulas in :class:`AdamW` and :class:`SGD`.
    parameters : dict of str to Tensor of shape (g, ...)
        What will be updated; always the same tensors.
    weight_decay : Tensor of shape (g,)
        One per configuration.
    eps : float, default=1e-8
        AdamW's.
    """

    takes_numbers = True

    def __init__(self, name: str, parameters: dict[str, Tensor], weight_decay: Tensor, eps: float = EPS) -> None:
        self.name, self.eps = name, eps
        self.decays = weight_decay.tolist()
        zeros = {k: torch.zeros_like(v) for k, v in parameters.items()}
        self.first, self.second = copied_in_a_row(zeros), copied_in_a_row(zeros) if name == "adamw" else {}
        # Where all lies in a row and rates and decays are equal, one array of each kind is all that is updated.
        self.rows = tuple(in_a_row(each) if each else None for each in (parameters, self.first, self.second))
        self.slopes = Row(parameters)
        self.decays_are_equal = self.decays.count(self.decays[0]) == len(self.decays)
        self.counts = _counts()

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Tensor | list[float]) -> None:
        """Take one step; see the class."""
        rates = lr.tolist() if isinstance(lr, Tensor) else lr
        count = next(self.counts)
        values, first, second = self.rows
        if self.decays_are_equal and values is not None and first is not None and rates.count(rates[0]) == len(rates):
            slopes = self.slopes(gradients)
            if slopes is not None:
                moments = [] if second is None else [second]
                self._take([values], [slopes], [first], moments, count, rates[0], self.decays[0])
                return
        pairs = zip(rates, self.decays, strict=True)
        groups: dict[tuple[float, float], list[int]] = {}
        for k, pair in enumerate(pairs):
            groups.setdefault(pair, []).append(k)
        for (rate, decay), members in groups.items():

            def pick(tensors: dict[str, Tensor], members: list[int] = members) -> list[Tensor]:
                if len(groups) == 1:
                    return [tensors[name] for name in parameters if name in tensors]
                return [tensors[name][k] for name in parameters if name in tensors for k in members]

            weights = pick(parameters)
            # The kernels walk memory, whatever the strides say.
            alike = [_in_order_of(weight, slope) for weight, slope in zip(weights, pick(gradients), strict=True)]
            self._take(weights, alike, pick(self.first), pick(self.second), count, rate, decay)

    def _take(
        self,
        values: list[Tensor],
        slopes: list[Tensor],
        first: list[Tensor],
        second: list[Tensor],
        count: Tensor,
        rate: float,
        decay: float,
    ) -> None:
        """Update tensors that share their rate and decay, in the step of that number."""
        if self.name == "sgd":
            torch._fused_sgd_(
                values,
                slopes,
                first,
                weight_decay=decay,
                momentum=MOMENTUM,
                lr=rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
            )
            return
        torch._fused_adamw_(
            values,
            slopes,
            first,
            second,
            [],
            [count] * len(values),
            lr=rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


def make_update(name: str, parameters: dict[str, Tensor], weight_decay: Tensor, eps: float = EPS) -> Update:
    """Make the named optimiser; on a CPU the fused one, where this PyTorch has it.

    Raises
    ------
    InputError
        If the name is not one of ``OPTIMIZERS``.
    """
    on_cpu = all(value.device.type == "cpu" for value in parameters.values())
    if name in OPTIMIZERS and on_cpu and hasattr(torch, f"_fused_{name}_"):
        return FusedUpdate(name, parameters, weight_decay, eps)
    if name == "adamw":
        return AdamW(parameters, weight_decay, eps=eps)
    if name == "sgd":
        return SGD(parameters, weight_decay)
    raise unknown_name("optimizer", name, OPTIMIZERS)

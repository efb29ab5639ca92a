"""Whole steps on a GPU: a step's last launch updates the parameters where their gradients are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from cafe.errors import unknown_name
from cafe.kernels.cuda.optimizers import TritonUpdate, correction_table
from cafe.kernels.optimizers import EPS, OPTIMIZERS
from cafe.kernels.reference import Parameters

if TYPE_CHECKING:
    from cafe.training.steps import Tables


@dataclass(frozen=True)
class Update:
    """What the last launch does with a gradient.

    Attributes
    ----------
    optimizer : str
        ``"adamw"``, ``"sgd"``, or ``"none"``: gradients and losses are stored, and counters stay.
    targets : dict of str to Tensor of shape (g, ...)
        The parameters, or where gradients go.
    first, second, narrow : dict of str to Tensor
        Moments, and the copies that products read.
    tail : Tensor of shape (g,)
        Where losses are added, weighted by ``share``; or stored.
    share, rates, decay, corrections : Tensor
        Of shapes (steps,), (steps, g), (g,) and (steps, 2).
    eps : float
        AdamW's.
    """

    optimizer: str
    targets: Parameters
    first: Parameters
    second: Parameters
    narrow: Parameters
    tail: Tensor
    share: Tensor
    rates: Tensor
    decay: Tensor
    corrections: Tensor
    eps: float = EPS


class FusedStep(Protocol):
    """A step whose last launch does as an :class:`Update` says."""

    def fused(self, parameters: Parameters) -> Parameters:
        """Return the parameters that it updates."""

    def narrow_weights(self, parameters: Parameters) -> Parameters:
        """Return those of them that products read, in the products' dtype: themselves, or copies, made anew."""

    def take(
        self, parameters: Parameters, batches: Tensor, at: Tensor, done: Tensor, update: Update
    ) -> tuple[Parameters, Tensor]:
        """Take a step, and return gradients of all other parameters, and where the step's number stands."""


class TritonTraining:
    """A whole step: from the batch at the counters to updated parameters.

    Parameters
    ----------
    step : FusedStep
        What makes the gradients.
    optimizer : str
        ``"adamw"`` or ``"sgd"``; formulas in :mod:`cafe.kernels.optimizers`.
    parameters : dict of str to Tensor of shape (g, ...), float32, contiguous
        Updated in place; always the same tensors.
    decay : Tensor of shape (g,)
        Weight decays.
    steps : int
        How many steps there will be at most.
    eps : float
        AdamW's.

    Raises
    ------
    InputError
        If the optimiser is not one of ``OPTIMIZERS``.
    """

    def __init__(
        self,
        step: FusedStep,
        optimizer: str,
        parameters: Parameters,
        decay: Tensor,
        steps: int,
        eps: float = EPS,
    ) -> None:
        if optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", optimizer, OPTIMIZERS)
        self.step, self.optimizer, self.parameters, self.decay, self.eps = step, optimizer, parameters, decay, eps
        weights = step.fused(parameters)
        self.first = {name: torch.zeros_like(value) for name, value in weights.items()}
        self.second = {name: torch.zeros_like(value) for name, value in weights.items()} if optimizer == "adamw" else {}
        self.corrections = correction_table(steps, decay)
        self.narrow = step.narrow_weights(parameters)
        self.rest = {name: value for name, value in parameters.items() if name not in weights}
        self.update_rest = TritonUpdate(optimizer, self.rest, decay, steps, eps) if self.rest else None

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes, beside parameters and tables."""
        copies = [value for name, value in self.narrow.items() if value is not self.parameters[name]]
        return [*self._moments(), *copies]

    def _moments(self) -> list[Tensor]:
        own = [] if self.update_rest is None else self.update_rest.state()
        return [*self.first.values(), *self.second.values(), *own]

    def restart(self) -> None:
        """Start again from the parameters' present values."""
        for value in self._moments():
            value.zero_()
        self.step.narrow_weights(self.parameters)

    def __call__(self, tables: Tables) -> None:
        """Take one step."""
        own = Update(
            self.optimizer, self.parameters, self.first, self.second, self.narrow, tables.tail, tables.share,
            tables.rates, self.decay, self.corrections, self.eps,
        )  # fmt: skip
        gradients, now = self.step.take(self.parameters, tables.batches, tables.at, tables.done, own)
        if self.update_rest is not None:
            self.update_rest(self.rest, gradients, tables.rates.index_select(0, now)[0])

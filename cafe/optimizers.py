"""Optimiser steps on stacked parameters: the leading axis is the configuration, each with its own rates.

Written here because torch's optimisers know one learning rate per parameter tensor; tested against them.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cafe.errors import unknown_name

OPTIMIZERS = ("adamw", "sgd")


class Update(Protocol):
    """One optimiser step, in place."""

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Tensor) -> None:
        """Update parameters (g, ...) with gradients of the same shapes and learning rates (g,)."""


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

    def __init__(
        self,
        parameters: dict[str, Tensor],
        weight_decay: Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
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
        Dassl's default, which the released code inherits.
    """

    def __init__(self, parameters: dict[str, Tensor], weight_decay: Tensor, momentum: float = 0.9) -> None:
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.velocity = {k: torch.zeros_like(v) for k, v in parameters.items()}

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Tensor) -> None:
        """Take one step; see the class."""
        for name, p in parameters.items():
            velocity = self.velocity[name]
            velocity.mul_(self.momentum).add_(gradients[name]).add_(_along(self.weight_decay, p) * p)
            p.sub_(_along(lr, p) * velocity)


def make_update(name: str, parameters: dict[str, Tensor], weight_decay: Tensor, eps: float = 1e-8) -> Update:
    """Make the named optimiser.

    Raises
    ------
    InputError
        If the name is not one of ``OPTIMIZERS``.
    """
    if name == "adamw":
        return AdamW(parameters, weight_decay, eps=eps)
    if name == "sgd":
        return SGD(parameters, weight_decay)
    raise unknown_name("optimizer", name, OPTIMIZERS)

"""Optimiser steps on stacked parameters: the leading axis is the configuration, each with its own rates.

Written here because torch's optimisers know one learning rate per parameter tensor; tested against them.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cafe.errors import unknown_name

OPTIMIZERS = ("adamw", "sgd")
# AdamW's, as torch's defaults.
BETAS, EPS = (0.9, 0.999), 1e-8
# SGD's: Dassl's default, which CLIP-Adapter's released code inherits.
MOMENTUM = 0.9


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

    def __init__(self, name: str, parameters: dict[str, Tensor], weight_decay: Tensor, eps: float = EPS) -> None:
        self.name, self.eps = name, eps
        self.decays = weight_decay.tolist()
        self.first = {k: torch.zeros_like(v) for k, v in parameters.items()}
        self.second = {k: torch.zeros_like(v) for k, v in parameters.items()} if name == "adamw" else {}
        self.t = torch.zeros(())

    def __call__(self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], lr: Tensor) -> None:
        """Take one step; see the class."""
        self.t += 1
        groups: dict[tuple[float, float], list[int]] = {}
        for k, pair in enumerate(zip(lr.tolist(), self.decays, strict=True)):
            groups.setdefault(pair, []).append(k)
        for (rate, decay), members in groups.items():

            def pick(tensors: dict[str, Tensor], members: list[int] = members) -> list[Tensor]:
                if len(groups) == 1:
                    return [tensors[name] for name in parameters if name in tensors]
                return [tensors[name][k] for name in parameters if name in tensors for k in members]

            values, first = pick(parameters), pick(self.first)
            # The kernels walk memory, whatever the strides say.
            slopes = [value.contiguous() for value in pick(gradients)]
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
                continue
            torch._fused_adamw_(
                values,
                slopes,
                first,
                pick(self.second),
                [],
                [self.t] * len(values),
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

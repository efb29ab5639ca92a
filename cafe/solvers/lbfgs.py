"""L-BFGS for several smooth convex problems side by side, with a diagonal preconditioner.

Nocedal and Wright, Numerical Optimization, algorithm 7.4 and equation 7.20, with the initial matrix

    H0 = gamma D,   gamma = (s . y) / (y . D y)

instead of gamma I: D approximates the inverse Hessian's diagonal. Steps start at 1 and are halved until they
satisfy Armijo's condition; pairs without curvature are left out. A problem is done when half its directional
derivative, the decrease a Newton step would bring, is below ``tolerance`` times its value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], tuple[Tensor, Tensor]]

HISTORY = 10
ARMIJO = 1e-4
HALVINGS = 12


@dataclass(frozen=True)
class Minimum:
    """Where a run ended: points (g, p), values (g,), iterations taken and whether each problem is done (g,)."""

    x: Tensor
    value: Tensor
    iterations: int
    done: Tensor


def _dot(a: Tensor, b: Tensor) -> Tensor:
    products: Tensor = torch.linalg.vecdot(a, b)
    return products[:, None]  # (g, 1)


def minimise(function: Function, x: Tensor, scale: Tensor, tolerance: float, max_iter: int) -> Minimum:
    """Minimise g functions of p variables.

    Parameters
    ----------
    function : callable
        Takes points (g, p), returns values (g,), in float64, and gradients (g, p).
    x : Tensor of shape (g, p)
        Where to start.
    scale : Tensor of shape (g, p)
        D, positive.
    tolerance : float
        See the module's docstring.
    max_iter : int
        Iterations, each of which is one evaluation unless steps have to be halved.

    Examples
    --------
    >>> weights = torch.tensor([[1.0, 100.0]])
    >>> def bowl(x):
    ...     return (1 + 0.5 * weights * (x - 3) ** 2).sum(1).double(), weights * (x - 3)
    >>> minimise(bowl, torch.zeros(1, 2), torch.ones(1, 2), 1e-8, 50).x.round(decimals=3).tolist()
    [[3.0, 3.0]]
    """
    value, gradient = function(x)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    iteration = 0
    while True:
        direction = _direction(gradient, scale, pairs)
        slope = _dot(gradient, direction)[:, 0]  # (g,)
        lost = slope >= 0  # rounding has eaten the curvature: steepest descent, once more
        if bool(lost.any()):
            direction = torch.where(lost[:, None], -scale * gradient, direction)
            slope = _dot(gradient, direction)[:, 0]
        done |= -slope.to(value.dtype) / 2 <= tolerance * value.abs()
        if bool(done.all()) or iteration == max_iter:
            return Minimum(x, value, iteration, done)
        iteration += 1
        moved = _search(function, x, value, direction, slope, done)
        if moved is None:
            return Minimum(x, value, iteration, done)
        new_x, new_value, new_gradient = moved
        s, y = new_x - x, new_gradient - gradient
        curvature = _dot(s, y)
        useful = curvature > torch.finfo(x.dtype).eps * _dot(y, y) * 1e-3
        pairs.append((s, y, torch.where(useful, 1 / curvature, 0)))
        del pairs[:-HISTORY]
        x, value, gradient = new_x, new_value, new_gradient


def _direction(gradient: Tensor, scale: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Two-loop recursion; a pair whose weight is zero changes nothing."""
    q, shares = gradient.clone(), []
    for s, y, weight in reversed(pairs):
        share = weight * _dot(s, q)
        shares.append(share)
        q.addcmul_(y, share, value=-1)
    q.mul_(scale)
    if pairs:
        s, y, weight = pairs[-1]
        gamma = 1 / (weight * _dot(y, scale * y))
        q.mul_(torch.where(weight > 0, gamma, 1))
    for (s, y, weight), share in zip(pairs, reversed(shares), strict=True):
        q.addcmul_(s, share - weight * _dot(y, q))
    return q.neg_()


def _search(
    function: Function, x: Tensor, value: Tensor, direction: Tensor, slope: Tensor, done: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Halve each problem's step until it satisfies Armijo; None if no problem can move."""
    step = torch.where(done, 0.0, 1.0).to(x.dtype)
    for _ in range(HALVINGS):
        new_x = torch.addcmul(x, direction, step[:, None])
        new_value, gradient = function(new_x)
        # Rounding in the value must not stop a step whose gain is smaller than it.
        slack = 4 * torch.finfo(x.dtype).eps * value.abs()
        good = new_value <= value + ARMIJO * (step * slope).to(value.dtype) + slack
        if bool(good.all()):
            return None if bool((step == 0).all()) else (new_x, new_value, gradient)
        step = torch.where(good, step, step / 2)
    step = torch.where(good, step, 0.0)
    if bool((step == 0).all()):
        return None
    new_x = torch.addcmul(x, direction, step[:, None])
    return new_x, *function(new_x)

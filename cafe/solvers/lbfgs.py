"""L-BFGS for several smooth convex problems side by side, with a preconditioner and a memory that outlives a penalty.

Nocedal and Wright, Numerical Optimization, algorithm 7.4 and equation 7.20, with the initial matrix

    H0 = gamma P,   gamma = (s . y) / (y . P y)

instead of gamma I: P approximates the inverse Hessian. Each problem is a loss with a ridge,

    F(x) = f(x) + r |x|^2 / 2   (elementwise r),     y = dF(x + s) - dF(x) = (df(x + s) - df(x)) + r s,

so a pair (s, change of df) serves every r: along a path of penalties neither pairs nor evaluations are thrown away.
Steps start at 1 and are halved until they satisfy Armijo's condition; pairs without curvature are left out. A
problem is done when half its directional derivative, the decrease a Newton step would bring, is below ``tolerance``
times its value.

On a GPU it takes as long to read one number as to evaluate the function. There every iteration evaluates all problems
once, and the device makes all decisions: a problem whose step is accepted takes a new direction, one whose step is
refused keeps its direction and halves the step, one that is done stays. Whether all problems are done is copied to the
host without waiting, and read an iteration later, when the next evaluation is queued. So the device never waits for
the host; the price is one evaluation after the end, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cafe.compute import leave_if_given_up

HISTORY = 10
ARMIJO = 1e-4
HALVINGS = 12


@dataclass(frozen=True)
class Point:
    """Points x (g, p) with the loss, without ridge: values f (g,) in float64 and gradients df (g, p)."""

    x: Tensor
    f: Tensor
    df: Tensor

    def with_ridge(self, ridge: Tensor) -> tuple[Tensor, Tensor]:
        """Return F (g,) in float64 and its gradient (g, p)."""
        pull = ridge * self.x
        return self.f + 0.5 * (self.x.double() * pull).sum(1), self.df + pull


Function = Callable[[Tensor], Point]
# For each step: s (g, p), the change of df (g, p), and for which problems the pair has curvature (g, 1).
Memory = list[tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Minimum:
    """Result of a minimisation: the point, values F (g,), iterations and whether each problem converged (g,)."""

    point: Point
    value: Tensor
    iterations: int
    done: Tensor


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return each problem's product of its vectors in a and b (g, p): (g, 1)."""
    products: Tensor = torch.linalg.vecdot(a, b)
    return products[:, None]


def minimise(
    function: Function,
    start: Point,
    ridge: Tensor,
    precondition: Callable[[Tensor], Tensor],
    tolerance: float,
    max_iter: int,
    memory: Memory,
) -> Minimum:
    """Minimise g functions of p variables.

    Parameters
    ----------
    function : callable
        Takes points (g, p), returns the loss there.
    start : Point
        Where to start, already evaluated.
    ridge : Tensor, to broadcast with (g, p)
        r, not negative.
    precondition : callable
        P, positive definite: takes and returns (g, p).
    tolerance : float
        See the module's docstring.
    max_iter : int
        Iterations, each of which is one evaluation unless steps have to be halved.
    memory : list
        Pairs of earlier steps: an empty list, or that of an earlier call with another ridge. New pairs are appended.

    Examples
    --------
    >>> weights = torch.tensor([[1.0, 100.0]])
    >>> def bowl(x):
    ...     return Point(x, (1 + 0.5 * weights * (x - 3) ** 2).sum(1).double(), weights * (x - 3))
    >>> minimum = minimise(bowl, bowl(torch.zeros(1, 2)), torch.zeros(1, 2), lambda q: q, 1e-8, 50, [])
    >>> minimum.point.x.round(decimals=3).tolist()
    [[3.0, 3.0]]
    """
    if start.x.device.type == "cuda":
        return _minimise_on_device(function, start, ridge, precondition, tolerance, max_iter, memory)
    point = start
    value, gradient = point.with_ridge(ridge)
    pairs = [_pair(s, change, useful, ridge) for s, change, useful in memory]
    done = torch.zeros(len(point.x), dtype=torch.bool, device=point.x.device)
    iteration = 0
    while True:
        leave_if_given_up()
        direction = _direction(gradient, precondition, pairs)
        slope = _dot(gradient, direction)[:, 0]  # (g,)
        ascends = slope >= 0  # by rounding; such a problem takes the preconditioned gradient instead
        if bool(ascends.any()):
            direction = torch.where(ascends[:, None], -precondition(gradient), direction)
            slope = _dot(gradient, direction)[:, 0]
        done |= -slope.to(value.dtype) / 2 <= tolerance * value.abs()
        if bool(done.all()) or iteration == max_iter:
            return Minimum(point, value, iteration, done)
        iteration += 1
        moved = _search(function, point, value, direction, slope, ridge, done)
        if moved is None:
            return Minimum(point, value, iteration, done)
        s, change = moved.x - point.x, moved.df - point.df
        y = change + ridge * s
        useful = _dot(s, y) > torch.finfo(s.dtype).eps * _dot(y, y) * 1e-3
        memory.append((s, change, useful))
        pairs.append(_pair(s, change, useful, ridge))
        del memory[:-HISTORY], pairs[:-HISTORY]
        point = moved
        value, gradient = point.with_ridge(ridge)


def _minimise_on_device(
    function: Function,
    start: Point,
    ridge: Tensor,
    precondition: Callable[[Tensor], Tensor],
    tolerance: float,
    max_iter: int,
    memory: Memory,
) -> Minimum:
    """Minimise g functions on a GPU without waiting for the device, as the module's docstring describes.

    Parameters and result are those of :func:`minimise`.
    """
    point = start
    value, gradient = point.with_ridge(ridge)
    pairs = [_pair(s, change, useful, ridge) for s, change, useful in memory]
    # (g,), bool: problems that have converged; that found no acceptable step; that take a new direction.
    done, stuck = (torch.zeros_like(value, dtype=torch.bool) for _ in range(2))
    fresh = torch.ones_like(done)
    step, halvings = torch.ones_like(gradient[:, 0]), torch.zeros_like(gradient[:, 0])
    direction, iteration = torch.zeros_like(gradient), 0
    all_ended = LateFlag(gradient.device)
    while True:
        newest = _direction(gradient, precondition, pairs[-HISTORY:])
        ascends = _dot(gradient, newest) >= 0
        newest = torch.where(ascends, -precondition(gradient), newest)
        direction = torch.where(fresh[:, None], newest, direction)
        slope = _dot(gradient, direction)[:, 0]
        done |= fresh & (-slope.to(value.dtype) / 2 <= tolerance * value.abs())
        had_ended = all_ended.exchange((done | stuck).all())
        if had_ended:
            iteration -= 1
            memory.pop()  # the pair of the evaluation after the end
        if had_ended or iteration == max_iter:
            del memory[:-HISTORY]
            return Minimum(point, value, iteration, done)
        iteration += 1
        moved = function(torch.addcmul(point.x, direction, step[:, None]))
        new_value = moved.with_ridge(ridge)[0]
        slack = 4 * torch.finfo(direction.dtype).eps * value.abs()
        good = (new_value <= value + ARMIJO * (step * slope).to(value.dtype) + slack) & ~done & ~stuck
        wide = good[:, None]
        s = torch.where(wide, moved.x - point.x, 0)
        change = torch.where(wide, moved.df - point.df, 0)
        y = change + ridge * s
        useful = wide & (_dot(s, y) > torch.finfo(s.dtype).eps * _dot(y, y) * 1e-3)
        memory.append((s, change, useful))
        pairs.append(_pair(s, change, useful, ridge))
        # One pair more is kept than a direction uses, since the last may belong to the evaluation after the end.
        del memory[: -HISTORY - 1], pairs[: -HISTORY - 1]
        point = Point(
            torch.where(wide, moved.x, point.x),
            torch.where(good, moved.f, point.f),
            torch.where(wide, moved.df, point.df),
        )
        value, gradient = point.with_ridge(ridge)
        step = torch.where(good, 1.0, step / 2)
        halvings = torch.where(good, 0.0, halvings + 1)
        stuck |= ~done & (halvings > HALVINGS)
        fresh = good


class LateFlag:
    """Gives the host a flag that the device computed, one iteration late, so that the device never waits.

    The device copies the flag into the host's pinned memory once it is computed, and records an event after the copy.
    The host waits for the event of the iteration before, behind which a whole evaluation is queued: the device has work
    meanwhile.

    Parameters
    ----------
    device : torch.device
        A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        cuda: Any = torch.cuda  # the library does not annotate it
        self._stream = cuda.current_stream(device)
        self._flags = torch.zeros(2, dtype=torch.bool, pin_memory=True)
        self._copied = [cuda.Event() for _ in range(2)]
        self._calls = 0

    def exchange(self, flag: Tensor) -> bool:
        """Send a flag, a tensor of no dimensions, and return the flag of the call before; False at the first call."""
        now, before = self._calls % 2, (self._calls + 1) % 2
        self._flags[now].copy_(flag, non_blocking=True)
        self._copied[now].record(self._stream)
        self._calls += 1
        if self._calls == 1:
            return False
        self._copied[before].synchronize()
        return bool(self._flags[before])


def _pair(s: Tensor, change: Tensor, useful: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return s, y and 1 / (s . y) for a penalty, 0 in place of the last where the pair is to be left out.

    Parameters
    ----------
    s, change : Tensor of shape (g, p)
        A step, and the change of df over it.
    useful : Tensor of shape (g, 1), bool
        Problems for which the pair has curvature.
    ridge : Tensor, to broadcast with (g, p)
        r.
    """
    y = change + ridge * s
    curvature = _dot(s, y)
    return s, y, torch.where(useful & (curvature > 0), 1 / curvature, 0)


def _direction(
    gradient: Tensor, precondition: Callable[[Tensor], Tensor], pairs: list[tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """Return L-BFGS's direction of descent (g, p) by its two-loop recursion.

    Parameters
    ----------
    gradient : Tensor of shape (g, p)
        Of F.
    precondition : callable
        P.
    pairs : list
        As :func:`_pair` returns them, the oldest first.
    """
    q, shares = gradient.clone(), []
    for s, y, weight in reversed(pairs):
        share = weight * _dot(s, q)
        shares.append(share)
        q.addcmul_(y, share, value=-1)
    q = precondition(q)
    if pairs:
        s, y, weight = pairs[-1]
        gamma = 1 / (weight * _dot(y, precondition(y)))
        q = q * torch.where(weight > 0, gamma, 1)
    for (s, y, weight), share in zip(pairs, reversed(shares), strict=True):
        q.addcmul_(s, share - weight * _dot(y, q))
    return q.neg_()


def _search(
    function: Function, point: Point, value: Tensor, direction: Tensor, slope: Tensor, ridge: Tensor, done: Tensor
) -> Point | None:
    """Halve each problem's step until it satisfies Armijo's condition.

    Parameters
    ----------
    function : callable
        Returns the loss at points (g, p).
    point, value : Point, and Tensor of shape (g,)
        Where to start, and F there.
    direction, slope : Tensor of shape (g, p) and (g,)
        Direction of descent, and the derivative of F along it.
    ridge : Tensor, to broadcast with (g, p)
        r.
    done : Tensor of shape (g,), bool
        Problems that stay where they are.

    Returns
    -------
    Point or None
        The points reached; None if no problem can move.
    """
    step = torch.where(done, 0.0, 1.0).to(direction.dtype)
    # A step is accepted too where the value rises by no more than its rounding.
    slack = 4 * torch.finfo(direction.dtype).eps * value.abs()
    for _ in range(HALVINGS):
        moved = function(torch.addcmul(point.x, direction, step[:, None]))
        good = moved.with_ridge(ridge)[0] <= value + ARMIJO * (step * slope).to(value.dtype) + slack
        if bool(good.all()):
            return None if bool((step == 0).all()) else moved
        step = torch.where(good, step, step / 2)
    step = torch.where(good, step, 0.0)
    if bool((step == 0).all()):
        return None
    return function(torch.addcmul(point.x, direction, step[:, None]))

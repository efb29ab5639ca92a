"""L-BFGS for several smooth convex problems side by side, with a preconditioner and a memory that outlives a penalty.

Nocedal and Wright, Numerical Optimization, algorithm 7.4 and equation 7.20, with the initial matrix

    H0 = gamma P,   gamma = (s . y) / (y . P y)

instead of gamma I: P approximates the inverse Hessian. Each problem is a loss with a ridge,

    F(x) = f(x) + r |x|^2 / 2   (elementwise r),     y = dF(x + s) - dF(x) = (df(x + s) - df(x)) + r s,

so a pair (s, change of df) serves every r: along a path of penalties neither pairs nor evaluations are thrown away.
Steps start at 1 and are halved until they satisfy Armijo's condition; pairs without curvature are left out. A
problem is done when half its directional derivative, the decrease a Newton step would bring, is below ``tolerance``
times its value.

On a GPU a read of one number costs as much as an evaluation. There every turn is one evaluation for all problems, and
what is decided is decided on the device: a problem whose step is accepted takes a new direction, another keeps its own
with half the step, one that is done stays. Whether all are done is copied to the host's memory without waiting, and
looked at a turn later, when the next evaluation is queued: the device never waits for the host, for one evaluation too
many at the end, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
# Of each step: s, the change of df, and which problems have any use for it (g, 1).
Memory = list[tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Minimum:
    """Result of a minimisation: the point, values F (g,), iterations and whether each problem converged (g,)."""

    point: Point
    value: Tensor
    iterations: int
    done: Tensor


def _dot(a: Tensor, b: Tensor) -> Tensor:
    products: Tensor = torch.linalg.vecdot(a, b)
    return products[:, None]  # (g, 1)


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
        Empty, or what an earlier call with another ridge left in it; it is added to.

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
        direction = _direction(gradient, precondition, pairs)
        slope = _dot(gradient, direction)[:, 0]  # (g,)
        lost = slope >= 0  # no descent, by rounding: take the steepest one
        if bool(lost.any()):
            direction = torch.where(lost[:, None], -precondition(gradient), direction)
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
    """Minimise on a GPU without host synchronisation; see the module's docstring."""
    point = start
    value, gradient = point.with_ridge(ridge)
    pairs = [_pair(s, change, useful, ridge) for s, change, useful in memory]
    done, stuck = (torch.zeros_like(value, dtype=torch.bool) for _ in range(2))  # (g,)
    fresh = torch.ones_like(done)  # problems that take a new direction
    step, halvings = torch.ones_like(gradient[:, 0]), torch.zeros_like(gradient[:, 0])
    direction, turn = torch.zeros_like(gradient), 0
    over = LateFlag(gradient.device)
    while True:
        newest = _direction(gradient, precondition, pairs[-HISTORY:])
        lost = _dot(gradient, newest) >= 0
        newest = torch.where(lost, -precondition(gradient), newest)
        direction = torch.where(fresh[:, None], newest, direction)
        slope = _dot(gradient, direction)[:, 0]
        done |= fresh & (-slope.to(value.dtype) / 2 <= tolerance * value.abs())
        was_over = over.exchange((done | stuck).all())
        if was_over:
            turn -= 1
            memory.pop()  # of the evaluation after the end
        if was_over or turn == max_iter:
            del memory[:-HISTORY]
            return Minimum(point, value, turn, done)
        turn += 1
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
        # One more than are used: the last may be of an evaluation after the end.
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
    """Gives the host a flag that the device computed, one turn late, so that the device never waits.

    The flag is copied into pinned memory after the work that makes it, and an event is recorded behind the copy. The
    copy of the turn before was queued before a whole evaluation, so the device has work while the host waits for it.

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
        self._turn = 0

    def exchange(self, flag: Tensor) -> bool:
        """Send this turn's flag, a tensor of no dimensions, and return that of the turn before; False at first."""
        now, before = self._turn % 2, (self._turn + 1) % 2
        self._flags[now].copy_(flag, non_blocking=True)
        self._copied[now].record(self._stream)
        self._turn += 1
        if self._turn == 1:
            return False
        self._copied[before].synchronize()
        return bool(self._flags[before])


def _pair(s: Tensor, change: Tensor, useful: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return s, y and 1 / (s . y), or 0 where the pair is of no use."""
    y = change + ridge * s
    curvature = _dot(s, y)
    return s, y, torch.where(useful & (curvature > 0), 1 / curvature, 0)


def _direction(
    gradient: Tensor, precondition: Callable[[Tensor], Tensor], pairs: list[tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """Return the direction of L-BFGS by its two-loop recursion; pairs are (s, y, 1 / s . y), or 0 to be left out."""
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
    """Halve each problem's step until it satisfies Armijo; None if no problem can move."""
    step = torch.where(done, 0.0, 1.0).to(direction.dtype)
    # Rounding in the value must not stop a step whose gain is smaller than it.
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

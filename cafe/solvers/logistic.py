"""Multinomial logistic regression on features, to scikit-learn's objective, a path of penalties at a time.

For g problems that share features and labels, with the mean cross-entropy f of softmax_loss.py over N rows:

    F(W, b) = f(W, b)  +  |W|^2 / (2 C N)

which is scikit-learn's objective divided by C N; b has no penalty. With two classes scikit-learn has one weight
vector w, and W = (-w/2, w/2) has half its penalty, so the penalty is doubled there.

What makes it fast is to need few passes over the rows. A path goes from strong penalty to weak. Each C starts on the
line, in log C, through the last two solutions; there the Hessian is modelled anew (softmax_loss.py), which
preconditions L-BFGS; and L-BFGS keeps its pairs from one C to the next. Where C jumps, it is approached in steps.
Small problems keep the eigenvectors of their first model, and are solved in as many of them as their rows span.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.solvers.lbfgs import Memory, Minimum, Point, minimise
from cafe.solvers.rows import Rows
from cafe.solvers.softmax_loss import Preconditioner, SoftmaxLoss

# Where two values of C are further apart, others are put between them, solved no better than to ROUGH.
LARGEST_STEP = 8.0
ROUGH = 1e-4


@dataclass(frozen=True)
class LogisticFit:
    """One problem at one C.

    Attributes
    ----------
    coef : ndarray of shape (c, d)
        Zero for classes without a row.
    intercept : ndarray of shape (c,)
        Minus infinity for classes without a row.
    objective : float
        C times the summed losses plus half the squared norm of the weights, as scikit-learn counts.
    iterations : int
        Of L-BFGS, from the warm start.
    converged : bool
        Whether the tolerance was met.
    """

    coef: NDArray[Any]
    intercept: NDArray[Any]
    objective: float
    iterations: int
    converged: bool


class _Path:
    """Solutions at rising C, each from those before it."""

    def __init__(self, loss: SoftmaxLoss, max_iter: int) -> None:
        self.loss, self.max_iter = loss, max_iter
        self.two = torch.where(loss.seen.sum(1) == 2, 2.0, 1.0).double()  # (g,)
        self.memory: Memory = []
        self.solved: list[tuple[float, Tensor]] = []
        self.point, model = loss.evaluate(self._zero(), model=True, pooled=True)
        assert model is not None and model.S is not None
        self.values, vectors = torch.linalg.eigh(model.S)
        self.vectors: Tensor | None = vectors
        # C at which the penalty is as strong as the curvature of the loss at zero: below, nothing is hard.
        top = (model.k.mean(1) * self.values[-1]).clamp_min(1e-12)
        self.easy = float((self.two / (loss.total * top)).max())
        # A new S costs its sum over rows and an eigendecomposition; where that is over three passes, keep the first.
        self.renew = loss.n * loss.d**2 + 25 * loss.d**3 <= 6 * loss.n * loss.g * loss.c * loss.d
        if not self.renew and loss.centred:
            # The basis stays, so features are turned into it once. Centred rows span n - 1 directions at most.
            kept = min(loss.d, max(1, loss.n - 1))
            loss.turn(vectors[:, -kept:])
            self.values, self.vectors = self.values[-kept:], None
            self.point, model = loss.evaluate(self._zero(), model=True)
            assert model is not None
        self.model = model

    def _zero(self) -> Tensor:
        return torch.zeros(self.loss.g, (self.loss.d + 1) * self.loss.c, dtype=self.loss.dtype)

    def steps_to(self, C: float) -> list[float]:
        """Return the values of C on the way to the next one, itself the last."""
        start = max(self.solved[-1][0] if self.solved else 0.0, self.easy)
        count = max(1, math.ceil(math.log(max(C / start, 1)) / math.log(LARGEST_STEP)))
        return [start * (C / start) ** (i / count) for i in range(1, count)] + [C]

    def solve(self, C: float, tolerance: float) -> Minimum:
        """Minimise at one C, not below the last one."""
        loss = self.loss
        penalty = self.two / (C * loss.total)  # (g,)
        ridge = penalty.to(loss.dtype)[:, None, None].repeat(1, loss.d + 1, loss.c)
        ridge[:, -1] = 0
        ridge = ridge.view(loss.g, -1)
        self._approach(C, ridge)
        precondition = Preconditioner(self.model, self.values, self.vectors, penalty, loss.seen)
        found = minimise(loss, self.point, ridge, precondition, tolerance, self.max_iter, self.memory)
        self.point = found.point
        self.solved = [*self.solved[-1:], (C, self.point.x)]
        return found

    def _approach(self, C: float, ridge: Tensor) -> None:
        """Move to where the last two solutions point, if that is better, and model the Hessian there."""
        if not self.solved:
            return  # the model at zero is the one to start with
        ahead = self.point.x
        if len(self.solved) == 2:
            (first, x), (second, z) = self.solved
            if first < second:
                ahead = z + (z - x) * (math.log(C / second) / math.log(second / first))
        reached, model = self.loss.evaluate(ahead, model=True, pooled=self.renew)
        assert model is not None
        better = reached.with_ridge(ridge)[0] <= self.point.with_ridge(ridge)[0]  # (g,)
        kept, wide = self.point, better[:, None]
        self.point = Point(
            torch.where(wide, reached.x, kept.x),
            torch.where(better, reached.f, kept.f),
            torch.where(wide, reached.df, kept.df),
        )
        self.model = model
        if model.S is not None:
            self.values, self.vectors = torch.linalg.eigh(model.S)


def logistic_path(
    X: Rows,
    y: NDArray[np.int64],
    n_classes: int,
    C: Sequence[float],
    weights: NDArray[np.int64] | None = None,
    *,
    tolerance: float = 5e-6,
    max_iter: int = 1000,
    dtype: torch.dtype = torch.float32,
) -> list[list[LogisticFit]]:
    """Fit every problem at every C.

    Parameters
    ----------
    X : array or Tensor of shape (n, d)
        A tensor is centred once, a copy; anything else stays where it is and passes in blocks.
    y : ndarray of shape (n,), int64
        Class of each row.
    n_classes : int
        c.
    C : sequence of float
        Inverse strengths of the penalty, in any order.
    weights : ndarray of shape (g, n), int, default=None
        How often each row counts in each problem, such as zero and one for folds; None for one problem on all.
    tolerance : float, default=5e-6
        Expected relative decrease of the objective at which a problem is done. What is left is of
        that order; tests hold the default to 1e-4.
    max_iter : int, default=1000
        Iterations at each C.
    dtype : torch.dtype, default=torch.float32
        To compute in.

    Returns
    -------
    list of list of LogisticFit
        [C in the order given][problem].

    References
    ----------
    Nocedal and Wright, Numerical Optimization (2006), chapter 7; Hastie, Tibshirani and Friedman, The Elements of
    Statistical Learning (2009), section 4.4, for the Hessian.

    Examples
    --------
    >>> X = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> fit = logistic_path(X, np.array([0, 0, 1, 1]), 2, [1.0])[0][0]
    >>> (X.numpy() @ fit.coef.T + fit.intercept).argmax(1).tolist()
    [0, 0, 1, 1]
    """
    if weights is None:
        weights = np.ones((1, X.shape[0]), dtype=np.int64)
    loss = SoftmaxLoss(X, y, n_classes, weights, dtype)
    path = _Path(loss, max_iter)
    fits: dict[int, list[LogisticFit]] = {}
    for place in sorted(range(len(C)), key=lambda i: C[i]):
        *between, last = path.steps_to(C[place])
        for value in between:
            path.solve(value, max(tolerance, ROUGH))
        found = path.solve(last, tolerance)
        units = last * loss.total  # from F to scikit-learn's objective
        fits[place] = [
            LogisticFit(
                *loss.solution(found.point.x, k),
                float(found.value[k] * units[k]),
                found.iterations,
                bool(found.done[k]),
            )
            for k in range(loss.g)
        ]
    return [fits[i] for i in range(len(C))]

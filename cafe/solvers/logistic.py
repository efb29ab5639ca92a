"""Multinomial logistic regression on features, to scikit-learn's objective, a path of penalties at a time.

For g problems that share features X (n, d) and labels, each with its own row weights u (how often a row counts):

    f(W, b) = sum_i u_i ( logsumexp(l_i) - l_i[y_i] ) / N  +  |W|^2 / (2 C N),    l_i = x_i W + b,   N = sum_i u_i

which is scikit-learn's objective divided by C N; b has no penalty. With two classes scikit-learn has one weight
vector w, and W = (-w/2, w/2) has half its penalty, so the penalty is doubled there.

    df/dl_i = u_i (softmax(l_i) - onehot(y_i)) / N          df/dW = X^T df/dl + W / (C N)        df/db = sum_i df/dl_i

Three things make it fast. Features are centred and turned into the eigenvectors of their covariance, where
Boehning's bound on the Hessian, (1/2) cov(X) (x) I, is diagonal: L-BFGS starts from 1 / (k s_j + 1/(C N)), s_j an
eigenvalue and k the mean of p (1 - p) over rows and classes. A path of C goes from strong penalty to weak, each
from the last one's solution. Rows pass in blocks, so logits stay in cache and features may be on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.solvers.lbfgs import minimise
from cafe.solvers.rows import Rows, row_blocks


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


class _Problem:
    """Values and gradients of g problems in the rotated basis, weights (g, d + 1, c) flattened."""

    def __init__(
        self, X: Rows, y: NDArray[np.int64], n_classes: int, weights: NDArray[np.int64], dtype: torch.dtype
    ) -> None:
        self.g, self.c, self.d, self.dtype = len(weights), n_classes, X.shape[1], dtype
        self.y = torch.as_tensor(y)
        self.u = torch.as_tensor(weights).to(dtype)  # (g, n)
        self.total = self.u.sum(1, dtype=torch.float64)  # (g,)
        seen = np.stack([np.bincount(y[w > 0], minlength=n_classes) > 0 for w in weights])
        self.absent = torch.where(torch.as_tensor(seen), 0.0, -torch.inf).to(dtype)  # (g, c)
        self.two = torch.as_tensor(np.where(seen.sum(1) == 2, 2.0, 1.0))  # (g,)
        self.mean, self.spread, self.basis = self._moments(X)
        self.X, self.turned = X, isinstance(X, Tensor)
        if isinstance(X, Tensor):
            self.X = (X.to(dtype) - self.mean) @ self.basis
        self.penalty = torch.zeros(self.g, dtype=torch.float64)

    def _moments(self, X: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (d,), eigenvalues (d,) and eigenvectors (d, d) of the covariance, in one pass."""
        n = X.shape[0]
        total = torch.zeros(self.d, dtype=torch.float64)
        second = torch.zeros(self.d, self.d, dtype=torch.float64)
        for _, block in row_blocks(X, self.d, self.dtype):
            total += block.sum(0, dtype=torch.float64)
            second += block.T @ block
        mean = total / n
        values, vectors = torch.linalg.eigh(second / n - mean[:, None] * mean)
        return mean.to(self.dtype), values.clamp_min(0), vectors.to(self.dtype)

    def set_C(self, C: float) -> None:
        self.penalty = self.two / (C * self.total)  # (g,)

    def scale(self, curvature: Tensor) -> Tensor:
        """Return D (g, p); the intercept's share of the Hessian is k itself."""
        spread = torch.cat([self.spread, torch.ones(1, dtype=torch.float64)])
        penalty = torch.cat([self.penalty[:, None].expand(-1, self.d), torch.zeros(self.g, 1).double()], 1)
        diagonal = 1 / (curvature[:, None] * spread + penalty).clamp_min(1e-12)  # (g, d + 1)
        return diagonal.to(self.dtype)[..., None].expand(-1, -1, self.c).reshape(self.g, -1)

    def curvature(self, flat: Tensor) -> Tensor:
        """Return k (g,): the mean of p (1 - p) over rows, estimated from one block, and classes."""
        for part, logits in self._logits(flat):
            p = torch.softmax(logits, -1)
            uses = self.u[:, part].T
            each = (1 - (p * p).sum(-1)) * uses
            return (each.sum(0) / uses.sum(0).clamp_min(1)).double().clamp_min(1e-4) / self.c
        raise AssertionError("there is no row")

    def _logits(self, flat: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices and logits (rows, g, c)."""
        columns, offset = self._columns(flat)
        for part, block in row_blocks(self.X, self.g * self.c, self.dtype):
            logits = torch.addmm(offset, block, columns).view(-1, self.g, self.c)
            yield part, logits

    def _columns(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights as columns for the stored features (d, g c), and their offset (1, g c)."""
        weights = flat.view(self.g, self.d + 1, self.c)
        columns = weights[:, :-1].permute(1, 0, 2).reshape(self.d, -1)
        offset = (weights[:, -1] + self.absent).reshape(1, -1)
        if self.turned:
            return columns, offset
        columns = self.basis @ columns
        return columns, offset - self.mean @ columns

    def __call__(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return f (g,) in float64 and its gradient (g, p)."""
        columns, offset = self._columns(flat)
        slopes = torch.zeros_like(columns)
        sums = torch.zeros_like(offset)
        losses = torch.zeros(self.g, dtype=torch.float64)
        share = (1 / self.total).to(self.dtype)
        for part, block in row_blocks(self.X, self.g * self.c, self.dtype):
            logits = torch.addmm(offset, block, columns).view(-1, self.g, self.c)
            weight = (self.u[:, part].T * share)[..., None]  # (rows, g, 1)
            true = self.y[part, None, None].expand(-1, self.g, 1)
            log_p = torch.log_softmax(logits, -1, out=logits)
            picked = log_p.gather(-1, true)
            losses -= torch.where(weight > 0, picked * weight, 0).sum((0, 2), dtype=torch.float64)
            error = log_p.exp_().scatter_add_(-1, true, picked.new_full((1, 1, 1), -1.0).expand(true.shape))
            flat_error = error.mul_(weight).view(len(block), -1)
            slopes.addmm_(block.T, flat_error)
            sums += flat_error.sum(0)
        if not self.turned:
            slopes = self.basis.T @ (slopes - self.mean[:, None] * sums)
        weights = flat.view(self.g, self.d + 1, self.c)
        norms = weights[:, :-1].double().square().sum((1, 2))
        gradient = torch.cat([slopes.view(self.d, self.g, self.c).permute(1, 0, 2), sums.view(self.g, 1, self.c)], 1)
        gradient[:, :-1] += self.penalty.to(self.dtype)[:, None, None] * weights[:, :-1]
        return losses + 0.5 * self.penalty * norms, gradient.view(self.g, -1)

    def solution(self, flat: Tensor, k: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return coef (c, d) and intercept (c,) of problem k in the original features."""
        weights = flat.view(self.g, self.d + 1, self.c)[k]
        columns = self.basis @ weights[:-1]
        intercept = weights[-1] - self.mean @ columns
        absent = self.absent[k] < 0
        columns = torch.where(absent, 0, columns)
        return columns.T.numpy(), (intercept + self.absent[k]).numpy()


def logistic_path(
    X: Rows,
    y: NDArray[np.int64],
    n_classes: int,
    C: Sequence[float],
    weights: NDArray[np.int64] | None = None,
    *,
    tolerance: float = 3e-6,
    max_iter: int = 1000,
    dtype: torch.dtype = torch.float32,
) -> list[list[LogisticFit]]:
    """Fit every problem at every C.

    Parameters
    ----------
    X : array or Tensor of shape (n, d)
        A tensor is turned into the eigenbasis once, a copy; anything else stays where it is and passes in blocks.
    y : ndarray of shape (n,), int64
        Class of each row.
    n_classes : int
        c.
    C : sequence of float
        Inverse strengths of the penalty, in any order.
    weights : ndarray of shape (g, n), int, default=None
        How often each row counts in each problem, such as zero and one for folds; None for one problem on all.
    tolerance : float, default=3e-6
        Expected relative decrease of the objective at which a problem is done. What is left is some ten times it.
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
    Boehning, Multinomial logistic regression algorithm (1992), for the bound.

    Examples
    --------
    >>> X = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> fit = logistic_path(X, np.array([0, 0, 1, 1]), 2, [1.0])[0][0]
    >>> (X.numpy() @ fit.coef.T + fit.intercept).argmax(1).tolist()
    [0, 0, 1, 1]
    """
    if weights is None:
        weights = np.ones((1, X.shape[0]), dtype=np.int64)
    problem = _Problem(X, y, n_classes, weights, dtype)
    flat = torch.zeros(problem.g, (problem.d + 1) * problem.c, dtype=dtype)
    fits: dict[int, list[LogisticFit]] = {}
    for place in sorted(range(len(C)), key=lambda i: C[i]):
        problem.set_C(C[place])
        found = minimise(problem, flat, problem.scale(problem.curvature(flat)), tolerance, max_iter)
        flat = found.x
        units = C[place] * problem.total / problem.two  # from f to scikit-learn's objective
        fits[place] = [
            LogisticFit(
                *problem.solution(flat, k),
                float(found.value[k] * units[k] * problem.two[k]),
                found.iterations,
                bool(found.done[k]),
            )
            for k in range(problem.g)
        ]
    return [fits[i] for i in range(len(C))]

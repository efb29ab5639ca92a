"""Mean cross-entropy of g multinomial models on shared features, its gradient, and a model of its Hessian.

For g problems that share features X (n, d) and labels, each with its own row weights u (how often a row counts):

    f(W, b) = sum_i u_i ( logsumexp(l_i) - l_i[y_i] ) / N,     l_i = (x_i - mean) W + b,     N = sum_i u_i

    df/dl_i = u_i (p_i - onehot(y_i)) / N,  p_i = softmax(l_i)       df/dW = X^T df/dl       df/db = sum_i df/dl_i

The Hessian's block of class c against itself is that of a weighted least-squares problem on rows (x_i, 1),

    sum_i w_ic (x_i, 1) (x_i, 1)^T,     w_ic = u_i p_ic (1 - p_ic) / N.

With k_c = sum_i w_ic, m_c = sum_i w_ic x_i / k_c and S the covariance about those means pooled over classes,

    S = sum_c sum_i w_ic (x_i - m_c) (x_i - m_c)^T / sum_c k_c,

it is modelled as k_c ( S + m_c m_c^T,  m_c;  m_c^T,  1 ). At W = 0 that is exact, and S is the covariance of all rows;
as the model learns to tell classes apart, S shrinks towards the covariance within classes. Rows pass in blocks, so
logits stay in cache and features may be on disk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe.solvers.lbfgs import Point
from cafe.solvers.rows import Rows, row_blocks


@dataclass(frozen=True)
class Curvature:
    """The model of the Hessian: k (g, c), m (g, d, c), and S (d, d), pooled over problems, or None; k, S in float64."""

    k: Tensor
    m: Tensor
    S: Tensor | None


class SoftmaxLoss:
    """Values and gradients of g problems; weights are (g, d + 1, c) flattened, the last row being b.

    Parameters
    ----------
    X : array or Tensor of shape (n, d)
        A tensor is centred once, a copy; anything else stays where it is and is centred block by block.
    y : ndarray of shape (n,), int64
        Class of each row.
    n_classes : int
        c.
    weights : ndarray of shape (g, n), int
        u.
    dtype : torch.dtype
        To compute in.
    """

    def __init__(
        self, X: Rows, y: NDArray[np.int64], n_classes: int, weights: NDArray[np.int64], dtype: torch.dtype
    ) -> None:
        self.g, self.c, (self.n, self.d), self.dtype = len(weights), n_classes, X.shape, dtype
        self.y = torch.as_tensor(y)
        self.u = torch.as_tensor(weights).to(dtype)  # (g, n)
        self.total = self.u.sum(1, dtype=torch.float64)  # (g,)
        seen = np.stack([np.bincount(y[w > 0], minlength=n_classes) > 0 for w in weights])
        self.absent = torch.where(torch.as_tensor(seen), 0.0, -torch.inf).to(dtype)  # (g, c)
        self.seen = torch.as_tensor(seen)
        total = sum(block.sum(0, dtype=torch.float64) for _, block in row_blocks(X, self.d, dtype))
        self.mean = torch.as_tensor(total / self.n).to(dtype)  # (d,)
        self.centred, self.basis = isinstance(X, Tensor), torch.empty(0)
        self.X: Rows = X.to(dtype) - self.mean if isinstance(X, Tensor) else X

    def turn(self, basis: Tensor) -> None:
        """Use the coordinates of rows of a tensor in a basis (d, r) that spans them; weights become (g, r + 1, c)."""
        assert isinstance(self.X, Tensor)
        self.basis = basis.to(self.dtype)
        self.X, self.d = self.X @ self.basis, basis.shape[1]

    def __call__(self, flat: Tensor) -> Point:
        """Return f (g,) in float64 and its gradient (g, p)."""
        return self.evaluate(flat)[0]

    def evaluate(self, flat: Tensor, model: bool = False, pooled: bool = False) -> tuple[Point, Curvature | None]:
        """Return the loss, and where ``model``, that of the Hessian, with its S where ``pooled``."""
        weights = flat.view(self.g, self.d + 1, self.c)
        columns = weights[:, :-1].permute(1, 0, 2).reshape(self.d, -1)  # (d, g c)
        offset = (weights[:, -1] + self.absent).reshape(1, -1)
        slopes, sums = torch.zeros_like(columns), torch.zeros_like(offset)
        losses = torch.zeros(self.g, dtype=torch.float64)
        share = (1 / self.total).to(self.dtype)
        sketch = _Sketch(self.d, columns, pooled) if model else None
        for part, block in row_blocks(self.X, self.g * self.c, self.dtype):
            rows = block if self.centred else block - self.mean
            logits = torch.addmm(offset, rows, columns).view(-1, self.g, self.c)
            weight = (self.u[:, part].T * share)[..., None]  # (rows, g, 1)
            true = self.y[part, None, None].expand(-1, self.g, 1)
            log_p = torch.log_softmax(logits, -1, out=logits)
            picked = log_p.gather(-1, true)
            losses -= torch.where(weight > 0, picked * weight, 0).sum((0, 2), dtype=torch.float64)
            p = log_p.exp_()
            if sketch is not None:
                sketch.add(rows, p, weight)
            error = p.scatter_add_(-1, true, picked.new_full((1, 1, 1), -1.0).expand(true.shape))
            flat_error = error.mul_(weight).view(len(rows), -1)
            slopes.addmm_(rows.T, flat_error)
            sums += flat_error.sum(0)
        gradient = torch.cat([slopes.view(self.d, self.g, self.c).permute(1, 0, 2), sums.view(self.g, 1, self.c)], 1)
        return Point(flat, losses, gradient.view(self.g, -1)), None if sketch is None else sketch.finish(self.g)

    def solution(self, flat: Tensor, k: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return coef (c, d) and intercept (c,) of problem k for features that are not centred."""
        weights = flat.view(self.g, self.d + 1, self.c)[k]
        absent = self.absent[k] < 0
        columns = torch.where(absent, 0, weights[:-1])
        if len(self.basis):
            columns = self.basis @ columns
        intercept = weights[-1] - self.mean @ columns
        return columns.T.contiguous().numpy(), (intercept + self.absent[k]).numpy()


class _Sketch:
    """Sums that make a :class:`Curvature`, block by block."""

    def __init__(self, d: int, columns: Tensor, pooled: bool) -> None:
        self.k = torch.zeros(columns.shape[1], dtype=torch.float64)
        self.wx = torch.zeros_like(columns)  # (d, g c)
        self.second = torch.zeros(d, d, dtype=torch.float64) if pooled else None

    def add(self, rows: Tensor, p: Tensor, weight: Tensor) -> None:
        """Add rows (b, d) with probabilities (b, g, c) and weights (b, g, 1)."""
        w = p.sub(p * p).mul_(weight).view(len(rows), -1)
        self.k += w.sum(0, dtype=torch.float64)
        self.wx.addmm_(rows.T, w)
        if self.second is not None:
            self.second += (rows * w.sum(1, keepdim=True)).T @ rows

    def finish(self, g: int) -> Curvature:
        """Return the model; a class that no row is unsure about has a thousandth of the mean k, never none."""
        d, k = len(self.wx), self.k
        S = None
        if self.second is not None:
            wx = self.wx.double()
            S = (self.second - (wx / k.clamp_min(1e-30)) @ wx.T) / k.sum().clamp_min(1e-30)
        means = self.wx / k.clamp_min(1e-30).to(self.wx.dtype)
        each = k.view(g, -1)
        floor = (1e-3 * each.mean(1, keepdim=True)).clamp_min(1e-12)
        return Curvature(torch.maximum(each, floor), means.view(d, g, -1).permute(1, 0, 2), S)


class Preconditioner:
    """Applies the inverse of the Hessian's model with a ridge, ( k (S + m m^T) + r,  k m;  k m^T,  k ), class by class.

    By elimination of b, in the eigenvectors V of S with eigenvalues s, for a right side (q, q_b):

        x = V diag(1 / (k s + r)) V^T (q - m q_b),        x_b = q_b / k - m . x

    and by taking from each class the mean over classes: adding a vector to all of them changes no probability, so
    gradients and solutions have mean zero, and steps shall not leave that.

    Parameters
    ----------
    model : Curvature
        k and m.
    values : Tensor of shape (d,), float64
        Eigenvalues of S.
    vectors : Tensor of shape (d, d), float64, or None
        Its eigenvectors; None where features were turned into them.
    ridge : Tensor of shape (g,)
        r.
    seen : Tensor of shape (g, c), bool
        Classes that have a row; the others stay at zero.
    """

    def __init__(self, model: Curvature, values: Tensor, vectors: Tensor | None, ridge: Tensor, seen: Tensor) -> None:
        dtype = model.m.dtype
        self.vectors = None if vectors is None else vectors.to(dtype)
        self.m = model.m if self.vectors is None else self.vectors.T @ model.m  # (g, d, c)
        spread = model.k[:, None] * values.clamp_min(0)[:, None] + ridge[:, None, None]
        self.inverse = (1 / spread.clamp_min(1e-12)).to(dtype)  # (g, d, c)
        self.k = model.k.to(dtype)[:, None]  # (g, 1, c)
        self.seen = seen.to(dtype)[:, None]  # (g, 1, c)

    def __call__(self, flat: Tensor) -> Tensor:
        """Return the product with each problem's vector, (g, p)."""
        g, d, c = self.m.shape
        whole = flat.view(g, d + 1, c)
        q, last = whole[:, :-1], whole[:, -1:]
        x = self.inverse * ((q if self.vectors is None else self.vectors.T @ q) - self.m * last)
        bias = last / self.k - (self.m * x).sum(1, keepdim=True)
        steps = torch.cat([x if self.vectors is None else self.vectors @ x, bias], 1) * self.seen
        steps -= steps.sum(2, keepdim=True) / self.seen.sum(2, keepdim=True) * self.seen
        return steps.view(g, -1)

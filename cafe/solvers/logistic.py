"""Multinomial logistic regression on features, to scikit-learn's objective, a path of penalties at a time.

The objective. For g problems that share features X (n, d) and labels, each with its own row weights u (how often a row
counts) of sum N, the mean cross-entropy, its gradient, and the penalised objective are

    f(W, b) = sum_i u_i ( logsumexp(l_i) - l_i[y_i] ) / N,     l_i = (x_i - mean) W + b

    df/dl_i = u_i (p_i - onehot(y_i)) / N,  p_i = softmax(l_i)       df/dW = X^T df/dl       df/db = sum_i df/dl_i

    F(W, b) = f(W, b)  +  |W|^2 / (2 C N)

which is scikit-learn's objective divided by C N; b has no penalty. With two classes scikit-learn has one weight
vector w, and W = (-w/2, w/2) has half its penalty, so the penalty is doubled there.

The model of its Hessian. The block of class c against itself is that of a weighted least-squares problem on rows
(x_i, 1),

    sum_i w_ic (x_i, 1) (x_i, 1)^T,     w_ic = u_i p_ic (1 - p_ic) / N.

With k_c = sum_i w_ic, m_c = sum_i w_ic x_i / k_c and S the covariance about those means pooled over classes,

    S = sum_c sum_i w_ic (x_i - m_c) (x_i - m_c)^T / sum_c k_c,

it is modelled as k_c ( S + m_c m_c^T,  m_c;  m_c^T,  1 ). At W = 0 that is exact, and S is the covariance of all rows;
as the model learns to tell classes apart, S shrinks towards the covariance within classes. Rows pass in blocks, so
logits stay in cache and features may be on disk.

The path. What makes it fast is to need few passes over the rows. A path goes from strong penalty to weak. Each C
starts on the line, in log C, through the last two solutions, and one that is asked for later through those on both
sides of it (so a search that halves its steps pays for few passes at each); there the Hessian is modelled anew, if C is
not next to where it was modelled last, and the model preconditions L-BFGS (lbfgs.py); and L-BFGS keeps its pairs from
one C to the next. Where C jumps, it is approached in steps. Small problems keep the eigenvectors of their first model,
and are solved in as many of them as their rows span.
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
from cafe.solvers.rows import RowSource, row_blocks

# Where two values of C are further apart than this factor, values between them are solved on the way, to a tolerance
# of ROUGH.
LARGEST_STEP = 8.0
ROUGH = 1e-4

# How far C may be from where the Hessian was modelled last, as a factor: within it the model is kept, which costs three
# products and the eigenvectors of S, as much as two passes.
KEPT_MODEL = 2.0

# ---------------------------------------------------------------------------- the loss and a model of its Hessian


@dataclass(frozen=True)
class Curvature:
    """The model of the Hessian: k (g, c) in float64, m (g, d, c), and S (d, d), pooled over problems, or None."""

    k: Tensor
    m: Tensor
    S: Tensor | None


class SoftmaxLoss:
    """Values and gradients of g problems; weights are (g, d + 1, c) flattened, the last row being b.

    Parameters
    ----------
    X : array or Tensor of shape (n, d)
        A tensor is copied and centred once, and everything is computed on its device; any other array is read and
        centred block by block.
    y : ndarray of shape (n,), int64
        Class of each row.
    n_classes : int
        c.
    weights : ndarray of shape (g, n), int
        u.
    dtype : torch.dtype
        Of the computation.
    block_bytes : int, default=None
        Bytes of a block of rows; see :func:`cafe.solvers.rows.row_blocks`.
    """

    def __init__(
        self,
        X: RowSource,
        y: NDArray[np.int64],
        n_classes: int,
        weights: NDArray[np.int64],
        dtype: torch.dtype,
        block_bytes: int | None = None,
    ) -> None:
        self.block_bytes = block_bytes
        self.g, self.c, (self.n, self.d), self.dtype = len(weights), n_classes, X.shape, dtype
        self.device = X.device if isinstance(X, Tensor) else torch.device("cpu")
        self.y = torch.as_tensor(y).to(self.device)
        self.u = torch.as_tensor(weights).to(self.device, dtype)  # (g, n)
        self.total = self.u.sum(1, dtype=torch.float64)  # (g,)
        seen = np.stack([np.bincount(y[w > 0], minlength=n_classes) > 0 for w in weights])
        self.seen = torch.as_tensor(seen).to(self.device)
        self.absent = torch.where(self.seen, 0.0, -torch.inf).to(dtype)  # (g, c)
        total = sum(block.sum(0, dtype=torch.float64) for _, block in row_blocks(X, self.d, dtype, block_bytes))
        self.mean = torch.as_tensor(total / self.n).to(dtype)  # (d,)
        self.centred, self.basis = isinstance(X, Tensor), torch.empty(0, device=self.device)
        self.X: RowSource = X.to(dtype) - self.mean if isinstance(X, Tensor) else X

    def use_basis(self, basis: Tensor) -> None:
        """Replace the rows of X, a tensor, by their coordinates in a basis (d, r) of their span.

        Weights are (g, r + 1, c) from then on.
        """
        assert isinstance(self.X, Tensor)
        self.basis = basis.to(self.dtype)
        self.X, self.d = self.X @ self.basis, basis.shape[1]

    def __call__(self, flat: Tensor) -> Point:
        """Return f (g,) in float64 and its gradient (g, p)."""
        return self.evaluate(flat)[0]

    def evaluate(self, flat: Tensor, model: bool = False, pooled: bool = False) -> tuple[Point, Curvature | None]:
        """Return f and its gradient at points ``flat`` (g, (d + 1) c), and a model of the Hessian or None.

        Parameters
        ----------
        flat : Tensor of shape (g, (d + 1) c)
            Weights.
        model : bool
            Whether the model of the Hessian is wanted.
        pooled : bool
            Whether the model is to have a new S.
        """
        weights = flat.view(self.g, self.d + 1, self.c)
        columns = weights[:, :-1].permute(1, 0, 2).reshape(self.d, -1)  # (d, g c)
        offset = (weights[:, -1] + self.absent).reshape(1, -1)
        slopes, sums = torch.zeros_like(columns), torch.zeros_like(offset)
        losses = torch.zeros(self.g, dtype=torch.float64, device=self.device)
        share = (1 / self.total).to(self.dtype)
        curvature = CurvatureSums(self.d, columns, pooled) if model else None
        for part, block in row_blocks(self.X, self.g * self.c, self.dtype, self.block_bytes):
            rows = block if self.centred else block - self.mean
            logits = torch.addmm(offset, rows, columns).view(-1, self.g, self.c)
            weight = (self.u[:, part].T * share)[..., None]  # (rows, g, 1)
            true = self.y[part, None, None].expand(-1, self.g, 1)
            log_p = torch.log_softmax(logits, -1, out=logits)
            picked = log_p.gather(-1, true)
            losses -= torch.where(weight > 0, picked * weight, 0).sum((0, 2), dtype=torch.float64)
            p = log_p.exp_()
            if curvature is not None:
                curvature.add(rows, p, weight)
            error = p.scatter_add_(-1, true, picked.new_full((1, 1, 1), -1.0).expand(true.shape))
            flat_error = error.mul_(weight).view(len(rows), -1)
            slopes.addmm_(rows.T, flat_error)
            sums += flat_error.sum(0)
        gradient = torch.cat([slopes.view(self.d, self.g, self.c).permute(1, 0, 2), sums.view(self.g, 1, self.c)], 1)
        point = Point(flat, losses, gradient.view(self.g, -1))
        return point, None if curvature is None else curvature.finish(self.g)

    def solution(self, flat: Tensor, k: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return coef (c, d) and intercept (c,) of problem k for features that are not centred."""
        weights = flat.view(self.g, self.d + 1, self.c)[k]
        absent = self.absent[k] < 0
        columns = torch.where(absent, 0, weights[:-1])
        if len(self.basis):
            columns = self.basis @ columns
        intercept = weights[-1] - self.mean @ columns
        return columns.T.contiguous().cpu().numpy(), (intercept + self.absent[k]).cpu().numpy()


class CurvatureSums:
    """The sums over rows that a :class:`Curvature` is made from, added up block by block.

    Parameters
    ----------
    d : int
        Width of a row.
    columns : Tensor of shape (d, g c)
        Any tensor of this shape, dtype and device.
    pooled : bool
        Whether S is wanted.
    """

    def __init__(self, d: int, columns: Tensor, pooled: bool) -> None:
        # With w = weight p (1 - p) of a row x and a class: sums of w, of w x, and, over classes too, of w x x^T.
        self.k = columns.new_zeros(columns.shape[1], dtype=torch.float64)
        self.wx = torch.zeros_like(columns)  # (d, g c)
        self.wxx = columns.new_zeros(d, d, dtype=torch.float64) if pooled else None

    def add(self, rows: Tensor, p: Tensor, weight: Tensor) -> None:
        """Add rows (b, d) with probabilities (b, g, c) and weights (b, g, 1)."""
        w = p.sub(p * p).mul_(weight).view(len(rows), -1)
        self.k += w.sum(0, dtype=torch.float64)
        self.wx.addmm_(rows.T, w)
        if self.wxx is not None:
            self.wxx += (rows * w.sum(1, keepdim=True)).T @ rows

    def finish(self, g: int) -> Curvature:
        """Return the model of the Hessian of g problems.

        Each k is at least a thousandth of its problem's mean k, so that none is zero.
        """
        d, k = len(self.wx), self.k
        S = None
        if self.wxx is not None:
            wx = self.wx.double()
            S = (self.wxx - (wx / k.clamp_min(1e-30)) @ wx.T) / k.sum().clamp_min(1e-30)
            S = S.to(self.wx.dtype)  # a model needs no more, and its eigenvectors take half as long
        means = self.wx / k.clamp_min(1e-30).to(self.wx.dtype)
        k_by_problem = k.view(g, -1)
        floor = (1e-3 * k_by_problem.mean(1, keepdim=True)).clamp_min(1e-12)
        return Curvature(torch.maximum(k_by_problem, floor), means.view(d, g, -1).permute(1, 0, 2), S)


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
    values : Tensor of shape (d,)
        Eigenvalues of S.
    vectors : Tensor of shape (d, d), or None
        Its eigenvectors; None where features were turned into them.
    ridge : Tensor of shape (g,)
        r.
    seen : Tensor of shape (g, c), bool
        Classes that have a row; the others stay at zero.
    """

    def __init__(self, model: Curvature, values: Tensor, vectors: Tensor | None, ridge: Tensor, seen: Tensor) -> None:
        dtype = model.m.dtype
        self.vectors = vectors
        self.m = model.m if self.vectors is None else self.vectors.T @ model.m  # (g, d, c)
        spread = model.k[:, None] * values.clamp_min(0)[:, None] + ridge[:, None, None]
        self.inverse = (1 / spread.clamp_min(1e-12)).to(dtype)  # (g, d, c)
        self.k = model.k.to(dtype)[:, None]  # (g, 1, c)
        self.seen = seen.to(dtype)[:, None]  # (g, 1, c)

    def __call__(self, flat: Tensor) -> Tensor:
        """Return the inverse model times each problem's vector, ``flat`` (g, (d + 1) c), in the same shape."""
        g, d, c = self.m.shape
        whole = flat.view(g, d + 1, c)
        q, last = whole[:, :-1], whole[:, -1:]
        x = self.inverse * ((q if self.vectors is None else self.vectors.T @ q) - self.m * last)
        bias = last / self.k - (self.m * x).sum(1, keepdim=True)
        steps = torch.cat([x if self.vectors is None else self.vectors @ x, bias], 1) * self.seen
        steps -= steps.sum(2, keepdim=True) / self.seen.sum(2, keepdim=True) * self.seen
        return steps.view(g, -1)


# ---------------------------------------------------------------------------- the path


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


# Bytes of solutions that a path keeps, as starts of later ones.
KEPT_BYTES = 256 * 2**20


class PenaltyPath:
    """Solutions at any C, each started from the earlier ones nearest to it.

    A value between two that were solved starts on the line, in log C, through these.

    Parameters
    ----------
    loss : SoftmaxLoss
        The problems.
    max_iter : int
        Iterations at each C.
    kept_bytes : int, default=KEPT_BYTES
        Bytes of solutions that are kept as starts of later ones.
    """

    def __init__(self, loss: SoftmaxLoss, max_iter: int, kept_bytes: int = KEPT_BYTES) -> None:
        self.loss, self.max_iter = loss, max_iter
        self.penalty_factor = torch.where(loss.seen.sum(1) == 2, 2.0, 1.0).double()  # (g,)
        self.memory: Memory = []
        self.solved: list[tuple[float, Point]] = []  # in ascending order of C
        self.point, model = loss.evaluate(self._zero_weights(), model=True, pooled=True)
        assert model is not None and model.S is not None
        self.values, vectors = torch.linalg.eigh(model.S)
        self.vectors: Tensor | None = vectors
        # C at which the penalty is as strong as the curvature of the loss at zero: below it few iterations suffice.
        top = (model.k.mean(1) * self.values[-1]).clamp_min(1e-12)
        self.easy_C = float((self.penalty_factor / (loss.total * top)).max())
        # A new S costs its sum over rows and an eigendecomposition; where that is over three passes, keep the first.
        self.updates_S = loss.n * loss.d**2 + 25 * loss.d**3 <= 6 * loss.n * loss.g * loss.c * loss.d
        if not self.updates_S and loss.centred:
            # The basis stays, so features are turned into it once. Centred rows span n - 1 directions at most.
            kept = min(loss.d, max(1, loss.n - 1))
            loss.use_basis(vectors[:, -kept:])
            self.values, self.vectors = self.values[-kept:], None
            self.point, model = loss.evaluate(self._zero_weights(), model=True)
            assert model is not None
        self.model, self.modelled_C = model, 0.0
        size = 2 * self.point.x.element_size() * self.point.x.numel()  # a point and its gradient
        self.most_kept = max(2, kept_bytes // max(size, 1))

    def _zero_weights(self) -> Tensor:
        """Return weights of zero for every problem, (g, (d + 1) c)."""
        size = self.loss.g, (self.loss.d + 1) * self.loss.c
        return torch.zeros(size, dtype=self.loss.dtype, device=self.loss.device)

    def fits(self, C: Sequence[float], tolerance: float) -> list[list[LogisticFit]]:
        """Return the solutions, [C in the order given][problem]; parameters as in :func:`logistic_path`."""
        fits: dict[int, list[LogisticFit]] = {}
        for i in sorted(range(len(C)), key=lambda i: C[i]):
            *between, last = self.steps_to(C[i])
            for value in between:
                self.solve(value, max(tolerance, ROUGH))
            minimum = self.solve(last, tolerance)
            values = (minimum.value * (last * self.loss.total)).tolist()  # from F to scikit-learn's objective
            done = minimum.done.tolist()
            fits[i] = [
                LogisticFit(*self.loss.solution(minimum.point.x, k), values[k], minimum.iterations, done[k])
                for k in range(self.loss.g)
            ]
        return [fits[i] for i in range(len(C))]

    def steps_to(self, C: float) -> list[float]:
        """Return the values to solve on the way to ``C``, and ``C`` last; ``C`` alone if a larger one is solved."""
        if self.solved and self.solved[-1][0] >= C:
            return [C]
        start = max(self.solved[-1][0] if self.solved else 0.0, self.easy_C)
        count = max(1, math.ceil(math.log(max(C / start, 1)) / math.log(LARGEST_STEP)))
        return [start * (C / start) ** (i / count) for i in range(1, count)] + [C]

    def solve(self, C: float, tolerance: float) -> Minimum:
        """Return the solutions of all problems at one C, and keep them as starts of later ones."""
        loss = self.loss
        penalty = self.penalty_factor / (C * loss.total)  # (g,)
        ridge = penalty.to(loss.dtype)[:, None, None].repeat(1, loss.d + 1, loss.c)
        ridge[:, -1] = 0
        ridge = ridge.view(loss.g, -1)
        self._approach(C, ridge)
        precondition = Preconditioner(self.model, self.values, self.vectors, penalty, loss.seen)
        minimum = minimise(loss, self.point, ridge, precondition, tolerance, self.max_iter, self.memory)
        self.point = minimum.point
        self._keep(C, minimum.point)
        return minimum

    def _keep(self, C: float, point: Point) -> None:
        """Keep the solutions at C, and drop those at the C furthest from it if there are too many."""
        self.solved = sorted([*(pair for pair in self.solved if pair[0] != C), (C, point)], key=lambda pair: pair[0])
        if len(self.solved) > self.most_kept:
            self.solved.remove(max(self.solved, key=lambda pair: abs(math.log(pair[0] / C))))

    def _approach(self, C: float, ridge: Tensor) -> None:
        """Set ``point`` to the best start for C, and model the Hessian there if C is far from the last model.

        The start is the better of two: the nearest solution, and the line through the two solutions around C.
        ``ridge`` is r, (g, (d + 1) c).
        """
        if not self.solved:
            return  # the model at zero is the one to start with
        below = [pair for pair in self.solved if pair[0] <= C]
        above = [pair for pair in self.solved if pair[0] > C]
        # Between two of them, beyond the largest two, or at the smallest.
        pair = [*below[-1:], *above[:1]] if above else below[-2:]
        kept = min(pair, key=lambda solved: abs(math.log(C / solved[0])))[1]
        ahead = kept.x
        if len(pair) == 2:
            (first, from_point), (second, to_point) = pair
            step = to_point.x - from_point.x
            ahead = to_point.x + step * (math.log(C / second) / math.log(second / first))
        is_new = not 1 / KEPT_MODEL <= C / max(self.modelled_C, 1e-300) <= KEPT_MODEL
        reached, model = self.loss.evaluate(ahead, model=is_new, pooled=is_new and self.updates_S)
        better = reached.with_ridge(ridge)[0] <= kept.with_ridge(ridge)[0]  # (g,)
        wide = better[:, None]
        self.point = Point(
            torch.where(wide, reached.x, kept.x),
            torch.where(better, reached.f, kept.f),
            torch.where(wide, reached.df, kept.df),
        )
        if model is None:
            return
        self.model, self.modelled_C = model, C
        if model.S is not None:
            self.values, self.vectors = torch.linalg.eigh(model.S)


def logistic_path(
    X: RowSource,
    y: NDArray[np.int64],
    n_classes: int,
    C: Sequence[float],
    weights: NDArray[np.int64] | None = None,
    *,
    tolerance: float = 5e-6,
    max_iter: int = 1000,
    dtype: torch.dtype = torch.float32,
    block_bytes: int | None = None,
) -> list[list[LogisticFit]]:
    """Fit softmax regression at every C, in several problems side by side that differ in how often each row counts.

    Parameters
    ----------
    X : array or Tensor of shape (n, d)
        A tensor is copied and centred once; any other array is read in blocks.
    y : ndarray of shape (n,), int64
        Class of each row.
    n_classes : int
        c.
    C : sequence of float
        Inverse strengths of the penalty, in any order.
    weights : ndarray of shape (g, n), int, default=None
        How often each row counts in each problem, such as zero and one for folds; None for one problem on all.
    tolerance : float, default=5e-6
        Expected relative decrease of the objective at which a problem is done. The objective is then above its
        minimum by a share of that order; tests hold the default to 1e-4.
    max_iter : int, default=1000
        Iterations at each C.
    dtype : torch.dtype, default=torch.float32
        Of the computation.
    block_bytes : int, default=None
        Bytes of a block of rows; see :func:`cafe.solvers.rows.row_blocks`.

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
    loss = SoftmaxLoss(X, y, n_classes, weights, dtype, block_bytes)
    return PenaltyPath(loss, max_iter).fits(C, tolerance)

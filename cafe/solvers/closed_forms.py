"""Gaussian and ridge classifiers in closed form, for every shrinkage from one eigendecomposition.

Both are linear systems in a Gram matrix plus a multiple of the identity. With A = V diag(e) V^T,

    (A + r I)^-1 B = V diag(1 / (e + r)) V^T B       for every r,

so each r costs a scaling and one product. Letters: n rows, d features, c classes.

Gaussian (one shared covariance S about class means mu, shrunk towards the identity):

    W_c = P mu_c     b_c = -log C - mu_c P mu_c / 2     P = d ( (n - 1) S + shrinkage trace(S) I )^-1,

C the number of classes with a row. Shrinkage 1 is the published precision.

Ridge (least squares on targets T, +1 for a row's class and -1 elsewhere, weights drawn to a prior W0, b free):

    minimise |X W + b - T|^2 + penalty |W - W0|^2     =>     W = W0 + (Z^T Z + penalty I)^-1 Z^T R,    b = mean(T - X W)

with Z the centred rows and R the centred rows of T - X W0; where n < d the same is W0 + Z^T (Z Z^T + penalty I)^-1 R.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.arrays import double, functions, index_like, like, on_host, relu, sums_by_class
from cafe.compute import threads_for
from cafe.errors import InputError

# A NumPy array, or a tensor on a device.
Array = NDArray[Any]


def shifted_solves(A: Array, shifts: Sequence[float], B: Array) -> list[Array]:
    """Solve (A + r I) Y = B for every r.

    Parameters
    ----------
    A : ndarray of shape (m, m)
        Symmetric, positive semi-definite.
    shifts : sequence of float
        The values of r, above 0.
    B : ndarray of shape (m, k)
        Right sides.

    Returns
    -------
    list of ndarray of shape (m, k)
        One for each r; a single one is solved directly, which costs less than eigenvectors.

    Examples
    --------
    >>> [float(y[0, 0]) for y in shifted_solves(np.eye(1), [1.0, 3.0], np.eye(1))]
    [0.5, 0.25]
    """
    if len(shifts) == 1:
        return [functions(A).linalg.solve(A + shifts[0] * like(np.eye(len(A)), A), B)]
    values, vectors = functions(A).linalg.eigh(A)
    turned = vectors.T @ B
    return [vectors @ (turned / (relu(values) + r)[:, None]) for r in shifts]


def gaussian_path(
    X: Array, y: NDArray[np.int64], n_classes: int, shrinkages: Sequence[float], zero_covariance: str = "zero-shot"
) -> tuple[list[tuple[Array, Array]], str]:
    """Return a Gaussian classifier for every shrinkage; see the module's docstring.

    Parameters
    ----------
    X : ndarray or Tensor of shape (n, d)
        Rows; computed in float64, a tensor on its own device.
    y : ndarray of shape (n,), int64
        Class of each row.
    n_classes : int
        c; a class without a row gets the mean weights and bias of the others.
    shrinkages : sequence of float
        Above 0.
    zero_covariance : {"zero-shot", "total"}, default="zero-shot"
        Which covariance S is used where no row differs from its class mean: ``"total"``, about the mean of all rows, or
        ``"zero-shot"``, none, which makes all weights zero.

    Returns
    -------
    tuple of list and str
        (W (c, d), b (c,)) for each shrinkage; and ``"within"``, ``"total"`` or ``"none"``: what S was.

    References
    ----------
    Wang et al., A Hard-to-Beat Baseline for Training-Free CLIP-Based Adaptation (ICLR 2024), equations 2 to 5.

    Examples
    --------
    >>> X = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    >>> path, source = gaussian_path(X, np.array([0, 0, 1, 1]), 2, [1.0, 10.0])
    >>> source, [bool((X[0] @ W.T + b).argmax() == 0) for W, b in path]
    ('within', [True, True])
    """
    _check_positive("shrinkages", shrinkages)
    X = double(X)
    n, d = X.shape
    counts = np.bincount(y, minlength=n_classes)
    seen = counts > 0
    mu = sums_by_class(X, y, n_classes) / like(np.maximum(counts, 1)[:, None], X)
    centred, source = X - mu[index_like(y, X)], "within"
    square = functions(X).square
    # Rounding of means leaves up to eps^2 of the rows' own squares; float32 rows that are copies are exactly equal.
    noise = 1e3 * np.finfo(np.float64).eps ** 2 * square(X).sum()
    if square(centred).sum() <= noise:
        if zero_covariance == "zero-shot" or square(X - X.mean(axis=0)).sum() <= noise:
            return [(np.zeros((n_classes, d)), np.zeros(n_classes)) for _ in shrinkages], "none"
        centred, source = X - X.mean(axis=0), "total"
    with threads_for(n * d * d):
        scatter = centred.T @ centred  # (n - 1) S
        trace = float(functions(scatter).trace(scatter)) / max(1, n - 1)
        shifts = [float(s * trace) for s in shrinkages]
        solved = shifted_solves(scatter, shifts, mu[index_like(np.flatnonzero(seen), mu)].T)
    means = on_host(mu)
    return [_with_bias(d * on_host(weights).T, means, seen) for weights in solved], source


def _with_bias(weights: Array, mu: Array, seen: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return W (c, d) and b (c,) of the Gaussian classifier; formulas in the module's docstring.

    Parameters
    ----------
    weights : ndarray of shape (seen classes, d)
        W of the classes that have a row.
    mu : ndarray of shape (c, d)
        Means of all classes.
    seen : ndarray of shape (c,), bool
        Which classes have a row.
    """
    W = np.zeros_like(mu)
    W[seen] = weights
    b = -np.log(seen.sum()) - np.einsum("cd,cd->c", W, mu) / 2
    # A class without a row scores the average of those with one.
    W[~seen], b[~seen] = W[seen].mean(axis=0), b[seen].mean()
    return W, b


def ridge_path(
    X: Array, y: NDArray[np.int64], n_classes: int, penalties: Sequence[float], prior: Array | None = None
) -> list[tuple[Array, Array]]:
    """Return a ridge classifier for every penalty; see the module's docstring.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Rows; computed in float64.
    y : ndarray of shape (n,), int64
        Class of each row.
    n_classes : int
        c.
    penalties : sequence of float
        Above 0.
    prior : ndarray of shape (c, d), default=None
        W0, one row per class, such as scaled class embeddings; None for zero.

    Returns
    -------
    list of tuple of ndarray
        W (c, d) and b (c,) for each penalty.

    References
    ----------
    big_vision, evaluators/fewshot_lsr.py (targets of -1 and 1, one eigendecomposition); the bias is free here, where
    it has a feature of 100 there, and features are not whitened.

    Examples
    --------
    >>> (W, b), = ridge_path(np.array([[1.0], [3.0]]), np.array([0, 1]), 2, [2.0])
    >>> W.ravel().tolist(), b.tolist()
    ([-0.5, 0.5], [1.0, -1.0])
    """
    _check_positive("penalties", penalties)
    X = X.astype(np.float64)
    n, d = X.shape
    mean = X.mean(axis=0)
    start = np.zeros((n_classes, d)) if prior is None else np.asarray(prior, dtype=np.float64)
    if start.shape != (n_classes, d):
        raise InputError(f"prior must be ({n_classes}, {d}), one row per class, but its shape is {start.shape}")
    targets = np.where(np.arange(n_classes) == y[:, None], 1.0, -1.0)
    residual = targets - X @ start.T
    residual -= residual.mean(axis=0)
    centred = X - mean
    with threads_for(n * d * min(n, d)):
        if n < d:
            steps = [centred.T @ dual for dual in shifted_solves(centred @ centred.T, penalties, residual)]
        else:
            steps = shifted_solves(centred.T @ centred, penalties, centred.T @ residual)
    weights = [start + step.T for step in steps]
    return [(W, targets.mean(axis=0) - W @ mean) for W in weights]


def _check_positive(name: str, values: Sequence[float]) -> None:
    """Raise InputError unless there are values and all are finite and above 0."""
    if len(values) == 0 or not all(0 < value < np.inf for value in values):
        raise InputError(f"{name} must be numbers above 0, at least one, but are {list(values)!r}")

"""Gaussians with one shared covariance within classes, and how they score rows that they were not fitted on.

Letters: n rows, d width, c classes, k_c rows of class c, mu_c their mean, r_i = x_i - mu_(y_i).

    A = sum_i r_i r_i^T + lam I          lam = sum_i |r_i|^2 / (n - 1)
    P = d A^-1          logit_c(x) = x P mu_c - mu_c P mu_c / 2

which is :class:`cafe.GDA`'s model. Leaving row i out takes it out of its class's mean too, which removes
a_i r_i r_i^T from the sum, with a_i = k / (k - 1). With q_i = A^-1 r_i the inverse without the row is, by Sherman and
Morrison,

    A_i^-1 = A^-1 + f_i q_i q_i^T        f_i = a_i / (1 - a_i r_i . q_i)

(lam stays). So the score of a left-out row costs two products with the class means, and no factorisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cafe.arrays import functions, index_like, like, on_device, on_host, sums_by_class
from cafe.compute import threads_for
from cafe.methods.inputs.cosines import Array

# Rows that are float64 at a time.
CHUNK: Final = 16_384


@dataclass(frozen=True)
class SharedGaussian:
    """A Gaussian of each class, with one covariance for all, as a linear score; all in float64.

    Attributes
    ----------
    weights : ndarray of shape (c, d)
        P mu_c; for a class without a row the mean of the others.
    offset : ndarray of shape (c,)
        - mu_c P mu_c / 2; the same.
    inverse : ndarray of shape (d, d)
        A^-1.
    means : ndarray of shape (c, d)
        mu_c.
    """

    weights: Array
    offset: Array
    inverse: Array
    means: Array


def fit_gaussian(X: Array, y: NDArray[np.int64], n_classes: int, device: str = "cpu") -> SharedGaussian | None:
    """Fit the model on rows X (n, d) of classes y; None where every row is its class's mean, up to rounding."""
    (n, d), means, seen = X.shape, class_means(X, y, n_classes), np.bincount(y, minlength=n_classes) > 0
    scatter, device_means = on_device(np.zeros((d, d)), device), on_device(means, device)
    squares = 0.0
    with threads_for(n * d * d):
        for start in range(0, n, CHUNK):
            part = slice(start, start + CHUNK)
            rows = X[part].astype(np.float64)
            squares += np.square(rows).sum()
            rows = on_device(rows, device)
            rows -= device_means[index_like(y[part], device_means)]
            scatter += rows.T @ rows
        spread = float(functions(scatter).trace(scatter))
        # Rounding of means leaves up to eps^2 of the rows' own squares, as in cafe.GDA.
        if spread <= 1e3 * np.finfo(np.float64).eps ** 2 * squares:
            return None
        inverse = on_host(functions(scatter).linalg.inv(scatter + spread / max(1, n - 1) * like(np.eye(d), scatter)))
        return SharedGaussian(*_weights_and_offset(inverse, means, seen), inverse, means)


def held_out_logits(
    model: SharedGaussian,
    X: Array,
    y: NDArray[np.int64],
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    device: str = "cpu",
) -> Array:
    """Score every held-out row with its fold's class means and a covariance that lacks this one row.

    Parameters
    ----------
    model : SharedGaussian
        Fitted on all rows.
    X : ndarray of shape (n, d)
        The rows.
    y : ndarray of shape (n,)
        Their classes.
    folds : sequence of (kept rows, held-out rows)
        Class means are those of the kept rows. A held-out row's class has at least two rows.

    Returns
    -------
    ndarray of shape (held-out rows, c)
        Fold after fold.
    """
    logits, all_counts = [], np.bincount(y)
    for kept, held in folds:
        counts = np.bincount(y[kept], minlength=len(model.weights))
        means = class_means(X[kept], y[kept], len(counts))
        rows = on_device(X[held].astype(np.float64), device)
        residuals = rows - like(model.means[y[held]], rows)
        turned = residuals @ like(model.inverse, rows)  # q_i
        of = functions(rows)
        a = like(all_counts[y[held]] / (all_counts[y[held]] - 1), rows)
        f = a / (1 - a * of.einsum("nd,nd->n", turned, residuals))
        weights, offset = (like(v, rows) for v in _weights_and_offset(model.inverse, means, counts > 0))
        towards = X.shape[1] * (turned @ like(means, rows).T)  # d q_i . mu_c
        own = of.einsum("nd,nd->n", rows, turned)
        scores = rows @ weights.T + offset + (f * own)[:, None] * towards
        scores -= f[:, None] * of.square(towards) / (2 * X.shape[1])
        scores = on_host(scores)
        unseen = counts == 0
        scores[:, unseen] = scores[:, ~unseen].mean(axis=1, keepdims=True)
        logits.append(scores)
    return np.concatenate(logits)


def class_means(X: Array, y: NDArray[np.int64], n_classes: int) -> Array:
    """Return the mean of every class's rows, (c, d); zeros for a class without one."""
    means: Array = sums_by_class(X.astype(np.float64), y, n_classes)
    means /= np.maximum(np.bincount(y, minlength=n_classes), 1)[:, None]
    return means


def _weights_and_offset(inverse: Array, means: Array, seen: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return P mu_c (c, d) and - mu_c P mu_c / 2 (c,) from A^-1; the mean of the others for a class without a row."""
    weights = len(inverse) * (means @ inverse)
    offset = -np.einsum("cd,cd->c", weights, means) / 2
    # A class without a row is as likely as the average of those with one.
    weights[~seen], offset[~seen] = weights[seen].mean(axis=0), offset[seen].mean()
    return weights, offset

"""How well features are arranged by class, whatever the classifier: the measures of the `manifold` suite.

All are taken on unit-length features x of n samples in c classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 5
# Silhouettes need all pairs of distances: 5,000 rows are 200 MB in float64, and their mean is known to 0.01.
SILHOUETTE_ROWS = 5000
_BLOCK = 2048


def silhouette(x: NDArray[Any], labels: NDArray[np.int64], max_rows: int = SILHOUETTE_ROWS) -> float:
    """Return the mean silhouette by cosine distance, -1 to 1, over at most ``max_rows`` rows (a fixed draw).

    ``s = (b - a) / max(a, b)`` with a the mean distance of a row to its own class and b to the nearest other one.
    Source: Rousseeuw (1987), Journal of Computational and Applied Mathematics 20.
    """
    from sklearn.metrics import silhouette_score

    size = max_rows if len(x) > max_rows else None
    return float(silhouette_score(x, labels, metric="cosine", sample_size=size, random_state=0))


def scatter_ratio(x: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Return the scatter between classes over that within them, ``tr S_b / tr S_w``.

    ::

        tr S_b = sum_k n_k |mean_k - mean|^2        tr S_w = sum_i |x_i - mean_(y_i)|^2

    Examples
    --------
    >>> scatter_ratio(np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1]))
    25.0
    """
    x = x.astype(np.float64)
    present, rows, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((len(present), x.shape[1]))
    np.add.at(means, rows, x)
    means /= counts[:, None]
    between = float((counts * ((means - x.mean(axis=0)) ** 2).sum(axis=1)).sum())
    within = float(((x - means[rows]) ** 2).sum())
    return between / max(within, np.finfo(np.float64).tiny)


def knn_accuracy(x: NDArray[Any], labels: NDArray[np.int64], k: int = NEIGHBOURS) -> float:
    """Return how often the k nearest other rows (cosine) vote for a row's own class; ties go to the nearest.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> knn_accuracy(x, np.array([0, 0, 1, 1]), k=1)
    1.0
    """
    k = min(k, len(x) - 1)
    right = 0
    for start in range(0, len(x), _BLOCK):
        own = np.arange(start, min(start + _BLOCK, len(x)))
        similarity = x[own] @ x.T
        similarity[np.arange(len(own)), own] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]  # (rows, k)
        right += int((_vote(labels[nearest]) == labels[own]).sum())
    return right / len(x)


def _vote(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the most frequent label of each row; among equally frequent labels, the first in the row."""
    counts = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)  # votes for each neighbour's label
    winner: NDArray[np.int64] = np.take_along_axis(labels, counts.argmax(axis=1)[:, None], axis=1)[:, 0]
    return winner


def measures(x: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, float]:
    """Measure how well features are arranged by class: ``knn_acc1``, ``silhouette`` and ``scatter_ratio``.


    Parameters
    ----------
    x : ndarray of shape (n, d)
        Features of test images, before or after an adapter, of any length: they are scaled to unit length here.
    labels : ndarray of shape (n,), int64
        Class of each; at least two classes.
    """
    length = np.linalg.norm(x.astype(np.float32), axis=1, keepdims=True)
    unit = x.astype(np.float32) / np.maximum(length, np.finfo(np.float32).tiny)
    return {
        "knn_acc1": knn_accuracy(unit, labels),
        "silhouette": silhouette(unit, labels),
        "scatter_ratio": scatter_ratio(unit, labels),
    }

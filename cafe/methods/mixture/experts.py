"""The experts of ``auto``: what they learn from some rows, and how they score rows that they were not fitted on.

Letters: n samples, d width, c classes. The mixture's formula stands in :class:`cafe.Auto`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cafe.methods.base import Array, unit_length
from cafe.methods.mixture.gaussians import SharedGaussian, class_means, fit_gaussian, held_out_logits
from cafe.methods.task_res import TaskRes

# In the order in which weights and logits of experts stand everywhere.
EXPERTS: Final = ("text", "residual", "within", "total")
# Held-out rows that are scored: beyond some thousands the choice does not change, and every look at the logits of
# 16,000 rows and 1,000 classes takes a second.
SCORED_ROWS: Final = 2048

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Experts:
    """What was learned from some rows.

    Attributes
    ----------
    text, residual : ndarray of shape (c, d)
        Class weights of unit length times the logit scale.
    gaussians : tuple of SharedGaussian or None
        With the covariance about class means and about the mean of all rows; None where it is zero.
    device : str
        Where the residual was trained.
    """

    text: Array
    residual: Array
    gaussians: tuple[SharedGaussian | None, SharedGaussian | None]
    device: str

    def merged(self, mixture: Array) -> tuple[Array, Array]:
        """Return weights (c, d) and offsets (c,) of a mixture (4,), which is linear in the features."""
        weights = mixture[0] * self.text + mixture[1] * self.residual
        offset = np.zeros(len(weights))
        for share, gaussian in zip(mixture[2:], self.gaussians, strict=True):
            if gaussian is not None:
                weights, offset = weights + share * gaussian.weights, offset + share * gaussian.offset
        return weights, offset

    def logits(self, X: Array) -> Array:
        """Score rows (n, d) by each expert: (4, n, c); an expert that is missing scores zero."""
        return np.stack([np.add(*_scored(X, *self.merged(one))) for one in np.eye(len(EXPERTS))])


@dataclass(frozen=True)
class HeldOut:
    """Logits of the experts on rows that they were not fitted on, and these rows' classes.

    Attributes
    ----------
    logits : ndarray of shape (4, n, c)
        In the order of ``EXPERTS``.
    labels : ndarray of shape (n,), int64
        Class rows.
    shots : float
        Mean number of rows of a class that has more than one.
    """

    logits: Array
    labels: NDArray[np.int64]
    shots: float


def fit_experts(X: Array, y: NDArray[np.int64], text: Array, settings: dict[str, Any]) -> Experts:
    """Learn the experts from unit-length rows X (n, d), class rows y and class embeddings (c, d)."""
    weights, residual, device = fit_residual(X, y, text, settings)
    return Experts(weights, residual, _gaussians(X, y, len(text)), device)


def fit_residual(X: Array, y: NDArray[np.int64], text: Array, settings: dict[str, Any]) -> tuple[Array, Array, str]:
    """Train TaskRes for a fixed number of steps; return the weights of text and of the residual, and the device."""
    scale, batch = settings["logit_scale"], min(256, len(y))
    if len(y) > (most := batch * settings["steps"]):
        # So many steps see no more rows than that.
        seen = np.random.default_rng(settings["random_state"]).permutation(len(y))[:most]
        X, y = X[seen], y[seen]
    model = TaskRes(
        text,
        epochs=settings["steps"] * batch / len(y),
        batch_size=batch,
        **{k: settings[k] for k in ("logit_scale", "device", "dtype", "random_state")},
    ).fit(X, y)
    weights, residual = (scale * unit_length(np.asarray(v, np.float64)) for v in (text, model.weights_))
    return weights, residual, model.device_


def held_out_scores(
    X: Array, y: NDArray[np.int64], text: Array | None, n_classes: int, folds: int, settings: dict[str, Any]
) -> HeldOut | None:
    """Score rows by experts that were not fitted on them.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Unit-length rows.
    y : ndarray of shape (n,), int64
        Class rows.
    text : ndarray of shape (c, d) or None
        Class embeddings; None for class means, which are then taken from each fold's own rows.
    n_classes : int
        c.
    folds : int
        At most.
    settings : dict
        ``steps``, ``logit_scale``, ``device``, ``dtype``, ``random_state``.

    Returns
    -------
    HeldOut or None
        None where less than half of the classes have a second row.
    """
    counts = np.bincount(y, minlength=n_classes)
    if 2 * np.sum(counts > 1) < np.sum(counts > 0):
        return None
    parts = [part for part in fold_rows(y, folds, settings["random_state"]) if len(part[1])]
    draw = np.random.default_rng(settings["random_state"])
    scored = [(kept, draw.permutation(held)[: SCORED_ROWS // len(parts)]) for kept, held in parts]
    found = []
    for kept, held in scored:
        # Every class keeps a row in every fold, so class means are never of nothing.
        start = unit_length(class_means(X[kept], y[kept], n_classes)).astype(X.dtype) if text is None else text
        weights, residual, _ = fit_residual(X[kept], y[kept], start, settings)
        found.append(np.stack([X[held] @ weights.T, X[held] @ residual.T]))
    logits = [*np.concatenate(found, axis=1)]
    for gaussian in _gaussians(X, y, n_classes):
        missing = np.zeros_like(logits[0])
        logits.append(missing if gaussian is None else held_out_logits(gaussian, X, y, scored))
    labels = np.concatenate([y[held] for _, held in scored])
    return HeldOut(np.stack(logits).astype(np.float32), labels, float(counts[counts > 1].mean()))


def fold_rows(y: NDArray[np.int64], folds: int, random_state: int) -> list[Fold]:
    """Split rows so that each fold takes about as many rows of every class, and never a class's only one.

    With two rows per class there are two folds that have any; a fold of each class's first row, say, leaves all
    classes one row, so that none is at an advantage.

    Examples
    --------
    >>> folds = fold_rows(np.array([0, 0, 1, 1, 2]), 2, 0)
    >>> [np.array([0, 0, 1, 1, 2])[held].tolist() for _, held in folds]
    [[0, 1], [0, 1]]
    """
    draw = np.random.default_rng(random_state)
    fold = np.full(len(y), -1)
    for label in np.unique(y):
        members = draw.permutation(np.flatnonzero(y == label))
        if len(members) > 1:
            fold[members] = np.arange(len(members)) % folds
    return [(np.flatnonzero(fold != part), np.flatnonzero(fold == part)) for part in range(folds)]


def _gaussians(X: Array, y: NDArray[np.int64], n_classes: int) -> tuple[SharedGaussian | None, SharedGaussian | None]:
    return fit_gaussian(X, y, n_classes, True), fit_gaussian(X, y, n_classes, False)


def _scored(X: Array, weights: Array, offset: Array) -> Sequence[Array]:
    return X @ weights.T, offset

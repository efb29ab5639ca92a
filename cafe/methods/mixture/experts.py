"""The experts of ``auto``: a residual on text, and a model of the images alone by each encoder; their held-out scores.

Letters: n rows, d width, c classes. The mixture's formula stands in :class:`cafe.Auto`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cafe.methods.base import Array, unit_length
from cafe.methods.mixture.gaussians import SharedGaussian, class_means, held_out_logits
from cafe.methods.task_res import TaskRes

# Held-out rows that are scored: beyond some thousands the choice does not change, and every look at the logits of
# 16,000 rows and 1,000 classes takes a second.
SCORED_ROWS: Final = 2048
# How far class means are measured from zero towards the mean of all, where they are all there is.
CENTRING: Final = 0.5

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class HeldOutLogits:
    """Logits of experts on rows that they were not fitted on.

    Attributes
    ----------
    logits : ndarray of shape (e, n, c)
        That of text where there is any (a residual on it, or text itself), then the images' models, one an encoder.
    text : ndarray of shape (n, c) or None
        Logits of text at its own scale.
    labels : ndarray of shape (n,), int64
        Class rows.
    rows_of_class, kept_of_class : float
        Rows that a held-out row's class has, and those that are left of them in its fold, on average.
    """

    logits: Array
    text: Array | None
    labels: NDArray[np.int64]
    rows_of_class: float
    kept_of_class: float


def distinct_rows(X: Array, y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of a class's rows without duplicates: a copy of a row is no evidence about another row.

    Examples
    --------
    >>> distinct_rows(np.array([[1.0], [1.0], [2.0], [1.0]]), np.array([0, 0, 0, 1])).tolist()
    [0, 2, 3]
    """
    first: dict[tuple[int, bytes], int] = {}
    for i, (row, label) in enumerate(zip(X, y.tolist(), strict=True)):
        first.setdefault((label, row.tobytes()), i)
    return np.fromiter(first.values(), np.int64, len(first))


def fit_residual(X: Array, y: NDArray[np.int64], text: Array, text_scale: float, settings: dict[str, Any]) -> Array:
    """Train TaskRes for a fixed number of steps; return its class weights (c, d).

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Unit-length rows.
    y : ndarray of shape (n,), int64
        Class rows.
    text : ndarray of shape (c, d)
        Class embeddings.
    text_scale : float
        Of the cosines, in training and in the weights that are returned.
    settings : dict
        ``steps``, ``device`` (as :func:`cafe.compute.choose_device` returns it), ``dtype``, ``random_state``.
    """
    batch = min(256, len(y))
    if len(y) > (most := batch * settings["steps"]):
        # So many steps see no more rows than that.
        drawn = np.random.default_rng(settings["random_state"]).permutation(len(y))[:most]
        X, y = X[drawn], y[drawn]
    model = TaskRes(
        text,
        epochs=settings["steps"] * batch / len(y),
        batch_size=batch,
        logit_scale=text_scale,
        **{name: settings[name] for name in ("device", "dtype", "random_state")},
    ).fit(X, y)
    weights: Array = text_scale * unit_length(np.asarray(model.weights_, np.float64))
    return weights


def centred_means(X: Array, y: NDArray[np.int64], n_classes: int) -> tuple[Array, Array]:
    """Return weights (c, d) and offsets (c,) of (f - m) . (mu_c - m) / |mu_c - m|, m half the mean of class means.

    A class mean near that of all is near every row, a hub; measured from there it is not. Half of the way, since the
    mean of a few rows is itself uncertain. A class without a row scores zero.
    """
    means, seen = class_means(X, y, n_classes), np.bincount(y, minlength=n_classes) > 0
    centre = CENTRING * means[seen].mean(axis=0)
    weights = unit_length(means - centre)
    weights[~seen] = 0
    return weights, -weights @ centre


def held_out_expert_logits(
    X: Array,
    y: NDArray[np.int64],
    text: Array | None,
    text_scale: float,
    images: Sequence[tuple[Array, SharedGaussian]],
    folds: int,
    settings: dict[str, Any],
    residual: bool = True,
) -> HeldOutLogits:
    """Return the logits of all experts on rows that they were not fitted on.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Unit-length rows, by the encoder that has text.
    y : ndarray of shape (n,), int64
        Class rows.
    text : ndarray of shape (c, d) or None
        Class embeddings; without them there is no expert on text.
    text_scale : float
        Of the cosines with text, or of the residual.
    images : sequence of (ndarray of shape (n, width), SharedGaussian)
        For each encoder its unit-length rows, and the model that was fitted on all of them.
    folds : int
        At most.
    settings : dict
        Of :func:`fit_residual`, and ``logit_scale``.
    residual : bool, default=True
        Whether the expert on text is a residual, trained in each fold; else it is text itself.
    """
    parts = scored_folds(y, folds, settings["random_state"])
    held_rows = np.concatenate([held for _, held in parts])
    labels, counts = y[held_rows], np.bincount(y)
    kept_counts = np.concatenate([np.bincount(y[kept], minlength=len(counts))[y[held]] for kept, held in parts])
    logits, of_text = [held_out_logits(model, rows, y, parts, settings["device"]) for rows, model in images], None
    if text is not None:
        of_text = settings["logit_scale"] * (X[held_rows] @ text.T)
    if text is not None and not residual:
        logits.insert(0, text_scale * (X[held_rows] @ text.T))
    elif text is not None:
        residuals = [X[held] @ fit_residual(X[kept], y[kept], text, text_scale, settings).T for kept, held in parts]
        logits.insert(0, np.concatenate(residuals))
    return HeldOutLogits(np.stack(logits), of_text, labels, float(counts[labels].mean()), float(kept_counts.mean()))


def scored_folds(y: NDArray[np.int64], folds: int, random_state: int) -> list[Fold]:
    """Split rows as :func:`fold_rows`, drop empty folds, and sample held-out rows where there are very many."""
    parts = [part for part in fold_rows(y, folds, random_state) if len(part[1])]
    draw = np.random.default_rng(random_state)
    return [(kept, draw.permutation(held)[: max(1, SCORED_ROWS // len(parts))]) for kept, held in parts]


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

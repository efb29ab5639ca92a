"""The parts of ``auto``: experts, their scores on held-out folds, and the choice of a mixture.

Letters: n samples, d width, c classes. Formula of the mixture in :class:`cafe.Auto`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cafe.methods.base import Array, unit_length
from cafe.methods.task_res import TaskRes
from cafe.solvers.closed_forms import gaussian_path

RHOS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
ALPHAS: Final = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
TAUS: Final = (0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
# Held-out rows that are scored: beyond some thousands the choice does not change, and 35 mixtures x 9 temperatures
# of 16,000 x 1,000 logits would take a minute.
SCORED_ROWS: Final = 4096
# Where a class has a single row there is nothing to hold out.
WITHOUT_EVIDENCE: Final = (0.5, 0.0, 1.0)


@dataclass(frozen=True)
class Mixture:
    """Weights of the experts: rho of the residual, alpha of the Gaussians, and the temperature's inverse tau."""

    rho: float
    alpha: float
    tau: float


@dataclass(frozen=True)
class Experts:
    """What was learned from some rows.

    Attributes
    ----------
    text, residual, gaussian : ndarray of shape (c, d)
        Weights of each expert; text and residual of unit length times the logit scale.
    offset : ndarray of shape (c,)
        Of the Gaussian part.
    device : str
        Where the residual was trained.
    """

    text: Array
    residual: Array
    gaussian: Array
    offset: Array
    device: str

    def merged(self, mixture: Mixture) -> tuple[Array, Array]:
        """Return weights (c, d) and offsets (c,) of the mixture, which is linear in the features."""
        base = (1 - mixture.rho) * self.text + mixture.rho * self.residual
        return mixture.tau * (base + mixture.alpha * self.gaussian), mixture.tau * mixture.alpha * self.offset


@dataclass(frozen=True)
class HeldOut:
    """Logits of the three experts on rows that they were not fitted on, (n, c) each, and the rows' classes."""

    text: Array
    residual: Array
    gaussian: Array
    labels: NDArray[np.int64]

    def logits(self, rho: float, alpha: float) -> Array:
        """Return the mixture before its temperature."""
        mixed: Array = (1 - rho) * self.text + rho * self.residual + alpha * self.gaussian
        return mixed


def fit_experts(X: Array, y: NDArray[np.int64], text: Array, settings: dict[str, Any]) -> Experts:
    """Learn the experts from unit-length rows X (n, d), class rows y and class embeddings (c, d)."""
    scale, batch = settings["logit_scale"], min(256, len(y))
    model = TaskRes(
        text,
        epochs=settings["steps"] * batch / len(y),
        batch_size=batch,
        **{k: settings[k] for k in ("logit_scale", "device", "dtype", "random_state")},
    ).fit(X, y)
    ((gaussian, offset),), _ = gaussian_path(X, y, len(text), [1.0])
    text_weights, residual = (scale * unit_length(np.asarray(v, np.float64)) for v in (text, model.weights_))
    return Experts(text_weights, residual, gaussian, offset, model.device_)


def held_out_scores(
    X: Array, y: NDArray[np.int64], text: Array | None, folds: int, settings: dict[str, Any]
) -> HeldOut | None:
    """Score every row by experts fitted on the folds that do not hold it.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Unit-length rows.
    y : ndarray of shape (n,), int64
        Class rows.
    text : ndarray of shape (c, d) or None
        Class embeddings; None for class means, which are then taken from each fold's own rows.
    folds : int
        At most; as many as the rarest class has rows, if that is fewer.
    settings : dict
        ``steps``, ``logit_scale``, ``device``, ``dtype``, ``random_state``.

    Returns
    -------
    HeldOut or None
        None where a class has a single row.
    """
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(y)
    parts = min(folds, int(counts[counts > 0].min()))
    if parts < 2:
        return None
    splitter = StratifiedKFold(parts, shuffle=True, random_state=settings["random_state"])
    found: list[tuple[Array, ...]] = []
    draw = np.random.default_rng(settings["random_state"])
    for kept, left_out in splitter.split(X, y):
        held = draw.permutation(left_out)[: SCORED_ROWS // parts]
        embeddings = class_means(X[kept], y[kept]) if text is None else text
        experts = fit_experts(X[kept], y[kept], embeddings, settings)
        Q = X[held]
        logits = (Q @ experts.text.T, Q @ experts.residual.T, Q @ experts.gaussian.T + experts.offset)
        found.append((*(v.astype(X.dtype) for v in logits), y[held]))
    text_logits, residual, gaussian, labels = (np.concatenate(column) for column in zip(*found, strict=True))
    return HeldOut(text_logits, residual, gaussian, labels)


def class_means(X: Array, y: NDArray[np.int64]) -> Array:
    """Return the unit-length mean of every class's rows, (c, d)."""
    sums = np.zeros((int(y.max()) + 1, X.shape[1]))
    np.add.at(sums, y, X)
    return unit_length(sums).astype(X.dtype)


def losses(logits: Array, labels: NDArray[np.int64]) -> Array:
    """Return -log p(label) of every row, (n,)."""
    top = logits.max(axis=1)
    own = logits[np.arange(len(labels)), labels]
    found: Array = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - own
    return found


def best_tau(logits: Array, labels: NDArray[np.int64]) -> tuple[float, Array]:
    """Return the inverse temperature of least loss, and every row's loss under it."""
    tried = [losses(tau * logits, labels) for tau in TAUS]
    best = int(np.argmin([one.mean() for one in tried]))
    return TAUS[best], tried[best]


def pick_mixture(scores: HeldOut | None) -> tuple[Mixture, dict[str, Any]]:
    """Choose the mixture; see :class:`cafe.Auto` for the rule.

    Returns
    -------
    tuple of Mixture and dict
        The dict says what the choice rested on, as JSON.
    """
    if scores is None:
        return Mixture(*WITHOUT_EVIDENCE), {"held_out": 0}
    y = scores.labels
    found: dict[tuple[float, float], tuple[float, Array, float]] = {}
    for rho, alpha in product(RHOS, ALPHAS):
        logits = scores.logits(rho, alpha)
        tau, rows = best_tau(logits, y)
        found[rho, alpha] = tau, rows, float(np.mean(logits.argmax(axis=1) == y))
    zero = found[0.0, 0.0]
    # Zero-shot's own temperature is kept in the running; no mixture that is less accurate than it on the folds is.
    allowed = [key for key, one in found.items() if one[2] >= zero[2]]
    best = min(allowed, key=lambda key: found[key][1].mean())
    plain = min((key for key in allowed if key[1] == 0), key=lambda key: found[key][1].mean())
    gain = found[plain][1] - found[best][1]
    if gain.mean() < gain.std() / np.sqrt(len(gain)):
        best = plain
    tau, rows, accuracy = found[best]
    evidence = {
        "held_out": len(y),
        "accuracy": accuracy,
        "loss": float(rows.mean()),
        "zero_shot_accuracy": zero[2],
        "zero_shot_loss": float(zero[1].mean()),
    }
    return Mixture(best[0], best[1], tau), evidence

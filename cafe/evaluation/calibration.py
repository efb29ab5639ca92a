"""Calibration of probabilities: reliability bins, and the temperature of highest likelihood.

Letters: n samples, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.evaluation.metrics import ECE_BINS

# Beyond these a temperature means that the scores cannot be calibrated by one (all right, all wrong, all equal).
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.02, 50.0
_SMALLEST = float(np.finfo(np.float32).tiny)  # under a logarithm, as in the likelihood of metrics.py
_HALVINGS = 30  # of the interval of log T: its width falls to 1e-8


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions whose confidence lies in one interval.

    Attributes
    ----------
    low, high : float
        Confidence above ``low`` and up to ``high``.
    count : int
        Number of predictions.
    confidence, accuracy : float or None
        Their mean confidence, and the share that is right; None in an empty bin.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def reliability_bins(
    confidence: NDArray[Any], correct: NDArray[np.bool_], bins: int = ECE_BINS
) -> list[ReliabilityBin]:
    """Return the bins that the expected calibration error sums over.

    ::

        ECE = sum_b  n_b / n  | accuracy_b - confidence_b |

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017), equation 3 and figure 1.

    Parameters
    ----------
    confidence : ndarray of shape (n,)
        Probability of the class that was predicted.
    correct : ndarray of shape (n,), bool
        Whether it was right.
    bins : int, default=15
        Equally wide.

    Examples
    --------
    >>> bins = reliability_bins(np.array([0.9, 0.8, 0.3]), np.array([True, False, True]), bins=2)
    >>> [(round(b.confidence, 2), b.accuracy, b.count) for b in bins]
    [(0.3, 1.0, 1), (0.85, 0.5, 2)]
    """
    wide = confidence.astype(np.float64)
    place = np.clip(np.ceil(wide * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums, right = (np.bincount(place, weights=values, minlength=bins) for values in (wide, correct))
    return [
        ReliabilityBin(
            b / bins,
            (b + 1) / bins,
            int(counts[b]),
            float(sums[b] / counts[b]) if counts[b] else None,
            float(right[b] / counts[b]) if counts[b] else None,
        )
        for b in range(bins)
    ]


def calibration_error(bins: list[ReliabilityBin]) -> float:
    """Return the expected calibration error of bins.

    Examples
    --------
    >>> round(calibration_error(reliability_bins(np.array([0.9, 0.7]), np.array([True, True]), bins=5)), 3)
    0.2
    """
    n = sum(b.count for b in bins)
    return sum(
        b.count / n * abs(b.accuracy - b.confidence)
        for b in bins
        if b.accuracy is not None and b.confidence is not None
    )


def tempered(probabilities: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Return probabilities with their logits divided by a temperature: ``softmax(log p / T)``.

    Parameters
    ----------
    probabilities : ndarray of shape (n, c)
        Of a fitted method.
    temperature : float
        Above 1 they come nearer to each other, below 1 they part; the order of the classes stays.

    Returns
    -------
    ndarray of shape (n, c), float64

    Examples
    --------
    >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(3)
    array([[0.667, 0.333]])
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST)) / temperature  # (n, c)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers[probabilities == 0] = 0.0  # an impossible class stays impossible
    scaled: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Return the temperature of highest likelihood.

    With z = log p and b = 1 / T, the mean of ``-b z_y + log sum_j exp(b z_j)`` is convex in b, and its derivative

    ::

        mean_i ( E_{softmax(b z_i)} [z_i]  -  z_{i, y_i} )

    grows with b, so bisection finds its zero. The fits must not have seen the rows: of rows that
    were learned by heart, the temperature is too low. Source: Guo et al. (ICML 2017), section 4.2.

    Parameters
    ----------
    probabilities : ndarray of shape (n, c)
        Of fits that have not seen the rows.
    labels : ndarray of shape (n,), int64
        True class of each, as a row of the class names.

    Returns
    -------
    float
        Between 0.02 and 50.

    Examples
    --------
    Confidence 0.9 and right in two of three: the logits are too far from each other.

    >>> fit_temperature(np.array([[0.9, 0.1]] * 3), np.array([0, 0, 1])) > 1
    True
    """
    z = np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))  # (n, c)
    label_logits = np.take_along_axis(z, labels[:, None], axis=1)[:, 0]  # (n,)

    def derivative(log_temperature: float) -> float:
        powers = tempered(probabilities, float(np.exp(log_temperature)))
        return float(np.mean((powers * z).sum(axis=1) - label_logits))

    low, high = np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # Falls with T: above zero the logits are still too far from each other.
        low, high = (middle, high) if derivative(middle) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))

"""Accuracies and calibration, all between 0 and 1 but the likelihood.

Letters: n samples, c classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
Z_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def top_k_accuracy(scores: NDArray[Any], labels: NDArray[np.int64], k: int) -> float:
    """Return the share of rows whose label is among the k highest scores.

    Parameters
    ----------
    scores : ndarray of shape (n, c)
        Logits or probabilities. Ties count against the row, in the order of the classes.
    labels : ndarray of shape (n,)
        True class of each, as a row of the class names.
    k : int
        With fewer than k classes it is all of them.

    Examples
    --------
    >>> top_k_accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]), 1)
    0.5
    """
    of_label = np.take_along_axis(scores, labels[:, None], axis=1)  # (n, 1)
    earlier = np.arange(scores.shape[1])[None, :] < labels[:, None]
    before = ((scores > of_label) | ((scores == of_label) & earlier)).sum(axis=1)  # classes ranked before the label
    return float(np.mean(before < k))


def mean_per_class_recall(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the accuracy of each class that occurs in ``labels``, averaged over those classes.

    Examples
    --------
    >>> mean_per_class_recall(np.array([0, 0, 1]), np.array([0, 0, 0]))
    0.6666666666666666
    """
    counts = np.bincount(labels)
    hits = np.bincount(labels[predicted == labels], minlength=len(counts))
    present = counts > 0
    return float(np.mean(hits[present] / counts[present]))


def expected_calibration_error(probabilities: NDArray[Any], labels: NDArray[np.int64], bins: int = ECE_BINS) -> float:
    """Return the mean distance of confidence and accuracy over equally wide bins of confidence.

    ::

        ECE = sum_b  n_b / n  | accuracy_b - confidence_b |

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017), equation 3; 15 bins as there.

    Examples
    --------
    >>> expected_calibration_error(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    0.5
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    # Bins are (low, high], so that a confidence of exactly 1 falls into the last.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def negative_log_likelihood(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Return the mean of -log p(label), with p not below the smallest normal float32.

    Examples
    --------
    >>> round(negative_log_likelihood(np.array([[0.5, 0.5]]), np.array([0])), 4)
    0.6931
    """
    of_label = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    return float(-np.log(np.maximum(of_label, np.finfo(np.float32).tiny)).mean())


def wilson_interval(share: float, n: int) -> list[float]:
    """Return the 95 % interval of a share that was seen in n independent trials.

    ::

        ( p + z^2 / 2n  -+  z sqrt( p (1 - p) / n + z^2 / 4n^2 ) )  /  (1 + z^2 / n),      z = 1.96

    It says where the accuracy on new images lies, for this one fit; it neither leaves [0, 1] nor shrinks to a point
    where everything was right. Source: Wilson, Probable Inference (JASA 1927).

    Examples
    --------
    >>> [round(end, 3) for end in wilson_interval(0.9, 100)], [round(end, 3) for end in wilson_interval(1.0, 10)]
    ([0.826, 0.945], [0.722, 1.0])
    """
    z = Z_95
    middle, denominator = share + z**2 / (2 * n), 1 + z**2 / n
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return [max(0.0, (middle - half) / denominator), min(1.0, (middle + half) / denominator)]


def majority_accuracy(labels: NDArray[np.int64]) -> float:
    """Return the share of the most frequent class, which is the accuracy of always predicting it.

    Examples
    --------
    >>> majority_accuracy(np.array([0, 2, 2, 2]))
    0.75
    """
    return float(np.bincount(labels).max() / len(labels))


# Fields that :func:`all_metrics` fills.
METRIC_FIELDS = ("acc1", "acc1_interval", "acc5", "mean_per_class_recall", "majority_acc1", "ece", "nll")


def all_metrics(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return the metrics of a row, the fields of ``METRIC_FIELDS``.

    Parameters
    ----------
    probabilities : ndarray of shape (n, c)
        Of a fitted method.
    labels : ndarray of shape (n,), int64
        True class of each, as a row of the class names.

    Returns
    -------
    dict
        ``acc1``, ``acc5``, ``mean_per_class_recall``, ``ece``: 0 to 1; ``acc1_interval``, a list of the two ends of
        acc1's 95 % interval (Wilson's); ``majority_acc1``, the share of the most frequent class; ``nll``, at least 0.
    """
    predicted = probabilities.argmax(axis=1)
    acc1 = float(np.mean(predicted == labels))
    return {
        "acc1": acc1,
        "acc1_interval": wilson_interval(acc1, len(labels)),
        "acc5": top_k_accuracy(probabilities, labels, 5),
        "mean_per_class_recall": mean_per_class_recall(predicted, labels),
        "majority_acc1": majority_accuracy(labels),
        "ece": expected_calibration_error(probabilities, labels),
        "nll": negative_log_likelihood(probabilities, labels),
    }

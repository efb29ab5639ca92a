"""Results of a classifier class by class: recall, precision, the weakest classes, the most frequent confusions.

Letters: n predictions, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassResult:
    """Counts of one class.

    Attributes
    ----------
    label : int
        Its row of the class names.
    n_test : float
        Its test images. Where images were tested several times, all counts are means over the repeats.
    n_right : float
        Those that were predicted as this class.
    n_predicted : float
        Test images of any class that were predicted as this class.
    """

    label: int
    n_test: float
    n_right: float
    n_predicted: float

    @property
    def recall(self) -> float | None:
        """Share of its test images that were predicted right; None without one."""
        return self.n_right / self.n_test if self.n_test else None

    @property
    def precision(self) -> float | None:
        """Share of the images predicted as this class that are of it; None if none was."""
        return self.n_right / self.n_predicted if self.n_predicted else None


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another.

    Attributes
    ----------
    label, predicted : int
        Their class, and the predicted one.
    count : float
        Number of images.
    """

    label: int
    predicted: int
    count: float


def class_results(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], n_classes: int, repeats: int = 1
) -> list[ClassResult]:
    """Return the counts of each class, in the order of the classes.

    Parameters
    ----------
    predicted, labels : ndarray of shape (n,), int64
        Predicted and true class of each image.
    n_classes : int
        c; classes without a test image are in the table too.
    repeats : int, default=1
        How often each image is among the n; counts are divided by it.

    Returns
    -------
    list of ClassResult
        Of length c.

    Examples
    --------
    >>> results = class_results(np.array([0, 1, 1]), np.array([0, 0, 1]), n_classes=3)
    >>> [(result.recall, result.precision) for result in results]
    [(0.5, 1.0), (1.0, 0.5), (None, None)]
    """
    n_test = np.bincount(labels, minlength=n_classes) / repeats
    n_right = np.bincount(labels[predicted == labels], minlength=n_classes) / repeats
    n_predicted = np.bincount(predicted, minlength=n_classes) / repeats
    return [
        ClassResult(label, float(n_test[label]), float(n_right[label]), float(n_predicted[label]))
        for label in range(n_classes)
    ]


def weakest_classes(results: list[ClassResult], k: int = 3) -> list[ClassResult]:
    """Return the ``k`` tested classes of lowest recall that are not always right, the lowest first.

    Of equal recall the one with more test images comes first, since its recall is known better.

    Examples
    --------
    >>> results = class_results(np.array([0, 1, 1]), np.array([0, 0, 1]), n_classes=3)
    >>> [result.label for result in weakest_classes(results)]
    [0]
    """
    imperfect = [result for result in results if result.recall is not None and result.n_right < result.n_test]
    return sorted(imperfect, key=lambda result: (result.recall, -result.n_test, result.label))[:k]


def confused_pairs(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], k: int | None = 3, repeats: int = 1
) -> list[Confusion]:
    """Return the ``k`` most frequent ways to take one class for another, the most frequent first.

    Parameters
    ----------
    predicted, labels : ndarray of shape (n,), int64
        Predicted and true class of each image.
    k : int or None, default=3
        None for all.
    repeats : int, default=1
        As in :func:`class_results`.

    Examples
    --------
    >>> confused_pairs(np.array([1, 1, 0, 0]), np.array([0, 0, 0, 1]), k=1)
    [Confusion(label=0, predicted=1, count=2.0)]
    """
    wrong = predicted != labels
    pairs, counts = np.unique(np.stack([labels[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:k]
    return [Confusion(int(pairs[i, 0]), int(pairs[i, 1]), float(counts[i]) / repeats) for i in order]


def untested_classes(labels: NDArray[np.int64], n_classes: int) -> list[int]:
    """Return the classes of which there is no test image, in their order.

    Examples
    --------
    >>> untested_classes(np.array([0, 2]), n_classes=4)
    [1, 3]
    """
    return [int(label) for label in np.flatnonzero(np.bincount(labels, minlength=n_classes) == 0)]

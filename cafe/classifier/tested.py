"""The test images of a fit with their predictions, from which a row gets sums and a report examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.evaluation.by_class import ClassResult, class_results, confused_pairs, untested_classes, weakest_classes

FEW_TESTS = 5  # images of a class below which its accuracy says hardly anything
SHOWN = 3  # weakest classes and confused pairs of a row


@dataclass(frozen=True)
class TestedImages:
    """The predicted class of each test image, by a fit that has not seen it.

    Attributes
    ----------
    labels, predicted : ndarray of shape (n,), int64
        Row of its class, and of the class that was predicted.
    confidence : ndarray of shape (n,)
        Probability of the predicted class.
    sample_ids : ndarray of shape (n,), str
        As the data set names it.
    class_names : sequence of str
        Of all classes, tested or not.
    repeats : int, default=1
        How often each image is among the n: a repeated cross-validation tests it several times.
    rows : ndarray of shape (n,), int64, default=None
        The number of the image, where images are tested several times.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.floating[Any]]
    sample_ids: NDArray[np.str_]
    class_names: Sequence[str]
    repeats: int = 1
    rows: NDArray[np.int64] | None = None

    __test__ = False  # by its name, pytest would take the class for one of tests

    @property
    def n_images(self) -> int:
        """The number of different test images."""
        return len(self.labels) // self.repeats

    @property
    def results(self) -> list[ClassResult]:
        """The results of each class, in the order of ``class_names``."""
        return class_results(self.predicted, self.labels, len(self.class_names), self.repeats)

    def fields(self) -> dict[str, Any]:
        """Return the fields of a row that describe single classes.

        Returns
        -------
        dict
            ``majority_class``: the most frequent class of the test images. ``weakest_classes``: up to three classes
            that are not always right, {class, recall, n_test, n_right}, the lowest recall first. ``confused_pairs``:
            the three most frequent ways to take one class for another, {class, predicted, count, n_test}.
            ``untested_classes``: names of those without a test image. ``tested_classes``, ``barely_tested_classes``:
            how many have a test image, and how many of these fewer than five. Counts of a cross-validation are means
            over its repeats.
        """
        results, names = self.results, [str(name) for name in self.class_names]
        return {
            "majority_class": names[int(np.bincount(self.labels).argmax())],
            "weakest_classes": [
                {"class": names[r.label], "recall": r.recall, "n_test": r.n_test, "n_right": r.n_right}
                for r in weakest_classes(results, SHOWN)
            ],
            "confused_pairs": [
                {
                    "class": names[pair.label],
                    "predicted": names[pair.predicted],
                    "count": pair.count,
                    "n_test": results[pair.label].n_test,
                }
                for pair in confused_pairs(self.predicted, self.labels, SHOWN, self.repeats)
            ],
            "tested_classes": sum(result.n_test > 0 for result in results),
            "barely_tested_classes": sum(0 < result.n_test < FEW_TESTS for result in results),
            "untested_classes": [names[label] for label in untested_classes(self.labels, len(names))],
        }

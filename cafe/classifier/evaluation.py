"""The evaluation of a classifier on a folder whose images lie in folders named as the classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.classifier.images import ImageInput
from cafe.classifier.reading import ReadImage
from cafe.data.layouts.labelling import split_name
from cafe.errors import InputError
from cafe.evaluation.metrics import METRIC_FIELDS, all_metrics


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a classifier on images that it was not fitted on.

    Attributes
    ----------
    n_test : int
        Images that were tested.
    acc1, acc5, mean_per_class_recall, majority_acc1, ece, nll : float
        As in the rows of `cafe fit --json`, between 0 and 1 but for the last.
    acc1_interval : list of two float
        The ends of acc1's 95 % interval.
    recall : dict of str to float
        Recall of each class that has an image.
    fitted : int or None
        Images left out because the classifier was fitted on them; None where they are not known, so that some may
        have been tested.
    other_classes : int
        Images left out because their folder has the name of no class.
    unreadable : int
        Images that cannot be decoded.
    """

    n_test: int
    acc1: float
    acc1_interval: list[float]
    acc5: float
    mean_per_class_recall: float
    majority_acc1: float
    ece: float
    nll: float
    recall: dict[str, float]
    fitted: int | None = 0
    other_classes: int = 0
    unreadable: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return asdict(self)


class LabelledFolder:
    """Collects the predictions for images whose folders are named as classes.

    Parameters
    ----------
    class_names : ndarray of shape (c,), str
        In the order of the columns of probabilities.
    fitted : collection of bytes or None
        SHA-256 of the images that the classifier was fitted on; None where these are not known.
    """

    def __init__(self, class_names: NDArray[np.str_], fitted: frozenset[bytes] | None = frozenset()) -> None:
        self._column_of = {_plain(str(name)): column for column, name in enumerate(class_names)}
        self._class_names = [str(name) for name in class_names]
        self._fitted_images = fitted
        self._rows: list[NDArray[np.floating[Any]]] = []
        self._labels: list[int] = []
        self._fitted = self._other_classes = self._unreadable = 0

    def fits(self, images: Iterable[ImageInput]) -> bool:
        """Whether at least one image lies in a folder named as a class."""
        return any(self.label_of(image) is not None for image in images)

    def label_of(self, image: ImageInput) -> int | None:
        """Return the column of the class that an image's folder is named as; None if there is none."""
        folders = image.inside.split("/")[:-1]
        if len(folders) > 1 and split_name(folders[0]):
            folders = folders[1:]
        return self._column_of.get(_plain(folders[0])) if folders else None

    def name_of(self, image: ImageInput) -> str:
        """Return the class that an image's folder is named as; empty if there is none."""
        label = self.label_of(image)
        return "" if label is None else self._class_names[label]

    def add(self, image: ReadImage, probabilities: NDArray[np.floating[Any]]) -> None:
        """Count one image, and keep its probabilities (c,) if it counts for the evaluation."""
        label = self.label_of(image.input)
        if label is None:
            self._other_classes += 1
        elif image.unreadable is not None:
            self._unreadable += 1
        elif self._fitted_images is not None and image.sha256 in self._fitted_images:
            self._fitted += 1
        else:
            self._rows.append(probabilities)
            self._labels.append(label)

    def evaluation(self) -> Evaluation:
        """Return the metrics of the images added so far.

        Raises
        ------
        InputError
            If no image is left to be tested on.
        """
        fitted = None if self._fitted_images is None else self._fitted
        left_out: dict[str, Any] = {
            "fitted": fitted,
            "other_classes": self._other_classes,
            "unreadable": self._unreadable,
        }
        if not self._rows:
            raise InputError(
                f"no image is left to be tested on: {self._fitted:,} were fitted, {self._other_classes:,} are of other "
                f"classes, {self._unreadable:,} cannot be read"
            )
        probabilities, labels = np.stack(self._rows), np.array(self._labels, dtype=np.int64)
        right = probabilities.argmax(axis=1) == labels
        recall = {self._class_names[label]: float(right[labels == label].mean()) for label in np.unique(labels)}
        metrics = all_metrics(probabilities, labels)
        shown: dict[str, Any] = {name: metrics[name] for name in METRIC_FIELDS}
        return Evaluation(n_test=len(labels), **shown, recall=recall, **left_out)


def _plain(name: str) -> str:
    """Return the class name that a source makes of a folder's name."""
    return name.replace("_", " ")

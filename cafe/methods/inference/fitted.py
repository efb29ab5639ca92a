"""A fitted method read from a run: it predicts with NumPy alone, without scikit-learn or torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.errors import InputError
from cafe.methods.inference.scores import SCORES, check_finite
from cafe.methods.inputs.cosines import Array, softmax, unit_length

# Rows scored at once.
INFERENCE_ROWS = 4096


class FittedMethod:
    """The parameters and arrays of a fitted method, with which it predicts in NumPy.

    It has the method's parameters and fitted attributes under their names, and gives the same probabilities to the
    last bit, since both score by the same functions (:mod:`cafe.methods.inference.scores`).

    Parameters
    ----------
    method, class_name : str
        Such as ``"tip-adapter"`` and ``"TipAdapter"``.
    parameters, fitted : mapping of str to object
        The method's own.
    make_estimator : callable
        Makes the scikit-learn classifier, for callers that need more than predictions.
    """

    n_features_in_: int
    classes_: NDArray[Any]
    normalize: bool

    def __init__(
        self,
        method: str,
        class_name: str,
        parameters: Mapping[str, Any],
        fitted: Mapping[str, Any],
        make_estimator: Callable[[], Any],
    ) -> None:
        self.__dict__.update(parameters, **fitted)
        self._method, self._class_name, self._parameters = method, class_name, dict(parameters)
        self._make_estimator = make_estimator

    @property
    def class_name(self) -> str:
        """Name of the method's class."""
        return self._class_name

    def estimator(self) -> Any:
        """Return the scikit-learn classifier; its module, and scikit-learn, are imported."""
        return self._make_estimator()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the method's parameters."""
        return dict(self._parameters)

    def logits(self, X: ArrayLike) -> Array:
        """Return the score of every class for rows (n, d): (n, c) in X's float dtype, float32 for float16.

        Raises
        ------
        InputError
            If rows have another width, hold NaN or infinity, or the scores are not finite.
        """
        rows = np.asarray(X)
        rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)
        if rows.ndim != 2 or rows.shape[1] != int(self.n_features_in_):
            raise InputError(
                f"{self._class_name} was fitted on features of width {self.n_features_in_}; got {rows.shape}"
            )
        if not np.isfinite(rows).all():
            raise InputError("features hold NaN or infinity")
        projects = getattr(self, "projection", None) is not None  # ProLIP scales what it projects, not what it is given
        logits = SCORES[self._method](self, unit_length(rows) if self.normalize and not projects else rows)
        return check_finite(self._class_name, logits)

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probability of every class for rows (n, d): (n, c)."""
        return softmax(self.logits(X))

    def predict(self, X: ArrayLike) -> Array:
        """Return the most probable label of each of the rows (n, d): (n,)."""
        labels: Array = self.classes_[self.logits(X).argmax(axis=1)]
        return labels


def full_probabilities(estimator: Any, X: NDArray[Any], n_classes: int) -> NDArray[Any]:
    """Return probabilities over all classes of the data set, (n, n_classes), scored block by block.

    A method that started from class means knows no class without a training row; such classes get probability zero.
    """
    probabilities = None
    for start in range(0, len(X), INFERENCE_ROWS):
        block = estimator.predict_proba(X[start : start + INFERENCE_ROWS])
        if probabilities is None:
            probabilities = np.zeros((len(X), n_classes), dtype=block.dtype)
        probabilities[start : start + len(block), estimator.classes_] = block
    if probabilities is None:
        raise InputError("there is no row to predict")
    return probabilities

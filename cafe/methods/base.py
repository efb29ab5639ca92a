"""What all methods share: labels, class embeddings, normalisation, and inference from logits.

A method subclasses :class:`FewShotClassifier`, stores its parameters in ``__init__`` and writes two functions:
``_fit_rows`` (learn from checked arrays) and ``_logits`` (score rows). Methods that can be trained side by
side override ``fit_grid``.

Letters: n samples, d feature width, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cafe.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class CheckedArrays:
    """Checked arrays, ready to learn from.

    Attributes
    ----------
    X : ndarray of shape (n, d), float32 or float64
        Unit-length rows if ``normalize``.
    y : ndarray of shape (n,), int64
        Row of ``class_embeddings``.
    class_embeddings : ndarray of shape (c, d), dtype of X
        Text, or class means of the training features; unit-length if ``normalize``.
    """

    X: Array
    y: NDArray[np.int64]
    class_embeddings: Array


@dataclass(frozen=True)
class Problem:
    """The rows of checked arrays that one estimator learns from.

    Attributes
    ----------
    base : CheckedArrays
        Shared by every estimator that reads the arrays in the same way.
    rows : ndarray of shape (n_train,), int64
        Rows of ``base`` to learn from.
    """

    base: CheckedArrays
    rows: NDArray[np.int64]

    @property
    def X(self) -> Array:
        """Features of the rows, (n_train, d)."""
        return self.base.X[self.rows]

    @property
    def y(self) -> NDArray[np.int64]:
        """Class rows, (n_train,)."""
        return self.base.y[self.rows]

    @property
    def class_embeddings(self) -> Array:
        """Class embeddings, (c, d)."""
        return self.base.class_embeddings


def unit_length(x: Array) -> Array:
    """Scale rows to length one; rows of zeros stay zeros.

    Examples
    --------
    >>> unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    scaled: Array = x / np.maximum(length, np.finfo(x.dtype).tiny)
    return scaled


def cosine_logits(features: Array, class_embeddings: Array, logit_scale: float) -> Array:
    """Return logit_scale times the cosine of every row with every class: (n, c)."""
    logits: Array = logit_scale * (unit_length(features) @ unit_length(class_embeddings).T)
    return logits


def softmax(logits: Array) -> Array:
    """Return probabilities along the last axis.

    Examples
    --------
    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of all methods; see the module's docstring.

    Attributes
    ----------
    classes_ : ndarray of shape (c,)
        Labels, one per row of the class embeddings, whether seen in training or not.
    class_embeddings_ : ndarray of shape (c, d)
        What the method started from: text, or class means.
    embedding_source_ : str
        ``"text"`` or ``"class-means"``.
    n_features_in_ : int
        d.
    kernel_ : str
        The path that really ran.
    """

    expected_failed_checks: ClassVar[dict[str, str]] = {}
    # Values tried where a parameter is "auto", by parameter name.
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {}

    class_embeddings: ArrayLike | None
    classes: ArrayLike | None
    normalize: bool
    logit_scale: float

    # ------------------------------------------------------------------ learning

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from image features and labels.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Image features, as the encoder returned them; float16 is computed in float32.
        y : array-like of shape (n,)
            Labels: values of ``classes``, or integers 0 to c - 1 where only ``class_embeddings`` is given.

        Returns
        -------
        self
        """
        type(self).fit_grid([self], X, y, None)
        return self

    @classmethod
    def fit_grid(
        cls, estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
    ) -> None:
        """Fit several estimators of this class in place; each on its own rows of the same arrays.

        Methods whose fits can be trained side by side override this; here they are fitted one after the other.
        """
        for estimator, problem in zip(estimators, cls._problems(estimators, X, y, rows), strict=True):
            estimator._prepare()
            estimator._fit_rows(problem)

    @classmethod
    def _problems(
        cls, estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
    ) -> list[Problem]:
        """Check the arrays once for each way of reading them, and cut out each estimator's rows.

        Estimators given the same class embeddings, classes and normalisation share one checked copy of X.
        """
        shared: dict[tuple[Any, ...], tuple[CheckedArrays, Any]] = {}
        problems = []
        for i, estimator in enumerate(estimators):
            if estimator.class_embeddings is None and rows is not None:
                # Class means come from the rows trained on, so nothing can be shared.
                base = estimator._check(np.asarray(X)[rows[i]], np.asarray(y)[rows[i]])
                problems.append(Problem(base, np.arange(len(base.y))))
                continue
            key = (_content(estimator.class_embeddings), _content(estimator.classes), bool(estimator.normalize))
            if key not in shared:
                shared[key] = (estimator._check(X, y), estimator)
            base, first = shared[key]
            for name in ("classes_", "class_embeddings_", "embedding_source_", "n_features_in_"):
                setattr(estimator, name, getattr(first, name))
            problems.append(Problem(base, np.arange(len(base.y)) if rows is None else np.asarray(rows[i])))
        return problems

    def _check(self, X: ArrayLike, y: ArrayLike) -> CheckedArrays:
        """Validate X and y, set ``classes_`` and ``class_embeddings_``, and normalise."""
        checked: tuple[Array, Array] = validate_data(self, _widen(X), y, dtype=[np.float32, np.float64])
        check_classification_targets(checked[1])
        if self.class_embeddings is None:
            if self.classes is not None:
                raise InputError("classes names the rows of class_embeddings, which was not given")
            return self._check_with_class_means(*checked)
        return self._check_with_text(*checked)

    def _check_with_text(self, X: Array, y: Array) -> CheckedArrays:
        """Check the class embeddings against features and labels."""
        embeddings: Array = np.asarray(self.class_embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1] != X.shape[1]:
            raise InputError(
                f"class_embeddings must be (classes, {X.shape[1]}), as wide as the image features, "
                f"but its shape is {embeddings.shape}; do both come from the same encoder?"
            )
        if not np.all(np.isfinite(embeddings)):
            raise InputError("class_embeddings contains NaN or infinity")
        self.classes_, rows = _label_rows(y, self.classes, len(embeddings))
        self.class_embeddings_ = embeddings.astype(X.dtype)
        self.embedding_source_ = "text"
        return self._normalised(X, rows)

    def _check_with_class_means(self, X: Array, y: Array) -> CheckedArrays:
        """Use class means of the training features where there is no text."""
        self.classes_, rows = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(
                f"a classifier needs at least two classes, but every label is {self.classes_[0]!r}: one class"
            )
        scaled = unit_length(X) if self.normalize else X
        sums = np.zeros((len(self.classes_), X.shape[1]), dtype=np.float64)
        np.add.at(sums, rows, scaled)
        self.class_embeddings_ = (sums / np.bincount(rows)[:, None]).astype(X.dtype)
        self.embedding_source_ = "class-means"
        return self._normalised(X, rows)

    def _normalised(self, X: Array, rows: NDArray[np.int64]) -> CheckedArrays:
        embeddings = self.class_embeddings_
        if self.normalize:
            return CheckedArrays(unit_length(X), rows, unit_length(embeddings))
        return CheckedArrays(X, rows, embeddings)

    def _prepare(self) -> None:
        """Check parameters before learning. Raises InputError."""
        scale: Any = self.logit_scale
        if isinstance(scale, str) or not 0 < scale < np.inf:
            raise InputError(f"logit_scale must be a positive number, but is {self.logit_scale!r}")

    def _fit_rows(self, problem: Problem) -> None:
        """Learn from checked arrays; sets attributes that end in an underscore."""
        raise TypeError(f"{type(self).__name__} must say how it learns")

    # ------------------------------------------------------------------ choosing

    def automatic(self) -> list[str]:
        """Return the names of the parameters that are to be chosen by a selection policy."""
        return [
            name
            for name, value in self.get_params(deep=False).items()
            if isinstance(value, str) and value == "auto" and name in self.grid
        ]

    def search(self, score: Callable[[list[Any]], list[tuple[float, float]]]) -> Any:
        """Choose the values of all parameters that are ``"auto"``.

        Parameters
        ----------
        score : callable
            Takes unfitted candidates, fits them, and returns for each (accuracy, -NLL) on rows that they were
            not fitted on. It is made by a selection policy; nothing here sees a row of any split.

        Returns
        -------
        classifier
            The best candidate, unfitted; the first of equals.
        """
        from itertools import product

        from sklearn.base import clone

        names = self.automatic()
        candidates = [
            clone(self).set_params(**dict(zip(names, values, strict=True)))
            for values in product(*(self.grid[name] for name in names))
        ]
        scores = score(candidates)
        return candidates[max(range(len(candidates)), key=lambda i: scores[i])]

    # ------------------------------------------------------------------ other classes

    def for_classes(self, class_embeddings: ArrayLike, class_names: Sequence[str] | None = None) -> Self:
        """Return this fitted method scoring other classes, which it has never seen an image of.

        Methods whose trained part belongs to no class override it.

        Parameters
        ----------
        class_embeddings : array-like of shape (c, d)
            One row for each new class; labels are then 0 to c - 1.
        class_names : sequence of str, default=None
            Their names, for methods that run the text tower.

        Raises
        ------
        InputError
            If what was trained belongs to the classes trained on; the message says so.
        """
        raise InputError(
            f"{type(self).__name__} learned weights that belong to the classes it was trained on; "
            "it cannot score classes that it has no image of"
        )

    def _with_embeddings(self, class_embeddings: ArrayLike) -> Self:
        """Return a copy whose class embeddings and labels are those given."""
        from copy import copy

        embeddings: Array = np.asarray(class_embeddings, dtype=self.class_embeddings_.dtype)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.n_features_in_:
            raise InputError(
                f"class_embeddings must be (classes, {self.n_features_in_}), but its shape is {embeddings.shape}"
            )
        other = copy(self)
        other.class_embeddings_, other.classes_ = embeddings, np.arange(len(embeddings))
        return other

    # ------------------------------------------------------------------ inference

    def _entry_text(self, dtype: Any) -> Array:
        """Return the class embeddings as they enter the method, (c, d): of unit length if ``normalize``."""
        text: Array = self.class_embeddings_.astype(dtype, copy=False)
        return unit_length(text) if self.normalize else text

    def _logits(self, X: Array) -> Array:
        """Score checked, normalised rows (n, d): logits (n, c) in X's dtype."""
        raise TypeError(f"{type(self).__name__} must say how it scores")

    def logits(self, X: ArrayLike) -> Array:
        """Return the score of every class for every row.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Image features.

        Returns
        -------
        ndarray of shape (n, c)
            In X's float dtype (float32 for float16); their softmax is ``predict_proba``.
        """
        check_is_fitted(self)
        checked: Array = validate_data(self, _widen(X), reset=False, dtype=[np.float32, np.float64])
        return self._logits(unit_length(checked) if self.normalize else checked)

    def decision_function(self, X: ArrayLike) -> Array:
        """Return logits (n, c); for two classes the difference of the second and the first, (n,)."""
        logits = self.logits(X)
        if logits.shape[1] == 2:
            difference: Array = logits[:, 1] - logits[:, 0]
            return difference
        return logits

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probability of every class for every row, (n, c)."""
        return softmax(self.logits(X))

    def predict(self, X: ArrayLike) -> Array:
        """Return the most probable label of every row, (n,)."""
        best = self.logits(X).argmax(axis=1)  # first, for it says where the classifier was not fitted
        labels: Array = self.classes_[best]
        return labels


def _content(values: ArrayLike | None) -> bytes | None:
    """Return what makes two parameters the same although scikit-learn's ``clone`` copied them."""
    if values is None:
        return None
    array = np.ascontiguousarray(values)
    return repr((array.shape, array.dtype.str)).encode() + array.tobytes()


def _widen(X: ArrayLike) -> ArrayLike:
    """Cast float16, in which caches store features, to float32; leave everything else to scikit-learn's checks."""
    if isinstance(X, np.ndarray) and X.dtype == np.float16:
        return X.astype(np.float32)
    return X


def _label_rows(y: Array, classes: ArrayLike | None, n_classes: int) -> tuple[Array, NDArray[np.int64]]:
    """Return classes_ and, for each label, its row of the class embeddings.

    Raises
    ------
    InputError
        If a label is none of the classes, or there are not as many classes as rows.
    """
    if n_classes < 2:
        raise InputError(
            f"a classifier needs at least two classes, but class_embeddings has {n_classes} row: one class"
        )
    if classes is None:
        if not np.issubdtype(y.dtype, np.number) or np.any(y != np.floor(y)) or y.min() < 0 or y.max() >= n_classes:
            raise InputError(
                f"with class_embeddings and no classes, labels must be integers 0 to {n_classes - 1} "
                f"(the row of each class); got labels such as {y[0]!r}. Pass classes, one label per row, for others"
            )
        return np.arange(n_classes), y.astype(np.int64)
    names = np.asarray(classes)
    if names.shape != (n_classes,) or len(np.unique(names)) != n_classes:
        raise InputError(
            f"classes must name each of the {n_classes} rows of class_embeddings once, but its shape is {names.shape}"
        )
    order = np.argsort(names)
    place = np.clip(np.searchsorted(names[order], y), 0, n_classes - 1)
    rows = order[place]
    strange = names[rows] != y
    if np.any(strange):
        raise InputError(f"label {y[strange][0]!r} is none of the {n_classes} classes given")
    return names, rows.astype(np.int64)

"""From what users pass to ``fit`` to checked arrays: labels become class rows, rows become unit length.

Letters: n samples, d feature width, c classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from cafe.errors import InputError, WrongTypeError
from cafe.methods.inputs.cosines import Array, unit_length
from cafe.methods.inputs.stored_rows import StoredRows, check_stored, row_blocks, stays_stored


@dataclass(frozen=True, eq=False)
class CheckedArrays:
    """Checked arrays, ready to learn from; equal to themselves alone, so that estimators are grouped by them.

    Attributes
    ----------
    X : ndarray or StoredRows of shape (n, d), float32 or float64
        Unit-length rows if ``normalize``.
    y : ndarray of shape (n,), int64
        Row of ``class_embeddings``.
    class_embeddings : ndarray of shape (c, d), dtype of X
        Text, or class means of the training features; unit-length if ``normalize``.
    shared : dict
        Results that several estimators need, by what they were computed from.
    """

    X: Array | StoredRows
    y: NDArray[np.int64]
    class_embeddings: Array
    shared: dict[Hashable, Any] = field(default_factory=dict, repr=False)


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
    def selected(self) -> Array | StoredRows:
        """Features of the rows, (n_train, d), read-only: no copy where they are stored, or where they are all rows."""
        if isinstance(self.base.X, StoredRows):
            return self.base.X.take(self.rows)
        return self.base.X if np.array_equal(self.rows, np.arange(len(self.base.y))) else self.X

    @property
    def y(self) -> NDArray[np.int64]:
        """Class rows, (n_train,)."""
        return self.base.y[self.rows]

    @property
    def class_embeddings(self) -> Array:
        """Class embeddings, (c, d)."""
        return self.base.class_embeddings

    @property
    def most_shots(self) -> int:
        """Number of training rows of the class that has most."""
        return int(np.bincount(self.y).max())


def problems_of(
    estimators: Sequence[Any], X: ArrayLike, y: ArrayLike, rows: Sequence[NDArray[np.int64]] | None
) -> list[Problem]:
    """Check the arrays once for each set of class embeddings, and return the problem of each estimator.

    Estimators given the same class embeddings, classes and normalisation share one checked copy of X.
    """
    shared: dict[tuple[Any, ...], tuple[CheckedArrays, Any]] = {}
    problems = []
    # By id, which stays that of the array while the estimators hold it: a grid shares its arrays.
    contents: dict[int, bytes | None] = {}

    def content(values: ArrayLike | None) -> bytes | None:
        if id(values) not in contents:
            contents[id(values)] = _content_of_array(values)
        return contents[id(values)]

    for i, estimator in enumerate(estimators):
        own = None if rows is None else np.ascontiguousarray(rows[i])
        # Class means come from the rows trained on: only estimators that train on the same ones can share them.
        by_rows = estimator.class_embeddings is None and own is not None
        # Embeddings that a method makes itself (by its text tower) are shared with no other estimator.
        has_own_start = "starting_embeddings" in vars(type(estimator)) and estimator.class_embeddings is None
        key = (
            content(estimator.class_embeddings), content(estimator.classes), bool(estimator.normalize),
            _content_of_array(own) if by_rows else None, i if has_own_start else None,
        )  # fmt: skip
        if key not in shared:
            arrays = (_rows_of(X, own), np.asarray(y)[own]) if by_rows else (X, y)
            shared[key] = (check_arrays(estimator, *arrays), estimator)
        base, first = shared[key]
        for name in ("classes_", "class_embeddings_", "embedding_source_", "n_features_in_"):
            setattr(estimator, name, getattr(first, name))
        problems.append(Problem(base, np.arange(len(base.y)) if by_rows or own is None else own))
    return problems


def check_arrays(estimator: Any, X: ArrayLike, y: ArrayLike) -> CheckedArrays:
    """Validate X and y, set ``classes_`` and ``class_embeddings_``, and normalise."""
    checked: tuple[Array | StoredRows, Array]
    _check_labels(y)
    if issparse(X):
        raise WrongTypeError("sparse features were given; dense ones are needed: X.toarray()")
    if stays_stored(X):
        checked = check_stored(estimator, X, y)
    else:
        checked = validate_data(estimator, widen(X), y, dtype=[np.float32, np.float64])
    with warnings.catch_warnings():
        # One image per class is a legitimate task here, not a regression in disguise.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        check_classification_targets(checked[1])
    embeddings = estimator.starting_embeddings()
    if embeddings is None:
        if estimator.classes is not None:
            raise InputError("classes names the rows of class_embeddings, which was not given")
        return _check_with_class_means(estimator, *checked)
    return _check_with_text(estimator, *checked, numbers_of(embeddings, "class_embeddings"))


def numbers_of(values: ArrayLike, name: str) -> Array:
    """Return values as an array of numbers.

    Parameters
    ----------
    values : array-like
        What a user passed.
    name : str
        Of the parameter, for the message.

    Raises
    ------
    WrongTypeError
        If they are texts or objects, or rows of different lengths.
    """
    try:
        array: Array = np.asarray(values)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise WrongTypeError(f"{name} must be rows of numbers, all of one length: {error}") from error
    if array.dtype.kind not in "fiu":
        raise WrongTypeError(f"{name} must hold numbers, but holds {array.dtype}")
    return array


def _check_labels(y: Any) -> None:
    """Refuse labels that cannot be told apart or put in an order: texts among numbers, bytes, lists, nothing.

    NumPy would turn numbers beside texts into texts without a word.
    """
    if y is None or (isinstance(y, np.ndarray) and y.dtype.kind not in "OS") or not np.iterable(y):
        return  # numbers of one kind, or what scikit-learn has its own sentence for
    kinds = {_kind(label) for label in (y.ravel().tolist() if isinstance(y, np.ndarray) else y)}
    if "bytes" in kinds:
        raise WrongTypeError("labels are bytes; decode them to texts, or give numbers")
    if len(kinds) > 1 and kinds & {"text", "None"}:
        raise WrongTypeError(f"labels must be all texts or all numbers; got {' and '.join(sorted(kinds))}")
    if kinds == {"None"}:
        raise WrongTypeError("labels must be texts or numbers; got None")


def _kind(label: Any) -> str:
    """Name the kind of a label, for a message."""
    if label is None:
        return "None"
    if isinstance(label, bytes):
        return "bytes"
    if isinstance(label, str):
        return "text"
    return "numbers" if isinstance(label, (int, float, np.number, np.bool_)) else "objects"


def _check_with_text(estimator: Any, X: Array | StoredRows, y: Array, embeddings: Array) -> CheckedArrays:
    """Check the class embeddings against features and labels."""
    if embeddings.ndim != 2 or embeddings.shape[1] != X.shape[1]:
        raise InputError(
            f"class_embeddings must be (classes, {X.shape[1]}), as wide as the image features, "
            f"but its shape is {embeddings.shape}; do both come from the same encoder?"
        )
    if not np.all(np.isfinite(embeddings)):
        raise InputError("class_embeddings contains NaN or infinity")
    if not (directed := embeddings.any(axis=1)).all():
        raise InputError(
            f"row {int(directed.argmin())} of class_embeddings has length zero: it has no direction to compare with; "
            "encode that class's text again"
        )
    estimator.classes_, rows = _label_rows(y, estimator.classes, len(embeddings))
    estimator.class_embeddings_ = _narrowed(embeddings, X.dtype, scale=estimator.normalize)
    estimator.embedding_source_ = "text"
    return _normalised(estimator, X, rows)


def _narrowed(embeddings: Array, dtype: Any, *, scale: bool) -> Array:
    """Cast class embeddings to the dtype of the features; where it cannot hold them, scale them to length one first.

    Raises
    ------
    InputError
        If the dtype cannot hold them and ``scale`` is False.
    """
    with np.errstate(over="ignore", under="ignore"):
        cast: Array = embeddings.astype(dtype)
    if np.isfinite(cast).all() and cast.any(axis=1).all():
        return cast
    if not scale:
        raise InputError(
            f"class_embeddings hold numbers that {np.dtype(dtype)} cannot, the dtype of the features; scale them, "
            f"or set normalize=True"
        )
    return unit_length(embeddings.astype(np.float64)).astype(dtype)


def _check_with_class_means(estimator: Any, X: Array | StoredRows, y: Array) -> CheckedArrays:
    """Use class means of the training features where there is no text."""
    estimator.classes_, rows = np.unique(y, return_inverse=True)
    if len(estimator.classes_) < 2:
        label = _as_python(estimator.classes_[0])
        raise InputError(f"a classifier needs at least two classes, but every label is {label!r}: one class")
    sums = np.zeros((len(estimator.classes_), X.shape[1]), dtype=np.float64)
    for part in row_blocks(X):
        np.add.at(sums, rows[part], unit_length(X[part]) if estimator.normalize else X[part])
    estimator.class_embeddings_ = (sums / np.bincount(rows)[:, None]).astype(X.dtype)
    if not (directed := estimator.class_embeddings_.any(axis=1)).all():
        label = _as_python(estimator.classes_[directed.argmin()])
        raise InputError(f"the mean of the training rows of label {label!r} has length zero: it has no direction")
    estimator.embedding_source_ = "class-means"
    return _normalised(estimator, X, rows)


def _normalised(estimator: Any, X: Array | StoredRows, rows: NDArray[np.int64]) -> CheckedArrays:
    """Scale features and class embeddings to length one if the estimator normalises, else refuse numbers too large."""
    embeddings = estimator.class_embeddings_
    if estimator.normalize:
        scaled = X.normalised() if isinstance(X, StoredRows) else unit_length(X)
        return CheckedArrays(scaled, rows, unit_length(embeddings))
    for name, numbers in (("features", X), ("class_embeddings", embeddings)):
        if isinstance(numbers, np.ndarray) and numbers.size:
            _refuse_too_large(name, numbers)
    return CheckedArrays(X, rows, embeddings)


def _refuse_too_large(name: str, numbers: Array) -> None:
    """Refuse rows whose squared length the dtype cannot hold; every method works with such squares."""
    most = np.sqrt(np.finfo(numbers.dtype).max / numbers.shape[1])
    if max(numbers.max(), -numbers.min()) > most:
        raise InputError(
            f"{name} hold numbers above {most:.1e}, whose squares {numbers.dtype} cannot hold; scale them, or set "
            f"normalize=True"
        )


def _rows_of(X: Any, rows: Any) -> Any:
    """Return the given rows of X, without reading them where X stays stored."""
    if not stays_stored(X):
        return np.asarray(X)[rows]
    return (X if isinstance(X, StoredRows) else StoredRows(X)).take(rows)


def _content_of_array(values: ArrayLike | None) -> bytes | None:
    """Return shape, dtype and bytes of an array, equal for copies such as those of scikit-learn's ``clone``."""
    if values is None:
        return None
    try:
        array = np.ascontiguousarray(values)
    except ValueError as error:
        raise WrongTypeError(f"classes and class_embeddings need rows of one length: {error}") from error
    return repr((array.shape, array.dtype.str)).encode() + array.tobytes()


def widen(X: ArrayLike) -> ArrayLike:
    """Cast float16, in which caches store features, to float32; leave everything else to scikit-learn's checks."""
    if isinstance(X, np.ndarray) and X.dtype == np.float16:
        return X.astype(np.float32)
    return X


def _as_python(label: Any) -> Any:
    """Return a label as Python prints it, for messages."""
    return label.item() if isinstance(label, np.generic) else label


def _label_rows(y: Array, classes: ArrayLike | None, n_classes: int) -> tuple[Array, NDArray[np.int64]]:
    """Return ``classes_``, and the row of the class embeddings that each label belongs to.

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
                f"(the row of each class); got labels such as {_as_python(y[0])!r}. "
                "Pass classes, one label per row, for others"
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
    unknown = names[rows] != y
    if np.any(unknown):
        raise InputError(f"label {_as_python(y[unknown][0])!r} is none of the {n_classes} classes given")
    return names, rows.astype(np.int64)

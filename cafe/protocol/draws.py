"""Few-shot draws, index for index those of CoOp's published protocol."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.errors import CafeWarning, InputError

_SHOWN = 10  # classes that a warning lists
MAX_VAL_SHOTS = 4  # CoOp draws min(shots, 4) validation images per class


class FewerShotsWarning(CafeWarning):
    """Some classes have fewer images than shots, and gave all they have."""


def draw_few_shot(
    train_labels: ArrayLike,
    val_labels: ArrayLike | None,
    shots: int,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the few-shot training and validation rows of CoOp's protocol.

    One generator, Python's ``random`` seeded with ``seed``, serves the train part and then, without
    reseeding, the val part. In each part the classes come in order of first appearance, and each gives
    ``random.sample(rows, shots)``; the val part takes ``min(shots, 4)`` per class. A class with fewer rows
    gives all of them in order, and no random number is drawn for it.

    Parameters
    ----------
    train_labels : array-like of shape (n_train,), integers
        Labels of the full train split, in the data set's order.
    val_labels : array-like of shape (n_val,), integers, or None
        Labels of the full val split; None or empty where there is none.
    shots : int
        Training rows per class, at least 1.
    seed : int
        Not negative; the published draws are those of 1, 2 and 3.
    class_names : sequence of str, default=None
        Name of each label, for the warning; None lets it name the labels themselves.

    Returns
    -------
    train_indices, val_indices : ndarray of int64
        Rows of the two splits in the protocol's order: class after class, as drawn.

    Raises
    ------
    InputError
        If labels are not a row of integers, there are no training labels, or ``shots`` or ``seed`` is out of range.

    Warns
    -----
    FewerShotsWarning
        Once, if a class has fewer rows than asked for.

    Examples
    --------
    >>> train_indices, val_indices = draw_few_shot([7, 7, 7, 2, 2, 2], [2, 7, 2], shots=1, seed=1)
    >>> train_indices.tolist(), val_indices.tolist()
    ([0, 5], [0, 1])
    """
    shots, seed = _checked_integer("shots", shots, least=1), _checked_integer("seed", seed, least=0)
    train = _labels("train_labels", train_labels)
    val = _labels("val_labels", [] if val_labels is None else val_labels)
    if len(train) == 0:
        raise InputError("train_labels is empty; few-shot draws need at least one training image")
    generator = random.Random(seed)
    train_indices, short_train = _draw(train, shots, generator)
    val_shots = min(shots, MAX_VAL_SHOTS)
    val_indices, short_val = _draw(val, val_shots, generator)
    _warn(class_names, ("train", short_train, shots), ("val", short_val, val_shots))
    return train_indices, val_indices


def _draw(labels: NDArray[np.int64], shots: int, generator: random.Random) -> tuple[NDArray[np.int64], list[int]]:
    """Return the drawn rows and the labels of the classes that had fewer than asked for."""
    rows_of: dict[int, list[int]] = {}  # a dict keeps the order of first appearance
    for row, label in enumerate(labels.tolist()):
        rows_of.setdefault(label, []).append(row)
    drawn: list[int] = []
    short: list[int] = []
    for label, rows in rows_of.items():
        if len(rows) < shots:
            short.append(label)
            drawn.extend(rows)
        else:
            drawn.extend(generator.sample(rows, shots))
    return np.array(drawn, dtype=np.int64), short


def _warn(class_names: Sequence[str] | None, *parts: tuple[str, list[int], int]) -> None:
    """Warn of classes with fewer images than shots; a part is a split, the labels of such classes, and the shots."""
    clauses = []
    for split, short, shots in parts:
        if short:
            shown = short[:_SHOWN] if class_names is None else [class_names[label] for label in short[:_SHOWN]]
            labels = ", ".join(map(str, shown)) + (", ..." if len(short) > _SHOWN else "")
            kind = "labels " if class_names is None else ""
            noun = "1 class has" if len(short) == 1 else f"{len(short)} classes have"
            clauses.append(f"{noun} fewer than {shots} {split} images ({kind}{labels})")
    if clauses:
        message = f"{' and '.join(clauses)}; all that there are were taken"
        warnings.warn(message, FewerShotsWarning, stacklevel=3)


def _checked_integer(name: str, value: Any, least: int) -> int:
    """Return a value as a Python integer, after checking it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, got {value!r}")
    # Python's random takes another path for NumPy integers, so that seed 1 would not be seed 1.
    return int(value)


def _labels(name: str, labels: ArrayLike) -> NDArray[np.int64]:
    """Return labels as int64, after checking that they are one row of integers."""
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise InputError(f"{name} must be one row of integers, got shape {array.shape} of {array.dtype}")
    return array.astype(np.int64)

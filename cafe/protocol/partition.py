"""The split given to a source that has none: fixed, stratified, by hash of the content.

Where an image goes depends on its class and content alone, never on a random number, on the order of
listing or on where the folder lies, so that two people with the same images have the same split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.errors import InputError

PERCENT = (50, 20, 30)  # train, val, test
SPLIT_ORIGIN = "hash, stratified, 50/20/30"


def split_by_hash(labels: ArrayLike, keys: Sequence[str], percent: tuple[int, int, int] = PERCENT) -> NDArray[np.str_]:
    """Assign every row to train, val or test.

    In each class the n rows are sorted by key. The first ``floor(n * train / 100)`` of them, but at least
    one, are train; the next ``floor(n * val / 100)`` are val; the rest is test. So one image goes to train,
    two to train and test, and val begins at five images with the default shares.

    Rows with equal keys, identical images, stay together: within a class they go where the first of them
    goes; a key that occurs in several classes goes to train, so that no contradiction is ever tested on.

    Parameters
    ----------
    labels : array-like of shape (n,), integers
        Class of each row.
    keys : sequence of str, length n
        Content key of each row, a hexadecimal hash: equal for identical images, otherwise different.
    percent : tuple of three int, default (50, 20, 30)
        Shares of train, val and test; they sum to 100.

    Returns
    -------
    ndarray of shape (n,), str
        ``"train"``, ``"val"`` or ``"test"`` for each row.

    Raises
    ------
    InputError
        If the lengths differ or the shares do not sum to 100.

    Examples
    --------
    >>> split_by_hash([0, 0, 0, 0, 0], ["e", "a", "b", "d", "c"]).tolist()
    ['test', 'train', 'train', 'test', 'val']
    """
    label_row = np.asarray(labels)
    if label_row.shape != (len(keys),):
        raise InputError(f"every row needs a label and a key, got labels {label_row.shape} and {len(keys)} keys")
    if min(percent) < 0 or sum(percent) != 100:
        raise InputError(f"the shares of train, val and test must sum to 100, got {percent}")
    classes_of: dict[str, set[int]] = defaultdict(set)
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, (label, key) in enumerate(zip(label_row.tolist(), keys, strict=True)):
        classes_of[key].add(label)
        rows_of[label].append(row)
    shared = {key for key, classes in classes_of.items() if len(classes) > 1}
    parts = np.full(len(keys), "test", dtype="<U5")
    for rows in rows_of.values():
        # Shared keys come first, so that they count towards the train share that they are bound for.
        rows.sort(key=lambda row: (keys[row] not in shared, keys[row]))
        for row, part in zip(rows, _assign([keys[row] for row in rows], shared, percent), strict=True):
            parts[row] = part
    return parts


def _assign(keys: list[str], shared: set[str], percent: tuple[int, int, int]) -> list[str]:
    """Name the part of each row of one class, whose keys come sorted."""
    n_train = max(1, len(keys) * percent[0] // 100)
    n_val = len(keys) * percent[1] // 100
    parts: list[str] = []
    for position, key in enumerate(keys):
        if position and key == keys[position - 1]:
            parts.append(parts[-1])
        elif key in shared or position < n_train:
            parts.append("train")
        else:
            parts.append("val" if position < n_train + n_val else "test")
    return parts

"""The split of a source that has none: fixed, stratified, by hash of the content.

The split of an image depends on its class and content alone, not on a random number, the order of a
listing or the place of the folder, so that two people with the same images have the same split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.errors import InputError

Shares = tuple[int, int, int]  # per cent of train, val, test

PERCENT: Shares = (50, 20, 30)
_ORIGIN = "hash, stratified, "
SPLIT_ORIGIN = f"{_ORIGIN}50/20/30"

# The shares within a block of dividing_into, in this thread: the interface of sources has no argument for them.
_chosen: ContextVar[Shares] = ContextVar("shares", default=PERCENT)


def read_shares(text: str) -> Shares:
    """Read shares of train, val and test as people write them: ``70/10/20``, or ``80/20`` for no val split.

    Raises
    ------
    InputError
        If the text is not two or three whole numbers that sum to 100, or the first is 0.

    Examples
    --------
    >>> read_shares("70/10/20"), read_shares("80/20")
    ((70, 10, 20), (80, 0, 20))
    """
    texts = [part.strip() for part in text.split("/")]
    numbers = [int(part) for part in texts if part.isascii() and part.isdecimal()]
    if len(numbers) == len(texts) == 2:
        numbers.insert(1, 0)
    if len(numbers) != 3 or len(texts) > 3 or sum(numbers) != 100 or not numbers[0]:
        raise InputError(
            f"a split is per cent of train, val and test that sum to 100, such as 70/10/20 (or 80/20 for train and "
            f"test); got {text!r}"
        )
    return numbers[0], numbers[1], numbers[2]


@contextmanager
def dividing_into(percent: Shares) -> Iterator[None]:
    """Divide data sets without splits into these shares within this block, in this thread alone.

    Examples
    --------
    >>> with dividing_into((70, 10, 20)):
    ...     chosen_origin()
    'hash, stratified, 70/10/20'
    """
    token = _chosen.set(percent)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_origin() -> str:
    """Return the origin of splits that a data set divided now records."""
    return _ORIGIN + "/".join(map(str, _chosen.get()))


def shares_of(origin: str) -> Shares | None:
    """Return the shares of a recorded origin; None where the split is not one of this file.

    Examples
    --------
    >>> shares_of("hash, stratified, 50/20/30"), shares_of("published")
    ((50, 20, 30), None)
    """
    if not origin.startswith(_ORIGIN):
        return None
    try:
        return read_shares(origin.removeprefix(_ORIGIN))
    except InputError:
        return None


def split_by_hash(labels: ArrayLike, keys: Sequence[str], percent: Shares | None = None) -> NDArray[np.str_]:
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
    percent : tuple of three int, default=None
        Shares of train, val and test; they sum to 100. None is those of :func:`dividing_into`, else 50, 20, 30.

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
    percent = _chosen.get() if percent is None else percent
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
        # Shared keys come first: they go to train, and count towards its share.
        rows.sort(key=lambda row: (keys[row] not in shared, keys[row]))
        for row, part in zip(rows, _assign([keys[row] for row in rows], shared, percent), strict=True):
            parts[row] = part
    return parts


def _assign(keys: list[str], shared: set[str], percent: Shares) -> list[str]:
    """Return ``"train"``, ``"val"`` or ``"test"`` for each sorted key of one class; equal keys get the same part.

    Keys in ``shared``, which other classes have too, go to train; ``percent`` holds the three shares.
    """
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

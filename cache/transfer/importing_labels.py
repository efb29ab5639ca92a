"""Labels and class names of imported features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.transfer.importers.base import Found
from cafe.errors import InputError
from cafe.prompts import read_class_names


def resolve_classes(
    found: Found, names_file: Path | None
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]], list[str]]:
    """Turn labels into rows of class names.

    Labels that are texts are class names; integers are rows of the names that the file has, or of those in
    ``names_file``; without any, classes are called by their numbers.

    Returns
    -------
    class_names : tuple of str
    labels : dict of str to ndarray of shape (n,), int64
        By split.
    notes : list of str

    Raises
    ------
    InputError
        If labels and names do not fit together, or a split has not one label for each row.
    """
    for split, one in found.splits.items():
        if one.image_features.ndim != 2 or len(one.labels) != len(one.image_features):
            raise InputError(
                f"split {split!r} ({one.source}) needs features (n, d) and one label for each, got "
                f"{one.image_features.shape} and {one.labels.shape}"
            )
    raw = {split: one.labels for split, one in found.splits.items()}
    notes: list[str] = []
    if any(labels.dtype.kind in "US" for labels in raw.values()):
        names = found.class_names or tuple(sorted({str(label) for labels in raw.values() for label in labels}))
        labels = {split: _rows_of_names(one, names, split) for split, one in raw.items()}
    else:
        labels = {split: _whole(one, split) for split, one in raw.items()}
        names = found.class_names or tuple(str(i) for i in range(_count(labels, found)))
        if found.class_names is None and names_file is None:
            notes.append(
                f"no class names were found; the {len(names)} classes are called by number (--class-names FILE)"
            )
    if names_file is not None:
        names = read_class_names(names_file, names)
    for split, rows in labels.items():
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(names):
            hint = "; they seem to begin at 1: subtract 1" if rows.min() == 1 and rows.max() == len(names) else ""
            raise InputError(
                f"labels of split {split!r} go from {rows.min()} to {rows.max()}, but there are {len(names)} class "
                f"names, for 0 to {len(names) - 1}{hint}"
            )
    return names, labels, notes


def _count(labels: dict[str, NDArray[np.int64]], found: Found) -> int:
    highest = max(int(one.max()) for one in labels.values() if len(one))
    text = found.text_features
    return max(highest + 1, text.shape[-2] if text is not None and text.ndim >= 2 else 0)


def _rows_of_names(labels: NDArray[Any], names: tuple[str, ...], split: str) -> NDArray[np.int64]:
    row = {name: i for i, name in enumerate(names)}
    unknown = sorted({str(label) for label in labels} - row.keys())
    if unknown:
        raise InputError(f"split {split!r} has labels that are no class names: {', '.join(map(repr, unknown[:5]))}")
    return np.array([row[str(label)] for label in labels], dtype=np.int64)


def _whole(labels: NDArray[Any], split: str) -> NDArray[np.int64]:
    whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        raise InputError(f"labels of split {split!r} must be whole numbers or class names")
    return whole

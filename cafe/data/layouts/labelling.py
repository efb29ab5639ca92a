"""Turns rows, each with a label and perhaps a split, into classes and splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cafe.data.base import ImageSplit
from cafe.data.images.files import natural_order
from cafe.errors import InputError
from cafe.foreign import read_text
from cafe.protocol.partition import chosen_origin, split_by_hash

CLASS_FILE = "classnames.txt"
_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Labelled:
    """Rows numbered by class and sorted into splits.

    Attributes
    ----------
    class_names : tuple of str
        In label order.
    labels : ndarray of shape (n,), int64
        Of every row.
    rows : dict of str to ndarray, int64
        Rows of each split that has any, in the order train, val, test.
    split_origin : str
        As in :class:`~cafe.data.base.Dataset`.
    notes : list of str
        For the user.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    rows: dict[str, NDArray[np.int64]]
    split_origin: str
    notes: list[str]

    def image_splits(self, ids: Sequence[str], sizes: Sequence[int] | NDArray[np.int64]) -> dict[str, ImageSplit]:
        """Return the splits, from the ids and sizes of all rows."""
        row_sizes = np.asarray(sizes, dtype=np.int64)
        return {
            split: ImageSplit([ids[row] for row in rows], self.labels[rows], row_sizes[rows])
            for split, rows in self.rows.items()
        }


def split_name(text: str) -> str | None:
    """Return ``"train"``, ``"val"`` or ``"test"`` for any usual spelling of it, None for anything else.

    Examples
    --------
    >>> split_name("Validation"), split_name("left")
    ('val', None)
    """
    return _SPLIT_OF.get(text.strip().lower())


def read_class_list(folder: Path) -> list[str] | None:
    """Read ``classnames.txt``, one name on each line in label order; None if there is none.

    Raises
    ------
    InputError
        If the file is no UTF-8 text.
    """
    path = folder / CLASS_FILE
    if not path.is_file():
        return None
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def label_rows(
    origin: object,
    labels: Sequence[str | int],
    splits: Sequence[str],
    keys: Callable[[], list[str]],
    class_list: Sequence[str] | None = None,
) -> Labelled:
    """Number the classes, and divide rows without splits by hash.

    Parameters
    ----------
    origin : object
        Names the source in messages.
    labels : sequence of str or int, length n
        Class name of each row; or, where ``class_list`` is given, its place in the list, as int or (if all labels
        are decimal digits) as text.
    splits : sequence of str, length n
        ``"train"``, ``"val"`` or ``"test"`` of each row, or ``""`` for all of them.
    keys : callable
        Returns the content keys of all rows; called only if rows have to be divided.
    class_list : sequence of str or None
        Class names in label order; None sorts the labels, numbers within them as numbers, and makes ``_`` a space.

    Returns
    -------
    Labelled

    Raises
    ------
    InputError
        If there are fewer than two classes, a label is not in the list, two labels mean the same name, or a class
        of val or test has no training row and there is no list of classes.
    """
    if not len(labels):
        raise InputError(f"{origin} names no images")
    if class_list is None:
        kinds = sorted(set(map(str, labels)), key=natural_order)
        class_names = tuple(kind.replace("_", " ") for kind in kinds)
        label_of = {kind: label for label, kind in enumerate(kinds)}
        row_labels = np.array([label_of[str(label)] for label in labels], dtype=np.int64)
    else:
        class_names = tuple(class_list)
        _check_names(origin, class_names)
        row_labels = _labels_in_list(origin, class_names, labels)
    _check_names(origin, class_names)
    given_splits = set(splits)
    if given_splits <= {"", "train"}:
        row_splits = split_by_hash(row_labels, keys())
        split_origin = chosen_origin()
    else:
        row_splits = np.asarray(splits)
        split_origin = "published"
    rows = {
        split: np.flatnonzero(row_splits == split) for split in ("train", "val", "test") if np.any(row_splits == split)
    }
    if class_list is None and "train" in rows:
        _refuse_untrained(origin, class_names, row_labels, rows)
    return Labelled(class_names, row_labels, rows, split_origin, _notes(class_names, rows))


def _labels_in_list(origin: object, class_names: tuple[str, ...], labels: Sequence[str | int]) -> NDArray[np.int64]:
    """Return the position of each label in the list of classes, by number if all are numbers, else by name."""
    kinds: set[str | int] = set(labels)
    if all(isinstance(kind, int) or (kind.isascii() and kind.isdecimal()) for kind in kinds):
        # No list has lines numbered with ten digits, and Python converts no number with thousands of digits.
        short = [kind for kind in kinds if isinstance(kind, int) or len(kind.lstrip("0")) < 10]
        label_of = {kind: int(kind) for kind in short if 0 <= int(kind) < len(class_names)}
    else:
        label_of = {name: label for label, name in enumerate(class_names)}
    unknown = sorted(map(str, kinds - label_of.keys()), key=natural_order)
    if unknown:
        listed = f"the {len(class_names)} classes listed: {class_names[0]!r} (0) to {class_names[-1]!r}"
        raise InputError(f"{origin}: label {unknown[0]!r} is none of {listed}")
    return np.array([label_of[label] for label in labels], dtype=np.int64)


def _check_names(origin: object, class_names: tuple[str, ...]) -> None:
    """Raise an error for fewer than two classes, or two of the same name."""
    if len(class_names) < 2:
        raise InputError(f"{origin} has {len(class_names)} class; a classifier needs at least two")
    if len(set(class_names)) < len(class_names):
        twice = next(name for name in class_names if class_names.count(name) > 1)
        raise InputError(f"{origin} has two classes called {twice!r}; give them names that differ by more than _")


def _refuse_untrained(
    origin: object, class_names: tuple[str, ...], labels: NDArray[np.int64], rows: dict[str, NDArray[np.int64]]
) -> None:
    """Raise an error if a class of another split has no training image."""
    trained = set(labels[rows["train"]].tolist())
    for split, chosen in rows.items():
        unknown = sorted(set(labels[chosen].tolist()) - trained)
        if unknown:
            names = f"{len(unknown)} of its classes have {split} images but no training image"
            raise InputError(f"{origin}: {names}, the first: {class_names[unknown[0]]!r}")


def _notes(class_names: tuple[str, ...], rows: dict[str, NDArray[np.int64]]) -> list[str]:
    """Return warnings about missing splits, and about classes named by numbers."""
    notes = []
    if "train" not in rows:
        notes.append("there is no train split, so nothing can be fitted here")
    if "test" not in rows:
        notes.append("there is no test split, so nothing can be scored here")
    if all(name.isdecimal() for name in class_names):
        notes.append(
            f"the classes are called by numbers ({class_names[0]!r}, {class_names[1]!r}, ...), which say nothing to a "
            f"text tower; write their names into {CLASS_FILE}, one on each line"
        )
    return notes

"""Distribution shift: learn on one data set, test on another that has some of its classes.

ImageNet-A and ImageNet-R hold 200 of ImageNet's classes. As their authors do, predictions are restricted to the
classes that the test set has: ``p(k | x) / sum of p over those classes``, which is the softmax over their logits.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError
from cafe.features import Features

_WNID = re.compile(r"(?<![0-9a-z])n\d{8}(?!\d)")  # a WordNet id, as ImageNet's folders are called


def class_mapping(source: Features, target: Features) -> NDArray[np.int64]:
    """Match each class of the test set to a class that was learned.

    Lists that are equal match in order. Otherwise a class matches by its WordNet id, where both data sets keep one in
    the class name or in the paths of the images, else by its name (case and spaces aside).

    Parameters
    ----------
    source, target : Features
        The data set that was learned, and the one that is tested.

    Returns
    -------
    ndarray of shape (classes of target,), int64
        Class row of the source for each class of the target.

    Raises
    ------
    InputError
        If a class of the target matches no class of the source, or several.

    Examples
    --------
    >>> def named(*names): return Features({}, names)
    >>> class_mapping(named("cat", "dog", "sea lion"), named("Sea_lion", "cat")).tolist()
    [2, 0]
    """
    if source.class_names == target.class_names:
        return np.arange(len(source.class_names))
    names, wnids = _classes_by_key([_plain(name) for name in source.class_names]), _classes_by_key(_wnids(source))
    matched, unmatched = [], []
    for name, wnid in zip(target.class_names, _wnids(target), strict=True):
        rows = wnids.get(wnid, []) if wnid else []
        rows = rows or names.get(_plain(name), [])
        if len(rows) != 1:
            unmatched.append(name)
        matched.extend(rows[:1])
    if unmatched or len(set(matched)) != len(target.class_names):
        shown = ", ".join(map(repr, unmatched[:5])) or "two classes that are the same one"
        raise InputError(
            f"{len(unmatched) or 'some'} of the {len(target.class_names)} classes of the test set cannot be told among "
            f"the {len(source.class_names)} classes learned, such as {shown}; "
            "they are matched by WordNet id in the image paths, or by class name"
        )
    return np.array(matched, dtype=np.int64)


def restricted(probabilities: NDArray[Any], columns: NDArray[np.int64]) -> NDArray[Any]:
    """Restrict probabilities (n, c) to some classes: (n, len(columns)), rows summing to 1.

    Examples
    --------
    >>> restricted(np.array([[0.5, 0.3, 0.2]]), np.array([2, 1])).tolist()
    [[0.4, 0.6]]
    """
    kept = probabilities[:, columns]
    total = kept.sum(axis=1, keepdims=True)
    # Where none of these classes has any probability, all get the same.
    even = np.full_like(kept, 1 / len(columns))
    return np.where(total > 0, kept / np.maximum(total, np.finfo(kept.dtype).tiny), even)


def _plain(name: str) -> str:
    """Return a class name for comparison: case, underscores and spaces aside."""
    return " ".join(name.replace("_", " ").casefold().split())


def _wnids(features: Features) -> list[str]:
    """Return each class's WordNet id, "" where none is known."""
    ids = [_wordnet_id(name) for name in features.class_names]
    for split in features.splits.values():
        rows = {label: row for row, label in enumerate(split.labels.tolist())}
        for label, row in rows.items():
            ids[label] = ids[label] or _wordnet_id(str(split.sample_ids[row]))
    return ids


def _wordnet_id(text: str) -> str:
    """Return the first WordNet id in a text, empty if there is none."""
    match = _WNID.search(text)
    return match[0] if match else ""


def _classes_by_key(keys: list[str]) -> dict[str, list[int]]:
    """Return the numbers of the classes with each key; ``keys[i]`` is the key of class i, empty for none."""
    classes: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        if key:
            classes.setdefault(key, []).append(row)
    return classes

"""Images without labels that a method may learn from; test images among them are left out, or reported."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CafeWarning, InputError
from cafe.features import Features, Split

# Their label among labelled rows.
UNLABELLED = -1
# Features of one image differ by the rounding of float16 (cosine 1 - 1e-6) or of another batch; other images, unless
# they are copies, by far more.
SAME_IMAGE = 0.9999
_BLOCK = 1024


@dataclass(frozen=True)
class Unlabelled:
    """Images without labels.

    Attributes
    ----------
    name : str
        Their source, as a row names it.
    features : ndarray of shape (m, d)
        As the encoder returned them.
    is_test : bool
        Whether they are the test images, which makes the method transductive.
    """

    name: str
    features: NDArray[Any]
    is_test: bool = False


def unlabelled_rows(features: Features, train: Split, test: Split, source: str | NDArray[Any], name: str) -> Unlabelled:
    """Return unlabelled images: rows of a split, or features of other images.

    Parameters
    ----------
    features : Features
        The data set.
    train, test : Split
        The labelled rows, which are left out, and the test rows.
    source : str or ndarray of shape (m, d)
        A split of the data set, whose labels are not read; or features of other images.
    name : str
        Name of other images, for the result row; a split goes by its own name.

    Raises
    ------
    InputError
        If there is no such split, the features are not as wide as the data set's, or nothing is left.

    Warns
    -----
    UserWarning
        If test images were among them and are left out, or if they are the test split itself.
    """
    if isinstance(source, str):
        split = features.split(source)
        labelled = set(train.sample_ids.tolist())
        kept = np.array([row for row, sample in enumerate(split.sample_ids.tolist()) if sample not in labelled], int)
        rows = np.asarray(split.image_features)[kept]
        if source == "test":
            warnings.warn(
                "the unlabelled images are those that are tested on: the accuracy is that of a transductive method",
                CafeWarning,
                stacklevel=2,
            )
        unlabelled = Unlabelled(f"split {source}", rows, source == "test")
    else:
        unlabelled = Unlabelled(name, np.asarray(source))
    width = train.image_features.shape[1]
    if unlabelled.features.ndim != 2 or unlabelled.features.shape[1] != width:
        raise InputError(
            f"unlabelled features must be (images, {width}), but their shape is {unlabelled.features.shape}"
        )
    if not unlabelled.is_test:
        tested = _are_in(unlabelled.features, test.image_features)
        if tested.any():
            warnings.warn(
                f"{int(tested.sum())} of {len(tested)} unlabelled images are tested on, and were left out",
                CafeWarning,
                stacklevel=2,
            )
            unlabelled = Unlabelled(unlabelled.name, unlabelled.features[~tested])
    if len(unlabelled.features) == 0:
        raise InputError(
            f"no unlabelled image is left of {unlabelled.name}: all of them are labelled shots or tested on; "
            "name another split or folder, or fewer shots"
        )
    return unlabelled


def _are_in(rows: NDArray[Any], test: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether each row is the same image as one of the test rows, by the cosine of their features."""
    test_rows = _unit(np.asarray(test, dtype=np.float32))
    same = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), _BLOCK):
        part = _unit(np.asarray(rows[start : start + _BLOCK], dtype=np.float32))
        same[start : start + _BLOCK] = (part @ test_rows.T).max(axis=1, initial=-1.0) >= SAME_IMAGE
    return same


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length one; rows of zeros stay zeros, and are no evidence."""
    scaled: NDArray[np.float32] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return scaled

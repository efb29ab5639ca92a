"""Drops rows that are nearly a training row: other views of one photograph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError
from cafe.features import Split

_ROWS = 4096  # compared at once: 4096 x 16,000 cosines in float32 are 260 MB


def drop_similar(splits: Mapping[str, Split], least: float) -> tuple[dict[str, Split], dict[str, int]]:
    """Drop rows of every other split whose best cosine with a training row is at least ``least``.

    Parameters
    ----------
    splits : mapping of str to Split
        With ``train``.
    least : float
        Between 0 and 1.

    Returns
    -------
    dict of str to Split, dict of str to int
        What stays, and how many rows each split lost.

    Raises
    ------
    InputError
        If there is no train split, nothing of a split stays, or ``least`` is out of range.
    """
    if not 0 < least <= 1:
        raise InputError(f"the cosine from which rows are dropped must be above 0 and at most 1, got {least}")
    if "train" not in splits:
        raise InputError(
            f"dropping rows that resemble training rows needs a train split; there are {', '.join(splits)}"
        )
    train = _unit(splits["train"])
    kept, dropped = {}, {}
    for name, split in splits.items():
        keep = np.arange(len(split)) if name == "train" else np.flatnonzero(_best_cosine(_unit(split), train) < least)
        if len(keep) == 0 < len(split):
            raise InputError(f"every row of split {name!r} has a cosine of at least {least} with a training row")
        kept[name] = split.take(keep)
        if name != "train":
            dropped[name] = len(split) - len(keep)
    return kept, dropped


def _best_cosine(rows: NDArray[np.float32], train: NDArray[np.float32]) -> NDArray[np.float32]:
    best = [(rows[start : start + _ROWS] @ train.T).max(axis=1) for start in range(0, len(rows), _ROWS)]
    return np.concatenate(best) if best else np.empty(0, dtype=np.float32)


def _unit(split: Split) -> NDArray[np.float32]:
    rows = np.asarray(split.image_features, dtype=np.float32)
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit

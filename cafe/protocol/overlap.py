"""Finds samples that are in both train and test, and refuses to test on them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CafeWarning, InputError
from cafe.features import Split

_CHUNK = 65536  # rows hashed at once; bounds the memory needed


def check_overlap(train: Split, test: Split) -> None:
    """Raise if two splits share a sample.

    Parameters
    ----------
    train, test : Split
        The rows that are learned from and those that are scored.

    Raises
    ------
    InputError
        If the splits share a sample id, or a row of image features, byte for byte. Rows of zeros, and rows that are
        not finite, are no evidence and do not count. The message says how many there are and names the first.

    Examples
    --------
    >>> rows = np.eye(3, dtype=np.float32)
    >>> train = Split(rows[:2], np.array([0, 1]), np.array(["a", "b"]))
    >>> check_overlap(train, Split(rows[2:], np.array([0]), np.array(["c"])))
    """
    train_ids = set(train.sample_ids.tolist())
    shared = [sample_id for sample_id in test.sample_ids.tolist() if sample_id in train_ids]
    if shared:
        raise InputError(
            f"the train split also holds {_count(len(shared))} of the test split, the first: {shared[0]!r}; "
            f"a score on what was trained on means nothing"
        )
    pairs = identical_rows(train.image_features, test.image_features)
    if pairs:
        train_row, test_row = pairs[0]
        raise InputError(
            f"{_count(len(pairs))} of the test split have exactly the features of a training sample, the first: "
            f"{str(test.sample_ids[test_row])!r} is {str(train.sample_ids[train_row])!r}; "
            f"a score on what was trained on means nothing"
        )


class SharedImagesWarning(CafeWarning):
    """Some validation images are in the test split too, and were left out of validation."""


def without_shared(val: Split, test: Split) -> Split:
    """Return the validation rows that are not in the test split, with a warning where some are.

    Published splits hold a few such pairs (one image of Oxford Flowers is in val and in test). A validation image
    is dispensable, so it is left out, where a training image that is tested on is refused.

    Parameters
    ----------
    val, test : Split
        The rows chosen by, and those scored.

    Warns
    -----
    SharedImagesWarning
        If rows were left out; it names the first.

    Examples
    --------
    >>> rows = np.eye(3, dtype=np.float32)
    >>> val = Split(rows, np.array([0, 1, 0]), np.array(["a", "b", "c"]))
    >>> without_shared(val, Split(-rows[:1], np.array([0]), np.array(["d"]))).sample_ids.tolist()
    ['a', 'b', 'c']
    """
    test_ids = set(test.sample_ids.tolist())
    shared = {row for row, sample_id in enumerate(val.sample_ids.tolist()) if sample_id in test_ids}
    # Test rows are searched for among validation rows, since each side may hold doubles of its own.
    shared |= {row for _, row in identical_rows(test.image_features, val.image_features)}
    if not shared:
        return val
    message = f"the test split also holds {_count(len(shared))} of the val split, left out of validation"
    warnings.warn(f"{message}, the first: {str(val.sample_ids[min(shared)])!r}", SharedImagesWarning, stacklevel=3)
    kept: NDArray[np.int64] = np.array([row for row in range(len(val)) if row not in shared], dtype=np.int64)
    return val.take(kept)


def identical_rows(train: NDArray[Any], test: NDArray[Any]) -> list[tuple[int, int]]:
    """Find the test rows that equal a training row, byte for byte.

    Parameters
    ----------
    train, test : ndarray of shape (n, d)
        Features; of different dtypes they are compared in the wider one.

    Returns
    -------
    list of (int, int)
        Training row (the first that matches) and test row, in order of the test rows.
    """
    if train.shape[1] != test.shape[1]:
        raise InputError(f"train features are {train.shape[1]} wide and test features {test.shape[1]}")
    dtype = np.result_type(train, test)
    train_hashes, test_hashes = _hash_rows(train, dtype), _hash_rows(test, dtype)
    train_rows = np.flatnonzero(np.isin(train_hashes, test_hashes))
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in train_rows.tolist():
        rows_of[int(train_hashes[row])].append(row)
    pairs = []
    for row in np.flatnonzero(np.isin(test_hashes, train_hashes)).tolist():
        feature = test[row].astype(dtype)
        if not np.any(feature) or not np.all(np.isfinite(feature)):
            continue
        for train_row in rows_of[int(test_hashes[row])]:
            # Equal hashes are only a hint; the bytes decide.
            if train[train_row].astype(dtype).tobytes() == feature.tobytes():
                pairs.append((train_row, row))
                break
    return pairs


def _hash_rows(features: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.uint64]:
    """Hash every row to 64 bits: its bytes as integers, times fixed random odd numbers, modulo 2**64."""
    width = features.shape[1] * dtype.itemsize
    n_words = -(-width // 8)  # of 64 bits
    factors = np.random.default_rng(0).integers(1, 2**63, size=n_words, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.empty(len(features), dtype=np.uint64)
    for start in range(0, len(features), _CHUNK):
        rows = np.ascontiguousarray(features[start : start + _CHUNK], dtype=dtype)
        padded = np.zeros((len(rows), n_words * 8), dtype=np.uint8) if width % 8 else rows.view(np.uint8)
        if width % 8:
            padded[:, :width] = rows.view(np.uint8)
        hashes[start : start + len(rows)] = padded.view(np.uint64) @ factors
    return hashes


def _count(n: int) -> str:
    return "1 sample" if n == 1 else f"{n} samples"

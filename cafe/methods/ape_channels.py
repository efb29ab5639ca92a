"""What APE and APE-T share: which channels tell classes apart.

Letters: d channels, c classes, N_i rows of class i (its shots and its text).

    J_d = v var_i(t_id) - (1 - v) S_d          the channels of largest J are kept

    S_d = mean over ordered pairs of classes i != j and all their rows m, n of  F_imd F_jnd

The released code has four nested loops for S, 3e8 turns for ImageNet at 16 shots. With row sums s_i = sum_m F_im it is

    S_d = ( (sum_i s_id)^2 - sum_i s_id^2 ) / ( (sum_i N_i)^2 - sum_i N_i^2 )
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError
from cafe.methods.base import Array


def similarity_between_classes(X: Array, y: NDArray[np.int64], text: Array) -> Array:
    """Return S (d,), in float64; formula above.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [0.0, 1.0]]); text = np.array([[1.0, 1.0], [1.0, 1.0]])
    >>> similarity_between_classes(X, np.array([0, 1]), text).tolist()
    [0.5, 0.5]
    """
    sums = text.astype(np.float64)
    np.add.at(sums, y, X)
    rows = 1.0 + np.bincount(y, minlength=len(text))
    pairs = rows.sum() ** 2 - np.square(rows).sum()
    similarity: Array = (np.square(sums.sum(axis=0)) - np.square(sums).sum(axis=0)) / pairs
    return similarity


def chosen_channels(
    X: Array, y: NDArray[np.int64], text: Array, share: float, variance_weight: float
) -> NDArray[np.int64]:
    """Return the channels of largest J, the best first.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Shots.
    y : ndarray of shape (n,), int64
        Class rows.
    text : ndarray of shape (c, d)
        Class embeddings.
    share : float
        Of the d channels to keep, rounded up.
    variance_weight : float
        v.
    """
    criterion = variance_weight * text.astype(np.float64).var(axis=0, ddof=1)
    criterion -= (1 - variance_weight) * similarity_between_classes(X, y, text)
    kept = int(np.ceil(share * X.shape[1]))
    return np.argsort(-criterion, kind="stable")[:kept]


def check_share(method: str, **parameters: float) -> None:
    """Refuse what is not a share. Raises InputError."""
    for name, value in parameters.items():
        if isinstance(value, str) or not 0 < value <= 1:
            raise InputError(f"{name} of {method} must be above 0 and at most 1, but is {value!r}")

"""Cosines, logits and probabilities, which every method shares.

Letters: n samples, d feature width, c classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.arrays import functions, is_tensor
from cafe.errors import InputError

Array = NDArray[Any]

# Numbers that are scaled at once: intermediate results of all rows would be written to memory and read again.
_BLOCK = 2**18


def unit_length(x: Array, block: int = _BLOCK) -> Array:
    """Scale rows to length one, whatever finite numbers they hold.

    Parameters
    ----------
    x : ndarray of shape (..., d), float
        Rows; subnormal numbers and the largest of the dtype are as good as any other.
    block : int, default=262,144
        Numbers that are scaled at once; it changes no result.

    Returns
    -------
    ndarray of shape (..., d), dtype of x
        A row of zeros has no direction and stays zeros, so that its cosine with everything is 0. A row that holds NaN
        or infinity becomes NaN.

    Examples
    --------
    >>> unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    >>> unit_length(np.array([[3e-30, 4e-30], [3e30, 4e30]], dtype=np.float32)).round(6).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.6000000238418579, 0.800000011920929]]
    """
    # Squares leave the range of the dtype long before the numbers do. float32 holds all squares of float16.
    if is_tensor(x):
        tensor: Array = _unit_length_on_device(x)
        return tensor
    if x.ndim != 2 or x.size <= block:
        return _unit_rows(x)
    scaled, rows = np.empty_like(x), max(1, block // x.shape[1])
    for first in range(0, len(x), rows):
        _unit_rows(x[first : first + rows], scaled[first : first + rows])
    return scaled


def _unit_rows(x: Array, out: Array | None = None) -> Array:
    """Scale all rows to length one at once; the result is written to ``out``, of x's dtype, if that is given."""
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    limits = np.finfo(wide.dtype)
    with np.errstate(over="ignore", under="ignore"):
        length = np.linalg.norm(wide, axis=-1, keepdims=True)  # (..., 1)
    # A square below `tiny` loses all of its bits: d of them are less than one rounding of a sum of this size.
    shortest = np.sqrt(wide.shape[-1] * limits.tiny / limits.eps)
    if not np.all((length >= shortest) & (length < np.inf)):
        # Dividing by the largest entry first brings it to 1 and the length to between 1 and sqrt(d).
        largest = np.abs(wide).max(axis=-1, keepdims=True, initial=0.0)  # (..., 1)
        divisor = np.where(largest > 0, largest, 1).astype(wide.dtype)
        with np.errstate(under="ignore", invalid="ignore"):
            wide = wide / divisor
            length = np.linalg.norm(wide, axis=-1, keepdims=True)
    with np.errstate(under="ignore", invalid="ignore"):
        divisor = np.where(length > 0, length, 1).astype(wide.dtype)
        scaled: Array = np.divide(wide, divisor, out=out, casting="same_kind")
    return scaled.astype(x.dtype, copy=False)


def _unit_length_on_device(x: Any) -> Any:
    """Scale the rows of a tensor (..., d) to length one; rows of zeros stay zeros.

    Every row is divided by its largest entry first, so that no square leaves the range of the dtype.
    :func:`_unit_rows` divides only where that is needed; asking a GPU whether it is would make the host wait.
    """
    wide = x.float() if x.dtype.itemsize < 4 else x
    largest = wide.abs().amax(-1, keepdim=True)
    wide = wide / largest.where(largest > 0, 1.0)
    length = wide.norm(dim=-1, keepdim=True)
    return (wide / length.where(length > 0, 1.0)).to(x.dtype)


def unit_parts(X: Array, second_width: int) -> Array:
    """Scale the features of both encoders in each row to length one; the last columns are the second encoder's.

    Parameters
    ----------
    X : ndarray of shape (n, d1 + second_width)
        Features of two encoders, as :meth:`cafe.features.Features.join` puts them beside each other.
    second_width : int
        Columns of the second encoder's features.

    Examples
    --------
    >>> unit_parts(np.array([[3.0, 4.0, 7.0]]), 1).tolist()
    [[0.6, 0.8, 1.0]]
    """
    parts: Array = functions(X).concatenate(split_encoders(X, second_width), axis=-1)
    return parts


def split_encoders(X: Array, second_width: int) -> list[Array]:
    """Return the features of each encoder, of unit length, (n, d1) and (n, second_width); X as in :func:`unit_parts`.

    Raises
    ------
    InputError
        If the rows are not wider than the second encoder's features.
    """
    if second_width >= X.shape[-1]:
        raise InputError(
            f"second_width {second_width} is of features of two encoders beside each other, wider than that; these "
            f"rows have {X.shape[-1]} columns"
        )
    return [unit_length(X[..., :-second_width]), unit_length(X[..., -second_width:])]


def cosine_logits(features: Array, class_embeddings: Array, logit_scale: float) -> Array:
    """Return logit_scale times the cosine of every row with every class: (n, c)."""
    logits: Array = logit_scale * (unit_length(features) @ unit_length(class_embeddings).T)
    return logits


def softmax(logits: Array) -> Array:
    """Return probabilities along the last axis.

    Examples
    --------
    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    if is_tensor(logits):
        on_device: Array = logits.softmax(-1)
        return on_device
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities

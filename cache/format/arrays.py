"""Converts arrays and texts to the form in which a cache stores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError, unknown_name

StoredDtype = Literal["float16", "float32"]
STORED_DTYPES: Final[tuple[StoredDtype, ...]] = ("float16", "float32")


def as_stored(values: NDArray[Any], dtype: StoredDtype, what: str) -> NDArray[Any]:
    """Cast features to the stored dtype, and raise an error for values that it cannot hold.

    Parameters
    ----------
    values : ndarray
        Features of any shape and any floating dtype.
    dtype : str
        ``"float16"`` or ``"float32"``.
    what : str
        Name of the array, for messages.

    Returns
    -------
    ndarray
        Little-endian and C-contiguous.

    Raises
    ------
    InputError
        If a value is not finite, or too large for float16; or if the dtype is another.

    Examples
    --------
    >>> import numpy as np
    >>> as_stored(np.array([1.0, 2.0]), "float16", "features").dtype.str
    '<f2'
    """
    if dtype not in STORED_DTYPES:
        raise unknown_name("stored dtype", dtype, STORED_DTYPES)
    values = np.asarray(values)
    with np.errstate(over="ignore"):  # reported below, with the name of the array
        stored = np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<")).reshape(values.shape)
    if not np.isfinite(stored).all():
        if np.isfinite(values).all():
            raise InputError(f"{what} has values up to {np.abs(values).max():g}, too large for {dtype}; store float32")
        raise InputError(f"{what} has values that are not finite; the encoder's dtype may be too narrow for it")
    return stored


def text_array(texts: Sequence[str] | NDArray[np.str_]) -> NDArray[np.bytes_]:
    """Encode texts as fixed-length UTF-8, padded with NUL.

    Raises
    ------
    InputError
        If a text ends in NUL, which padding would swallow.
    """
    encoded = [str(text).encode("utf-8", "surrogateescape") for text in texts]
    for text in encoded:
        if text.endswith(b"\0"):
            raise InputError(f"text {text!r} ends in a NUL character, which a cache cannot hold")
    # HDF5 has no fixed-length text of length 0.
    width = max([1, *map(len, encoded)])
    return np.array(encoded, dtype=f"S{width}")


def texts_of(stored: NDArray[np.bytes_]) -> list[str]:
    """Decode what :func:`text_array` encoded.

    Examples
    --------
    >>> texts_of(text_array(["caf\u00e9", ""]))
    ['café', '']
    """
    return [text.decode("utf-8", "surrogateescape") for text in stored.tolist()]

"""SHA-256 over every array, and one over the whole content, as FORMAT.md defines them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.format import layout
from cafe.cache.format.hdf5 import StoredArray

if TYPE_CHECKING:
    import h5py

_BYTES_AT_ONCE = 1 << 24  # bytes read at a time, so that big arrays are checked in little memory


def array_sha256(array: h5py.Dataset | StoredArray) -> str:
    """Return the SHA-256 of an array's bytes in C order, in hexadecimal."""
    digest = hashlib.sha256()
    if array.shape == ():
        digest.update(array[()].tobytes())
    elif array.nbytes:
        rows = max(1, _BYTES_AT_ONCE // max(1, array.nbytes // array.shape[0]))
        for start in range(0, array.shape[0], rows):
            digest.update(array[start : start + rows].tobytes())
    return digest.hexdigest()


def memory_sha256(array: NDArray[Any]) -> str:
    """Return the SHA-256 of an array in memory, as :func:`array_sha256` gives it once the array is stored.

    Examples
    --------
    >>> memory_sha256(np.zeros((0, 3)))[:8]
    'e3b0c442'
    """
    return hashlib.sha256(bytes_of(array)).hexdigest()


class RowsSha256:
    """The SHA-256 of an array that arrives in parts; it is known only if these arrive in the order of its bytes.

    Parameters
    ----------
    shape : tuple of int
        Shape of the whole array.
    dtype : dtype
        As stored.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._shape, self._dtype = shape, dtype
        self._digest = hashlib.sha256()
        self._bytes: int | None = 0  # so far; None after a part that did not begin where the part before it ended

    def update(self, index: Any, values: NDArray[Any]) -> None:
        """Add a part.

        Parameters
        ----------
        index : index
            Place in the array: rows ``a:b``, or for an array of three axes rows ``i, a:b`` of its i-th matrix.
        values : ndarray
            The part.
        """
        if self._bytes is None or self._bytes != self._offset(index):
            self._bytes = None
            return
        data = bytes_of(np.asarray(values, dtype=self._dtype))
        self._bytes += len(data)
        self._digest.update(data)

    def hexdigest(self) -> str | None:
        """Return the SHA-256 in hexadecimal; None if the parts were not all bytes in order."""
        return self._digest.hexdigest() if self._bytes == math.prod(self._shape) * self._dtype.itemsize else None

    def _offset(self, index: Any) -> int | None:
        """Return the byte at which a part begins; None for an index whose bytes are not contiguous."""
        outer, rows = index if isinstance(index, tuple) and len(index) == 2 and len(self._shape) == 3 else (0, index)
        if not isinstance(outer, int) or not isinstance(rows, slice) or rows.step not in (None, 1):
            return None
        row_axis = 0 if rows is index else 1
        row_bytes = math.prod(self._shape[row_axis + 1 :]) * self._dtype.itemsize
        return (outer * self._shape[row_axis] + (rows.start or 0)) * row_bytes


def bytes_of(array: NDArray[Any]) -> memoryview | bytes:
    """Return an array's bytes in C order, copied only if they are in another order in memory."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""


def content_sha256(
    arrays: Mapping[str, h5py.Dataset | StoredArray], attributes: Mapping[str, Any], sums: Mapping[str, str]
) -> str:
    """Return the SHA-256 over all arrays, and over all root attributes but times and the two checksums themselves.

    Parameters
    ----------
    arrays : mapping of str to array
        Every array of the file, by path; only dtype and shape are read here.
    attributes : mapping of str to object
        Attributes of the root.
    sums : mapping of str to str
        SHA-256 of every array, by path.

    Returns
    -------
    str
        In hexadecimal.
    """
    lines = [f"{path} {array.dtype.str} {list(array.shape)} {sums[path]}\n" for path, array in sorted(arrays.items())]
    left_out = {layout.CONTENT_SHA256, layout.ATTRIBUTES_SHA256, *layout.TIMES}
    return hashlib.sha256("".join([*lines, *_attribute_lines(attributes, left_out)]).encode()).hexdigest()


def attributes_sha256(attributes: Mapping[str, Any]) -> str:
    """Return the SHA-256 over all root attributes, times included, but the attribute that stores it."""
    return hashlib.sha256("".join(_attribute_lines(attributes, {layout.ATTRIBUTES_SHA256})).encode()).hexdigest()


def _attribute_lines(attributes: Mapping[str, Any], left_out: Collection[str]) -> list[str]:
    """Return the text of each attribute that goes into a checksum, sorted by name."""
    lines = []
    for name in sorted(set(attributes) - set(left_out)):
        value = attributes[name]
        value = value.tolist() if hasattr(value, "tolist") else value
        lines.append(f"{name} {json.dumps(value)}\n")
    return lines

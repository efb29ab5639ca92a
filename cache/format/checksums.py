"""SHA-256 over every array, and one over the whole content, as FORMAT.md defines them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import h5py

from cafe.cache.format import layout

_PIECE = 1 << 24  # bytes read at a time, so that big arrays are checked in little memory


def array_sha256(array: h5py.Dataset) -> str:
    """Return the SHA-256 of an array's bytes in C order, in hexadecimal."""
    digest = hashlib.sha256()
    if array.shape == ():
        digest.update(array[()].tobytes())
    elif array.size:
        rows = max(1, _PIECE // max(1, array.nbytes // array.shape[0]))
        for start in range(0, array.shape[0], rows):
            digest.update(array[start : start + rows].tobytes())
    return digest.hexdigest()


def arrays_of(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return every array by its path, sorted."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(visit)
    return dict(sorted(found.items()))


def content_sha256(file: h5py.File, sums: Mapping[str, str]) -> str:
    """Return the SHA-256 over all arrays and over the root attributes that tell no time.

    Parameters
    ----------
    file : h5py.File
        The cache.
    sums : mapping of str to str
        SHA-256 of every array, by path.

    Returns
    -------
    str
        In hexadecimal.
    """
    digest = hashlib.sha256()
    for path, array in arrays_of(file).items():
        digest.update(f"{path} {array.dtype.str} {list(array.shape)} {sums[path]}\n".encode())
    for name in sorted(file.attrs):
        if name == layout.CONTENT_SHA256 or name in layout.TIMES:
            continue
        value = file.attrs[name]
        value = value.tolist() if hasattr(value, "tolist") else value
        digest.update(f"{name} {json.dumps(value)}\n".encode())
    return digest.hexdigest()

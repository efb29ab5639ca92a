"""Writes a cache in one step: the file is complete, or the old one is unchanged."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cafe.cache.format import layout
from cafe.cache.format.arrays import StoredDtype, text_array
from cafe.cache.format.checksums import (
    RowsSha256,
    array_sha256,
    attributes_sha256,
    content_sha256,
    memory_sha256,
)
from cafe.cache.format.layout import arrays_to_store, attributes_to_store
from cafe.cache.format.provenance import Provenance
from cafe.errors import CafeError, InputError
from cafe.features import Features
from cafe.files import check_free_space, write_all, writing


@dataclass(frozen=True)
class StreamedArray:
    """An array that arrives in parts while the file is written, so that it is never in memory as a whole.

    Attributes
    ----------
    shape : tuple of int
        Shape of the whole array.
    dtype : dtype
        As stored.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole."""
        return math.prod(self.shape) * self.dtype.itemsize


# Path of a streamed array in the file, an index into it, and the values at that place.
Part = tuple[str, Any, NDArray[Any]]


def write_cache(
    path: Path | str,
    features: Features,
    provenance: Provenance | None = None,
    *,
    stored_dtype: StoredDtype = "float16",
    sizes: Mapping[str, NDArray[np.int64]] | None = None,
    projection: NDArray[Any] | None = None,
    normalised: bool = False,
    seconds: Mapping[str, float] | None = None,
    created: datetime | None = None,
) -> Path:
    """Write a cache in one step: the file is complete, or the old one is unchanged.

    Parameters
    ----------
    path : path
        The file to make or replace; its folder is made if needed.
    features : Features
        The features to store.
    provenance : Provenance or None
        Origin of the features; None takes ``features.provenance``, as loaded from another cache.
    stored_dtype : str, default "float16"
        Or ``"float32"``.
    sizes : mapping of str to ndarray of shape (n,), int64, or None
        Bytes of each encoded image, by split; -1 is stored where they are not known.
    projection : ndarray of shape (w, d) or None
        The image tower's projection; needed if a split has projection features.
    normalised : bool, default False
        Whether the features are already of unit length.
    seconds : mapping of str to float or None
        ``read`` and ``encode``: how long extraction took.
    created : datetime or None
        With a time zone; None is now.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If features cannot be stored: not finite, too large for float16, shapes that do not fit; or if the folder
        cannot be written to.
    CafeError
        If the disk is full or fails.
    """
    path = Path(path)
    provenance = Provenance.of(features.provenance) if provenance is None else provenance
    arrays = arrays_to_store(features, provenance, stored_dtype, sizes, projection)
    attributes = attributes_to_store(features, provenance, normalised, seconds, created)
    write_arrays(path, arrays, attributes)
    return path


def write_arrays(
    path: Path,
    arrays: Mapping[str, NDArray[Any] | StreamedArray],
    attributes: Mapping[str, Any],
    parts: Iterable[Part] = (),
) -> None:
    """Write a cache from its arrays and root attributes, as laid out by :mod:`cafe.cache.format.layout`, in one step.

    Parameters
    ----------
    path : Path
        The file to make or replace; its folder is made if needed.
    arrays : mapping of str to ndarray or StreamedArray
        By path within the file.
    attributes : mapping
        Attributes of the root, without the checksum.
    parts : iterable of (str, index, ndarray)
        Parts of the streamed arrays, in any order; the iterable is read once. An array whose parts arrive in the order
        of its bytes (rows ``a:b``, or rows ``i, a:b`` of an array of three axes) is hashed as it is written; any other
        is read again for its checksum.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    CafeError
        If the disk has too little space or fails.
    """
    size = sum(array.nbytes for array in arrays.values()) + (len(arrays) + 64) * layout.ALIGNMENT
    check_free_space(path.parent, size)
    try:
        with writing(path, size) as stream:
            disk = _UnfailingDisk(stream)
            try:
                _write(disk, arrays, attributes, parts)
            finally:
                if disk.failure is not None:  # in place of the error that HDF5 raises for it
                    raise disk.failure
            stream.seek(disk.end)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CafeError(f"cache {path} could not be written ({size / 1e6:,.1f} MB): {reason}") from error


class _UnfailingDisk:
    """A file that never fails towards HDF5, which crashes if it cannot finish writing.

    It keeps the first failure and writes nothing more; the caller raises the failure after HDF5 has closed.
    """

    def __init__(self, stream: FileIO) -> None:
        self.end = 0  # bytes that HDF5 has written; after them are only reserved bytes
        self.failure: BaseException | None = None
        self._stream, self._position = stream, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte, and return its number."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.end}[whence]
        return self._position

    def tell(self) -> int:
        """Return the current byte."""
        return self._position

    def write(self, data: memoryview) -> int:
        """Write bytes, and return their number even after a failure."""
        length = len(memoryview(data).cast("B"))
        if self.failure is None:
            try:
                self._stream.seek(self._position)
                write_all(self._stream, data)
            except BaseException as error:  # interrupts too, which would stop HDF5 halfway
                self.failure = error
        self._position += length
        self.end = max(self.end, self._position)
        return length

    def readinto(self, target: memoryview) -> int:
        """Fill a buffer with the bytes at the current place, zeros after a failure."""
        view = memoryview(target).cast("B")
        view[:] = bytes(len(view))
        if self.failure is None:
            try:
                self._stream.seek(self._position)
                self._stream.readinto(view[: max(0, min(len(view), self.end - self._position))])
            except BaseException as error:
                self.failure = error
        self._position += len(view)
        return len(view)

    def truncate(self, size: int) -> int:
        """Set the end of the file."""
        self.end = size
        return size

    def flush(self) -> None:
        """Do nothing, since the file has no buffer."""


def _write(
    disk: _UnfailingDisk,
    arrays: Mapping[str, NDArray[Any] | StreamedArray],
    attributes: Mapping[str, Any],
    parts: Iterable[Part],
) -> None:
    """Write all arrays, their checksums and the root attributes."""
    with _new_file(disk) as file:
        file.create_group(layout.SPLITS)
        sums: dict[str, str] = {}
        streamed: dict[str, RowsSha256] = {}
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        for name, array in arrays.items():
            # Space is allocated in this order, so that the layout of the file does not depend on the arrays' origin.
            options = {"track_times": False, "dcpl": early}
            if isinstance(array, StreamedArray):
                file.create_dataset(name, shape=array.shape, dtype=array.dtype, **options)
                streamed[name] = RowsSha256(array.shape, array.dtype)
                continue
            sums[name] = memory_sha256(array)
            if array.dtype.kind == "S":  # the type alone says that these bytes are UTF-8; `astype` would drop that
                array = array.view(h5py.string_dtype("utf-8", array.dtype.itemsize))
            file.create_dataset(name, data=array, **options)
        for name, index, values in parts:
            if disk.failure is not None:
                break
            file[name][index] = values
            streamed[name].update(index, values)
        for name, digest in streamed.items():
            sums[name] = digest.hexdigest() or array_sha256(file[name])
        for name in sorted(sums):
            _set_attribute(file[name], layout.ARRAY_SHA256, sums[name])
        whole = {
            **attributes,
            layout.CONTENT_SHA256: content_sha256({name: file[name] for name in sums}, attributes, sums),
        }
        whole[layout.ATTRIBUTES_SHA256] = attributes_sha256(whole)
        for name, value in whole.items():
            _set_attribute(file, name, value)


def _new_file(disk: _UnfailingDisk) -> h5py.File:
    """Make a file that keeps all attributes in object headers, over which HDF5 has checksums."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    # HDF5 has checksums over object headers of version 2, with attributes and shapes.
    access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V18)
    access.set_alignment(layout.ALIGNMENT, layout.ALIGNMENT)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, disk)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_attr_phase_change(_MAX_ATTRIBUTES, 0)
    creation.set_obj_track_times(False)
    return h5py.File(h5py.h5f.create(b"cache", h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access))


_MAX_ATTRIBUTES = 256  # within a header; FORMAT.md knows 19
_MAX_ATTRIBUTE_BYTES = 60_000  # bytes; a message of a header ends at 65,535


def _set_attribute(item: h5py.File | h5py.Dataset, name: str, value: Any) -> None:
    """Set an attribute; text has a fixed length, since HDF5 has no checksum over text of variable length.

    Raises
    ------
    InputError
        If a text has a NUL in it, or is too long for a header.
    """
    if not isinstance(value, str | list):
        item.attrs[name] = value
        return
    if any("\0" in text for text in ([value] if isinstance(value, str) else value)):
        raise InputError(f"{name} {value!r} has a NUL character in it, which a cache cannot hold")
    stored = text_array([value] if isinstance(value, str) else value)
    if stored.nbytes > _MAX_ATTRIBUTE_BYTES:
        raise InputError(f"{name} takes {stored.nbytes:,} bytes; a cache holds up to {_MAX_ATTRIBUTE_BYTES:,}")
    kind = h5py.string_dtype("utf-8", stored.dtype.itemsize)
    item.attrs.create(name, stored[0] if isinstance(value, str) else stored, dtype=kind)

"""Writes a cache, in one step: it is there completely, or what was there before is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cafe.cache.format import layout
from cafe.cache.format.arrays import StoredDtype
from cafe.cache.format.checksums import RowsSha256, array_sha256, content_sha256, memory_sha256
from cafe.cache.format.layout import arrays_to_store, attributes_to_store
from cafe.cache.format.provenance import Provenance
from cafe.errors import CafeError
from cafe.features import Features
from cafe.files import check_free_space, replacing


@dataclass(frozen=True)
class StreamedArray:
    """An array that arrives in parts while the file is written, so that it is never in memory as a whole.

    Attributes
    ----------
    shape : tuple of int
        Of the whole.
    dtype : dtype
        As stored.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole."""
        return math.prod(self.shape) * self.dtype.itemsize


# Path of a streamed array within the file, an index into it, and the values that stand there.
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
    """Write a cache in one step: it is there completely, or what was there before is.

    Parameters
    ----------
    path : path
        The file to make or replace; its folder is made if needed.
    features : Features
        What to store.
    provenance : Provenance or None
        Where it came from; None takes it from ``features.provenance``, as loaded from another cache.
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
        Of the root, without the checksum.
    parts : iterable of (str, index, ndarray)
        What fills the streamed arrays, in any order and read once. An array whose parts arrive in the order of its
        bytes (rows ``a:b``, or rows ``i, a:b`` of an array of three axes) is hashed as they pass; any other is read
        again for its checksum.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    CafeError
        If the disk has too little space or fails.
    """
    check_free_space(path.parent, sum(array.nbytes for array in arrays.values()) + 64 * layout.ALIGNMENT)
    with replacing(path) as temporary:
        try:
            _write(temporary, arrays, attributes, parts)
        except OSError as error:
            raise CafeError(f"cache {path} could not be written: {error}") from error


def _write(
    path: Path,
    arrays: Mapping[str, NDArray[Any] | StreamedArray],
    attributes: Mapping[str, Any],
    parts: Iterable[Part],
) -> None:
    with h5py.File(
        path,
        "w-",
        libver=(layout.LIBVER, layout.LIBVER),
        locking=False,
        alignment_threshold=layout.ALIGNMENT,
        alignment_interval=layout.ALIGNMENT,
    ) as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        file.create_group(layout.SPLITS)
        sums: dict[str, str] = {}
        streamed: dict[str, RowsSha256] = {}
        for name, array in arrays.items():
            if isinstance(array, StreamedArray):
                # Its place is taken now, so that the file is laid out as it is for arrays from memory.
                early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                file.create_dataset(name, shape=array.shape, dtype=array.dtype, track_times=False, dcpl=early)
                streamed[name] = RowsSha256(array.shape, array.dtype)
                continue
            sums[name] = memory_sha256(array)
            if array.dtype.kind == "S":  # the type alone says that these bytes are UTF-8; `astype` would drop that
                array = array.view(h5py.string_dtype("utf-8", array.dtype.itemsize))
            file.create_dataset(name, data=array, track_times=False)
        for name, where, values in parts:
            file[name][where] = values
            streamed[name].update(where, values)
        for name, digest in streamed.items():
            sums[name] = digest.hexdigest() or array_sha256(file[name])
        for name in sorted(sums):
            file[name].attrs[layout.ARRAY_SHA256] = sums[name]
        file.attrs[layout.CONTENT_SHA256] = content_sha256(file, sums)

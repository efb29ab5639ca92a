"""Reads a cache: opens it, loads its features, and summarises it.

This is the only module that makes arrays of the bytes of a cache. Any fault of a file becomes one sentence in a
CacheError.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cafe.cache.format import layout
from cafe.cache.format.arrays import texts_of
from cafe.cache.format.checksums import attributes_sha256, content_sha256, memory_sha256
from cafe.cache.format.hdf5 import StoredArray, StoredFile, TruncatedFileError
from cafe.cache.format.provenance import Provenance
from cafe.errors import CacheError
from cafe.features import Features, Split
from cafe.foreign import reason_of

REMEDY = "Extract it again, or name another file."
_MAP_ABOVE = 1 << 31  # bytes; memmap="auto" maps files that are larger


class OtherFileError(CacheError):
    """The file is a sound HDF5 file, but not a cache."""


@contextmanager
def open_cache(path: Path | str) -> Iterator[StoredFile]:
    """Open a cache for reading.

    Parameters
    ----------
    path : path
        The file.

    Yields
    ------
    StoredFile
        Open for reading, of a format version that this cafe reads.

    Raises
    ------
    CacheError
        If the file is missing, truncated, damaged, not HDF5, not a cache, or of a newer version; or if an array that
        the block reads is damaged.
    """
    path = Path(path)
    descriptor = _open(path)
    try:
        file = StoredFile(descriptor)
        _check_root(path, file)
        yield file
    except (CacheError, MemoryError):
        raise
    except TruncatedFileError as error:
        raise CacheError(f"cache {path} is truncated: {error}. {REMEDY}") from error
    # Damage raises many types of errors, depending on the array, text or JSON in which it is.
    except Exception as error:
        raise CacheError(f"cache {path} is damaged: {reason_of(error)}. {REMEDY}") from error
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open a regular file that begins as HDF5 does, and return its descriptor."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise CacheError(
            f"there is no cache {path}; `cafe cache ls` lists those there are, `cafe extract` makes one"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CacheError(f"cache {path} cannot be read: {reason}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CacheError(f"{path} is not a file; a cache is one HDF5 file ({layout.SUFFIX})")
        start = os.pread(descriptor, len(layout.HDF5_SIGNATURE), 0)
        if len(start) < len(layout.HDF5_SIGNATURE) and layout.HDF5_SIGNATURE.startswith(start):
            raise CacheError(f"cache {path} is truncated: only {status.st_size} bytes are there. {REMEDY}")
        if start != layout.HDF5_SIGNATURE:
            raise CacheError(f"{path} is not an HDF5 file, so it is no cache of cafe. {REMEDY}")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_root(path: Path, file: StoredFile) -> None:
    """Raise an error for a file that is no cache, or of a newer version, or whose root attributes were altered."""
    if file.attrs.get("format") != layout.FORMAT:
        raise OtherFileError(
            f"{path} is an HDF5 file, but not a cache of cafe: it has no attribute format = {layout.FORMAT!r}"
        )
    version = int(file.attrs["format_version"])
    if version > layout.FORMAT_VERSION:
        raise CacheError(
            f"cache {path} has format version {version}, but this cafe reads up to version {layout.FORMAT_VERSION}; "
            f"upgrade with: pip install -U cafe-clip"
        )
    if version > 1 and file.attrs[layout.ATTRIBUTES_SHA256] != attributes_sha256(file.attrs):
        raise CacheError(
            f"cache {path} is damaged: its root attributes differ from their checksum "
            f"({layout.ATTRIBUTES_SHA256}). {REMEDY}"
        )


def read_features(path: Path | str, *, memmap: bool | Literal["auto"] = False) -> Features:
    """Load a cache, and compare every array that is read with its checksum.

    Parameters
    ----------
    path : path
        The file.
    memmap : bool or "auto", default False
        Whether image features stay on disk as read-only memory maps, from which rows are read as they are used, and
        whose checksums are not compared; ``"auto"`` maps files above 2 GiB.

    Returns
    -------
    Features
        With image and text features in their stored dtype, and with all provenance.

    Raises
    ------
    CacheError
        If the file is missing, truncated, damaged, not a cache, or of a newer format version.
    """
    path = Path(path)
    with open_cache(path) as file:
        _check_root_of_version_1(file)
        mapped = path.stat().st_size > _MAP_ABOVE if memmap == "auto" else memmap
        class_names = tuple(_texts(file[layout.CLASS_NAMES]))
        splits = {name: _load_split(path, file, name, bool(mapped)) for name in split_names(file)}
        for name, split in splits.items():
            layout.check_labels(name, split, len(class_names))
        return Features(
            splits=splits,
            class_names=class_names,
            text_features=_optional(file, layout.TEXT_FEATURES),
            templates=tuple(_texts(file[layout.TEMPLATES])),
            prompt_features=_optional(file, layout.PROMPT_FEATURES),
            prompt_classes=_optional(file, layout.PROMPT_CLASSES),
            logit_scale=float(file.attrs["logit_scale"]),
            logit_bias=float(file.attrs["logit_bias"]),
            provenance=read_provenance(file),
            projection=_optional(file, layout.PROJECTION),
        )


def _check_root_of_version_1(file: StoredFile) -> None:
    """Compare the root attributes of an old file with the checksum of the whole content.

    HDF5 has no checksum over their text. The checksum of the whole is computed from the recorded checksums of the
    arrays, each of which is compared with its array when that is read.

    Raises
    ------
    ValueError
        If that checksum differs.
    """
    sums = {name: str(array.attrs.get(layout.ARRAY_SHA256)) for name, array in file.arrays.items()}
    sound = all(
        array.problem is None for array in file.arrays.values()
    )  # an unreadable array raises its own error when it is read
    if (
        sound
        and file.attrs["format_version"] == 1
        and content_sha256(file.arrays, file.attrs, sums) != file.attrs[layout.CONTENT_SHA256]
    ):
        raise ValueError(f"its root attributes differ from the checksum of the whole ({layout.CONTENT_SHA256})")


def load_sizes(path: Path | str) -> dict[str, NDArray[np.int64]]:
    """Load the bytes of each encoded image, by split; -1 where not known. Raises CacheError like `read_features`."""
    with open_cache(path) as file:
        return {name: read_array(file[f"{layout.SPLITS}/{name}/{layout.SIZES}"]) for name in split_names(file)}


def load_projection(path: Path | str) -> NDArray[np.float32] | None:
    """Load the image tower's projection (w, d); None if the cache has none. Raises CacheError like `read_features`."""
    with open_cache(path) as file:
        return _optional(file, layout.PROJECTION)


def read_provenance(file: StoredFile) -> dict[str, Any]:
    """Return all provenance of an open cache, from the array of that name and the root attributes."""
    attributes = {name: _text(file.attrs[name], name) for name in _TEXT_ATTRIBUTES}
    (text,) = read_array(file[layout.PROVENANCE]).tolist()
    stored = Provenance.from_json(attributes["dataset"], attributes["encoder"], text)
    return {
        **attributes,
        "format_version": int(file.attrs["format_version"]),
        "normalised": bool(file.attrs["normalised"]),
        "image": stored.image,
        "text": stored.text,
        "recorded": stored.recorded,
        "seeds": list(stored.seeds),
        "unreadable": list(stored.unreadable),
    }


_TEXT_ATTRIBUTES = (
    "dataset",
    "encoder",
    "fingerprint",
    "image_fingerprint",
    "text_fingerprint",
    "cafe_version",
    "created",
    layout.CONTENT_SHA256,
)


def split_names(file: StoredFile) -> list[str]:
    """Return the names of the splits, in their order. Raises ValueError if they are not a list of different names."""
    names = file.attrs[layout.SPLITS]
    if not isinstance(names, list):
        raise ValueError(f"attribute {layout.SPLITS} is not a list of names")
    if len(set(names)) < len(names):
        raise ValueError(f"attribute {layout.SPLITS} names a split twice: {', '.join(names)}")
    return names


def read_array(array: StoredArray) -> NDArray[Any]:
    """Read an array and compare it with its checksum.

    Raises
    ------
    ValueError
        If the array has no checksum, differs from it, or cannot be read.
    """
    values = array[()]
    if memory_sha256(values) != array.attrs[layout.ARRAY_SHA256]:
        raise ValueError(f"array {array.path} differs from its checksum")
    return values


def _optional(file: StoredFile, path: str) -> NDArray[Any] | None:
    """Read an array; None if the file does not have it."""
    return read_array(file[path]) if path in file else None


def _texts(array: StoredArray) -> list[str]:
    """Read an array of texts."""
    if array.problem is None and (array.dtype.kind != "S" or len(array.shape) != 1):
        raise ValueError(f"array {array.path} is no list of texts")
    return texts_of(read_array(array))


def _text(value: Any, name: str) -> str:
    """Return an attribute after checking that it is text."""
    if not isinstance(value, str):
        raise ValueError(f"attribute {name} is no text")
    return value


def _load_split(path: Path, file: StoredFile, name: str, mapped: bool) -> Split:
    """Load one split, with its features in memory or mapped."""
    folder = f"{layout.SPLITS}/{name}"

    def features(key: str) -> NDArray[Any]:
        array = file[f"{folder}/{key}"]
        if array.problem is None and array.dtype.kind != "f":
            raise ValueError(f"array {array.path} holds {array.dtype}, not features")
        return _mapped(path, array) if mapped else read_array(array)

    return Split(
        image_features=features(layout.IMAGE_FEATURES),
        labels=read_array(file[f"{folder}/{layout.LABELS}"]),
        sample_ids=np.array(_texts(file[f"{folder}/{layout.SAMPLE_IDS}"]), dtype=np.str_),
        view_features=features(layout.VIEW_FEATURES) if f"{folder}/{layout.VIEW_FEATURES}" in file else None,
        projection_features=(
            features(layout.PROJECTION_FEATURES) if f"{folder}/{layout.PROJECTION_FEATURES}" in file else None
        ),
        full_labels=_optional(file, f"{folder}/{layout.FULL_LABELS}"),
        full_rows=_optional(file, f"{folder}/{layout.FULL_ROWS}"),
        image_sha256=_optional(file, f"{folder}/{layout.IMAGE_SHA256}"),
    )


def _mapped(path: Path, array: StoredArray) -> NDArray[Any]:
    """Return a memory map of an array."""
    if array.problem is not None or not array.nbytes:  # nothing is stored for an array without elements
        return read_array(array)
    return np.memmap(os.fspath(path), dtype=array.dtype, mode="r", offset=array.offset, shape=array.shape)


@dataclass(frozen=True)
class CacheSummary:
    """The summary of a cache: one line of ``cafe cache ls``.

    Attributes
    ----------
    path : Path
        The file.
    bytes : int
        Its size on disk.
    damaged : str or None
        The fault of a damaged cache, whose other fields are empty.
    dataset, encoder, fingerprint, created, stored_dtype : str
        As recorded; ``created`` is UTC, ISO 8601.
    splits : dict of str to int
        Samples of each split, in order.
    dim, n_classes, n_templates : int
        Feature width, classes, and prompts per class; ``n_templates`` is 0 without text features.
    """

    path: Path
    bytes: int
    damaged: str | None = None
    dataset: str = ""
    encoder: str = ""
    fingerprint: str = ""
    created: str = ""
    stored_dtype: str = ""
    splits: dict[str, int] = field(default_factory=dict)
    dim: int = 0
    n_classes: int = 0
    n_templates: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return {**asdict(self), "path": str(self.path)}


def summarise(path: Path | str) -> CacheSummary:
    """Read the summary of a cache, without its arrays.

    Raises
    ------
    CacheError
        If the file is missing, truncated, damaged, not a cache, or of a newer format version.
    """
    path = Path(path)
    with open_cache(path) as file:
        names = split_names(file)
        features = {name: file[f"{layout.SPLITS}/{name}/{layout.IMAGE_FEATURES}"] for name in names}
        text = file.arrays.get(layout.TEXT_FEATURES)
        classes = file[layout.CLASS_NAMES]
        for array in features.values():
            _require_axes(array, 2)
        _require_axes(classes, 1)
        if text is not None:
            _require_axes(text, 3)
        first = next(iter(features.values()), None)
        return CacheSummary(
            path=path,
            bytes=path.stat().st_size,
            **{key: _text(file.attrs[key], key) for key in ("dataset", "encoder", "fingerprint", "created")},
            stored_dtype="" if first is None else first.dtype.name,
            splits={name: array.shape[0] for name, array in features.items()},
            dim=0 if first is None else first.shape[1],
            n_classes=len(classes),
            n_templates=0 if text is None else text.shape[0],
        )


def _require_axes(array: StoredArray, n: int) -> None:
    """Raise an error if an array cannot be read or has another number of axes."""
    if array.problem is not None:
        raise ValueError(f"array {array.path} {array.problem}")
    if len(array.shape) != n:
        raise ValueError(f"array {array.path} has {len(array.shape)} axes, not {n}")

"""Reads a cache: opens it, loads its features, and tells what it says about itself.

Whatever is wrong with a file becomes one clear sentence in a CacheError.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from cafe.cache.format import layout
from cafe.cache.format.arrays import texts_of
from cafe.cache.format.provenance import Provenance
from cafe.errors import CacheError, CafeError
from cafe.features import Features, Split

REMEDY = "Extract it again, or name another file."
_MAP_ABOVE = 1 << 31  # bytes; memmap="auto" maps files that are larger


@contextmanager
def open_cache(path: Path | str) -> Iterator[h5py.File]:
    """Open a cache for reading.

    Parameters
    ----------
    path : path
        The file.

    Yields
    ------
    h5py.File
        Open for reading, of a format version that this cafe reads.

    Raises
    ------
    CacheError
        If the file is missing, truncated, damaged, not HDF5, not a cache, or of a newer version; also if what the
        block reads from it turns out to be damaged.
    """
    path = Path(path)
    file = _open(path)
    try:
        with file:
            _check_header(path, file)
            yield file
    except CacheError:
        raise
    # h5py and JSON report damage with whatever type the place of the damage suggests.
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, CafeError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise CacheError(f"cache {path} is damaged: {reason}. {REMEDY}") from error


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise CacheError(f"there is no cache {path}; `cafe cache ls` lists those there are, `cafe extract` makes one")
    if not path.is_file():
        raise CacheError(f"{path} is not a file; a cache is one HDF5 file ({layout.SUFFIX})")
    try:
        with path.open("rb") as stream:
            start = stream.read(len(layout.HDF5_SIGNATURE))
    except OSError as error:
        raise CacheError(f"cache {path} cannot be read: {error.strerror}") from error
    size = path.stat().st_size
    if len(start) < len(layout.HDF5_SIGNATURE) and layout.HDF5_SIGNATURE.startswith(start):
        raise CacheError(f"cache {path} is truncated: only {size} bytes are there. {REMEDY}")
    if start != layout.HDF5_SIGNATURE:
        raise CacheError(f"{path} is not an HDF5 file, so it is no cache of cafe. {REMEDY}")
    try:
        # Caches are never changed in place, so no lock is needed; locks are what hangs on network file systems.
        return h5py.File(path, "r", locking=False)
    except Exception as error:  # h5py has no exception type of its own
        raise CacheError(f"cache {path} is truncated or damaged ({size} bytes): {error}. {REMEDY}") from error


def _check_header(path: Path, file: h5py.File) -> None:
    if text_attribute(file.attrs.get("format")) != layout.FORMAT:
        raise CacheError(
            f"{path} is an HDF5 file, but not a cache of cafe: it has no attribute format = {layout.FORMAT!r}"
        )
    version = int(file.attrs["format_version"])
    if version > layout.FORMAT_VERSION:
        raise CacheError(
            f"cache {path} has format version {version}, but this cafe reads up to version {layout.FORMAT_VERSION}; "
            f"upgrade with: pip install -U cafe-clip"
        )


def text_attribute(value: Any) -> str:
    """Return an attribute as text, whether another writer stored it with fixed or variable length."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def load_features(path: Path | str, *, memmap: bool | Literal["auto"] = False) -> Features:
    """Load a cache.

    Parameters
    ----------
    path : path
        The file.
    memmap : bool or "auto", default False
        Whether image features stay on disk as read-only memory maps, from which rows are gathered as they are used;
        ``"auto"`` maps files above 2 GiB.

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
        mapped = path.stat().st_size > _MAP_ABOVE if memmap == "auto" else memmap
        read = _mapped if mapped else _read
        class_names = tuple(texts_of(_read(file[layout.CLASS_NAMES])))
        splits = {text_attribute(name): _load_split(file, name, read) for name in file.attrs[layout.SPLITS]}
        for name, split in splits.items():
            layout.check_labels(name, split, len(class_names))
        return Features(
            splits=splits,
            class_names=class_names,
            text_features=_read(file[layout.TEXT_FEATURES]) if layout.TEXT_FEATURES in file else None,
            templates=tuple(texts_of(_read(file[layout.TEMPLATES]))),
            prompt_features=_read(file[layout.PROMPT_FEATURES]) if layout.PROMPT_FEATURES in file else None,
            prompt_classes=_read(file[layout.PROMPT_CLASSES]) if layout.PROMPT_CLASSES in file else None,
            logit_scale=float(file.attrs["logit_scale"]),
            logit_bias=float(file.attrs["logit_bias"]),
            provenance=read_provenance(file),
            projection=_read(file[layout.PROJECTION]) if layout.PROJECTION in file else None,
        )


def load_sizes(path: Path | str) -> dict[str, NDArray[np.int64]]:
    """Load the bytes of each encoded image, by split; -1 where not known. Raises CacheError like `load_features`."""
    with open_cache(path) as file:
        return {
            text_attribute(name): _read(file[layout.SPLITS][name][layout.SIZES]) for name in file.attrs[layout.SPLITS]
        }


def load_projection(path: Path | str) -> NDArray[np.float32] | None:
    """Load the image tower's projection (w, d); None if the cache has none. Raises CacheError like `load_features`."""
    with open_cache(path) as file:
        return _read(file[layout.PROJECTION]) if layout.PROJECTION in file else None


def read_provenance(file: h5py.File) -> dict[str, Any]:
    """Return all provenance of an open cache: the array of that name, and the root attributes."""
    attributes = {name: text_attribute(file.attrs[name]) for name in _TEXT_ATTRIBUTES}
    stored = Provenance.from_json(attributes["dataset"], attributes["encoder"], file[layout.PROVENANCE][0])
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


def _load_split(file: h5py.File, name: str, read: Any) -> Split:
    group = file[layout.SPLITS][name]
    return Split(
        image_features=read(group[layout.IMAGE_FEATURES]),
        labels=_read(group[layout.LABELS]),
        sample_ids=np.array(texts_of(_read(group[layout.SAMPLE_IDS])), dtype=np.str_),
        view_features=read(group[layout.VIEW_FEATURES]) if layout.VIEW_FEATURES in group else None,
        projection_features=read(group[layout.PROJECTION_FEATURES]) if layout.PROJECTION_FEATURES in group else None,
        full_labels=_read(group[layout.FULL_LABELS]) if layout.FULL_LABELS in group else None,
        full_rows=_read(group[layout.FULL_ROWS]) if layout.FULL_ROWS in group else None,
        image_sha256=_read(group[layout.IMAGE_SHA256]) if layout.IMAGE_SHA256 in group else None,
    )


def _read(array: h5py.Dataset) -> NDArray[Any]:
    values: NDArray[Any] = array[()]
    return values


def _mapped(array: h5py.Dataset) -> NDArray[Any]:
    offset = array.id.get_offset()
    if offset is None:  # nothing is stored for an array without elements
        return _read(array)
    return np.memmap(os.fspath(array.file.filename), dtype=array.dtype, mode="r", offset=offset, shape=array.shape)


@dataclass(frozen=True)
class CacheSummary:
    """One line of ``cafe cache ls``.

    Attributes
    ----------
    path : Path
        The file.
    bytes : int
        Its size on disk.
    damaged : str or None
        What is wrong with it; then everything below is empty.
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
        """Return it as JSON values."""
        return {**asdict(self), "path": str(self.path)}


def summarise(path: Path | str) -> CacheSummary:
    """Read what a cache says about itself, without its arrays.

    Raises
    ------
    CacheError
        If the file is missing, truncated, damaged, not a cache, or of a newer format version.
    """
    path = Path(path)
    with open_cache(path) as file:
        names = [text_attribute(name) for name in file.attrs[layout.SPLITS]]
        features = {name: file[layout.SPLITS][name][layout.IMAGE_FEATURES] for name in names}
        first: h5py.Dataset | None = next(iter(features.values()), None)
        return CacheSummary(
            path=path,
            bytes=path.stat().st_size,
            **{key: text_attribute(file.attrs[key]) for key in ("dataset", "encoder", "fingerprint", "created")},
            stored_dtype="" if first is None else first.dtype.name,
            splits={name: array.shape[0] for name, array in features.items()},
            dim=0 if first is None else first.shape[1],
            n_classes=len(file[layout.CLASS_NAMES]),
            n_templates=file[layout.TEXT_FEATURES].shape[0] if layout.TEXT_FEATURES in file else 0,
        )

"""Features from disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from cafe.cache.format import spec
from cafe.cache.format.arrays import texts_of
from cafe.cache.format.layout import check_labels
from cafe.cache.format.opening import open_cache, text_attribute
from cafe.cache.format.provenance import Provenance
from cafe.features import Features, Split

_MAP_ABOVE = 1 << 31  # bytes; memmap="auto" maps files that are larger


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
        class_names = tuple(texts_of(_read(file[spec.CLASS_NAMES])))
        splits = {text_attribute(name): _load_split(file, name, read) for name in file.attrs[spec.SPLITS]}
        for name, split in splits.items():
            check_labels(name, split, len(class_names))
        return Features(
            splits=splits,
            class_names=class_names,
            text_features=_read(file[spec.TEXT_FEATURES]) if spec.TEXT_FEATURES in file else None,
            templates=tuple(texts_of(_read(file[spec.TEMPLATES]))),
            prompt_features=_read(file[spec.PROMPT_FEATURES]) if spec.PROMPT_FEATURES in file else None,
            prompt_classes=_read(file[spec.PROMPT_CLASSES]) if spec.PROMPT_CLASSES in file else None,
            logit_scale=float(file.attrs["logit_scale"]),
            logit_bias=float(file.attrs["logit_bias"]),
            provenance=read_provenance(file),
            projection=_read(file[spec.PROJECTION]) if spec.PROJECTION in file else None,
        )


def load_sizes(path: Path | str) -> dict[str, NDArray[np.int64]]:
    """Load the bytes of each encoded image, by split; -1 where not known. Raises CacheError like `load_features`."""
    with open_cache(path) as file:
        return {text_attribute(name): _read(file[spec.SPLITS][name][spec.SIZES]) for name in file.attrs[spec.SPLITS]}


def load_projection(path: Path | str) -> NDArray[np.float32] | None:
    """Load the image tower's projection (w, d); None if the cache has none. Raises CacheError like `load_features`."""
    with open_cache(path) as file:
        return _read(file[spec.PROJECTION]) if spec.PROJECTION in file else None


def read_provenance(file: h5py.File) -> dict[str, Any]:
    """Return all provenance of an open cache: the array of that name, and the root attributes."""
    attributes = {name: text_attribute(file.attrs[name]) for name in _TEXT_ATTRIBUTES}
    stored = Provenance.from_json(attributes["dataset"], attributes["encoder"], file[spec.PROVENANCE][0])
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
    spec.CONTENT_SHA256,
)


def _load_split(file: h5py.File, name: str, read: Any) -> Split:
    group = file[spec.SPLITS][name]
    return Split(
        image_features=read(group[spec.IMAGE_FEATURES]),
        labels=_read(group[spec.LABELS]),
        sample_ids=np.array(texts_of(_read(group[spec.SAMPLE_IDS])), dtype=np.str_),
        view_features=read(group[spec.VIEW_FEATURES]) if spec.VIEW_FEATURES in group else None,
        projection_features=read(group[spec.PROJECTION_FEATURES]) if spec.PROJECTION_FEATURES in group else None,
        full_labels=_read(group[spec.FULL_LABELS]) if spec.FULL_LABELS in group else None,
        full_rows=_read(group[spec.FULL_ROWS]) if spec.FULL_ROWS in group else None,
    )


def _read(array: h5py.Dataset) -> NDArray[Any]:
    values: NDArray[Any] = array[()]
    return values


def _mapped(array: h5py.Dataset) -> NDArray[Any]:
    offset = array.id.get_offset()
    if offset is None:  # nothing is stored for an array without elements
        return _read(array)
    return np.memmap(os.fspath(array.file.filename), dtype=array.dtype, mode="r", offset=offset, shape=array.shape)

"""Finds old versions of caches: of the same data set and options, made before its images changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.format import layout
from cafe.cache.format.fingerprint import canonical_json
from cafe.cache.format.hdf5 import StoredFile
from cafe.cache.format.reader import open_cache, read_provenance
from cafe.errors import CacheError

_N_COMPARED = 256  # images of the smaller cache that are looked up in the larger one


@dataclass(frozen=True)
class _Version:
    """Data set, options and time of one cache."""

    path: Path
    options: bytes
    created: str
    image_fingerprint: str
    splits: frozenset[str]


def old_versions(paths: Iterable[Path]) -> dict[Path, Path]:
    """Find the caches that a newer one has replaced.

    A newer cache replaces an older one if both are of a data set of the same name, encoder, templates and options
    (views, draws, dtype, shares of the split), if the newer has all splits of the older, and if at least half of the
    images of the smaller are in the larger. Caches that differ in templates or class names alone replace nothing.
    Imported caches are no versions of anything.

    Parameters
    ----------
    paths : iterable of Path
        Caches; unreadable ones are left out.

    Returns
    -------
    dict of Path to Path
        For each old version the newest cache that replaces it.
    """
    groups: dict[bytes, list[_Version]] = defaultdict(list)
    for path in paths:
        try:
            version = _version(path)
        except (CacheError, TypeError, ValueError):  # damaged, or with a provenance of another make
            continue
        if version is not None:
            groups[version.options].append(version)
    replaced: dict[Path, Path] = {}
    for group in groups.values():
        newest_first = sorted(group, key=lambda version: version.created, reverse=True)
        for place, older in enumerate(newest_first):
            for newer in newest_first[:place]:
                if older.path not in replaced and _replaces(newer, older):
                    replaced[older.path] = newer.path
    return replaced


def _version(path: Path) -> _Version | None:
    """Read data set, options and time of a cache; None if cafe did not extract it."""
    with open_cache(path) as file:
        provenance = read_provenance(file)
    image, text = provenance["image"], provenance["text"]
    dataset = image.get("dataset") if isinstance(image, Mapping) else None
    if not isinstance(dataset, Mapping) or "imported" in image or "encoder" not in image:
        return None
    options: dict[str, Any] = {
        **{key: value for key, value in image.items() if key not in ("dataset", "splits")},
        "dataset": dataset.get("name"),
        "split_origin": dataset.get("split_origin"),
        "text": None if text is None else {**text, "class_names": None, "prompts": text.get("prompts") is not None},
    }
    return _Version(
        path,
        canonical_json(options),
        provenance["created"],
        provenance["image_fingerprint"],
        frozenset(image.get("splits", ())),
    )


def _replaces(newer: _Version, older: _Version) -> bool:
    """Return whether a newer cache has all splits of an older one, and half of the smaller one is in the larger."""
    if newer.image_fingerprint == older.image_fingerprint or not older.splits <= newer.splits:
        return False
    smaller, larger = sorted((_images(newer.path), _images(older.path)), key=len)
    if not len(smaller):
        return False
    sample = smaller[np.linspace(0, len(smaller) - 1, min(_N_COMPARED, len(smaller))).astype(int)]
    return bool(np.isin(sample, larger).mean() >= 0.5)


def _images(path: Path) -> NDArray[Any]:
    """Return a key for each image of a cache: the beginning of its SHA-256, or its id in a cache without hashes."""
    with open_cache(path) as file:
        parts = [_split_images(file, f"{layout.SPLITS}/{name}") for name in file.attrs[layout.SPLITS]]
    same_kind = len({part.dtype.kind for part in parts}) == 1
    return np.concatenate(parts) if same_kind else np.empty(0, dtype="<u8")


def _split_images(file: StoredFile, folder: str) -> NDArray[Any]:
    """Return the keys of the images of one split."""
    if f"{folder}/{layout.IMAGE_SHA256}" in file.arrays:
        hashes = file.arrays[f"{folder}/{layout.IMAGE_SHA256}"][()]  # (n, 32)
        return np.ascontiguousarray(hashes[:, :8]).view("<u8").reshape(-1)
    return file.arrays[f"{folder}/{layout.SAMPLE_IDS}"][()]

"""The layout of a cache: the names and constants of FORMAT.md, and the arrays and attributes stored under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cafe.cache.format.arrays import StoredDtype, as_stored, text_array
from cafe.cache.format.hdf5 import SIGNATURE
from cafe.cache.format.provenance import Provenance
from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.version import __version__

FORMAT: Final = "cafe-features"
FORMAT_VERSION: Final = 2
SUFFIX: Final = ".h5"
HDF5_SIGNATURE: Final = SIGNATURE

# Large arrays start on a page, so that their memory maps are aligned.
ALIGNMENT: Final = 4096

CLASS_NAMES: Final = "class_names"
TEMPLATES: Final = "templates"
TEXT_FEATURES: Final = "text_features"
PROMPT_FEATURES: Final = "prompt_features"
PROMPT_CLASSES: Final = "prompt_classes"
PROVENANCE: Final = "provenance"
PROJECTION: Final = "projection"
SPLITS: Final = "splits"
IMAGE_FEATURES: Final = "image_features"
LABELS: Final = "labels"
SAMPLE_IDS: Final = "sample_ids"
SIZES: Final = "sizes"
VIEW_FEATURES: Final = "view_features"
PROJECTION_FEATURES: Final = "projection_features"
FULL_LABELS: Final = "full_labels"
FULL_ROWS: Final = "full_rows"
IMAGE_SHA256: Final = "image_sha256"

UNKNOWN_SIZE: Final = -1

ARRAY_SHA256: Final = "sha256"
CONTENT_SHA256: Final = "content_sha256"
ATTRIBUTES_SHA256: Final = "attributes_sha256"
# Root attributes that are times: the only ones that may differ between two files of the same content.
TIMES: Final = frozenset({"created", "seconds_read", "seconds_encode"})


def arrays_to_store(
    features: Features,
    provenance: Provenance,
    dtype: StoredDtype,
    sizes: Mapping[str, NDArray[np.int64]] | None,
    projection: NDArray[Any] | None,
) -> dict[str, NDArray[Any]]:
    """Return every array of the file by its path; parameters as for ``write_cache``.

    Raises
    ------
    InputError
        If an array cannot be stored, or does not fit the other arrays.
    """
    if features.second_width:
        raise InputError("a cache is of one encoder; features that were joined stay in memory, and both caches")
    arrays: dict[str, NDArray[Any]] = {
        CLASS_NAMES: text_array(features.class_names),
        TEMPLATES: text_array(features.templates),
        PROVENANCE: np.array([provenance.to_json()]),
    }
    if features.text_features is not None:
        arrays[TEXT_FEATURES] = as_stored(features.text_features, dtype, TEXT_FEATURES)
    if features.prompt_features is not None:
        arrays[PROMPT_FEATURES] = as_stored(features.prompt_features, dtype, PROMPT_FEATURES)
        arrays[PROMPT_CLASSES] = np.ascontiguousarray(features.prompt_classes, dtype="<i8")
    if projection is not None:
        arrays[PROJECTION] = as_stored(projection, "float32", PROJECTION)
    for name, split in features.splits.items():
        if not name or "/" in name or name.startswith("."):
            raise InputError(f"a split cannot be named {name!r}; names have no slash and no dot at the start")
        if not len(split):
            raise InputError(f"split {name!r} has no sample")
        check_labels(name, split, len(features.class_names))
        if split.projection_features is not None and projection is None:
            raise InputError(f"split {name!r} has projection features, but the projection itself was not given")
        split_sizes = None if sizes is None else sizes.get(name)
        for key, array in _split_arrays(split, dtype, split_sizes, name).items():
            arrays[f"{SPLITS}/{name}/{key}"] = array
    return arrays


def _split_arrays(
    split: Split, dtype: StoredDtype, sizes: NDArray[np.int64] | None, name: str
) -> dict[str, NDArray[Any]]:
    """Return every array of one split by its name."""
    n = len(split)
    arrays = {
        IMAGE_FEATURES: as_stored(split.image_features, dtype, f"image_features of split {name!r}"),
        **sample_arrays(name, split.labels, split.sample_ids, sizes, split.full_labels, split.full_rows),
    }
    if split.view_features is not None:
        if split.view_features.ndim != 3 or split.view_features.shape[1:] != split.image_features.shape:
            raise InputError(
                f"view_features of split {name!r} must be (views, {n}, {split.image_features.shape[1]}), "
                f"got {split.view_features.shape}"
            )
        arrays[VIEW_FEATURES] = as_stored(split.view_features, dtype, f"view_features of split {name!r}")
    if split.projection_features is not None:
        if split.projection_features.ndim != 2 or len(split.projection_features) != n:
            raise InputError(f"projection_features of split {name!r} must have {n} rows")
        arrays[PROJECTION_FEATURES] = as_stored(
            split.projection_features, dtype, f"projection_features of split {name!r}"
        )
    if split.image_sha256 is not None:
        arrays[IMAGE_SHA256] = np.ascontiguousarray(split.image_sha256, dtype=np.uint8)
    return arrays


def sample_arrays(
    name: str,
    labels: NDArray[np.int64],
    sample_ids: Sequence[str] | NDArray[np.str_],
    sizes: NDArray[np.int64] | None,
    full_labels: NDArray[np.int64] | None = None,
    full_rows: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return the arrays that identify the samples of a split; ``sizes=None`` stores "not known".

    Raises
    ------
    InputError
        If their lengths do not fit together.
    """
    n = len(labels)
    sizes = np.full(n, UNKNOWN_SIZE) if sizes is None else np.asarray(sizes)
    if sizes.shape != (n,):
        raise InputError(f"split {name!r} has {n} samples but sizes of shape {sizes.shape}")
    arrays: dict[str, NDArray[Any]] = {
        LABELS: np.ascontiguousarray(labels, dtype="<i8"),
        SAMPLE_IDS: text_array(sample_ids),
        SIZES: np.ascontiguousarray(sizes, dtype="<i8"),
    }
    if full_labels is not None and full_rows is not None:
        if full_rows.shape != (n,):
            raise InputError(f"split {name!r} has {n} samples but full_rows of shape {full_rows.shape}")
        arrays[FULL_LABELS] = np.ascontiguousarray(full_labels, dtype="<i8")
        arrays[FULL_ROWS] = np.ascontiguousarray(full_rows, dtype="<i8")
    return arrays


def check_labels(name: str, split: Split, n_classes: int) -> None:
    """Raise an error for labels that are no rows of ``class_names``."""
    if len(split) and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < n_classes:
        raise InputError(f"split {name!r} has labels outside 0 to {n_classes - 1}, the rows of class_names")


def attributes_to_store(
    features: Features,
    provenance: Provenance,
    normalised: bool,
    seconds: Mapping[str, float] | None,
    created: datetime | None,
) -> dict[str, Any]:
    """Return every root attribute but the checksum; parameters as for ``write_cache``."""
    moment = datetime.now(UTC) if created is None else created.astimezone(UTC)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "cafe_version": __version__,
        "created": moment.isoformat(timespec="microseconds"),
        "dataset": provenance.dataset,
        "encoder": provenance.encoder,
        "fingerprint": provenance.fingerprint,
        "image_fingerprint": provenance.image_fingerprint,
        "text_fingerprint": provenance.text_fingerprint,
        "logit_scale": float(features.logit_scale),
        "logit_bias": float(features.logit_bias),
        "normalised": bool(normalised),
        SPLITS: list(features.splits),
        **{f"seconds_{name}": float(value) for name, value in (seconds or {}).items()},
    }

"""Checks a whole cache against FORMAT.md: storage, checksums, types, shapes and values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.format import layout
from cafe.cache.format.checksums import array_sha256, content_sha256
from cafe.cache.format.hdf5 import StoredArray, StoredFile
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.reader import open_cache, read_features, split_names

_BYTES_AT_ONCE = 1 << 24  # bytes of features checked at once
_SHOWN = 3  # examples in a finding


@dataclass(frozen=True)
class VerifyReport:
    """The result of checking a cache.

    Attributes
    ----------
    path : Path
        The cache.
    arrays : int
        Number of arrays whose checksum was compared.
    findings : tuple of str
        One sentence each; empty if the cache is sound.
    """

    path: Path
    arrays: int
    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no finding was made, so that the cache is sound."""
        return not self.findings


def verify_cache(path: Path | str) -> VerifyReport:
    """Read every byte of a cache, and check all that FORMAT.md demands.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    VerifyReport
        With one finding for each fault.

    Raises
    ------
    CacheError
        If the file cannot be read as a cache at all: missing, truncated, foreign, of a newer format version.
    """
    path = Path(path)
    with open_cache(path) as file:
        sums = {name: array_sha256(array) for name, array in file.arrays.items() if array.problem is None}
        findings = [
            *_storage_findings(file),
            *_attribute_findings(file),
            *_checksum_findings(file, sums),
            *_missing_findings(file),
            *_type_findings(file),
            *_shape_findings(file),
        ]
        if not findings:
            findings += [*_fingerprint_findings(file), *_value_findings(file)]
    if not findings:
        read_features(path, memmap=True)  # raises CacheError if sound arrays do not fit together
    return VerifyReport(path, len(sums), tuple(findings))


def _storage_findings(file: StoredFile) -> Iterator[str]:
    """Find names that lead out of the file, and arrays that are not contiguous, unfiltered and of a known type."""
    for name, problem in file.problems.items():
        yield f"{name} {problem}"
    for name, array in file.arrays.items():
        if array.problem is not None:
            yield f"array {name} {array.problem}"
        elif array.dtype.byteorder == ">":
            yield f"array {name} is big-endian"
    placed = sorted(
        ((array.offset, array) for array in file.arrays.values() if array.problem is None and array.nbytes),
        key=lambda place: place[0],
    )
    for (_, first), (start, second) in pairwise(placed):
        if start < first.offset + first.nbytes:
            yield f"arrays {first.path} and {second.path} share the same bytes"
    if file.attrs["format_version"] > 1:
        yield from (f"the file has {item}, over which HDF5 has no checksum" for item in sorted(file.unchecked))


_ATTRIBUTE_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("cafe_version", "created", "dataset", "encoder", "fingerprint"), str),
    **dict.fromkeys(("image_fingerprint", "text_fingerprint", layout.CONTENT_SHA256), str),
    layout.SPLITS: list,
    "format_version": np.integer,
    "normalised": np.bool_,
    "logit_scale": np.floating,
    "logit_bias": np.floating,
}


def _attribute_findings(file: StoredFile) -> Iterator[str]:
    """Find attributes that are missing, unreadable, of a wrong type or of an impossible value."""
    owners = [file.attrs, *file.groups.values(), *(array.attrs for array in file.arrays.values())]
    for owner in owners:
        yield from owner.problems.values()
    for name, kind in _ATTRIBUTE_TYPES.items():
        if name not in file.attrs:
            if name not in file.attrs.problems:
                yield f"attribute {name} is missing"
        elif not isinstance(file.attrs[name], kind):
            yield f"attribute {name} is of a wrong type"
    for name, value in file.attrs.items():
        if isinstance(value, np.floating) and not np.isfinite(value):
            yield f"attribute {name} is {value}"
    if isinstance(file.attrs.get("logit_scale"), np.floating) and file.attrs["logit_scale"] <= 0:
        yield f"attribute logit_scale is {file.attrs['logit_scale']}, not above 0"


def _checksum_findings(file: StoredFile, sums: Mapping[str, str]) -> Iterator[str]:
    """Compare the recorded checksums, of each array and of the whole content, with those computed now (``sums``)."""
    for name in sums:
        recorded = file.arrays[name].attrs.get(layout.ARRAY_SHA256)
        if recorded is None:
            yield f"array {name} has no checksum"
        elif recorded != sums[name]:
            yield f"array {name} differs from its checksum"
    if len(sums) == len(file.arrays):
        whole = content_sha256(file.arrays, file.attrs, sums)
        if whole != file.attrs.get(layout.CONTENT_SHA256):
            yield f"the content as a whole differs from its checksum ({layout.CONTENT_SHA256})"


def _missing_findings(file: StoredFile) -> Iterator[str]:
    """Find missing arrays, missing splits, and arrays that lack the array to which they belong."""
    names = split_names(file)
    needed = [layout.CLASS_NAMES, layout.TEMPLATES, layout.PROVENANCE]
    together = [(layout.PROMPT_FEATURES, layout.PROMPT_CLASSES)]
    for name in names:
        folder = f"{layout.SPLITS}/{name}"
        needed += [f"{folder}/{key}" for key in _SAMPLE_KEYS]
        together.append((f"{folder}/{layout.FULL_LABELS}", f"{folder}/{layout.FULL_ROWS}"))
        if f"{folder}/{layout.PROJECTION_FEATURES}" in file:
            needed.append(layout.PROJECTION)
    if not names:
        yield "it has no split"
    yield from (f"array {name} is missing" for name in dict.fromkeys(needed) if name not in file)
    for first, second in together:
        if (first in file) != (second in file):
            yield f"arrays {first} and {second} must be there together, or neither"
    if layout.PROMPT_FEATURES in file and layout.TEXT_FEATURES not in file:
        yield f"array {layout.PROMPT_FEATURES} needs {layout.TEXT_FEATURES}"
    within = {name.split("/")[1] for name in (*file.arrays, *file.groups) if name.startswith(f"{layout.SPLITS}/")}
    for name in sorted(within - set(names)):
        yield f"split {name} is there, but not named in the attribute {layout.SPLITS}"


_SAMPLE_KEYS = (layout.IMAGE_FEATURES, layout.LABELS, layout.SAMPLE_IDS, layout.SIZES)
_FEATURES, _NUMBERS, _TEXT = ("float16 or float32", "float16", "float32"), ("int64", "int64"), ("text",)
_ROOT_TYPES = {
    layout.CLASS_NAMES: _TEXT,
    layout.TEMPLATES: _TEXT,
    layout.PROVENANCE: _TEXT,
    layout.TEXT_FEATURES: _FEATURES,
    layout.PROMPT_FEATURES: _FEATURES,
    layout.PROMPT_CLASSES: _NUMBERS,
    layout.PROJECTION: ("float32", "float32"),
}
_SPLIT_TYPES = {
    layout.IMAGE_FEATURES: _FEATURES,
    layout.LABELS: _NUMBERS,
    layout.SAMPLE_IDS: _TEXT,
    layout.SIZES: _NUMBERS,
    layout.VIEW_FEATURES: _FEATURES,
    layout.FULL_LABELS: _NUMBERS,
    layout.FULL_ROWS: _NUMBERS,
    layout.PROJECTION_FEATURES: _FEATURES,
    layout.IMAGE_SHA256: ("uint8", "uint8"),
}
_TYPES = _ROOT_TYPES | _SPLIT_TYPES


def _known_arrays(file: StoredFile) -> Iterator[tuple[str, StoredArray]]:
    """Return every readable array that FORMAT.md describes, with the last part of its path."""
    places = [(key, key) for key in _ROOT_TYPES]
    places += [(key, f"{layout.SPLITS}/{name}/{key}") for name in split_names(file) for key in _SPLIT_TYPES]
    for key, path in places:
        if path in file.arrays and file.arrays[path].problem is None:
            yield key, file.arrays[path]


def _type_findings(file: StoredFile) -> Iterator[str]:
    """Find arrays of a wrong type."""
    for key, array in _known_arrays(file):
        expected, *allowed = _TYPES[key]
        if array.dtype.kind != "S" if expected == "text" else array.dtype.name not in allowed:
            yield f"array {array.path} holds {array.dtype.name}, not {expected}"


def _shape_findings(file: StoredFile) -> list[str]:
    """Compare every shape with the class names, the templates and the image features beside it."""
    arrays = {path: array for path, array in file.arrays.items() if array.problem is None}
    lists = (layout.CLASS_NAMES, layout.TEMPLATES)
    c, m = (arrays[name].shape[0] if name in arrays and arrays[name].shape else None for name in lists)
    text = arrays.get(layout.TEXT_FEATURES)
    expected: dict[str, tuple[int | None, ...]] = {}  # None stands for any length
    width = text.shape[-1] if text is not None and text.shape else None
    for name in split_names(file):
        folder = f"{layout.SPLITS}/{name}"
        features = arrays.get(f"{folder}/{layout.IMAGE_FEATURES}")
        if features is None:
            continue
        n = features.shape[0] if features.shape else None
        width = features.shape[-1] if width is None and features.shape else width
        projection = arrays.get(layout.PROJECTION)
        before = projection.shape[0] if projection is not None and projection.shape else None
        shapes: dict[str, tuple[int | None, ...]] = {
            layout.IMAGE_FEATURES: (n, width),
            **dict.fromkeys((layout.LABELS, layout.SAMPLE_IDS, layout.SIZES, layout.FULL_ROWS), (n,)),
            layout.VIEW_FEATURES: (None, n, width),
            layout.PROJECTION_FEATURES: (n, before),
            layout.IMAGE_SHA256: (n, 32),
            layout.FULL_LABELS: (None,),
        }
        expected |= {f"{folder}/{key}": shape for key, shape in shapes.items()}
    expected[layout.CLASS_NAMES], expected[layout.TEMPLATES], expected[layout.PROVENANCE] = (None,), (None,), (1,)
    expected[layout.TEXT_FEATURES] = (m or None, c, width)
    expected[layout.PROJECTION] = (None, width)
    prompts = arrays.get(layout.PROMPT_CLASSES)
    expected[layout.PROMPT_CLASSES] = (None,)
    expected[layout.PROMPT_FEATURES] = (prompts.shape[0] if prompts is not None and prompts.shape else None, width)
    return [
        f"array {path} has shape {arrays[path].shape}, but the others ask for {str(shape).replace('None', 'any')}"
        for path, shape in expected.items()
        if path in arrays and not _fits(arrays[path].shape, shape)
    ]


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Return whether a shape is as expected, where None stands for any length."""
    return len(shape) == len(expected) and all(want in (None, have) for have, want in zip(shape, expected, strict=True))


def _fingerprint_findings(file: StoredFile) -> Iterator[str]:
    """Find fingerprints that are not those of the recorded provenance."""
    (text,) = file[layout.PROVENANCE][()].tolist()
    stored = Provenance.from_json(str(file.attrs["dataset"]), str(file.attrs["encoder"]), text)
    for name in ("fingerprint", "image_fingerprint", "text_fingerprint"):
        if file.attrs.get(name) != getattr(stored, name):
            yield f"attribute {name} is not that of the recorded provenance"
    if (stored.text is None) != (layout.TEXT_FEATURES not in file):
        yield "text features and the text part of the provenance must be there together, or neither"


def _value_findings(file: StoredFile) -> Iterator[str]:
    """Check every value: finite features, labels and rows within range, unique ids."""
    n_classes = len(file[layout.CLASS_NAMES])
    ids: Counter[bytes] = Counter()
    for key, array in _known_arrays(file):
        if array.dtype.kind == "f" and not _is_finite(array):
            yield f"array {array.path} has values that are not finite"
        if key in (layout.LABELS, layout.FULL_LABELS, layout.PROMPT_CLASSES):
            yield from _range_findings(array.path, array[()], 0, n_classes - 1, "the rows of class_names")
        if key == layout.SIZES:
            yield from _range_findings(
                array.path, array[()], layout.UNKNOWN_SIZE, np.iinfo(np.int64).max, "sizes in bytes"
            )
        if key == layout.SAMPLE_IDS:
            ids.update(array[()].tolist())
        if array.dtype.kind == "S":
            yield from _text_findings(key, array)
    for name in split_names(file):
        yield from _row_findings(file, f"{layout.SPLITS}/{name}")
    repeated = [text.decode("utf-8", "replace") for text, count in ids.items() if count > 1]
    if repeated:
        yield f"sample_ids are not unique: {len(repeated):,} occur more than once, such as {repeated[:_SHOWN]}"
    if layout.PROMPT_CLASSES in file:
        without = sorted(set(range(n_classes)) - set(file[layout.PROMPT_CLASSES][()].tolist()))
        if without:
            yield f"array {layout.PROMPT_CLASSES} has no prompt of classes {without[:_SHOWN]}"


def _row_findings(file: StoredFile, folder: str) -> Iterator[str]:
    """Compare the rows of a few-shot subset with the labels of the whole split."""
    if not len(file[f"{folder}/{layout.LABELS}"]):
        yield f"split {folder.partition('/')[2]} has no sample"
    if f"{folder}/{layout.FULL_ROWS}" not in file:
        return
    rows, full = file[f"{folder}/{layout.FULL_ROWS}"][()], file[f"{folder}/{layout.FULL_LABELS}"][()]
    outside = list(
        _range_findings(f"{folder}/{layout.FULL_ROWS}", rows, 0, len(full) - 1, f"the rows of {layout.FULL_LABELS}")
    )
    yield from outside
    if (np.diff(rows) <= 0).any():
        yield f"array {folder}/{layout.FULL_ROWS} is not ascending"
    if not outside and (full[rows] != file[f"{folder}/{layout.LABELS}"][()]).any():
        yield f"array {folder}/{layout.LABELS} is not what {layout.FULL_LABELS} has in {layout.FULL_ROWS}"


def _range_findings(path: str, values: NDArray[Any], low: int, high: int, what: str) -> Iterator[str]:
    """Find values outside a range."""
    if values.size and not low <= int(values.min()) <= int(values.max()) <= high:
        yield f"array {path} has values from {values.min()} to {values.max()}, outside {low} to {high}, {what}"


def _text_findings(key: str, array: StoredArray) -> Iterator[str]:
    """Find text that is not UTF-8; only sample ids may be such text, since file names may."""
    if key == layout.SAMPLE_IDS:
        return
    for text in array[()].tolist():
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            yield f"array {array.path} has text that is not UTF-8"
            return


def _is_finite(array: StoredArray) -> bool:
    """Return whether all values are finite, a part of the array at a time."""
    rows = max(1, _BYTES_AT_ONCE // max(1, array.nbytes // max(1, array.shape[0])))
    return all(np.isfinite(array[start : start + rows]).all() for start in range(0, array.shape[0], rows))

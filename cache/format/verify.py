"""Checks a whole cache: every checksum, every shape, every fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py

from cafe.cache.format import layout
from cafe.cache.format.checksums import array_sha256, arrays_of, content_sha256
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.reader import load_features, open_cache, text_attribute


@dataclass(frozen=True)
class VerifyReport:
    """What was checked, and what is wrong.

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
        """Whether nothing is wrong."""
        return not self.findings


def verify_cache(path: Path | str) -> VerifyReport:
    """Read a cache to the last byte and compare it with its checksums, shapes and fingerprints.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    VerifyReport
        With one finding for everything that is wrong.

    Raises
    ------
    CacheError
        If the file cannot be read as a cache at all: missing, truncated, foreign, of a newer format version.
    """
    path = Path(path)
    with open_cache(path) as file:
        arrays = arrays_of(file)
        sums = {name: array_sha256(array) for name, array in arrays.items()}
        findings = [*_array_findings(arrays, sums), *_missing(file), *_shape_findings(file)]
        if content_sha256(file, sums) != file.attrs.get(layout.CONTENT_SHA256):
            findings.append(f"the content as a whole differs from its checksum ({layout.CONTENT_SHA256})")
        # Provenance whose own bytes are broken is named above; what it says is then beside the point.
        recorded = arrays.get(layout.PROVENANCE)
        if recorded is not None and sums[layout.PROVENANCE] == recorded.attrs.get(layout.ARRAY_SHA256):
            findings += _fingerprint_findings(file)
    if not findings:
        load_features(path, memmap=True)  # raises CacheError if the pieces, each sound, do not make a whole
    return VerifyReport(path, len(arrays), tuple(findings))


def _array_findings(arrays: Mapping[str, h5py.Dataset], sums: Mapping[str, str]) -> list[str]:
    findings = []
    for name, array in arrays.items():
        recorded = array.attrs.get(layout.ARRAY_SHA256)
        if recorded is None:
            findings.append(f"array {name} has no checksum")
        elif recorded != sums[name]:
            findings.append(f"array {name} differs from its checksum")
    return findings


def _missing(file: h5py.File) -> list[str]:
    needed = [layout.CLASS_NAMES, layout.TEMPLATES, layout.PROVENANCE]
    for name in map(text_attribute, file.attrs[layout.SPLITS]):
        keys = (layout.IMAGE_FEATURES, layout.LABELS, layout.SAMPLE_IDS, layout.SIZES)
        needed += [f"{layout.SPLITS}/{name}/{key}" for key in keys]
    return [f"array {name} is missing" for name in needed if name not in file]


def _shape_findings(file: h5py.File) -> list[str]:
    """Compare every shape with the class names, the templates and the image features beside it."""
    c, m = (len(file[name]) if name in file else None for name in (layout.CLASS_NAMES, layout.TEMPLATES))
    text = file.get(layout.TEXT_FEATURES)
    expected: dict[str, tuple[int | None, ...]] = {}  # None stands for any length
    width = None if text is None else text.shape[-1]
    for name in map(text_attribute, file.attrs[layout.SPLITS]):
        folder = f"{layout.SPLITS}/{name}"
        features = file.get(f"{folder}/{layout.IMAGE_FEATURES}")
        if features is None:
            continue
        n, width = features.shape[0], features.shape[-1] if width is None else width
        expected[f"{folder}/{layout.IMAGE_FEATURES}"] = (n, width)
        expected |= {f"{folder}/{key}": (n,) for key in (layout.LABELS, layout.SAMPLE_IDS, layout.SIZES)}
        expected[f"{folder}/{layout.VIEW_FEATURES}"] = (None, n, width)
        expected[f"{folder}/{layout.PROJECTION_FEATURES}"] = (n, None)
        expected[f"{folder}/{layout.FULL_ROWS}"] = (n,)
        expected[f"{folder}/{layout.IMAGE_SHA256}"] = (n, 32)
    expected[layout.TEXT_FEATURES] = (m or None, c, width)
    expected[layout.PROJECTION] = (None, width)
    prompts = file.get(layout.PROMPT_CLASSES)
    expected[layout.PROMPT_FEATURES] = (None if prompts is None else len(prompts), width)
    findings = []
    for path, shape in expected.items():
        if path in file and not _fits(file[path].shape, shape):
            findings.append(f"array {path} has shape {file[path].shape}, but the others ask for {_shown(shape)}")
    return findings


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(want in (None, have) for have, want in zip(shape, expected, strict=True))


def _shown(shape: tuple[int | None, ...]) -> str:
    return str(shape).replace("None", "any")


def _fingerprint_findings(file: h5py.File) -> list[str]:
    stored = Provenance.from_json(str(file.attrs["dataset"]), str(file.attrs["encoder"]), file[layout.PROVENANCE][0])
    findings = []
    for name in ("fingerprint", "image_fingerprint", "text_fingerprint"):
        if file.attrs.get(name) != getattr(stored, name):
            findings.append(f"attribute {name} is not that of the recorded provenance")
    if (stored.text is None) != (layout.TEXT_FEATURES not in file):
        findings.append("text features and the text part of the provenance must be there together, or neither")
    return findings

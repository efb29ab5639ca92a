"""Every flipped bit is found, and named."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from cafe.cache.format.reader import load_features
from cafe.cache.format.verify import verify_cache
from cafe.errors import CacheError

ARRAYS = [
    "class_names",
    "templates",
    "text_features",
    "provenance",
    "projection",
    *(
        f"splits/{split}/{name}"
        for split in ("train", "test")
        for name in (
            "image_features",
            "labels",
            "sample_ids",
            "sizes",
            "view_features",
            "projection_features",
            "image_sha256",
        )
    ),
]


def test_the_list_above_is_complete(full_cache):
    found = []
    with h5py.File(full_cache) as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    assert sorted(found) == sorted(ARRAYS)


def test_sound_cache_has_no_findings(full_cache):
    report = verify_cache(full_cache)
    assert report.ok
    assert report.findings == ()
    assert report.arrays == len(ARRAYS)


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("name", ARRAYS)
def test_flipped_bit_is_found(full_cache, name, place):
    with h5py.File(full_cache) as file:
        offset, size = file[name].id.get_offset(), file[name].nbytes
    content = bytearray(full_cache.read_bytes())
    content[offset if place == "first" else offset + size - 1] ^= 0b100
    full_cache.write_bytes(content)
    findings = verify_cache(full_cache).findings
    assert f"array {name} differs from its checksum" in findings
    assert any("content as a whole" in finding for finding in findings)
    assert len(findings) == 2


@pytest.mark.parametrize("name", ["logit_scale", "normalised", "dataset", "encoder"])
def test_changed_attribute_is_found(full_cache, reseal, name):
    with h5py.File(full_cache, "r+", libver=("v108", "v108")) as file:
        value = file.attrs[name]
        file.attrs[name] = np.bytes_("other") if isinstance(value, bytes) else type(value)(value != 1)
    with pytest.raises(CacheError, match="root attributes differ from their checksum"):
        verify_cache(full_cache)
    reseal(full_cache, content=False)
    assert verify_cache(full_cache).findings == ("the content as a whole differs from its checksum (content_sha256)",)


@pytest.mark.parametrize("name", ["fingerprint", "image_fingerprint", "text_fingerprint"])
def test_wrong_fingerprint_is_found(full_cache, reseal, name):
    with h5py.File(full_cache, "r+") as file:
        file.attrs[name] = np.bytes_("0" * 64)
    reseal(full_cache)
    assert f"attribute {name} is not that of the recorded provenance" in verify_cache(full_cache).findings


def test_shapes_are_compared_with_each_other(full_cache):
    with h5py.File(full_cache, "r+") as file:
        del file["splits/train/labels"]
        file["splits/train/labels"] = [0, 1]
    findings = verify_cache(full_cache).findings
    assert "array splits/train/labels has no checksum" in findings
    assert "array splits/train/labels has shape (2,), but the others ask for (5,)" in findings


@pytest.mark.parametrize("name", ARRAYS)
def test_missing_array_is_found(full_cache, name):
    with h5py.File(full_cache, "r+") as file:
        del file[name]
    findings = verify_cache(full_cache).findings
    optional = name == "text_features" or name.endswith(("view_features", "projection_features", "image_sha256"))
    assert (f"array {name} is missing" in findings) == (not optional)  # the splits need the projection
    assert any("content as a whole" in finding for finding in findings)


def test_any_flipped_byte_is_found_or_harmless(full_cache):
    content, before = full_cache.read_bytes(), load_features(full_cache)
    for position in range(0, len(content), 211):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        full_cache.write_bytes(damaged)
        try:
            sound = verify_cache(full_cache).ok
        except CacheError:
            continue
        if sound:
            # Padding between the pieces.
            after = load_features(full_cache)
            assert after.provenance == before.provenance
            assert (after.class_names, after.templates) == (before.class_names, before.templates)
            assert (after.logit_scale, after.logit_bias) == (before.logit_scale, before.logit_bias)
            for name, split in before.splits.items():
                assert after.splits[name].image_features.tobytes() == split.image_features.tobytes()

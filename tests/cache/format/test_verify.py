"""Every flipped bit is found, and named."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from cafe.cache.format.reader import read_features
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
    arrays = []
    with h5py.File(full_cache) as file:
        file.visititems(lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None)
    assert sorted(arrays) == sorted(ARRAYS)


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
    content, before = full_cache.read_bytes(), read_features(full_cache)
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
            after = read_features(full_cache)
            assert after.provenance == before.provenance
            assert (after.class_names, after.templates) == (before.class_names, before.templates)
            assert (after.logit_scale, after.logit_bias) == (before.logit_scale, before.logit_bias)
            for name, split in before.splits.items():
                assert after.splits[name].image_features.tobytes() == split.image_features.tobytes()


def with_array(name, make):
    """Return a change that replaces an array by what ``make`` gives for its values."""

    def change(file):
        values = make(file[name][()])
        del file[name]
        file[name] = values

    return change


def with_value(name, value):
    def change(file):
        file[name][0] = value

    return change


def with_splits(names):
    return lambda file: file.attrs.__setitem__("splits", np.array(names, dtype="S5"))


FEATURES, LABELS = "splits/train/image_features", "splits/train/labels"
UNSOUND = [
    (with_value(FEATURES, np.nan), f"array {FEATURES} has values that are not finite"),
    (with_value("splits/test/view_features", np.inf), "array splits/test/view_features has values that are not finite"),
    (with_array(FEATURES, lambda rows: rows.astype("<i8")), f"array {FEATURES} holds int64, not float16 or float32"),
    (with_array(FEATURES, lambda rows: rows.astype("<f8")), f"array {FEATURES} holds float64, not float16 or float32"),
    (with_array(FEATURES, lambda rows: rows.astype(">f4")), f"array {FEATURES} is big-endian"),
    (with_array(FEATURES, lambda rows: rows.astype("S9")), f"array {FEATURES} holds bytes72, not float16 or float32"),
    (with_array(LABELS, lambda rows: rows.astype("<i4")), f"array {LABELS} holds int32, not int64"),
    (with_array("class_names", lambda rows: np.arange(3)), "array class_names holds int64, not text"),
    (with_value(LABELS, 3), "outside 0 to 2, the rows of class_names"),
    (with_value(LABELS, -1), "outside 0 to 2, the rows of class_names"),
    (with_value("splits/train/sizes", -2), "outside -1 to"),
    (with_value("splits/train/sample_ids", "train/é_1.jpg".encode()), "sample_ids are not unique"),
    (with_value("splits/train/sample_ids", "test/é_0.jpg".encode()), "sample_ids are not unique"),
    (with_value("templates", b"\xff"), "array templates has text that is not UTF-8"),
    (with_splits(["train", "train"]), "names a split twice"),
    (with_splits(["train"]), "split test is there, but not named in the attribute splits"),
    (lambda file: file.__setitem__("splits/train/full_rows", np.arange(5)), "must be there together, or neither"),
    (lambda file: file.__setitem__("prompt_classes", np.arange(3)), "must be there together, or neither"),
    (lambda file: file.__setitem__("again", file["class_names"]), "share the same bytes"),
    (lambda file: file.attrs.__setitem__("logit_scale", np.nan), "attribute logit_scale is nan"),
    (lambda file: file.attrs.__setitem__("logit_scale", "high"), "attribute logit_scale is of a wrong type"),
    (lambda file: file.attrs.__delitem__("normalised"), "attribute normalised is missing"),
    (lambda file: file.attrs.__setitem__("more", "text"), "text of variable length, over which HDF5 has no checksum"),
]


@pytest.mark.parametrize(("change", "finding"), UNSOUND)
def test_what_the_format_forbids_is_found_under_right_checksums(full_cache, reseal, change, finding):
    with h5py.File(full_cache, "r+", libver=("v108", "v108")) as file:
        change(file)
    reseal(full_cache)
    try:
        findings = verify_cache(full_cache).findings
    except CacheError as error:
        findings = (str(error),)
    assert any(finding in text for text in findings), findings


@pytest.mark.parametrize(
    ("rows", "labels", "finding"),
    [
        ([0, 2, 4, 6, 9], None, None),
        ([0, 2, 4, 6, 12], None, "outside 0 to 11, the rows of full_labels"),
        ([0, 2, 2, 6, 9], None, "full_rows is not ascending"),
        ([0, 2, 4, 6, 9], [0] * 12, "is not what full_labels has in full_rows"),
    ],
)
def test_rows_of_few_shot_draws(full_cache, reseal, rows, labels, finding):
    with h5py.File(full_cache, "r+", libver=("v108", "v108")) as file:
        full = np.zeros(12, np.int64)
        full[rows if max(rows) < 12 else rows[:-1]] = file[LABELS][: 5 if max(rows) < 12 else 4]
        file["splits/train/full_labels"] = full if labels is None else np.array(labels)
        file["splits/train/full_rows"] = np.array(rows)
    reseal(full_cache)
    findings = verify_cache(full_cache).findings
    assert findings == () if finding is None else any(finding in text for text in findings), findings

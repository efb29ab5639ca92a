"""`cafe cache rm` removes caches, damaged ones among them, and nothing else."""

from __future__ import annotations

import sys

import h5py
import pytest


@pytest.mark.parametrize("options", [["-y"], ["-y", "--damaged"]])
def test_other_files_stay(cafe, blobs, tmp_path, options):
    notes, link, other = tmp_path / "notes.txt", tmp_path / "link.h5", blobs.parent / "other.h5"
    notes.write_text("mine")
    link.symlink_to(notes)
    with h5py.File(other, "w") as file:
        file["data"] = [1, 2]
    for path in (notes, link, other, tmp_path):
        outcome = cafe("cache", "rm", *options, str(path), str(blobs))
        assert outcome.code == 2 and "not removed" in outcome.err and "Traceback" not in outcome.err
        assert path.exists() and blobs.exists()
    assert notes.read_text() == "mine"


def test_a_damaged_cache_goes_if_it_still_begins_as_one(cafe, blobs):
    blobs.write_bytes(blobs.read_bytes()[:100])
    assert cafe("cache", "rm", blobs.stem, "-y").code == 0
    assert not blobs.exists()


def test_a_damaged_cache_elsewhere_needs_the_option(cafe, blobs, tmp_path):
    path = tmp_path / "moved.h5"
    path.write_bytes(blobs.read_bytes()[:100])
    outcome = cafe("cache", "rm", str(path), "-y")
    assert outcome.code == 2 and "--damaged" in outcome.err and path.exists()
    assert cafe("cache", "rm", str(path), "-y", "--damaged").code == 0
    assert not path.exists()


def test_a_closed_standard_input_is_a_sentence(cafe, blobs, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    outcome = cafe("cache", "rm", blobs.stem)
    assert outcome.code == 2 and "--yes" in outcome.err and blobs.exists()

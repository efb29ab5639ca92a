"""Which caches are old versions of a folder's cache, and which only stand beside another."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from cafe.cache.format.provenance import Provenance
from cafe.cache.format.writer import write_cache
from cafe.cache.locate import find_cache
from cafe.cache.versions import old_versions
from cafe.features import Features, Split


def hashes(numbers):
    return np.array([np.random.default_rng(number).integers(0, 256, 32) for number in numbers], dtype=np.uint8)


@pytest.fixture
def make(tmp_path):
    count = 0

    def make_cache(images, *, name="photos", templates=("a {}",), hashed=True, text=True, **image):
        nonlocal count
        count += 1
        ids = np.array([f"cat/{number}.jpg" for number in images])
        split = Split(np.ones((len(ids), 2), np.float32), np.zeros(len(ids), np.int64), ids)
        split = replace(split, image_sha256=hashes(images)) if hashed else split
        identity = {
            "dataset": {"name": name, "split_origin": "folders", "splits": {"train": {"sha256": str(list(images))}}},
            "encoder": {"weights_sha256": "ab"}, "splits": ["train"], "stored_dtype": "float16", "views": None, **image,
        }  # fmt: skip
        part = {"templates": list(templates), "class_names": ["cat"], "prompts": None} if text else None
        features = Features({"train": split}, ("cat",), np.ones((1, 1, 2), np.float32) if text else None)
        path = tmp_path / f"{name}-{count}.h5"
        return write_cache(path, features, Provenance(name, "e", identity, part))

    return make_cache


def test_a_grown_a_cleaned_and_a_renamed_folder(make):
    first = make(range(10))
    grown = make(range(15))
    cleaned = make(range(5, 15))
    assert old_versions([grown, first, cleaned]) == {first: cleaned, grown: cleaned}


def test_what_differs_in_options_stands_beside(make):
    caches = [
        make(range(10)),
        make(range(10), templates=("the {}",)),
        make(range(11), stored_dtype="float32"),
        make(range(11), views={"n": 2}),
        make(range(11), draws={"shots": [1]}),
        make(range(11), encoder={"weights_sha256": "cd"}),
        make(range(11), name="others"),
        make(range(11), text=False),
        make(range(11), splits=[]),
        make(range(11), imported={}),
        make(range(100, 110)),  # another folder of that name
    ]
    assert old_versions(caches) == {}


def test_without_hashes_by_ids_and_damaged_files_are_left_away(make, tmp_path):
    first, grown = make(range(10), hashed=False), make(range(12), hashed=False)
    shutil.copy(grown, tmp_path / "cut.h5")
    (tmp_path / "cut.h5").write_bytes(grown.read_bytes()[:900])
    assert old_versions([first, grown, tmp_path / "cut.h5"]) == {first: grown}


def test_the_name_of_a_data_set_means_no_old_version(make, tmp_path, recwarn):
    first, grown = make(range(10)), make(range(12))
    assert find_cache("photos", tmp_path) == grown
    assert not recwarn.list
    assert find_cache(first.stem, tmp_path) == first

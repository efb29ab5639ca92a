"""Parts of one data set, extracted apart, become the cache that one extraction would have made."""

import numpy as np
import pytest

from cafe.cache.extract.run import extract
from cafe.cache.format.reader import load_sizes, read_features
from cafe.cache.format.verify import verify_cache
from cafe.cache.transfer.importers.base import ImportOptions
from cafe.cache.transfer.importing import import_features
from cafe.cache.transfer.merging import merge_caches
from cafe.cli.app import call
from cafe.errors import CacheError, InputError


def test_merged_is_what_one_extraction_gives(fakes, tmp_path):
    whole = extract(fakes[0](), fakes[1](), tmp_path / "whole.h5")
    parts = [
        extract(fakes[0](), fakes[1](), tmp_path / f"{name}.h5", splits=[name]).path
        for name in ("test", "train", "val")
    ]
    merged = merge_caches(parts, tmp_path / "merged.h5")
    at_once, two = read_features(whole.path), read_features(merged)
    assert two.provenance["fingerprint"] == at_once.provenance["fingerprint"]
    assert list(two.splits) == ["train", "val", "test"]
    for name in at_once.splits:
        np.testing.assert_array_equal(two.splits[name].image_features, at_once.splits[name].image_features)
        np.testing.assert_array_equal(load_sizes(merged)[name], load_sizes(whole.path)[name])
    np.testing.assert_array_equal(two.text_features, at_once.text_features)
    assert verify_cache(merged).ok
    # Extraction knows it again.
    assert extract(fakes[0](), fakes[1](), merged).action == "already there"


def test_unreadable_images_of_all_parts_are_kept(fakes, tmp_path):
    bad = ["train/image_02.png", "test/image_01.png"]
    parts = [
        extract(fakes[0](unreadable=bad), fakes[1](), tmp_path / f"{name}.h5", splits=[name]).path
        for name in ("train", "test")
    ]
    merged = read_features(merge_caches(parts, tmp_path / "merged.h5"))
    assert [item["sample_id"] for item in merged.provenance["unreadable"]] == bad


def test_differing_fields_are_named(fakes, tmp_path):
    other = fakes[1]()
    other.image_identity = {**other.image_identity, "weights_sha256": "55" * 32}
    first = extract(fakes[0](), fakes[1](), tmp_path / "a.h5", splits=["train"]).path
    two = extract(fakes[0](), other, tmp_path / "b.h5", splits=["test"], stored_dtype="float32").path
    with pytest.raises(CacheError, match="image.encoder.weights_sha256") as caught:
        merge_caches([first, two], tmp_path / "m.h5")
    assert "image.stored_dtype" in str(caught.value) and "b.h5" in str(caught.value)
    three = extract(fakes[0](), fakes[1](), tmp_path / "c.h5", splits=["test"], templates=["other {}"]).path
    with pytest.raises(CacheError, match="text.templates"):
        merge_caches([first, three], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def test_caches_that_cannot_be_merged_are_refused(fakes, tmp_path):
    first = extract(fakes[0](), fakes[1](), tmp_path / "a.h5", splits=["train"]).path
    two = extract(fakes[0](), fakes[1](), tmp_path / "b.h5", splits=["train", "test"]).path
    with pytest.raises(InputError, match="both hold a split 'train'"):
        merge_caches([first, two], tmp_path / "m.h5")
    with pytest.raises(InputError, match="at least two"):
        merge_caches([first], tmp_path / "m.h5")
    with pytest.raises(InputError, match="exists already"):
        merge_caches([first, two], first)


def test_imports_merge(tmp_path, capfd):
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        rows = generator.standard_normal((6, 4)).astype(np.float32)
        np.savez(tmp_path / f"{split}.npz", features=rows, labels=np.arange(6) % 2)
    import_features(
        tmp_path / "train.npz", tmp_path / "a.h5", dataset="toys", options=ImportOptions({"train": ("features",)})
    )
    import_features(
        tmp_path / "test.npz", tmp_path / "b.h5", dataset="toys", options=ImportOptions({"test": ("features",)})
    )
    assert (
        call(["cache", "merge", str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "--out", str(tmp_path / "m.h5")]) == 0
    )
    merged = read_features(tmp_path / "m.h5")
    assert [file["name"] for file in merged.provenance["image"]["imported"]["files"]] == ["train.npz", "test.npz"]
    assert merged.provenance["image"]["imported"]["splits"] == {"train": "features", "test": "features"}
    assert call(["fit", "--cache", str(tmp_path / "m.h5"), "--out", str(tmp_path / "run")]) == 0
    assert verify_cache(tmp_path / "m.h5").ok
    capfd.readouterr()

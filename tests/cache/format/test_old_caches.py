"""A file that an earlier version's own `cafe extract` wrote is read: see tests/data/caches/make_extracted.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cafe.cache.format.reader import load_sizes, read_features, summarise
from cafe.cache.format.verify import verify_cache
from cafe.errors import CacheError

OLD = Path(__file__).parents[2] / "data" / "caches" / "extracted-0.1.0.h5"


def test_every_checksum_matches() -> None:
    report = verify_cache(OLD)
    assert report.ok and report.findings == ()
    assert report.arrays == 16


@pytest.mark.parametrize("memmap", [False, True])
def test_everything_in_it_is_read(memmap: bool) -> None:
    features = read_features(OLD, memmap=memmap)
    train, test = features.splits["train"], features.splits["test"]
    assert list(features.splits) == ["train", "test"]
    assert features.class_names == ("one", "two", "zero")
    assert features.templates == ("a photo of the number {}.", "the digit {}.")
    assert features.text_features is not None and features.text_features.shape == (2, 3, 128)
    assert train.image_features.shape == (12, 128) and train.image_features.dtype == np.float16
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.sample_ids[0].startswith("train/one/") and test.sample_ids[-1].startswith("test/zero/")
    assert train.view_features is not None and train.view_features.shape == (2, 12, 128)
    assert test.view_features is None
    assert [entry["sample_id"] for entry in features.provenance["unreadable"]] == ["train/zero/broken.png"]
    assert {name: len(sizes) for name, sizes in load_sizes(OLD).items()} == {"train": 12, "test": 6}


def test_a_changed_name_in_its_heap_is_refused(tmp_path: Path) -> None:
    """Text attributes of version 1 stand under no checksum but that of the whole."""
    content, path = OLD.read_bytes(), tmp_path / "a.h5"
    start = content.index(b"GCOL")
    place = content.index(b"three-digits", start)
    assert place < start + 4096
    path.write_bytes(content[:place] + b"three-figits" + content[place + 12 :])
    with pytest.raises(CacheError, match="attributes differ from the checksum of the whole"):
        read_features(path)


def test_projection_and_what_goes_into_it_make_the_features() -> None:
    features = read_features(OLD)
    assert features.projection is not None
    for split in features.splits.values():
        assert split.projection_features is not None
        made = split.projection_features.astype(np.float64) @ features.projection.astype(np.float64)
        # The features were made in bfloat16 (8 bits) and stored in float16.
        largest = np.abs(split.image_features).max()
        np.testing.assert_allclose(made, split.image_features, rtol=0, atol=largest * 2.0**-7)


def test_summary() -> None:
    summary = summarise(OLD)
    assert (summary.dataset, summary.encoder, summary.splits) == ("three-digits", "cafe:mini", {"train": 12, "test": 6})
    assert summary.fingerprint == "479a4b20b319eec75fefdf4b4d73341c27ac673b9ea744b6da3ea8d44644d95c"

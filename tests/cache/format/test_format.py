"""FORMAT.md says the truth: its own code reads a fresh file, and a file made from it alone is read by cafe."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import cafe.cache
from cafe.cache.format.layout import FORMAT_VERSION
from cafe.cache.format.reader import load_sizes, read_features
from cafe.cache.format.verify import verify_cache

ROOT = Path(__file__).parents[3]
FORMAT = Path(cafe.cache.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")
OLD = ROOT / "tests" / "data" / "caches"


def test_code_of_the_page_reads_a_fresh_file(full_cache, monkeypatch, capsys):
    monkeypatch.chdir(full_cache.parent)
    blocks = re.findall(r"```python\n(.*?)```", FORMAT, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    expected = read_features(full_cache)
    np.testing.assert_array_equal(names["image_features"], expected.splits["test"].image_features)
    assert names["sample_ids"].tolist() == expected.splits["test"].sample_ids.tolist()
    assert names["logit_scale"] == 31.5
    assert capsys.readouterr().out.startswith("train (5, 6) class ")


def test_page_has_a_section_for_every_array_and_a_row_for_every_attribute(full_cache):
    documented = []
    with h5py.File(full_cache) as file:
        file.visititems(lambda name, item: documented.append(name) if isinstance(item, h5py.Dataset) else None)
        attributes = list(file.attrs)
    for name in documented:
        assert f"### `{re.sub('splits/[a-z]+/', 'splits/NAME/', name)}`" in FORMAT
    for name in attributes:
        assert re.search(rf"^\| .*`{name}`.* \|", FORMAT, re.MULTILINE), name


def test_every_version_has_a_file():
    assert [path.name for path in sorted(OLD.glob("format-*.h5"))] == [
        f"format-{version}.h5" for version in range(1, FORMAT_VERSION + 1)
    ]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("memmap", [False, True])
def test_files_of_every_version(memmap, version):
    path = OLD / f"format-{version}.h5"
    features = read_features(path, memmap=memmap)
    assert features.provenance["format_version"] == version
    assert list(features.splits) == ["train", "test"]
    train, test = features.splits["train"], features.splits["test"]
    assert train.image_features.dtype == np.float16
    assert train.image_features.tolist() == [[0.5, -1, 2], [0, 0.25, 1], [3, 4, 0]]
    assert train.labels.tolist() == [0, 1, 1]
    assert train.sample_ids.tolist() == ["train/a.jpg", "train/b.jpg", "train/ç.jpg"]
    assert test.image_features.tolist() == [[1, 1, 1], [-2, 0, 0]]
    assert test.labels.tolist() == [1, 0]
    assert features.class_names == ("Abyssinian", "naïve cat")
    assert features.templates == ("a photo of a {}.", "art of the {}.")
    assert features.text_features.tolist() == [[[1, 0, 0], [0, 2, 0]], [[3, 0, 4], [0, 0, 5]]]
    assert (features.logit_scale, features.logit_bias) == (100.0, 0.0)
    assert features.provenance["dataset"] == "pets"
    assert features.provenance["encoder"] == "openai/clip-vit-base-patch32"
    assert features.provenance["image"]["encoder"]["preprocessing"] == {"size": 224, "backend": "pillow"}
    assert features.provenance["unreadable"][0]["sample_id"] == "train/bad.jpg"
    assert features.provenance["created"] == "2026-01-31T12:00:00.000000+00:00"
    assert features.provenance["normalised"] is False
    assert load_sizes(path)["test"].tolist() == [4000, -1]


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_every_version_verify(version):
    # Made from FORMAT.md alone, so this also holds the checksums and fingerprints of page and code together.
    assert verify_cache(OLD / f"format-{version}.h5").findings == ()

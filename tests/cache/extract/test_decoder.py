"""The decoder is part of a cache's identity, and reaches the workers."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from cafe.cache.extract.plan import plan_extraction
from cafe.cache.extract.run import extract
from cafe.cache.format.reader import read_features
from cafe.data import open_dataset
from cafe.data.images import decoding as decoders
from cafe.data.images.decoding import decoding_with
from cafe.errors import CacheError, MissingDependencyError

simplejpeg = pytest.importorskip("simplejpeg", reason="the extra [simplejpeg] is not installed")


@pytest.fixture
def photos(tmp_path):
    """Small JPEG files of two classes, for training and testing."""
    for split in ("train", "test"):
        for label, name in enumerate("ab"):
            for i in range(4):
                path = tmp_path / "photos" / split / name / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng([label, i]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((32, 32)).save(path, quality=90)
    return tmp_path / "photos"


def test_pillow_leaves_the_fingerprint_as_it_was(dataset, encoder):
    planned = plan_extraction(dataset, encoder)
    assert "decoder" not in planned.image
    assert planned.image == plan_extraction(dataset, encoder, decoder="pillow").image
    other = plan_extraction(dataset, encoder, decoder="simplejpeg")
    assert other.image == {**planned.image, "decoder": "simplejpeg"}
    assert other.provenance().image_fingerprint != planned.provenance().image_fingerprint
    assert other.recorded["libraries"]["simplejpeg"] == simplejpeg.__version__


def test_each_decoder_has_a_cache_of_its_own(photos, fakes, tmp_path):
    data = open_dataset(str(photos))
    first = extract(data, fakes[1](), tmp_path / "a.h5")
    before = first.path.read_bytes()
    second = extract(data, fakes[1](), tmp_path / "a.h5", decoder="simplejpeg")
    assert second.action == "extracted" and second.path != first.path
    assert first.path.read_bytes() == before
    features = [read_features(path).splits["train"].image_features for path in (first.path, second.path)]
    # Mean colours of files whose pixels differ by a few levels at most; 0.125 is half a step of float16 below 256.
    assert np.abs(features[0].astype(float) - features[1]).max() <= 4 + 0.125
    assert extract(data, fakes[1](), tmp_path / "a.h5", decoder="simplejpeg").action == "already there"


def test_what_one_decoder_began_the_other_does_not_finish(photos, fakes, tmp_path):
    data = open_dataset(str(photos))

    def interrupt(state):
        if state.stage == "images" and state.done > 8:  # the first shard has eight batches of one image
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(data, fakes[1](batch_size=1), tmp_path / "a.h5", progress=interrupt)
    assert (tmp_path / "a.h5.partial").is_dir()
    with pytest.raises(CacheError, match=r"image\.decoder"):
        extract(data, fakes[1](batch_size=1), tmp_path / "a.h5", decoder="simplejpeg")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.skipif(os.name != "posix", reason="POSIX"))])
def test_workers_decode_with_it(photos, fakes, tmp_path, workers):
    data = open_dataset(str(photos))
    path = extract(data, fakes[1](), tmp_path / "a.h5", decoder="simplejpeg", workers=workers).path
    with decoding_with("simplejpeg"):
        crops = np.stack([np.asarray(data.image("train", i)) for i in range(len(data.splits["train"]))])
    expected = fakes[1]().encode_images(crops).astype(np.float16)
    assert np.array_equal(read_features(path).splits["train"].image_features, expected)


def test_a_decoder_that_is_not_installed_is_an_error(dataset, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="simplejpeg"):
        extract(dataset, encoder, tmp_path / "a.h5", decoder="simplejpeg")
    assert not list(tmp_path.iterdir())

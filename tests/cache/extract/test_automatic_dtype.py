"""An extraction whose dtype was left to cafe: the first writer's is recorded, and everybody else obeys."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cafe.cache import extract, load_features
from cafe.cache.extract import run
from cafe.cache.extract.plan import plan_extraction
from cafe.cache.extract.unfinished import begun_with
from cafe.data import open_dataset
from cafe.data.base import Dataset, ImageSplit
from cafe.encoders import open_encoder


class Some(Dataset):
    """A few digits."""

    name, notes = "digits", []

    def __init__(self, n: int = 40) -> None:
        self._digits = open_dataset("digits")
        split = self._digits.splits["test"]
        self.class_names = self._digits.class_names
        self.splits = {"test": ImageSplit(split.sample_ids[:n], split.labels[:n], split.sizes[:n])}

    def image(self, split, index):
        return self._digits.image(split, index)


def measured(monkeypatch, dtype):
    monkeypatch.setattr("cafe.compute.measured_encoding_dtype", lambda inputs, outputs: dtype)


def made_in(path: Path) -> str:
    return load_features(path).provenance["image"]["encoder"]["dtype"]


def test_what_was_measured_is_taken_and_a_cache_that_is_there_kept(tmp_path, monkeypatch):
    measured(monkeypatch, "bfloat16")
    first = extract(Some(), open_encoder("cafe:mini", "cpu"), tmp_path / "a.h5", templates=["{}"])
    assert made_in(first.path) == "bfloat16"
    measured(monkeypatch, "float32")  # another machine, or another library
    again = extract(Some(), open_encoder("cafe:mini", "cpu"), tmp_path / "a.h5", templates=["{}"])
    assert (again.path, again.encoded) == (first.path, 0)
    grown = extract(Some(48), open_encoder("cafe:mini", "cpu"), tmp_path / "a.h5", templates=["{}"])
    assert made_in(grown.path) == "bfloat16"
    # What was asked for by name is another cache, and takes no row of another dtype.
    asked = extract(Some(), open_encoder("cafe:mini", "cpu", "float32"), tmp_path / "a.h5", templates=["{}"])
    assert (made_in(asked.path), asked.encoded, asked.kept) == ("float32", 40, 0)
    anew = extract(Some(), open_encoder("cafe:mini", "cpu"), tmp_path / "b.h5", templates=["{}"], known_in=[])
    assert made_in(anew.path) == "float32"


def test_an_unfinished_extraction_is_carried_on_in_its_dtype(tmp_path, monkeypatch):
    measured(monkeypatch, "bfloat16")
    out = tmp_path / "a.h5"

    def stop(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "finish", stop)
        extract(Some(), open_encoder("cafe:mini", "cpu"), out, templates=["{}"])
    assert begun_with(out)["encoder"]["dtype"] == "bfloat16"
    measured(monkeypatch, "float32")
    extract(Some(), open_encoder("cafe:mini", "cpu"), out, templates=["{}"])
    assert made_in(out) == "bfloat16"


def test_the_first_writer_decides_between_two_at_once(tmp_path, monkeypatch):
    """Both have planned, in different dtypes, before either has begun."""
    measured(monkeypatch, "bfloat16")
    out, plain = tmp_path / "a.h5", run._open
    others = iter([True])

    def another_first(extraction, *rest):
        if next(others, False):
            measured(monkeypatch, "float32")
            theirs = plan_extraction(Some(), open_encoder("cafe:mini", "cpu"), templates=["{}"])
            plain(replace(theirs, path=out), *rest)
        return plain(extraction, *rest)

    monkeypatch.setattr(run, "_open", another_first)
    extract(Some(), open_encoder("cafe:mini", "cpu"), out, templates=["{}"])
    assert made_in(out) == "float32"


def test_an_encoder_travels_with_its_choice():
    encoder = open_encoder("cafe:mini", "cpu").with_batch_size(4)
    crops = np.zeros((16, 32, 32, 3), dtype=np.uint8)
    expected = encoder.encode_images(crops)
    copied = pickle.loads(pickle.dumps(encoder))
    assert np.array_equal(copied.encode_images(crops), expected)
    assert copied.identity() == encoder.identity()
    assert copied.reopen is not None
    assert copied.reopen("bfloat16").dtype == "bfloat16"
    assert open_encoder("cafe:mini", "cpu", "float32").reopen is None

"""Small fakes: a data set of coloured squares, and an encoder whose features can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cafe.cache.format.provenance import Provenance
from cafe.data.base import Dataset, ImageSplit
from cafe.encoders.base import Encoder
from cafe.errors import UnreadableImageError
from cafe.features import Features, Split


class FakeDataset(Dataset):
    """Image i of a split is one colour: red 10 * i, green the split's number, blue the label."""

    def __init__(self, counts=None, class_names=("cat", "dog"), unreadable=(), templates=("a {}", "the {}")):
        self.name = "squares"
        self.class_names = tuple(class_names)
        self.templates = tuple(templates)
        self.notes = []
        self.unreadable = set(unreadable)
        self.opened = 0
        counts = {"train": 7, "val": 3, "test": 5} if counts is None else counts
        self.splits = {
            name: ImageSplit(
                [f"{name}/image_{i:02d}.png" for i in range(n)],
                np.arange(n, dtype=np.int64) % 2,
                100 + np.arange(n, dtype=np.int64),
            )
            for name, n in counts.items()
        }

    def image(self, split, index):
        self.opened += 1
        sample_id = self.splits[split].sample_ids[index]
        if sample_id in self.unreadable:
            raise UnreadableImageError(sample_id, "cannot identify image file")
        return Image.new("RGB", (4, 4), colour(self, split, index))


def colour(dataset, split, index):
    return (10 * index, list(dataset.splits).index(split), int(dataset.splits[split].labels[index]))


class FakeEncoder(Encoder):
    """Features of an image: its mean colour and a 1. Features of a prompt: length, words, first letter, 1."""

    def __init__(self, **changes):
        self.id = "fake/encoder"
        self.dim = 4
        self.logit_scale = 50.0
        self.logit_bias = 0.0
        self.device = "cpu"
        self.dtype = "float32"
        self.batch_size = 3
        self.cropper = np.asarray
        self.image_identity = {"weights_sha256": "11" * 32, "preprocessing": {"size": 4}, "dtype": "float32"}
        self.text_identity = {"weights_sha256": "22" * 32, "tokenizer_sha256": "33" * 32, "dtype": "float32"}
        self.recorded = {"id": self.id, "revision": "main"}
        self.batches, self.prompts = [], []
        for name, value in changes.items():
            setattr(self, name, value)

    def encode_images(self, crops):
        assert crops.dtype == np.uint8 and crops.ndim == 4
        self.batches.append(len(crops))
        means = crops.astype(np.float32).mean(axis=(1, 2))
        return np.concatenate([means, np.ones((len(crops), 1), np.float32)], axis=1)

    def encode_text(self, prompts):
        self.prompts += prompts
        return np.array([[len(p), p.count(" "), ord(p[0]), 1] for p in prompts], dtype=np.float32)

    def identity(self):
        return {"image": self.image_identity, "text": self.text_identity, "recorded": self.recorded}


@pytest.fixture
def dataset():
    return FakeDataset()


@pytest.fixture
def encoder():
    return FakeEncoder()


@pytest.fixture
def fakes():
    """The classes themselves, for tests that change something about them."""
    return FakeDataset, FakeEncoder


def make_split(n, d, c=3, *, prefix="s", seed=0, views=0, width=0, hashed=True):
    rng = np.random.default_rng(seed)
    return Split(
        rng.standard_normal((n, d)).astype(np.float32),
        rng.integers(0, c, n),
        np.array([f"{prefix}/é_{i}.jpg" for i in range(n)], dtype=np.str_),
        rng.standard_normal((views, n, d)).astype(np.float32) if views else None,
        rng.standard_normal((n, width)).astype(np.float32) if width else None,
        image_sha256=rng.integers(0, 256, (n, 32), dtype=np.uint8) if hashed else None,
    )


def make_features(sizes=None, d=6, c=3, m=2, *, views=0, width=0, text=True):
    sizes = {"train": 5, "test": 4} if sizes is None else sizes
    splits = {
        name: make_split(n, d, c, prefix=name, seed=i, views=views, width=width)
        for i, (name, n) in enumerate(sizes.items())
    }
    features = np.random.default_rng(9).standard_normal((m, c, d)).astype(np.float32) if text else None
    templates = tuple(f"photo {i} of a {{}}." for i in range(m)) if text else ()
    return Features(splits, tuple(f"class {i}" for i in range(c)), features, templates, logit_scale=31.5)


def make_provenance(text=True, **changes):
    given = {
        "dataset": "toys",
        "encoder": "cafe:mini",
        "image": {"encoder": {"weights_sha256": "ab"}, "stored_dtype": "float16"},
        "text": {"templates": ["a {}"], "encoder": {"weights_sha256": "cd"}} if text else None,
        "recorded": {"image": {"device": "cpu"}},
        "seeds": (1, 2),
        "unreadable": ({"split": "train", "sample_id": "x.jpg", "reason": "truncated"},),
    }
    return Provenance(**{**given, **changes})


@pytest.fixture
def make():
    """Makers of features and provenance, as one object with two attributes."""

    class Make:
        features = staticmethod(make_features)
        provenance = staticmethod(make_provenance)

    return Make


@pytest.fixture
def full_cache(tmp_path):
    """A cache that holds every array that the format knows."""
    from cafe.cache.format.writer import write_cache

    features = make_features(views=2, width=5)
    projection = np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)
    sizes = {name: np.arange(len(split)) for name, split in features.splits.items()}
    return write_cache(
        tmp_path / "features.h5", features, make_provenance(), projection=projection, sizes=sizes, seconds={"read": 1.5}
    )


def reseal_cache(path, content=True):
    """Give a file that was changed in place the checksums of what is in it now."""
    import h5py

    from cafe.cache.format.checksums import array_sha256, attributes_sha256, content_sha256
    from cafe.cache.format.hdf5 import StoredFile

    def set_text(item, name, text):
        kind = h5py.string_dtype("utf-8", len(text))
        item.attrs.create(name, np.array(text.encode(), dtype=kind), dtype=kind)

    def read():
        with path.open("rb") as stream:
            file = StoredFile(stream.fileno())
            return file, {name: array_sha256(array) for name, array in file.arrays.items() if array.problem is None}

    if content:
        file, sums = read()
        with h5py.File(path, "r+", libver=("v108", "v108")) as changed:
            for name, digest in sums.items():
                set_text(changed[name], "sha256", digest)
            arrays = {name: array for name, array in file.arrays.items() if name in sums}
            set_text(changed, "content_sha256", content_sha256(arrays, file.attrs, sums))
    file, _ = read()
    with h5py.File(path, "r+", libver=("v108", "v108")) as changed:
        set_text(changed, "attributes_sha256", attributes_sha256(file.attrs))


@pytest.fixture
def reseal():
    """Seals a file again that was changed in place."""
    return reseal_cache

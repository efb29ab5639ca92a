"""ImageFeatures as a step of scikit-learn: clone, grid search, pickle, and what it refuses."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

import cafe
from cafe.data import open_dataset
from cafe.encoders.opening import open_encoder
from cafe.errors import InputError, UnreadableImageError


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, digits = tmp_path_factory.mktemp("digits"), open_dataset("digits")
    labels = digits.splits["train"].labels
    rows = [i for label in (0, 1, 2) for i in np.flatnonzero(labels == label)[:8]]
    for i in rows:
        digits.image("train", int(i)).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in rows], labels[rows]


def test_features_are_those_of_the_encoder(paths):
    names, _ = paths
    encoder = open_encoder("cafe:mini", dtype="float32")
    expected = encoder.encode_images(np.stack([encoder.cropper(Image.open(name).convert("RGB")) for name in names]))
    step = cafe.ImageFeatures(dtype="float32")
    for given in (names, np.array(names), np.array(names)[:, None], [Image.open(name) for name in names]):
        np.testing.assert_allclose(step.fit_transform(given), expected, atol=1e-5)
    assert step.transform([]).shape == (0, 128) and len(step.get_feature_names_out()) == 128


def test_a_pipeline_clones_searches_and_pickles(paths):
    names, labels = paths
    pipeline = Pipeline([("features", cafe.ImageFeatures()), ("method", LogisticRegression())])
    search = GridSearchCV(clone(pipeline), {"method__C": [0.1, 10.0], "features__dtype": ["float32"]}, cv=2)
    search.fit(names, labels)
    assert search.score(names, labels) > 0.9
    saved = pickle.dumps(search.best_estimator_)
    assert len(saved) < 100_000  # the encoder is not in it
    np.testing.assert_array_equal(pickle.loads(saved).predict(names), search.predict(names))
    ours = Pipeline([("features", cafe.ImageFeatures()), ("method", cafe.TipAdapter())]).fit(names, labels)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours)).predict(names), ours.predict(names))


def test_what_is_no_image_is_a_sentence(paths, tmp_path):
    step = cafe.ImageFeatures()
    with pytest.raises(InputError, match="a list, one for each row"):
        step.transform("photo.jpg")
    with pytest.raises(InputError, match="no such image"):
        step.transform([str(tmp_path / "none.jpg")])
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError):
        step.transform([tmp_path / "a.png"])
    for name in paths[0][:2]:
        Image.open(name).save(tmp_path / name.rpartition("/")[2])
    with pytest.raises(InputError, match="rows stand for"):
        step.transform([str(tmp_path)])
    with pytest.raises(InputError):
        cafe.ImageFeatures(model="no-such-model").fit()

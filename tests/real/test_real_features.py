"""The library on real CLIP features (never in the repository; see CONTRIBUTING)."""

import os
from pathlib import Path

import numpy as np
import pytest

from cafe import CLIPAdapter, LinearProbe, TipAdapter, ZeroShot, fit_many

DATA = os.environ.get("CAFE_REAL_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="CAFE_REAL_DATA is unset: no real CLIP features at hand")


@pytest.fixture(scope="module")
def imagenet():
    """4-shot to 1+2-shot, without test rows whose best cosine with a training row is at least 0.93."""
    data = np.load(Path(DATA) / "clip_features" / "imagenet_vitb32.npz")
    X, y = data["features_4shot"], data["labels_4shot"]
    X_test = np.concatenate([data["features_1shot"], data["features_2shot"]])
    y_test = np.concatenate([data["labels_1shot"], data["labels_2shot"]])
    keep = (X_test.astype(np.float32) @ X.astype(np.float32).T).max(axis=1) < 0.93
    assert keep.sum() == 2911
    return X, y, X_test[keep], y_test[keep], data["text_features"]


def test_zero_shot_on_imagenet(imagenet):
    X, y, X_test, y_test, text = imagenet
    assert 100 * ZeroShot(text).fit(X, y).score(X_test, y_test) == pytest.approx(60.70, abs=0.05)


def test_tip_adapter_on_imagenet_as_the_released_code(imagenet):
    X, y, X_test, y_test, text = imagenet
    model = TipAdapter(text, alpha=1.17, beta=1.0).fit(X, y)
    assert 100 * model.score(X_test, y_test) == pytest.approx(62.25, abs=0.05)


@pytest.mark.parametrize(
    ("C", "theirs"),
    [
        (10**-0.5, 39.13),
        (1.0, 39.64),
        pytest.param(
            100.0,
            50.26,
            marks=pytest.mark.skipif("CAFE_LONG_TESTS" not in os.environ, reason="CAFE_LONG_TESTS is unset: 30 steps"),
        ),
    ],
)
def test_linear_probe_by_scikit_learn_on_imagenet_as_published(imagenet, C, theirs):
    X, y, X_test, y_test, text = imagenet
    model = LinearProbe(text, C=C, solver="scikit-learn").fit(X, y)
    assert 100 * model.score(X_test, y_test) == pytest.approx(theirs, abs=0.3)


def test_zero_shot_on_caltech():
    data = np.load(Path(DATA) / "clip_features" / "caltech69_vitb32.npz")
    model = ZeroShot(data["text_features"]).fit(data["train_1shot_features"], data["train_1shot_labels"])
    assert 100 * model.score(data["test_features"], data["test_labels"]) == pytest.approx(90.74, abs=0.05)


@pytest.mark.skipif("CAFE_LONG_TESTS" not in os.environ, reason="CAFE_LONG_TESTS is unset: half a minute a case")
@pytest.mark.parametrize(
    ("alpha", "shots", "theirs"), [(0.2, 1, 91.58), (0.2, 4, 92.63), (0.6, 1, 93.38), (0.6, 4, 93.98)]
)
def test_clip_adapter_with_the_released_settings_on_caltech(alpha, shots, theirs):
    """The released code's form, optimiser and length on the same rows: within 0.3 points of what that code gave."""
    data = np.load(Path(DATA) / "clip_features" / "caltech69_vitb32.npz")
    released = {"form": "released", "optimizer": "sgd", "lr": 2e-3, "weight_decay": 5e-4, "batch_size": 32}
    models = [
        CLIPAdapter(data["text_features"], alpha=alpha, epochs=200, normalize=False, random_state=s, **released)
        for s in (1, 2, 3)
    ]
    fits = fit_many(data[f"train_{shots}shot_features"], data[f"train_{shots}shot_labels"], models)
    ours = np.mean([100 * fit.score(data["test_features"], data["test_labels"]) for fit in fits])
    assert ours == pytest.approx(theirs, abs=0.3)

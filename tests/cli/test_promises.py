"""Unknown images and sets of classes, from pictures to `cafe predict`: kept with the run, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

import cafe as cafe_package
from cafe.evaluation.conformal import class_scores


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return the folder and the classifier of a fit on 120 pictures of three colours.

    The folder has the pictures, the saved run, the cache, and a picture of checks, which is of no class.
    """
    root = tmp_path_factory.mktemp("promises")
    for label, name in enumerate(["red", "gr, een", "=blue"]):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(40):
            pixels = np.random.default_rng(100 * label + i).integers(0, 90, (24, 24, 3), dtype=np.uint8)
            pixels[..., label] += 120
            Image.fromarray(pixels).save(root / "photos" / name / f"{i}.png")
    (root / "other").mkdir()
    checks = (255 * (np.indices((24, 24)).sum(axis=0) // 4 % 2)).astype(np.uint8)
    Image.fromarray(checks).save(root / "other" / "checks.png")
    classifier = cafe_package.Classifier.fit(root / "photos", cache_dir=root / "cache", save=root / "run")
    return root, classifier


def test_promises_are_saved_with_the_run(fitted):
    root, classifier = fitted
    loaded = cafe_package.Classifier.load(root / "run", cache_dir=root / "cache")
    images = [root / "photos" / "red", root / "other" / "checks.png"]
    np.testing.assert_allclose(loaded.unknown_scores(images), classifier.unknown_scores(images), atol=1e-6)
    np.testing.assert_array_equal(loaded.unknown(images, 0.1), classifier.unknown(images, 0.1))
    for score in ("lac", "aps"):
        sets = loaded.sets(images, 0.9, score)
        assert sets == classifier.sets(images, 0.9, score)
        named = loaded.predict(images)
        assert all(name in own for name, own in zip(named, sets, strict=True))
    assert loaded.unknown_scores(images)[-1] > np.median(loaded.unknown_scores(images)[:-1])


def test_scores_are_what_their_formula_says(fitted):
    root, classifier = fitted
    features = cafe_package.load_features(classifier.cache)
    split = features.splits["test"]
    X = split.image_features.astype(np.float64)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    text = features.class_embeddings.astype(np.float64)
    everything = [features.splits[name] for name in features.splits]
    rows = np.concatenate([part.image_features for part in everything]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.concatenate([part.labels for part in everything])
    means = np.stack([rows[labels == c].mean(axis=0) for c in range(3)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    expected = (X @ text.T).mean(axis=1) - (X @ text.T).max(axis=1) + 0.25 * (1 - (X @ means.T).max(axis=1))
    paths = [root / "photos" / sample for sample in split.sample_ids]
    np.testing.assert_allclose(classifier.unknown_scores(paths), expected, atol=2e-3)  # features are float16 on disk


def test_predict_says_unknown_and_gives_sets(fitted, cafe, tmp_path):
    root, classifier = fitted
    run = ["--run", root / "run"]
    images = [root / "photos" / "red" / "0.png", root / "other" / "checks.png"]
    done = cafe("predict", *images, *run, "--json", "--coverage", 0.9, "--unknown", 0.1).json["images"]
    scores, called = classifier.unknown_scores(images), classifier.unknown(images, 0.1)
    assert [image["unknown"] for image in done] == called.tolist()
    assert [image["unknown_score"] for image in done] == pytest.approx(scores.tolist(), abs=1e-5)
    assert [tuple(image["set"]) for image in done] == classifier.sets(images, 0.9)
    by_python = [prediction.to_json() for prediction in classifier.top(images, unknown=0.1, coverage=0.9)]
    for key in ("image", "unknown", "set"):
        assert [image[key] for image in done] == [image[key] for image in by_python]

    off = cafe("predict", *images, *run, "--json", "--unknown", "off").json["images"]
    assert all(image["unknown"] is image["unknown_score"] is image["set"] is None for image in off)
    auto = cafe("predict", *images, *run, "--json").json["images"]
    assert [image["unknown"] for image in auto] == classifier.unknown(images).tolist()
    shown = cafe("predict", *images, *run, "--unknown", 0.4).out
    assert ("unknown (nearest: " in shown) == bool(classifier.unknown(images, 0.4).any())

    table = tmp_path / "table.csv"
    assert cafe("predict", *images, *run, "--coverage", 0.9, "--out", table).code == 0
    with table.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [tuple(json.loads(line["set"])) for line in lines] == classifier.sets(images, 0.9)
    assert [line["unknown"] for line in lines] == [str(bool(u)).lower() for u in classifier.unknown(images)]


def test_wishes_that_cannot_be_met_are_refused(fitted, cafe):
    root, _ = fitted
    image, run = root / "other" / "checks.png", ["--run", root / "run"]
    cafe("predict", image, *run, "--coverage", 95).refused("a share between 0 and 1", "95")
    cafe("predict", image, *run, "--coverage", 0.999).refused("needs 999 images")
    cafe("predict", image, *run, "--unknown", "maybe").refused("off, auto or a rate", "'maybe'")
    cafe("predict", image, *run, "--unknown", 0.0001).refused("needs 9,999 images")
    zero_shot = ["--classes", "cat,dog"]
    cafe("predict", image, *zero_shot, "--coverage", 0.9).refused("no sets of classes")
    (only,) = cafe("predict", image, *zero_shot, "--json").json["images"]
    assert only["unknown"] is None and only["unknown_score"] is not None


def test_probabilities_are_tempered_everywhere_and_stay_so_with_the_run(fitted, tmp_path, cafe):
    root, classifier = fitted
    image = root / "photos" / "red" / "0.png"
    own = classifier.estimator.predict_proba(classifier.encoder.encode_images(crop_of(classifier, image)))
    before, kept = classifier.promises, replace(classifier.promises, temperature=2.5)
    try:
        classifier.promises = kept
        run = classifier.save(tmp_path / "run", cache_dir=root / "cache")
        expected = softmax(np.log(own.astype(float)) / 2.5, axis=1)
        np.testing.assert_allclose(classifier.predict_proba(image), expected, atol=1e-5)
        loaded = cafe_package.Classifier.load(run, cache_dir=root / "cache")
        assert loaded.temperature == classifier.temperature == 2.5
        np.testing.assert_allclose(loaded.predict_proba(image), expected, atol=1e-5)
        best = pytest.approx(expected.max(), abs=1e-5)
        assert loaded.top(image)[0].classes[0][1] == best
        (shown,) = cafe("predict", image, "--run", run, "--json").json["images"]
        assert shown["predictions"][0]["probability"] == best
        assert loaded.predict(image)[0] == loaded.sets(image, 0.5)[0][0]
    finally:
        classifier.promises, classifier.run = before, root / "run"


def crop_of(classifier, path):
    """Cut an image as the encoder says."""
    return np.stack([classifier.encoder.cropper(Image.open(path))])


def test_why_there_are_no_promises_stays_with_the_run(fitted, cafe, tmp_path):
    root, _ = fitted
    run = tmp_path / "bare"
    done = cafe("fit", root / "photos", "--method", "tip-adapter", "--no-promises", "--out", run, "--json")
    assert (
        done.code == 0 and "--no-promises" in done.json["rows"][0]["no_promises"] and done.json["leaderboard"] is None
    )
    image = root / "other" / "checks.png"
    cafe("predict", image, "--run", run, "--coverage", 0.9).refused("no sets of classes", "--no-promises")
    cafe("predict", image, "--run", run, "--unknown", 0.1).refused("no threshold", "--no-promises")
    plain = cafe("predict", image, "--run", run)
    assert plain.code == 0 and "no image is called unknown" in plain.err and "--no-promises" in plain.err
    assert "called unknown" not in cafe("predict", image, "--run", run, "--unknown", "off").err
    assert cafe_package.Classifier.load(run).no_promises == done.json["rows"][0]["no_promises"]
    assert "none: it was fitted with --no-promises" in cafe("runs", "info", run).out


def test_lac_of_the_saved_scores_is_the_conformal_score(fitted):
    """The scores saved as lac lie between 0 and 1; that of a class is one minus its probability."""
    _, classifier = fitted
    scores = classifier.promises.own_scores["lac"]
    assert len(scores) == 40 and ((scores >= 0) & (scores <= 1)).all()
    assert class_scores(np.array([[1.0, 0.0]]))[0].tolist() == [0.0, 1.0]

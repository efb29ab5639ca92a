"""What the page of a fit gathers, and that it stays with the run and goes with it."""

import numpy as np
import pytest
from PIL import Image

import cafe
from cafe.classifier import reporting
from cafe.classifier.reporting import equal_pairs, near_pairs, row_digests
from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.runs import remove_run


def test_near_pairs_are_those_across_classes_or_splits():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1500, 64)).astype(np.float32)
    rows[1400] = rows[3]  # another class
    rows[1401] = rows[4]  # another split
    rows[1402] = rows[5]  # neither
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels, parts = np.zeros(1500, int), np.full(1500, "train")
    labels[1400], parts[1401] = 1, "test"
    nearest, number = near_pairs(rows, labels, parts)
    assert sorted((i, j) for i, j, _ in nearest) == [(3, 1400), (4, 1401)] and number == 2
    assert equal_pairs(row_digests(rows), labels, parts) == [(3, 1400), (4, 1401)]


def test_of_very_many_pairs_the_nearest_are_shown_and_all_are_counted():
    """Equal rows everywhere: a page must not take memory for each of the pairs."""
    rows = np.tile(np.array([[0.6, 0.8]], np.float32), (3000, 1))
    rows[5], rows[2900] = [1.0, 0.0], [0.999, np.sqrt(1 - 0.999**2)]
    labels, parts = np.arange(3000) % 2, np.full(3000, "train")
    labels[5], labels[2900] = 0, 1
    nearest, number = near_pairs(rows, labels, parts, most=10)
    cosines = rows @ rows.T
    by_hand = np.triu((cosines >= 0.98) & (labels[:, None] != labels[None, :]), 1)
    assert number == by_hand.sum() and len(nearest) == 10
    assert all(by_hand[i, j] and cosine == pytest.approx(cosines[i, j]) for i, j, cosine in nearest)


def test_a_large_set_says_what_was_not_searched():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 8)).astype(np.float32)
    X[60] = X[7]  # equal, in another split: found at any size
    ids = np.arange(90).astype(str)
    labels = np.arange(90) % 3
    splits = {"train": Split(X[:60], labels[:60], ids[:60]), "test": Split(X[60:], labels[60:], ids[60:])}
    features = Features(splits, ("a", "b", "c"))
    shown, searched = reporting._duplicates(features, ["a", "b", "c"], lambda _: None, most_compared=40)
    assert shown[0].name == "7" and "the same features: also 60" in shown[0].says
    assert "1 pair of equal ones among all 90 images" in searched and "among 40 images drawn at random" in searched


def test_the_page_stays_with_the_run_and_goes_with_it(tmp_path):
    for label, name in enumerate(["red", "<b>green"]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(100 * label + i).integers(0, 200, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    image = tmp_path / "photos" / "red" / "0.png"
    (tmp_path / "photos" / "<b>green" / "copy.png").write_bytes(image.read_bytes())
    run = tmp_path / "run"
    classifier = cafe.Classifier.fit(tmp_path / "photos", cache_dir=tmp_path / "cache", save=run)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert classifier.report() == html == cafe.Classifier.load(run, cache_dir=tmp_path / "cache").report()
    assert f"{100 * classifier.row['acc1']:.1f} %" in html and "&lt;b&gt;green" in html and "<b>green" not in html
    assert "red/0.png" in html.split("<h2>Duplicates</h2>")[1]  # an image that stands in both classes
    assert "data:image/jpeg;base64," in html
    assert remove_run(run) == [] and not run.exists()
    with pytest.raises(InputError, match="no report"):
        cafe.Classifier.zero_shot(["cat", "dog"]).report()

"""What the page of a fit gathers, and that it stays with the run and goes with it."""

import numpy as np
import pytest
from PIL import Image

import cafe
from cafe.classifier.reporting import near_pairs
from cafe.errors import InputError
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
    assert sorted((i, j) for i, j, _ in near_pairs(rows, labels, parts)) == [(3, 1400), (4, 1401)]


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

"""From photographs through two encoders to a prediction, as the command line and Python do it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cafe import Classifier, load_features
from cafe.cli.app import call
from cafe.encoders import open_encoder
from cafe.encoders.examples import save_tiny_dinov2
from cafe.features import side_by_side

COLOURS = {"cat": (40, 90, 190), "cow": (120, 120, 60), "dog": (200, 60, 60)}


def picture(colour, seed):
    noise = np.random.default_rng(seed).normal(0, 30, (20, 24, 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder of photographs, the model of images alone, and a cache by each encoder."""
    folder = tmp_path_factory.mktemp("desk")
    for number, (name, colour) in enumerate(COLOURS.items()):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(10):
            picture(colour, 100 * number + i).save(folder / "photos" / name / f"{i}.png")
    picture(COLOURS["dog"], 999).save(folder / "new.png")
    save_tiny_dinov2(folder / "dino")
    models = f"cafe:mini,{folder / 'dino'}"
    caches = ["--cache-dir", str(folder / "caches"), "--quiet"]
    assert call(["extract", str(folder / "photos"), "--model", models, "--split", "60/0/40", *caches]) == 0
    return folder


@pytest.fixture
def both(desk, monkeypatch, cafe):
    """Both caches, as --cache takes them; commands of this test find them by name."""
    monkeypatch.setenv("CAFE_CACHE", str(desk / "caches"))
    clip, dino = sorted((desk / "caches").glob("*.h5"))
    return f"{clip.stem},{dino.stem}"


def test_fit_names_both_and_its_run_predicts(cafe, desk, both, tmp_path):
    """--cache in either order; a new photograph is encoded by both, one of the fit is taken from both caches."""
    for names in (both, ",".join(reversed(both.split(",")))):
        document = cafe("fit", "--cache", names, "--shots", 3, "--out", tmp_path / "run", "--json").json
    (row,) = document["rows"]
    clip, dino = (load_features(desk / "caches" / f"{name}.h5") for name in both.split(","))
    assert row["encoder"] == f"cafe:mini+{desk / 'dino'}"
    prints = [part.provenance["fingerprint"] for part in (clip, dino)]
    assert row["cache_fingerprint"] == "+".join(prints)
    assert [cache.rsplit("/", 1)[1] for cache in document["cache"].split(",")] == [f"{n}.h5" for n in both.split(",")]
    assert set(row["auto"]) >= {"text_scale", "residual", "images", "second_images"}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["encoders"] == ["cafe:mini", str(desk / "dino")]
    if (card := tmp_path / "run" / "README.md").is_file():
        assert "cafe:mini+dino" in card.read_text(encoding="utf-8")
        assert str(desk) not in card.read_text(encoding="utf-8")

    here = cafe("predict", desk / "new.png", desk / "photos" / "cow", "--run", tmp_path / "run", "--json").json
    assert [image["predictions"][0]["class"] for image in here["images"]] == ["dog"] + ["cow"] * 10
    classifier = Classifier.load(tmp_path / "run")
    encoders = [open_encoder(name, "cpu") for name in ("cafe:mini", str(desk / "dino"))]
    new = Image.open(desk / "new.png")
    features = side_by_side(*(encoder.encode_images(encoder.cropper(new)[None]) for encoder in encoders))
    expected = classifier.estimator.predict_proba(features)[0]
    np.testing.assert_allclose(classifier.predict_proba(desk / "new.png")[0], expected, atol=1e-6)


def test_an_image_that_both_caches_hold_is_not_encoded(desk, both, tmp_path, cafe, monkeypatch):
    fit = ("fit", "--cache", both, "--method", "linear-map", "--no-promises")
    assert cafe(*fit, "--out", tmp_path / "run").code == 0
    photograph = desk / "photos" / "cat" / "3.png"
    classifier = Classifier.load(tmp_path / "run", cache_dir=desk / "caches")
    expected = Classifier.load(tmp_path / "run", cache_dir=tmp_path / "nothing").predict_proba(photograph)
    for encoder in classifier.encoder.encoders:
        monkeypatch.setattr(encoder, "encode_images", None)
    # From float16: 11 bits of each number, of 152; probabilities are steep in what they read.
    np.testing.assert_allclose(classifier.predict_proba(photograph), expected, atol=0.01)


def test_fit_on_a_folder_extracts_by_both_at_once(cafe, desk, tmp_path):
    """And what is in a cache by one of them is not encoded by it again."""
    folder = tmp_path / "photos"
    shutil.copytree(desk / "photos", folder)
    models = f"cafe:mini,{desk / 'dino'}"
    options = ("--method", "zero-shot-plus", "--refit", "--no-promises", "--json")
    first = cafe("fit", folder, "--model", models, *options).json
    assert [summary["encoded"] for summary in first["extraction"]] == [30, 30]
    assert first["rows"][0]["n_test"] == 30  # by cross-validation, and refitted on all
    again = cafe("fit", folder, "--model", models, *options).json
    assert again["extraction"] is None
    assert again["rows"][0]["acc1"] == first["rows"][0]["acc1"]
    (tmp_path / "caches" / first["cache"].split(",")[1].rsplit("/", 1)[1]).unlink()
    third = cafe("fit", folder, "--model", models, *options).json
    assert third["extraction"]["encoder"] == str(desk / "dino")
    assert cafe("predict", desk / "new.png", "--json").json["images"][0]["predictions"][0]["class"] == "dog"


def test_python_joins_caches_or_features(desk, both):
    parts = [load_features(desk / "caches" / f"{name}.h5") for name in both.split(",")]
    options = {"shots": 3, "promises": False}
    fits = [
        Classifier.fit(parts[0].join(parts[1]), **options),
        Classifier.fit(parts[::-1], **options),
        Classifier.fit([desk / "caches" / f"{name}.h5" for name in both.split(",")], **options),
    ]
    for classifier in fits:
        assert classifier.row["encoder"] == f"cafe:mini+{desk / 'dino'}"
        assert classifier.predict(desk / "new.png").tolist() == ["dog"]
        np.testing.assert_array_equal(classifier.estimator.weights_, fits[0].estimator.weights_)


def test_compare_has_each_encoder_and_both(cafe, desk, both, tmp_path):
    options = ("--shots", 2, "--seeds", "1,2", "--methods", "auto,cross-modal-linear-probe", "--out", tmp_path / "out")
    document = cafe("compare", "baselines", "--cache", both, *options, "--json").json
    rows = [row["encoder"] for row in document["rows"] if row["method"] == "auto"]
    assert rows == [name for name in ("cafe:mini", str(desk / "dino"), f"cafe:mini+{desk / 'dino'}") for _ in range(2)]
    (note,) = document["notes"]
    assert "cross-modal-linear-probe learns from one encoder alone" in note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("same cache", ["is named more than once"]),
        ("three caches", ["takes one cache, or two of the same images"]),
        ("other images", ["of split 'train' are not in the cache of"]),
        ("other classes", ["are of different classes (3 and 2"]),
        ("same encoder", ["both caches are of cafe:mini"]),
        ("coop", ["coop learns from one encoder alone", "take another method"]),
    ],
)
def test_what_cannot_be_joined_is_refused_in_a_sentence(cafe, desk, both, tmp_path, change, words):
    clip, dino = both.split(",")
    extra, second = [], dino
    if change == "same cache":
        second = clip
    elif change == "three caches":
        second = f"{dino},third"
    elif change == "coop":
        extra = ["--method", "coop"]
    else:
        folder = tmp_path / "others"
        for number, (name, colour) in enumerate(COLOURS.items()):
            (folder / name).mkdir(parents=True)
            for i in range(10):
                picture(colour, 5000 + 100 * number + i).save(folder / name / f"{i}.png")
        if change == "other classes":
            shutil.rmtree(folder / "cow")
        second, model = tmp_path / "second.h5", "cafe:mini" if change == "same encoder" else desk / "dino"
        assert cafe("extract", folder, "--model", model, "--out", second).code == 0
    cafe("fit", "--cache", f"{clip},{second}", *extra).refused(*words)


def test_a_run_of_two_encoders_refuses_one_that_changed(cafe, desk, both, tmp_path):
    """The folder of the second encoder has other weights now; and --model must name both."""
    fit = ("fit", "--cache", both, "--method", "zero-shot-plus", "--no-promises")
    assert cafe(*fit, "--out", tmp_path / "run").code == 0
    other = save_tiny_dinov2(tmp_path / "other", seed=1)
    assert cafe("export", "--run", tmp_path / "run", "--out", tmp_path / "a.onnx").code == 0  # both towers in one file
    new, run = desk / "new.png", ("--run", tmp_path / "run")
    cafe("predict", new, *run, "--model", "cafe:mini").refused("is of two encoders", "--model takes both, as A,B")
    cafe("predict", new, *run, "--model", f"cafe:mini,{other}").refused(
        "is not the one that this run was fitted with", "weights_sha256"
    )
    shutil.copytree(desk / "dino", tmp_path / "moved")
    assert cafe("predict", new, *run, "--model", f"cafe:mini,{tmp_path / 'moved'}").code == 0

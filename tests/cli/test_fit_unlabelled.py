"""``cafe fit --unlabelled``, and methods whose rows say what was learned from."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def digits_cache(tmp_path_factory):
    """The digits that come with cafe, extracted once for this file."""
    from cafe.cli.app import call

    folder = tmp_path_factory.mktemp("caches")
    assert call(["extract", "--dataset", "digits", "--cache-dir", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def digits(cafe, cache_dir, digits_cache):
    cache_dir.mkdir(exist_ok=True)
    for path in digits_cache.glob("*.h5"):
        shutil.copy(path, cache_dir / path.name)
    return cafe


def test_a_split_is_learned_from_without_its_labels(digits):
    alone = digits("fit", "--method", "ss-text", "--shots", 1, "--json").json["rows"][0]
    outcome = digits("fit", "--method", "ss-text", "--shots", 1, "--unlabelled", "train", "--json")
    (row,) = outcome.json["rows"]
    assert outcome.code == 0, outcome.err
    assert (row["n_train"], row["unlabelled"]) == (10, "split train")
    assert row["n_unlabelled"] > 500  # all but the shots
    assert row["params"]["unlabelled"] == -1
    assert (row["chosen_on"], alone["chosen_on"]) == ("unlabelled rows", "nothing")
    assert "n_unlabelled" not in alone and "transductive" not in row
    assert row["acc1"] != alone["acc1"]
    said = digits("fit", "--method", "ss-text", "--shots", 1, "--unlabelled", "train").out
    assert f"and {row['n_unlabelled']:,} unlabelled (split train)" in said


def test_the_test_split_makes_a_row_transductive(digits):
    outcome = digits("fit", "--method", "ss-text", "--shots", 1, "--unlabelled", "test", "--json")
    assert outcome.json["rows"][0]["transductive"] is True
    assert "transductive" in outcome.err


def test_a_folder_is_encoded_and_what_is_tested_on_is_left_out(digits, tmp_path):
    """Digits as files: those of the test split among them are found by their features."""
    images = load_digits().images
    folder = tmp_path / "photos"
    folder.mkdir()
    from cafe.data import open_dataset

    test = open_dataset("digits")
    for i in range(3):
        test.image("test", i).save(folder / f"tested-{i}.png")
    for i in range(12):
        test.image("train", i).save(folder / f"new-{i}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    outcome = digits("fit", "--method", "ss-text", "--shots", 1, "--unlabelled", folder, "--json")
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["rows"]
    assert (row["n_unlabelled"], row["unlabelled"]) == (12, str(folder))
    assert "3 of 15 unlabelled images are tested on" in outcome.err
    assert "1 of 16 images were left out" in outcome.err
    # The run names what is on a new photograph, like any other.
    Image.fromarray(np.uint8(images[0] * 15)).save(tmp_path / "new.png")
    predicted = digits("predict", tmp_path / "new.png", "--run", outcome.json["run"], "--json")
    assert predicted.code == 0 and len(predicted.json["images"][0]["predictions"]) == 3


def test_new_methods_name_new_photographs(digits, tmp_path):
    Image.fromarray(np.uint8(load_digits().images[0] * 15)).save(tmp_path / "new.png")
    for method in ("proker", "stat-a"):
        run = digits("fit", "--method", method, "--shots", 2, "--json").json["run"]
        outcome = digits("predict", tmp_path / "new.png", "--run", run, "--json")
        assert outcome.code == 0, outcome.err
        assert len(outcome.json["images"][0]["predictions"]) == 3


def test_what_learned_from_no_image_names_no_shots(digits):
    rows = [digits("fit", "--method", m, "--shots", 2, "--json").json["rows"][0] for m in ("zero-shot", "stat-a")]
    said = [(row["shots"], row["n_train"], row["chosen_on"]) for row in rows]
    assert said == [(0, 0, "nothing"), (0, 0, "the batch")]
    assert rows[1]["transductive"] is True


def test_weighted_templates_learn_from_the_shots_and_need_several(digits, tmp_path):
    """A row once said that it had learned from every image where there was nothing to weigh."""
    weighted = ("fit", "--method", "zero-shot", "--set", "template_weights=timo")
    for shots in ((), ("--shots", 2)):
        digits(*weighted, *shots).refused("every class has one; extract with several", "--templates imagenet-7")
    assert digits("extract", "--dataset", "digits", "--templates", "imagenet-7", "--quiet").code == 0
    outcome = digits(*weighted, "--shots", 2, "--json")
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["rows"]
    assert (row["shots"], row["seed"], row["n_train"], row["chosen_on"]) == (2, 1, 20, "nothing")
    assert row["params"]["template_weights"] == "timo" and "text_features" not in row["params"]
    Image.fromarray(np.uint8(load_digits().images[0] * 15)).save(tmp_path / "new.png")
    predicted = digits("predict", tmp_path / "new.png", "--run", outcome.json["run"], "--json")
    assert predicted.code == 0 and len(predicted.json["images"][0]["predictions"]) == 3


def test_what_cannot_be_is_refused(digits, tmp_path):
    digits("fit", "--method", "gda", "--unlabelled", "train").refused("gda does not learn from unlabelled", "ss-text")
    nothing = digits("fit", "--method", "ss-text", "--unlabelled", "nowhere")
    nothing.refused("a split of the data set (train, ", "or a folder of images", "'nowhere'")
    (tmp_path / "empty").mkdir()
    digits("fit", "--method", "ss-text", "--unlabelled", tmp_path / "empty").refused("no image in the folder")
    digits("fit", "--method", "ss-text", "--unlabelled", "train").refused("no unlabelled image is left of split train")
    digits("fit", "--method", "ss-text", "--set", "unlabelled=-1").refused("--unlabelled")
    digits("fit", "--method", "zero-shot", "--set", "template_weights=tim").refused("did you mean 'timo'")


def test_a_cache_without_an_encoder_cannot_encode_a_folder(cafe, blobs, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    refused = cafe("fit", "--cache", blobs, "--method", "ss-text", "--shots", 2, "--unlabelled", tmp_path)
    assert refused.code == 2 and "Traceback" not in refused.err
    assert "encoder" in refused.err or "made-up" in refused.err


def test_a_fit_on_all_labelled_images_keeps_those_without_labels(cafe, tmp_path):
    images, labels = load_digits(return_X_y=True)
    for kind, name in ((0, "zero"), (1, "one"), (2, "two")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in np.flatnonzero(labels == kind)[:60]:
            Image.fromarray(np.uint8(images[i].reshape(8, 8) * 15)).save(tmp_path / "mine" / name / f"{i}.png")
    (tmp_path / "more").mkdir()
    for i in np.flatnonzero(labels == 1)[100:120]:
        Image.fromarray(np.uint8(images[i].reshape(8, 8) * 15)).save(tmp_path / "more" / f"{i}.png")
    outcome = cafe(
        "fit", tmp_path / "mine", "--method", "ss-text", "--unlabelled", tmp_path / "more", "--refit", "--json"
    )
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["rows"]
    assert (row["refitted_on"], row["n_unlabelled"]) == (180, 20)
    from cafe.runs import load

    assert load(outcome.json["run"]).n_unlabelled_ == 20

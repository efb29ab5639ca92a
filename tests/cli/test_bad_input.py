"""Bad input gets one clear sentence and exit code 2, and loses nothing."""

from __future__ import annotations

import h5py
import pytest


def refused(outcome, *parts):
    """See `Outcome.refused`; what is said in words stands first here."""
    outcome.refused(*parts)


def test_no_such_folder(cafe, tmp_path):
    refused(cafe("extract", "--dataset", tmp_path / "nowhere"), "no such file or folder", "nowhere")


def test_unknown_dataset_names_the_nearest(cafe):
    refused(cafe("extract", "--dataset", "digit"), "unknown data set 'digit'", "did you mean 'digits'?")


def test_an_empty_class_folder(cafe, photos):
    (photos / "fish").mkdir()
    refused(cafe("extract", "--dataset", photos), "fish")


def test_a_single_class(cafe, photos):
    for path in (photos / "dog").iterdir():
        path.unlink()
    (photos / "dog").rmdir()
    refused(cafe("extract", "--dataset", photos), "cat")


def test_unknown_method(cafe, blobs):
    refused(cafe("fit", "--method", "clipadapter"), "unknown method 'clipadapter'", "did you mean 'clip-adapter'?")
    refused(cafe("compare", "baselines", "--methods", "zeroshot"), "did you mean 'zero-shot'?")


def test_unknown_suite(cafe, blobs):
    refused(cafe("compare", "baseline"), "unknown suite 'baseline'", "did you mean 'baselines'?")


def test_unknown_model(cafe, photos):
    refused(cafe("extract", "--dataset", photos, "--model", "cafe:mimi"), "cafe:mimi", "did you mean 'cafe:mini'?")


def test_unknown_verb_and_option(cafe):
    refused(cafe("comapre"), "unknown verb 'comapre'", "did you mean 'compare'?")
    refused(cafe("cache", "verfy"), "did you mean 'verify'?")
    refused(cafe("fit", "--shot", "4"), "--shot", "--shots")


@pytest.mark.parametrize("verb", [["fit"], ["compare", "baselines"], ["cache", "info"], ["cache", "verify"]])
def test_no_cache_yet(cafe, verb):
    refused(cafe(*verb), "make one with: cafe extract FOLDER")


@pytest.mark.parametrize("verb", [["fit", "--cache"], ["compare", "baselines", "--cache"], ["cache", "info"]])
def test_a_truncated_and_a_foreign_file(cafe, blobs, tmp_path, verb):
    truncated, text, foreign = tmp_path / "truncated.h5", tmp_path / "text.h5", tmp_path / "foreign.h5"
    truncated.write_bytes(blobs.read_bytes()[:2000])
    text.write_text("not HDF5 at all")
    with h5py.File(foreign, "w") as file:
        file["weights"] = [1, 2, 3]
    for path in (truncated, text, foreign, tmp_path / "missing.h5"):
        before = path.read_bytes() if path.exists() else None
        refused(cafe(*verb, path), path.name)
        assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("alpha", ["-0.1", "1.5", "nan", "inf"])
def test_alpha_outside_zero_to_one(cafe, blobs, alpha):
    refused(cafe("fit", "--alpha", alpha, "--shots", 2), "alpha")


def test_alpha_that_is_no_number(cafe, blobs):
    refused(cafe("fit", "--alpha", "high"), "--alpha", "'high'")


def test_unknown_variant(cafe, blobs):
    refused(cafe("fit", "--variant", "images", "--shots", 2), "variant", "image")


def test_a_parameter_that_the_method_does_not_take(cafe, blobs):
    refused(cafe("fit", "--method", "zero-shot", "--reduction", 4), "zero-shot", "reduction")


@pytest.mark.parametrize("reduction", ["0", "-4"])
def test_reduction_must_be_positive(cafe, blobs, reduction):
    refused(cafe("fit", "--reduction", reduction, "--shots", 2), "reduction")


def test_shots_must_be_positive(cafe, blobs):
    refused(cafe("fit", "--shots", 0), "--shots")
    refused(cafe("compare", "baselines", "--shots", "1,x"), "--shots", "'x'")
    refused(cafe("compare", "baselines", "--seeds", "-1"), "--seeds")


def test_unknown_selection_and_device(cafe, blobs):
    refused(cafe("fit", "--selection", "best", "--shots", 2), "best")
    refused(cafe("fit", "--device", "gpu", "--shots", 2), "gpu")


def test_the_same_cache_twice(cafe, blobs):
    refused(cafe("compare", "baselines", "--cache", f"{blobs},{blobs}"), "more than once")


def test_templates_without_a_slot(cafe, photos, tmp_path):
    templates = tmp_path / "templates.txt"
    templates.write_text("a photo of a {}.\na photo of nothing\n")
    refused(cafe("extract", "--dataset", photos, "--templates", templates), "line 2", "slot")
    refused(cafe("extract", "--dataset", photos, "--templates", "a photo"), "a photo", "{}")


def test_unknown_split_and_policy(cafe, photos):
    refused(cafe("extract", "--dataset", photos, "--on-error", "ignore"), "--on-error", "skip")
    refused(cafe("extract", "--dataset", photos, "--stored-dtype", "int8"), "--stored-dtype", "float16")


def test_predict_without_a_run_or_an_image(cafe, photos, tmp_path):
    refused(cafe("predict", "--run", tmp_path / "no-run", photos), "no-run")
    refused(cafe("predict", "--run", tmp_path, tmp_path / "no-image.jpg"), "no such image or folder", "no-image.jpg")
    refused(cafe("predict", "--run", tmp_path, photos, "--top", 0), "--top")


def test_one_unreadable_image_is_a_warning_with_its_id(cafe, photos, tiny_clip_folder):
    (photos / "cat" / "3.png").write_bytes(b"broken")
    outcome = cafe("extract", "--dataset", photos, "--model", tiny_clip_folder, "--json")
    assert outcome.code == 0
    assert [entry["sample_id"] for entry in outcome.json["unreadable"]] == ["cat/3.png"]
    assert "warning:" in outcome.err and "cat/3.png" in outcome.err
    assert sum(outcome.json["splits"].values()) == 15
    refused(cafe("extract", "--dataset", photos, "--model", tiny_clip_folder, "--on-error", "fail"), "cat/3.png")


def test_fewer_images_than_shots_is_a_warning(cafe, make_cache):
    make_cache("few")
    outcome = cafe("fit", "--method", "tip-adapter", "--alpha", "1", "--beta", "5", "--shots", 50, "--json")
    assert outcome.code == 0
    assert outcome.json["rows"][0]["n_train"] == 80
    assert "warning: 4 classes have fewer than 50 train images (class 0, class 1, class 2, class 3)" in outcome.err


def test_a_number_that_is_none_is_named(cafe, blobs):
    refused(cafe("fit", "--shots", "few"), "--shots", "got 'few'")
    refused(cafe("predict", "--run", "r", "i.png", "--top", "all"), "--top", "got 'all'")


@pytest.mark.parametrize("verb", [["fit"], ["compare", "baselines", "--shots", 1]])
def test_a_cache_without_a_test_split(cafe, make_cache, verb):
    path = make_cache("half", splits=("train", "val"))
    refused(cafe(*verb, "--cache", path), "half has no split 'test', but only train, val", "extract both")


def test_choosing_on_the_test_set_is_warned_of_wherever_it_shows(cafe, blobs, tmp_path):
    wish = ["--method", "tip-adapter", "--alpha", "auto", "--shots", 2, "--selection", "oracle-test"]
    outcome = cafe("fit", *wish, "--quiet")
    assert outcome.code == 0
    assert "by oracle-test" in outcome.out
    assert "warning: settings were chosen on the test set" in outcome.err
    assert cafe("fit", *wish, "--json").json["rows"][0]["oracle"] is True
    compared = ["compare", "baselines", "--methods", "tip-adapter", "--shots", 2, "--selection", "oracle-test"]
    assert "† settings chosen on the test set" in cafe(*compared, "--out", tmp_path / "report").out
    for name in ("table.md", "report.html"):
        assert "an upper bound, not a result" in (tmp_path / "report" / name).read_text(encoding="utf-8")


@pytest.fixture
def two_models(tmp_path, make_tiny_clip):
    return [make_tiny_clip(tmp_path / "models" / str(seed) / "clip", seed=seed) for seed in (1, 2)]


def test_a_named_cache_made_by_another_encoder_is_refused(cafe, photos, two_models, tmp_path):
    out = tmp_path / "photos.h5"
    assert cafe("extract", "--dataset", photos, "--model", two_models[0], "--out", out).code == 0
    before = out.read_bytes()
    refused(cafe("extract", "--dataset", photos, "--model", two_models[1], "--out", out), "photos.h5", "weights_sha256")
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.h5")] == ["photos.h5"]


def test_predicting_with_another_encoder_is_refused(cafe, photos, two_models, tmp_path):
    assert cafe("extract", "--dataset", photos, "--model", two_models[0]).code == 0
    run = tmp_path / "run"
    assert cafe("fit", "--shots", 2, "--alpha", 0.2, "--out", run).code == 0
    refused(cafe("predict", "--run", run, photos, "--model", two_models[1]), "weights_sha256")
    assert cafe("predict", "--run", run, photos).code == 0

"""From a folder of images to predictions: what `cafe fit FOLDER` and `cafe predict` do with what people have."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cafe as cafe_package

SCRIPTS = ["Katze", "кошка", "猫", "قطة", "a=b; c", "🐈"]


def picture(seed: int, channel: int = 0) -> Image.Image:
    """Make a picture that differs for every seed, of one colour in the main."""
    pixels = np.random.default_rng(seed).integers(0, 120, (24, 24, 3), dtype=np.uint8)
    pixels[..., channel] += 100
    return Image.fromarray(pixels)


def make_folder(root: Path, **numbers: int) -> Path:
    """Make a folder of images for each class, so many in each."""
    for label, (name, number) in enumerate(numbers.items()):
        (root / name).mkdir(parents=True)
        for i in range(number):
            picture(1000 * label + i, label % 3).save(root / name / f"{i}.png")
    return root


def fitted(cafe, *arguments: object) -> dict:
    outcome = cafe("fit", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    return {**outcome.json, "row": outcome.json["rows"][0], "err": outcome.err}


def test_a_folder_of_many_images_is_divided_tested_and_kept_whole(cafe, tmp_path):
    """170 images: 85 train, 34 val, 51 test; then one more fit on all of them."""
    folder = make_folder(tmp_path / "photos", cat=100, dog=70)
    done = fitted(cafe, folder)
    row = done["row"]
    assert (row["method"], row["n_train"], row["n_test"]) == ("auto", 85, 51)
    assert (row["tested_by"], row["refitted_on"]) == ("test split", 170)
    assert "divided 50/20/30, copies kept together: train 85 (50%), val 34 (20%), test 51 (30%)" in done["err"]
    assert "tested on 51 images, then fitted again on all 170 labelled images; that fit is kept" in done["err"]
    # The hint stands before the work, with the command to type.
    hint = f"cafe fit {folder} --model openai/clip-vit-base-patch32"
    assert done["err"].index(hint) < done["err"].index("opening the encoder cafe:mini")

    again = fitted(cafe, folder, "--no-refit", "--no-promises")
    assert again["extraction"] is None  # its features are there
    assert again["row"]["refitted_on"] is None and again["row"]["acc1"] == row["acc1"]
    for options in (["--shots", 4], ["--method", "tip-adapter"], ["--alpha", 0.5]):
        assert fitted(cafe, folder, *options, "--no-promises")["row"]["refitted_on"] is None, options
    options = ["--method", "tip-adapter", "--no-promises"]
    assert fitted(cafe, folder, *options, "--refit")["row"]["refitted_on"] == 170

    split = fitted(cafe, folder, "--split", "70/0/30", "--method", "zero-shot", "--no-promises")
    assert "divided 70/0/30, copies kept together: train 119 (70%), test 51 (30%)" in split["err"]
    cafe("fit", folder, "--split", "70/10").refused("per cent of train, val and test that sum to 100", "'70/10'")


def test_photographs_with_the_embedded_model_get_a_hint(cafe, photos):
    """It knows drawings and glyphs, so that a newcomer's photographs would look like chance."""
    outcome = cafe("extract", "--dataset", photos, "--model", "cafe:mini", "--workers", 0)
    assert outcome.code == 0, outcome.err
    assert f"cafe extract {photos} --model openai/clip-vit-base-patch32" in outcome.err


def test_few_images_are_tested_by_cross_validation(cafe, photos):
    done = fitted(cafe, photos)
    row = done["row"]
    assert (row["tested_by"], row["n_test"], row["refitted_on"]) == ("cross-validation", 16, 16)
    assert 8 <= row["n_train"] < 16
    low, high = row["acc1_interval"]  # of 16 images, not of the 48 tests: at least 19 points wide (Wilson, 16 of 16)
    assert low < row["acc1"] <= high and high - low > 0.19
    assert row["acc1"] > 0.8  # blue-ish and red-ish: easy, with images that no fit has seen
    assert "by cross-validation" in cafe("fit", photos, "--method", "tip-adapter", "--no-promises").out


def test_a_test_split_of_the_folder_is_never_learned_from(cafe, photos, tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            target = tmp_path / "split" / split / name
            target.mkdir(parents=True)
            for i in range(4):
                shutil.copy(photos / name / f"{i + 4 * (split == 'test')}.png", target)
    row = fitted(cafe, tmp_path / "split", "--no-promises")["row"]
    assert (row["tested_by"], row["n_train"], row["n_test"], row["refitted_on"]) == ("test split", 8, 8, None)
    cafe("fit", tmp_path / "split", "--refit").refused("the test split of this data set is its own")
    cafe("fit", tmp_path / "split", "--split", "70/10/20").refused("has splits of its own")


@pytest.mark.parametrize("what", ["one image a class", "identical in each class", "identical everywhere"])
def test_where_no_test_is_possible_it_says_so_and_fits(what, cafe, tmp_path):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "few" / name).mkdir(parents=True)
        for i in range(1 if what.startswith("one") else 3):
            picture(0 if what.endswith("everywhere") else label).save(tmp_path / "few" / name / f"{i}.png")
    done = fitted(cafe, tmp_path / "few")
    row = done["row"]
    assert (row["acc1"], row["n_test"], row["tested_by"]) == (None, 0, None)
    assert "no test is possible" in done["err"] and "fitted all the same" in done["err"]
    assert "no test is possible" in cafe("runs", "info").out
    assert cafe("predict", tmp_path / "few" / "cat" / "0.png").code == 0
    assert cafe("runs", "ls").code == 0


def test_bad_folders_get_a_sentence(cafe, tmp_path):
    cafe("fit", make_folder(tmp_path / "one_class", cat=3)).refused("holds a single class, 'cat'")
    cafe("fit", make_folder(tmp_path / "one_image", cat=1)).refused("holds a single class")
    cafe("fit", tmp_path / "nowhere").refused("no such file or folder")
    cafe("fit", "digts").refused("did you mean 'digits'?")
    cafe("fit", "https://example.org/photos").refused("address")
    cafe("extract").refused("give one data set: cafe extract FOLDER")


def test_a_text_file_that_is_called_an_image_is_left_out_and_named(cafe, photos):
    (photos / "cat" / "notes.jpg").write_text("milk, bread")
    outcome = cafe("fit", photos, "--no-promises")
    assert outcome.code == 0, outcome.err
    assert "'cat/notes.jpg'" in outcome.err and "it is not an image" in outcome.err


def test_what_lies_in_a_folder_is_said_again_when_its_features_are_there(cafe, photos):
    shutil.copy(photos / "cat" / "0.png", photos / "dog" / "copy.png")
    (photos / "cat" / "notes.txt").write_text("milk, bread")
    (photos / "cat" / "broken.jpg").write_text("milk, bread")
    first, again = (fitted(cafe, photos, "--method", "zero-shot", "--no-promises") for _ in range(2))
    assert again["extraction"] is None
    assert first["contents"] == again["contents"] == first["extraction"]["contents"]
    assert [file["path"] for file in first["contents"]["left_out"]] == ["cat/notes.txt"]
    (group,) = first["contents"]["identical"]
    assert {sample["sample_id"] for sample in group} == {"cat/0.png", "dog/copy.png"}
    for done in (first, again):
        for word in ("cat/broken.jpg", "cat/0.png", "dog/copy.png"):
            assert word in done["err"] and any(word in note for note in done["notes"]), word
    assert fitted(cafe, "--method", "zero-shot", "--no-promises")["contents"] is None  # a cache alone


def test_class_names_of_any_script(cafe, tmp_path):
    folder = make_folder(tmp_path / "photos", **dict.fromkeys(SCRIPTS, 4))
    fitted(cafe, folder)
    document = cafe("predict", folder, "--json").json
    assert {guess["class"] for image in document["images"] for guess in image["predictions"]} <= set(SCRIPTS)
    assert cafe("predict", folder, "--out", tmp_path / "preds.csv").code == 0
    with (tmp_path / "preds.csv").open(encoding="utf-8", newline="") as stream:
        assert {row["label"] for row in csv.DictReader(stream)} == set(SCRIPTS)


def test_the_model_is_that_of_the_folders_cache_then_of_the_environment(cafe, photos, tiny_clip_folder, monkeypatch):
    quick = ["--method", "zero-shot", "--no-promises"]
    monkeypatch.setenv("CAFE_MODEL", str(tiny_clip_folder))
    assert fitted(cafe, photos, *quick)["row"]["encoder"] == str(tiny_clip_folder)
    assert fitted(cafe, photos, *quick, "--model", "cafe:mini")["row"]["encoder"] == "cafe:mini"
    picture(77, 2).save(photos / "cat" / "new.png")
    done = fitted(cafe, photos, *quick)
    assert done["row"]["encoder"] == "cafe:mini" and done["extraction"] is not None
    assert "opening the encoder cafe:mini, as for photos--cafe-mini" in done["err"]


def test_the_cache_and_run_last_used_are_taken_and_marked(cafe, make_cache, tmp_path):
    old, new = make_cache("blobs"), make_cache("drops")

    def current(what: str) -> list[str]:
        return [entry["path"] for entry in cafe(what, "ls", "--json").json[what] if entry["current"]]

    # `cafe runs ls --json` has "runs", `cafe cache ls --json` has "caches".
    def current_cache() -> list[str]:
        return [entry["path"] for entry in cafe("cache", "ls", "--json").json["caches"] if entry["current"]]

    assert current_cache() == [str(new)]
    first = fitted(cafe, "--cache", "blobs", "--method", "zero-shot")
    assert current_cache() == [str(old)] and current("runs") == [first["run"]]
    assert str(old) in cafe("cache", "info").out
    assert current_cache() == [str(old)]
    second = fitted(cafe, "drops", "--method", "zero-shot", "--out", tmp_path / "elsewhere")
    assert second["row"]["dataset"] == "drops"
    assert current_cache() == [str(new)] and current("runs") == [str(tmp_path / "elsewhere")]
    text = cafe("runs", "ls").out.splitlines()
    assert text[1].startswith("*") and str(tmp_path / "elsewhere") in text[1] and not text[2].startswith("*")
    assert f"showing the run last used: {tmp_path / 'elsewhere'}" in cafe("runs", "info").err


def test_runs_are_removed_and_nothing_else(cafe, blobs, cache_dir, tmp_path):
    kept, gone = (Path(fitted(cafe, "--method", "zero-shot", "--cache", "blobs")["run"]) for _ in range(2))
    other = tmp_path / "mine"
    fitted(cafe, "--method", "zero-shot", "--out", other)
    (other / "notes.txt").write_text("mine")
    cafe("runs", "rm", gone.name, "nothing", "--yes").refused("there is no run 'nothing'")
    cafe("runs", "rm", tmp_path, "--yes").refused("is not a run folder")
    cafe("runs", "rm", gone.name).refused("say --yes")
    assert gone.is_dir()
    outcome = cafe("runs", "rm", gone.name, other, "--yes")
    assert outcome.code == 0 and "which stay: notes.txt" in outcome.err
    assert not gone.exists() and kept.is_dir() and blobs.is_file()
    assert [path.name for path in other.iterdir()] == ["notes.txt"]
    (kept / "run.json").write_text("{")
    assert "damaged" in cafe("runs", "ls").out and cafe("runs", "rm", kept.name, "-y").code == 0


@pytest.fixture(scope="module")
def fit_of_photos(tmp_path_factory, write_photos):
    """Two classes of eight photographs, and the cache folder of a fit on them."""
    root = tmp_path_factory.mktemp("fitted")
    write_photos(root / "photos", "png")
    cafe_package.Classifier.fit(root / "photos", cache_dir=root / "caches", save=True)
    return root


@pytest.fixture
def classified(cafe, fit_of_photos, tmp_path, cache_dir):
    """A run on photographs; photographs, cache and run are this test's own."""
    shutil.copytree(fit_of_photos / "photos", tmp_path / "photos")
    shutil.copytree(fit_of_photos / "caches", cache_dir)
    return tmp_path / "photos"


def test_predict_takes_files_folders_patterns_and_a_list(cafe, classified, monkeypatch, tmp_path):
    monkeypatch.chdir(classified)
    everything = [str(classified / name / f"{i}.png") for name in ("cat", "dog") for i in range(8)]

    def named(*paths: object) -> list[str]:
        outcome = cafe("predict", *paths, "--json")
        assert outcome.code == 0, outcome.err
        return [image["image"] for image in outcome.json["images"]]

    assert named(classified) == everything
    assert named(f"{classified}/*/*.png") == everything
    assert named(f"{classified}/**/3.png", classified / "cat" / "3.png") == [everything[3], everything[11]]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{classified}/cat/1.png\n\n{classified}/dog\n"))
    assert named("-") == [everything[1], *everything[8:]]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    cafe("predict", "-").refused("standard input names no image")
    for odd in ("x" * 5000, "a\0b", ""):
        cafe("predict", odd).refused("no such image or folder")
    lines = cafe("predict", classified / "dog").out.splitlines()
    assert len(lines) == 8 and all(" dog " in line for line in lines)
    for address in ("https://example.org/a.jpg", "s3://bucket/a.jpg"):
        cafe("predict", address).refused("is an address")
    cafe("predict", tmp_path / "nowhere.png").refused("no such image or folder")
    cafe("predict", f"{classified}/*.webp").refused("no file fits the pattern")


def test_predict_writes_a_table(cafe, classified, tmp_path):
    shutil.copytree(classified / "cat", tmp_path / "new" / "=cmd")
    (tmp_path / "new" / "=cmd" / "broken.png").write_bytes(b"broken")
    (tmp_path / "new" / "notes.txt").write_text("no image")
    out = tmp_path / "preds.csv"
    outcome = cafe("predict", tmp_path / "new", "--out", out, "--top", 2)
    assert outcome.code == 0, outcome.err
    assert "8 images named" in outcome.out and "notes.txt" in outcome.err and "broken.png" in outcome.err
    with out.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    guesses = ["class", "probability", "class_2", "probability_2"]
    assert list(rows[0]) == ["image", *guesses, "unknown", "unknown_score", "set", "unreadable"]
    assert [row["class"] for row in rows] == ["cat"] * 8 + [""]
    assert rows[-1]["unreadable"].startswith("it is not an image")
    for row in rows[:-1]:
        assert float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1, abs=2e-6)
    cafe("predict", tmp_path / "new", "--out", out).refused("is there already", "--force")
    assert cafe("predict", tmp_path / "new", "--out", out, "--force").code == 0
    cafe("predict", tmp_path / "new", "--out", tmp_path / "preds.txt").refused("ends in .csv")


def test_names_of_classes_alone_are_zero_shot(cafe, photos):
    outcome = cafe("predict", "--classes", "circle, square,star", photos, "--json", "--model", "cafe:mini")
    assert outcome.code == 0, outcome.err
    document = outcome.json
    assert document["run"] is None and len(document["images"]) == 16
    assert {guess["class"] for guess in document["images"][0]["predictions"]} == {"circle", "square", "star"}
    cafe("predict", "--classes", "cat", photos).refused("at least two names that differ")
    cafe("predict", "--classes", "cat,cat", photos).refused("at least two names that differ")
    cafe("predict", "--classes", "cat,dog", "--run", "x", photos).refused("not both")
    cafe("predict", "--templates", "a {}", photos).refused("--templates go with --classes")


def test_predict_without_a_run_says_how_to_make_one(cafe, photos):
    cafe("predict", photos).refused("there is no run", "cafe fit FOLDER")


def test_a_hundred_megapixels_are_read_without_a_word(cafe, classified, tmp_path):
    Image.new("L", (10_000, 10_000), 90).save(tmp_path / "huge.png")
    outcome = cafe("predict", tmp_path / "huge.png")
    assert outcome.code == 0 and "warning" not in outcome.err.lower()


def test_export_without_a_known_ending_names_the_formats(cafe, blobs, tmp_path):
    for name in ("features", "features.dat"):
        cafe("cache", "export", "--out", tmp_path / name).refused(".npz, .parquet, .safetensors", "--format")


def test_compare_takes_all_shots(cafe, blobs):
    outcome = cafe("compare", "baselines", "--shots", "1,all", "--seeds", "1", "--methods", "tip-adapter", "--json")
    assert outcome.code == 0, outcome.err
    assert {row["shots"]: row["n_train"] for row in outcome.json["rows"]} == {1: 4, None: 80}
    page = Path(outcome.json["files"]["report.html"] if isinstance(outcome.json["files"], dict) else next(
        name for name in outcome.json["files"] if name.endswith("report.html")
    ))  # fmt: skip
    assert "2 runs of 1 method on" in page.read_text(encoding="utf-8")


def test_images_that_were_fitted_are_left_out_of_the_evaluation_and_not_encoded_again(cafe, classified, monkeypatch):
    """Whatever they are called now: they are known by their bytes."""
    from cafe.encoders.standalone.encoder import StandaloneCLIP

    encoded: list[int] = []
    encode = StandaloneCLIP.encode_for_prediction

    def counting(self, crops, **options):
        encoded.append(len(crops))
        return encode(self, crops, **options)

    monkeypatch.setattr(StandaloneCLIP, "encode_for_prediction", counting)
    (classified / "cat" / "0.png").rename(classified / "cat" / "renamed.png")
    before = cafe("predict", classified, "--json")
    assert before.code == 0 and "no image is left to be tested on: 16 were fitted" in before.err
    assert before.json["evaluation"] is None and len(before.json["images"]) == 16
    assert encoded == []
    for name, channel in (("cat", 2), ("dog", 0)):
        for i in range(3):
            picture(5000 + 10 * channel + i, channel).save(classified / name / f"new-{i}.png")
    (classified / "bird").mkdir()
    picture(1).save(classified / "bird" / "0.png")
    outcome = cafe("predict", classified, "--json")
    evaluation = outcome.json["evaluation"]
    assert (evaluation["n_test"], evaluation["fitted"], evaluation["other_classes"]) == (6, 16, 1)
    assert evaluation["acc1"] == 1.0 and evaluation["recall"] == {"cat": 1.0, "dog": 1.0}
    assert len(outcome.json["images"]) == 23 and sum(encoded) == 7
    text = cafe("predict", classified).out.splitlines()[-1]
    assert text == (  # Wilson's interval of 6 in 6
        "accuracy 100.00 % (95 % interval 61.0 to 100.0) on 6 images of 2 classes; "
        "left out: 16 that the run was fitted on, 1 of other classes"
    )


def test_a_folder_in_python_in_three_lines(cafe, photos, tmp_path):
    classifier = cafe_package.Classifier.fit(photos, promises=False)
    names = classifier.predict([photos / "cat" / "1.png", picture(9001, 0)])
    assert names.tolist() == ["cat", "dog"]

    assert classifier.row["tested_by"] == "cross-validation" and classifier.run is None
    assert classifier.predict(photos / "cat").tolist() == ["cat"] * 8
    for i in range(4):
        (tmp_path / "more" / "dog").mkdir(parents=True, exist_ok=True)
        picture(7000 + i, 0).save(tmp_path / "more" / "dog" / f"{i}.png")
    evaluation = classifier.evaluate(tmp_path / "more")
    assert (evaluation.n_test, evaluation.acc1, evaluation.recall) == (4, 1.0, {"dog": 1.0})
    run = classifier.save()
    again = cafe_package.Classifier.load()  # the run last used or made
    assert again.run == run and again.fitted_images == classifier.fitted_images and len(again.fitted_images) == 16
    np.testing.assert_array_equal(again.predict_proba(tmp_path / "more"), classifier.predict_proba(tmp_path / "more"))
    assert "2 classes" in repr(again) and "<table>" in again._repr_html_()
    features = cafe_package.load_features("photos")  # the name of a data set in the cache folder
    assert repr(features) == repr(cafe_package.load_features()) and len(repr(features)) < 300
    assert "photos" in features._repr_html_() and "<script" not in features._repr_html_()
    assert cafe_package.Classifier.fit(features, method="zero-shot").row["n_train"] == 0


def test_a_fit_that_was_cut_off_carries_on(cafe, cache_dir, monkeypatch):
    """Ctrl-C in the midst of the images: what is encoded is kept, and the same command goes on from there."""
    from cafe.cache.extract.progress import ExtractionInterrupted

    def stop(state):
        if state.stage == "images" and state.done > 1200:
            raise KeyboardInterrupt

    with pytest.raises(ExtractionInterrupted, match="images are kept"):
        cafe_package.Classifier.fit("digits", method="zero-shot", progress=stop)
    done = fitted(cafe, "digits", "--method", "zero-shot")
    assert done["extraction"]["kept"] >= 256
    assert done["extraction"]["kept"] + done["extraction"]["encoded"] == 1797


def test_predict_that_was_cut_off_carries_on_with_its_evaluation_and_its_json(cafe, tmp_path, monkeypatch):
    """As the verb does it: labels, probabilities for the evaluation, all predictions of the document."""
    from cafe.encoders.standalone.encoder import StandaloneCLIP

    photos = make_folder(tmp_path / "photos", cat=75, dog=75)  # a batch is 128
    command = ["predict", "--classes", "cat,dog", photos, "--json", "--out"]
    fresh = cafe(*command, tmp_path / "fresh.csv")
    assert fresh.code == 0, fresh.err
    encode, calls = StandaloneCLIP.encode_for_prediction, []

    def cut(self, crops, **options):
        calls.append(len(crops))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, crops, **options)

    monkeypatch.setattr(StandaloneCLIP, "encode_for_prediction", cut)
    killed = cafe(*command, tmp_path / "table.csv")
    assert killed.code == 130 and f"rows of {calls[0]} images are kept" in killed.err
    done = cafe(*command, tmp_path / "table.csv")
    assert done.code == 0 and f"{calls[0]} images were named before this run began" in done.err
    assert sum(calls[2:]) == 150 - calls[0]
    assert (tmp_path / "table.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()
    assert {**done.json, "out": ""} == {**fresh.json, "out": ""}
    assert done.json["evaluation"]["n_test"] == 150
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 150


def test_a_list_on_stdin_takes_features_of_a_cache(cafe, classified, monkeypatch):
    from cafe.encoders.standalone.encoder import StandaloneCLIP

    files = sorted(classified.rglob("*.png"))
    expected = cafe("predict", *files, "--json").json["images"]

    def refuse(self, crops, **options):
        raise AssertionError("an image that is in a cache is encoded again")

    monkeypatch.setattr(StandaloneCLIP, "encode_for_prediction", refuse)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{path}\n" for path in files)))
    outcome = cafe("predict", "-", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["images"] == expected

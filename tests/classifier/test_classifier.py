"""A run made by `cafe fit` on digits names digits: from Python as the command line does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cafe
from cafe.cli.app import call
from cafe.data import open_dataset
from cafe.errors import InputError, UnreadableImageError
from cafe.runs import CHECKSUMS, _document_sha256

N = 6
# In a batch of another size bfloat16 (8 bits) may round elsewhere: a cosine by 2^-8, a logit by the scale of cafe:mini
# (16.4) times that, a probability by at most half of it.
OTHER_BATCH = 16.4 * 2.0**-8 / 2


@dataclass(frozen=True)
class Desk:
    """A cache folder with two runs, and a folder of digits."""

    caches: Path
    images: Path

    @property
    def files(self) -> list[Path]:
        return sorted(self.images.iterdir())


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    options = ["--cache-dir", str(folder / "caches"), "--quiet", "--json"]
    assert call(["extract", "--dataset", "digits", "--projection-features", "--workers", "0", *options]) == 0
    assert (
        call(
            [
                "fit",
                "--method",
                "clip-adapter",
                "--shots",
                "4",
                "--out",
                str(folder / "caches" / "runs" / "adapter"),
                *options,
            ]
        )
        == 0
    )
    prolip = ["--method", "prolip", "--shots", "2", "--out", str(folder / "caches" / "runs" / "prolip")]
    assert call(["fit", *prolip, *options]) == 0
    digits = open_dataset("digits")
    (folder / "digits").mkdir()
    for row in range(N):
        digits.image("test", row).save(folder / "digits" / f"{row}.png")
    return Desk(folder / "caches", folder / "digits")


@pytest.fixture(scope="module")
def classifier(desk: Desk) -> cafe.Classifier:
    return cafe.Classifier.load("adapter", cache_dir=desk.caches)


def of_the_verb(capfd: pytest.CaptureFixture[str], desk: Desk, run: str, *arguments: object) -> Any:
    capfd.readouterr()
    words = ["predict", "--run", run, "--json", "--cache-dir", desk.caches, *arguments]
    assert call([str(word) for word in words]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("run", ["adapter", "prolip"])
def test_the_verb_and_python_agree(run: str, desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    document = of_the_verb(capfd, desk, run, "--top", 2, desk.images)
    classifier = cafe.Classifier.load(run, cache_dir=desk.caches)
    assert document["run"] == str(classifier.run) == str(desk.caches / "runs" / run)
    assert document["unreadable"] == []
    probabilities = classifier.predict_proba(desk.images)
    assert probabilities.shape == (N, 10)
    assert [image["image"] for image in document["images"]] == [str(path) for path in desk.files]
    assert [image["predictions"][0]["class"] for image in document["images"]] == classifier.predict(
        desk.images
    ).tolist()
    for image, row in zip(document["images"], probabilities, strict=True):
        assert [guess["probability"] for guess in image["predictions"]] == np.sort(row)[::-1][:2].tolist()
    predictions = classifier.top(desk.images, 2)
    assert [prediction.to_json() for prediction in predictions] == document["images"]


def test_paths_open_images_and_pixels_are_the_same(desk: Desk, classifier: cafe.Classifier) -> None:
    expected = classifier.predict_proba(desk.files)
    opened = [Image.open(path) for path in desk.files]
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in opened])  # (n, height, width, 3)
    for images in (desk.images, str(desk.images), opened, pixels, list(pixels), [*desk.files[:2], *opened[2:]]):
        np.testing.assert_array_equal(classifier.predict_proba(images), expected)
    np.testing.assert_allclose(classifier.predict_proba(opened[0]), expected[:1], rtol=0, atol=OTHER_BATCH)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=0, atol=1e-5)


def test_names_are_right_more_often_than_by_chance(classifier: cafe.Classifier) -> None:
    digits = open_dataset("digits")
    names = classifier.predict([digits.image("test", row) for row in range(60)])
    right = names == np.array(digits.class_names)[digits.splits["test"].labels[:60]]
    assert right.mean() > 0.5  # chance is 0.1
    assert classifier.classes_.tolist() == list(digits.class_names)


def test_top_names_all_classes_at_most_and_calls_progress(desk: Desk, classifier: cafe.Classifier) -> None:
    calls: list[tuple[int, int]] = []
    predictions = classifier.top(desk.images, 99, progress=lambda done, total: calls.append((done, total)))
    assert [len(prediction.classes) for prediction in predictions] == [10] * N
    assert all(
        list(prediction.classes) == sorted(prediction.classes, key=lambda pair: -pair[1]) for prediction in predictions
    )
    assert calls == [(done, N) for done in range(1, N + 1)]


def test_batches_have_the_encoders_size(desk: Desk, classifier: cafe.Classifier, monkeypatch: Any) -> None:
    expected = classifier.predict_proba(desk.files)
    monkeypatch.setattr(classifier.encoder, "batch_size", 4)
    sizes: list[int] = []
    encode = classifier.encoder.encode_for_prediction
    counted = lambda crops, **options: (sizes.append(len(crops)), encode(crops, **options))[1]  # noqa: E731
    monkeypatch.setattr(classifier.encoder, "encode_for_prediction", counted)
    own = classifier.predict_proba(desk.files)
    assert sizes == [4, 2]
    np.testing.assert_allclose(own, expected, rtol=0, atol=OTHER_BATCH)


@pytest.fixture
def broken(desk: Desk, tmp_path: Path) -> list[Path]:
    path = tmp_path / "broken.png"
    path.write_bytes(b"broken")
    return [desk.files[0], path, desk.files[1]]


def test_an_unreadable_image_is_named(broken: list[Path], classifier: cafe.Classifier) -> None:
    for call_on in (classifier.predict, classifier.predict_proba, classifier.top):
        with pytest.raises(UnreadableImageError, match=r"broken.png' cannot be read: it is not an image"):
            call_on(broken)


def test_an_unreadable_image_can_be_skipped(
    broken: list[Path], desk: Desk, classifier: cafe.Classifier, capfd: pytest.CaptureFixture[str]
) -> None:
    first, none, second = classifier.top(broken, on_error="skip")
    assert none.classes == () and str(none.unreadable).startswith("it is not an image")
    document = of_the_verb(capfd, desk, "adapter", *broken)
    assert document["images"] == [first.to_json(), second.to_json()]
    assert document["unreadable"] == [none.to_json()] == [{"image": str(broken[1]), "reason": none.unreadable}]


def test_wrong_arguments_are_refused(desk: Desk, classifier: cafe.Classifier) -> None:
    with pytest.raises(InputError, match="k, the number of classes to name, must be at least 1; got 0"):
        classifier.top(desk.images, 0)
    with pytest.raises(InputError, match="unknown on_error 'ignore'"):
        classifier.top(desk.images, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no run 'nothing'.*runs there are: .*adapter"):
        cafe.Classifier.load("nothing", cache_dir=desk.caches)


def test_a_run_is_found_by_its_folder_too(desk: Desk) -> None:
    classifier = cafe.Classifier.load(desk.caches / "runs" / "adapter")
    assert repr(classifier) == (
        f"Classifier(CLIPAdapter on 'cafe:mini', 10 classes, run={str(desk.caches / 'runs' / 'adapter')!r})"
    )


def changed_run(desk: Desk, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copy a run, and change its JSON."""
    copy = Path(shutil.copytree(desk.caches / "runs" / "adapter", folder / "changed"))
    document = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    change(document)
    document[CHECKSUMS]["document"] = _document_sha256(document)  # as if it had been saved so
    (copy / "run.json").write_text(json.dumps(document), encoding="utf-8")
    return copy


def test_another_encoder_is_refused(desk: Desk, tiny_clip_folder: Path) -> None:
    with pytest.raises(InputError, match=r"is not the one that this run was fitted with: .*weights_sha256"):
        cafe.Classifier.load("adapter", model=str(tiny_clip_folder), cache_dir=desk.caches)


def test_an_encoder_that_has_moved_is_asked_for(desk: Desk, tmp_path: Path) -> None:
    run = changed_run(desk, tmp_path, lambda document: document.update(encoder="./gone"))
    with pytest.raises(InputError, match=r"needs its encoder: .*gone.*; say where it is now with --model"):
        cafe.Classifier.load(run)
    names = cafe.Classifier.load(run, model="cafe:mini").predict(desk.files[:1])
    assert names.shape == (1,)


def test_a_run_without_class_names_sees_no_image(desk: Desk, tmp_path: Path) -> None:
    run = changed_run(desk, tmp_path, lambda document: document.pop("class_names"))
    with pytest.raises(InputError, match="names no encoder and no classes"):
        cafe.Classifier.load(run)


def test_imported_features_are_warned_about(desk: Desk, tmp_path: Path) -> None:
    def imported(document: dict[str, Any]) -> None:
        document["provenance"]["image"]["encoder"] = {"named_by_user": "my CLIP"}

    run = changed_run(desk, tmp_path, imported)
    with pytest.warns(
        UserWarning, match=r"imported features, said to be of 'my CLIP'; whether 'cafe:mini' makes"
    ) as caught:
        cafe.Classifier.load(run)
    assert caught[0].filename == __file__


def test_the_decoder_of_the_fit_is_used(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cafe.classifier import reading as module

    chosen: list[str] = []
    within = module.decoding_with
    monkeypatch.setattr(module, "decoding_with", lambda name: (chosen.append(name), within("pillow"))[1])
    run = changed_run(desk, tmp_path, lambda document: document["provenance"]["image"].update(decoder="simplejpeg"))
    cafe.Classifier.load(run).predict(desk.files[0])
    cafe.Classifier.load("adapter", cache_dir=desk.caches).predict(desk.files[0])
    assert chosen == ["simplejpeg", "pillow"]


@pytest.mark.parametrize("name", ["clip-adapter", "prolip", "coop"])
def test_a_run_of_an_earlier_version_classifies_images(name: str) -> None:
    """See tests/data/runs/make_runs.py: ten test digits, and what the run predicted for their features then."""
    runs = Path(__file__).parents[1] / "data" / "runs"
    classifier = cafe.Classifier.load(runs / name, dtype="float32")
    digits = open_dataset("digits")
    own = classifier.predict_proba([digits.image("test", 54 * number) for number in range(10)])
    with np.load(runs / "expected.npz") as expected:
        # The features of then were made in bfloat16 (8 bits), and here in float32.
        np.testing.assert_allclose(own, expected[name], rtol=0, atol=OTHER_BATCH)

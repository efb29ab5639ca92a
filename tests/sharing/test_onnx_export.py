"""One ONNX file of a classifier: the same answers as the run, or no file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import cafe
from cafe.classifier.images import image_inputs
from cafe.classifier.onnx_classifier import OnnxClassifier
from cafe.errors import CafeError, InputError
from cafe.sharing import heads
from cafe.sharing.onnx_export import OPSET, TOLERANCE

ROOT = Path(__file__).parents[2]


def answers(classifier, images, **options):
    return [prediction for _, _, prediction in classifier.predictions(list(image_inputs(images)), 3, **options)]


def check_same_answers(run, file, images, cache_dir, **options):
    """Probabilities to 1e-4; names the same where no two are that near; unknown and sets the same."""
    theirs = answers(cafe.Classifier.load(run, device="cpu", dtype="float32", cache_dir=cache_dir), images, **options)
    ours = answers(OnnxClassifier(file), images, **options)
    assert [each.image for each in ours] == [each.image for each in theirs]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose([p for _, p in a.classes], [p for _, p in b.classes], rtol=0, atol=TOLERANCE)
        gaps = -np.diff([p for _, p in b.classes])
        if (gaps > 2 * TOLERANCE).all():
            assert [name for name, _ in a.classes] == [name for name, _ in b.classes]
        np.testing.assert_allclose(a.unknown_score, b.unknown_score, rtol=0, atol=1e-5)
        assert (a.unknown, a.set) == (b.unknown, b.set)
    return theirs


def test_the_file_answers_as_the_run_does(digit_run, digit_file):
    images = digit_run.parent / "photos"
    said = check_same_answers(digit_run, digit_file, images, digit_run.parent / "none", coverage=0.9)
    assert all(each.set for each in said)
    file = OnnxClassifier(digit_file)
    assert list(file.predict(next(images.rglob("*.png")))) == [said[0].classes[0][0]]


def test_the_file_says_what_it_is(digit_run, digit_file):
    import onnx

    model = onnx.load(str(digit_file))
    said = {each.key: json.loads(each.value) for each in model.metadata_props}
    run = json.loads((digit_run / "run.json").read_text(encoding="utf-8"))
    assert said["class_names"] == run["class_names"] == ["one", "two", "zero"]
    assert said["temperature"] == run["promises"]["used_temperature"]
    stored = run["promises"]["thresholds"]["mapping"]
    assert said["thresholds"]["unknown"] == stored["unknown"]["mapping"] and said["thresholds"]["set"]
    assert said["preprocessing"] == run["provenance"]["image"]["encoder"]["preprocessing"]
    assert said["encoder"]["id"] == "cafe:mini" and said["row"] == run["row"]
    assert (said["opset"], said["dtype"]) == (OPSET, "float32") == (model.opset_import[0].version, "float32")
    assert [each.name for each in model.graph.input] == ["crops"]


@pytest.mark.parametrize(("model", "method"), [("clip", "clip-adapter"), ("siglip", "auto"), ("clip", "tip-adapter")])
def test_real_photographs_and_other_towers(model, method, photographs, make_tiny_clip, make_tiny_siglip, tmp_path):
    folder = (make_tiny_clip if model == "clip" else make_tiny_siglip)(tmp_path / "tower")
    fitted = cafe.Classifier.fit(
        photographs, model=str(folder), method=method, cache_dir=tmp_path / "caches", save=tmp_path / "run"
    )
    summary = cafe.Classifier.load(tmp_path / "run", dtype="float32", cache_dir=tmp_path / "caches").export_onnx(
        tmp_path / "a.onnx"
    )
    assert summary.images >= 16 and summary.largest_difference < TOLERANCE
    assert fitted.promises is not None  # 32 images: at a coverage of 0.8 there are enough
    check_same_answers(tmp_path / "run", tmp_path / "a.onnx", photographs, tmp_path / "none", coverage=0.8)


def test_two_encoders_go_into_one_file(photographs, make_tiny_clip, tmp_path):
    other = make_tiny_clip(tmp_path / "tower", seed=1)
    caches = tmp_path / "caches"
    fitted = cafe.Classifier.fit(photographs, model=f"cafe:mini,{other}", cache_dir=caches, save=tmp_path / "run")
    fitted = cafe.Classifier.load(tmp_path / "run", device="cpu", dtype="float32", cache_dir=caches)
    fitted.export_onnx(tmp_path / "a.onnx")
    check_same_answers(tmp_path / "run", tmp_path / "a.onnx", photographs, tmp_path / "none")


def test_a_method_that_trains_the_projection(photographs, make_tiny_clip, tmp_path):
    """The head is tested in test_heads.py, the tower here."""
    from cafe.encoders.opening import open_encoder

    encoder = open_encoder(str(make_tiny_clip(tmp_path / "tower")), "cpu", "float32")
    crops = np.stack([encoder.cropper(picture) for picture in pictures(photographs)])
    import torch

    with torch.inference_mode():
        before = encoder.image_tower(unprojected=True)(torch.from_numpy(crops)).numpy()
        after = encoder.image_tower()(torch.from_numpy(crops)).numpy()
    expected = encoder.encode_images_unprojected(crops)
    np.testing.assert_array_equal(after, expected[0])
    np.testing.assert_array_equal(before, expected[1])


def pictures(folder):
    from cafe.data.images.decoding import read_image

    return [read_image(path, path.name) for path in sorted(folder.rglob("*.jpg"))[:4]]


def test_a_file_that_differs_is_an_error_and_is_not_written(digit_run, tmp_path, monkeypatch):
    class Shifted(nn.Module):
        def __init__(self, scores):
            super().__init__()
            self.scores = scores

        def forward(self, x):
            logits = self.scores(x)
            return logits + 0.01 * (logits == logits.amax(1, keepdim=True))

    right = heads.HEADS["auto"]
    monkeypatch.setitem(heads.HEADS, "auto", lambda fitted: Shifted(right(fitted)))
    classifier = cafe.Classifier.load(digit_run, dtype="float32", cache_dir=tmp_path)
    with pytest.raises(CafeError, match="differs from torch by .* nothing was written"):
        classifier.export_onnx(tmp_path / "a.onnx")
    assert not list(tmp_path.glob("*.onnx*"))


def test_methods_of_a_batch_are_refused_with_the_reason(digit_run, tmp_path):
    classifier = cafe.Classifier.fit(
        digit_run.parent / "photos", method="trans-clip", cache_dir=digit_run.parent / "caches"
    )
    with pytest.raises(InputError, match="trans-clip has no fixed head: what it says of an image depends on the other"):
        classifier.export_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize("keep", [0, 1, 1000, -200, -1])
def test_a_truncated_file_is_a_sentence(digit_file, tmp_path, keep):
    content = digit_file.read_bytes()
    (tmp_path / "a.onnx").write_bytes(content[:keep])
    with pytest.raises(InputError, match="damaged|takes"):
        OnnxClassifier(tmp_path / "a.onnx")


def test_files_of_others_and_of_later_times_are_sentences(digit_file, tmp_path):
    import onnx

    model = onnx.load(str(digit_file))
    for each in model.metadata_props:
        each.value = "2" if each.key == "format" else each.value
    onnx.save(model, str(tmp_path / "later.onnx"))
    with pytest.raises(InputError, match="has format 2 of exported files; this cafe .* reads up to 1"):
        OnnxClassifier(tmp_path / "later.onnx")
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(InputError, match="was not written by `cafe export`"):
        OnnxClassifier(tmp_path / "other.onnx")
    with pytest.raises(InputError, match="there is no file"):
        OnnxClassifier(tmp_path / "none.onnx")


def test_predict_needs_neither_torch_nor_a_second(digit_file, digit_run):
    image = next((digit_run.parent / "photos").rglob("*.png"))
    program = (
        "import resource, sys; from cafe.cli.app import call; "
        f"code = call(['predict', '--run', {str(digit_file)!r}, {str(image)!r}, '--json', '--quiet']); "
        "use = resource.getrusage(resource.RUSAGE_SELF); "
        "heavy = [m for m in ('torch', 'transformers', 'sklearn', 'onnx') if m in sys.modules]; "
        "print(code, use.ru_utime + use.ru_stime, heavy, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    code, seconds, heavy = re.fullmatch(r"(\d) ([\d.]+) (.*)\n", run.stderr).groups()
    assert (code, heavy) == ("0", "[]")
    assert float(seconds) < 1.5
    assert json.loads(run.stdout)["images"][0]["predictions"][0]["class"] == image.parent.name


def test_twenty_lines_without_cafe_give_the_same(digit_file, digit_run, tmp_path, monkeypatch, capsys):
    """The Python of docs/serving.md, run on the file, with nothing of cafe to import."""
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, flags=re.S) if "onnxruntime" in block)
    assert len(code.strip().splitlines()) <= 20 and "cafe" not in code.replace("cafe export", "")
    images = digit_run.parent / "photos"
    shown = []
    for image in sorted(images.rglob("*.png"))[::20]:
        exec(compile(code.replace("model.onnx", str(digit_file)).replace("image.jpg", str(image)), "page", "exec"), {})
        name, probability = capsys.readouterr().out.split()
        (said,) = answers(OnnxClassifier(digit_file), image)
        assert (name, pytest.approx(float(probability), abs=1e-4)) == said.classes[0]
        shown.append(name)
    assert len(set(shown)) == 3


def test_metadata_is_read_as_it_was_written(digit_file):
    metadata = OnnxClassifier(digit_file).metadata
    assert type(metadata).from_strings(digit_file, metadata.to_strings()) == metadata


def test_learned_prompts_go_from_photographs_to_the_same_answers(photographs, tmp_path, capfd):
    """CoOp, by the commands that a user types: its context is trained through the text tower, and exported as rows."""
    from cafe.cli.app import call

    run, file, caches = tmp_path / "run", tmp_path / "coop.onnx", ["--cache-dir", str(tmp_path / "caches")]
    assert call(["fit", str(photographs), "--method", "coop", "--shots", "2", "--out", str(run), *caches]) == 0
    assert call(["export", "--run", str(run), "--out", str(file), *caches]) == 0
    images = [str(path) for path in sorted(photographs.rglob("*.jpg"))[::3]]
    capfd.readouterr()
    answers_of = []
    for options in (["--run", str(run), "--dtype", "float32", *caches], ["--run", str(file)]):
        assert call(["predict", *images, "--top", "4", "--json", "--quiet", *options]) == 0
        answers_of.append(json.loads(capfd.readouterr().out)["images"])
    said_by_torch, said_by_file = answers_of
    row = json.loads((run / "run.json").read_text(encoding="utf-8"))["row"]
    assert row["method"] == "coop" and len(said_by_file) == len(images)
    for ours, theirs in zip(said_by_file, said_by_torch, strict=True):
        probabilities = [
            {each["class"]: each["probability"] for each in said["predictions"]} for said in (ours, theirs)
        ]
        assert probabilities[0] == pytest.approx(probabilities[1], abs=TOLERANCE)
        assert ours["predictions"][0]["class"] == theirs["predictions"][0]["class"]

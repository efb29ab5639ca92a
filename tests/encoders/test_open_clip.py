"""open_clip's towers against open_clip's own forward, on random models in its own layout."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cafe.encoders import open_encoder
from cafe.errors import InputError, MissingDependencyError

PROMPTS = ["a cat", "a photo of the digit seven.", "x"]
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    sizes = [(50, 70), (32, 32), (8, 8), (90, 33)]
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def library_features(open_clip, name, images, **options):
    """Features and logit scale as open_clip itself gives them."""
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(name, **options)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    with torch.no_grad():
        pictures = model.encode_image(torch.stack([preprocess(image) for image in images])).numpy()
        text = model.encode_text(tokenizer(PROMPTS)).numpy()
    return pictures, text, float(model.logit_scale.detach().exp())


def close(actual, expected):
    """Equal up to 64 float32 roundings of the largest entry: sums of a few hundred products in another order."""
    return bool(np.abs(actual - expected).max() <= 64 * np.finfo(np.float32).eps * np.abs(expected).max())


@pytest.mark.parametrize(
    ("vision", "quick_gelu", "preprocess"),
    [
        (None, False, {}),
        (None, True, {"resize_mode": "squash", "interpolation": "bicubic"}),
        (RESNET, False, {"resize_mode": "longest", "fill_color": 127}),
    ],
)
def test_features_equal_the_librarys_own(open_clip, make_open_clip, images, tmp_path, vision, quick_gelu, preprocess):
    make_open_clip(tmp_path, vision=vision, quick_gelu=quick_gelu, preprocess=preprocess)
    pictures, text, scale = library_features(open_clip, f"local-dir:{tmp_path}", images)
    encoder = open_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    assert encoder.id == f"open_clip:local-dir:{tmp_path}"
    assert close(encoder.encode_images(np.stack([encoder.cropper(image) for image in images])), pictures)
    assert close(encoder.encode_text(PROMPTS), text)
    assert not close(pictures[0], pictures[1])  # the images are told apart at all
    assert (encoder.logit_scale, encoder.logit_bias) == (pytest.approx(scale), 0.0)
    assert encoder.identity()["image"]["architecture"]["quick_gelu"] is quick_gelu


@pytest.fixture
def tags(open_clip, make_open_clip, tmp_path):
    """A model of the library's list whose name says GELU, with a tag trained with QuickGELU, and one without."""
    from open_clip import factory, pretrained

    make_open_clip(tmp_path / "weights")
    config = json.loads((tmp_path / "weights" / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "Tiny-9.json").write_text(json.dumps(config))
    weights = str(tmp_path / "weights" / "open_clip_model.safetensors")
    before = dict(factory._MODEL_CONFIGS), list(factory._MODEL_CONFIG_PATHS)
    open_clip.add_model_config(tmp_path / "Tiny-9.json")
    pretrained._PRETRAINED["Tiny-9"] = {
        "quick": {"file": weights, "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "interpolation": "bilinear"},
        "plain": {"file": weights},
    }
    yield
    del pretrained._PRETRAINED["Tiny-9"]
    factory._MODEL_CONFIGS.clear()
    factory._MODEL_CONFIGS.update(before[0])
    factory._MODEL_CONFIG_PATHS[:] = before[1]


@pytest.mark.parametrize(("tag", "quick_gelu"), [("quick", True), ("plain", False)])
def test_the_tag_decides_the_activation(open_clip, tags, images, tag, quick_gelu, recwarn):
    encoder = open_encoder(f"open_clip:Tiny-9/{tag}", device="cpu")
    pictures, text, _ = library_features(open_clip, "Tiny-9", images, pretrained=tag, force_quick_gelu=quick_gelu)
    assert close(encoder.encode_images(np.stack([encoder.cropper(image) for image in images])), pictures)
    assert close(encoder.encode_text(PROMPTS), text)
    assert encoder.identity()["text"]["architecture"]["quick_gelu"] is quick_gelu
    other = library_features(open_clip, "Tiny-9", images, pretrained=tag, force_quick_gelu=not quick_gelu)[1]
    if not quick_gelu:  # the library cannot be told to drop it
        assert not close(encoder.encode_text(PROMPTS), other)


def test_the_tag_decides_the_preprocessing(tags):
    specification = open_encoder("open_clip:Tiny-9/quick", device="cpu").identity()["image"]["preprocessing"]
    assert specification["image_mean"] == [0.1, 0.2, 0.3]
    assert specification["resample"] == "bilinear"
    assert specification["backend"] == "pil"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Tiny-9/quik", "unknown tag of open_clip:Tiny-9 'quik'; did you mean 'quick'"),
        ("Tiny-9", "unknown tag of open_clip:Tiny-9 ''"),
        ("Tiny-8/quick", "did you mean 'Tiny-9'"),
        ("RN50/opnai", "did you mean 'openai'"),
        ("ViT-B/32/opnai", "open_clip:ViT-B-32"),
        ("local-dir:/nowhere", "no open_clip_config.json"),
    ],
)
def test_refusals(tags, source, words):
    with pytest.raises(InputError) as caught:
        open_encoder(f"open_clip:{source}", device="cpu")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_weights_are_never_made_up(make_open_clip, tmp_path, capfd):
    make_open_clip(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match="could not be loaded"):
        open_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(InputError, match="no configuration of open_clip"):
        open_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    assert capfd.readouterr() == ("", "")


def test_each_weight_changes_its_own_side(make_open_clip, tmp_path):
    from safetensors.torch import load_file, save_file

    make_open_clip(tmp_path / "a")
    before = open_encoder(f"open_clip:local-dir:{tmp_path / 'a'}", device="cpu").identity()
    for weight, changed in (("visual.proj", "image"), ("ln_final.bias", "text"), ("logit_scale", None)):
        folder = tmp_path / weight
        shutil.copytree(tmp_path / "a", folder)
        tensors = load_file(folder / "open_clip_model.safetensors")
        tensors[weight] = tensors[weight] + 1e-3
        save_file(tensors, folder / "open_clip_model.safetensors")
        after = open_encoder(f"open_clip:local-dir:{folder}", device="cpu").identity()
        for part in ("image", "text"):
            assert (before[part] == after[part]) is (part != changed), weight


def test_siglips_bias(make_open_clip, tmp_path):
    make_open_clip(tmp_path, init_logit_bias=-7.5, init_logit_scale=2.0)
    encoder = open_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    assert encoder.logit_bias == -7.5
    assert encoder.logit_scale == pytest.approx(np.exp(2.0), rel=1e-6)


def test_without_open_clip(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cafe-clip\[open-clip\]'"):
        open_encoder("open_clip:RN50/openai", device="cpu")


def test_hub_repositories_record_their_commit(make_open_clip, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    make_open_clip(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    encoder = open_encoder("open_clip:hf-hub:someone/tiny", device="cpu")
    assert encoder.identity()["recorded"]["revision"] == commit


def test_extraction(tiny_open_clip, tmp_path):
    from cafe.cli.app import call

    words = [
        "extract",
        "--dataset",
        "digits",
        "--splits",
        "test",
        "--model",
        tiny_open_clip,
        "--out",
        tmp_path / "a.h5",
    ]
    assert call([*map(str, words), "--quiet"]) == 0

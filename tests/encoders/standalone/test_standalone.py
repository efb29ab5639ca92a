"""Our own forward of CLIP kinds against the library's: files, pixels, tokens, features, identity."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cafe.encoders.examples import save_tiny_clip
from cafe.encoders.opening import open_encoder
from cafe.encoders.standalone.encoder import FEW, StandaloneCLIP
from cafe.encoders.transformers import TransformersCLIP
from cafe.mini import MODEL_FOLDER

EPS = float(np.finfo(np.float32).eps)
PROMPTS = [
    "a photo of a cat.", "A PHOTO of Crème  brûlée\t42-3", "", "it's <|endoftext|> 日本語 ß ﬁ don't_panic " * 20, "a",
    "<|startoftext|>a <|ENDOFTEXT|>\n\n x",
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_tiny_siglip):
    """A folder of each kind, by name."""
    made = {name: tmp_path_factory.mktemp("kinds") / name for name in ("clip", "gelu", "odd", "siglip")}
    save_tiny_clip(made["clip"])
    save_tiny_clip(made["gelu"], seed=1, hidden_act="gelu", eos_token_id=2)
    _edited(made["gelu"], vision={"hidden_act": "gelu", "layer_norm_eps": 1e-6})
    save_tiny_clip(made["odd"], seed=2, projection_dim=10)
    make_tiny_siglip(made["siglip"])
    return {"mini": MODEL_FOLDER, **made}


KINDS = ("mini", "clip", "gelu", "odd", "siglip")


def _edited(folder, vision=None, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"].update(vision or {})
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def both(folder, dtype="float32"):
    own = open_encoder(str(folder), "cpu", dtype)
    library = open_encoder(f"transformers:{folder}", "cpu", dtype)
    assert type(own) is StandaloneCLIP
    assert type(library) is TransformersCLIP
    return own, library


def pictures(n=24):
    generator = np.random.default_rng(0)
    sizes = [(53, 37), (20, 90), (32, 32), (300, 211), (1, 5), (77, 224)]
    return [
        Image.fromarray(generator.integers(0, 256, (*sizes[i % 6], 3), dtype=np.uint8)) for i in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_librarys_to_the_last_bit(folders, kind):
    own, library = both(folders[kind])
    crops = np.stack([own.cropper(picture) for picture in pictures()])
    assert np.array_equal(crops, np.stack([library.cropper(picture) for picture in pictures()]))
    features = own.encode_images(crops)
    assert np.array_equal(features, library.encode_images(crops))
    assert np.array_equal(own.encode_text(PROMPTS), library.encode_text(PROMPTS))
    # On some processors the bits of a product of one row depend on where its weights lie in memory; the last product
    # of a single prompt is one. Each side rounds by sqrt(width) eps of its length at the most.
    one_prompt, expected = own.encode_text(PROMPTS[:1]), library.encode_text(PROMPTS[:1])
    rounding = 2 * np.sqrt(own.text_tower().width) * EPS * np.linalg.norm(expected)
    np.testing.assert_allclose(one_prompt, expected, rtol=0, atol=rounding)
    if library.projection() is not None:
        assert np.array_equal(own.projection(), library.projection())
        for tensor, other in zip(
            own.encode_images_unprojected(crops), library.encode_images_unprojected(crops), strict=True
        ):
            assert np.array_equal(tensor, other)
    assert own.logit_scale == pytest.approx(library.logit_scale, rel=2 * np.finfo(np.float64).eps)
    assert own.logit_bias == library.logit_bias
    assert (own.dim, own.least_rows) == (library.dim, library.least_rows)
    mine, theirs = own.identity(), library.identity()
    assert mine["image"] == theirs["image"] == own.image_identity()
    assert mine["text"] == theirs["text"]
    assert own.text_tower().sha256 == library.text_tower().sha256


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_other_dtypes_too(folders, dtype):
    own, library = both(folders["clip"], dtype)
    crops = np.stack([own.cropper(picture) for picture in pictures(16)])
    assert np.array_equal(own.encode_images(crops), library.encode_images(crops))
    assert np.array_equal(own.encode_text(PROMPTS), library.encode_text(PROMPTS))
    assert np.array_equal(own.projection(), library.projection())
    assert own.logit_scale == pytest.approx(library.logit_scale, rel=1e-15)
    assert own.identity()["image"] == library.identity()["image"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_images_in_numpy(folders, kind):
    """Each of some twenty products and norms rounds at about sqrt(width) eps; measured are 4e-7 at the most."""
    own, library = both(folders[kind])
    crops = np.stack([own.cropper(picture) for picture in pictures(FEW)])
    truth = library.encode_images(np.concatenate([crops, crops]))[:FEW]
    lengths = np.linalg.norm(truth, axis=1)
    for n in (1, FEW):
        few = own.encode_for_prediction(crops[:n])
        assert few.dtype == np.float32
        assert (np.linalg.norm(few - truth[:n], axis=1) / lengths[:n]).max() <= 20 * EPS
    if library.projection() is not None:
        few = own.encode_for_prediction(crops, unprojected=True)
        truth = library.encode_images_unprojected(np.concatenate([crops, crops]))[1][:FEW]
        assert (np.linalg.norm(few - truth, axis=1) / np.linalg.norm(truth, axis=1)).max() <= 20 * EPS
    many = np.concatenate([crops, crops])
    assert np.array_equal(own.encode_for_prediction(many), own.encode_images(many))


def test_a_dtype_that_was_asked_for_is_kept(folders):
    crops = np.stack([open_encoder(str(folders["clip"]), "cpu").cropper(picture) for picture in pictures(2)])
    asked = open_encoder(str(folders["clip"]), "cpu", "bfloat16")
    assert np.array_equal(asked.encode_for_prediction(crops), asked.encode_images(crops))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_checkpoints_of_other_dtypes(folders, tmp_path, dtype):
    import torch
    from transformers import CLIPModel

    folder = shutil.copytree(folders["clip"], tmp_path / "half")
    CLIPModel.from_pretrained(folder).to(getattr(torch, dtype)).save_pretrained(folder)
    own, library = both(folder)
    crops = np.stack([own.cropper(picture) for picture in pictures(16)])
    truth = library.encode_images(crops)
    assert np.array_equal(own.encode_images(crops), truth)
    few = own.encode_for_prediction(crops[:2])
    assert (np.linalg.norm(few - truth[:2], axis=1) / np.linalg.norm(truth[:2], axis=1)).max() <= 20 * EPS
    assert own.identity()["image"] == library.identity()["image"]
    assert own.identity()["text"] == library.identity()["text"]


PROCESSING = [
    {"size": 20, "crop_size": 32},  # as the first checkpoints have it; the cut is larger than the image
    {"size": {"shortest_edge": 40}, "resample": 2, "do_normalize": False},
    {"size": {"height": 36, "width": 50}, "do_rescale": False, "image_mean": [10, 20, 30], "image_std": [9, 8, 7]},
    {"do_resize": True, "do_center_crop": False, "size": {"height": 32, "width": 32}, "resample": 1},
    {"image_processor_type": None, "feature_extractor_type": "CLIPFeatureExtractor", "rescale_factor": 0.01},
]


@pytest.mark.parametrize("settings", PROCESSING, ids=lambda settings: next(iter(settings)) + str(len(settings)))
def test_preprocessing(folders, tmp_path, settings):
    folder = shutil.copytree(folders["clip"], tmp_path / "other")
    path = folder / "preprocessor_config.json"
    written = {**json.loads(path.read_text()), **settings}  # what is set to None is not written
    path.write_text(json.dumps({name: value for name, value in written.items() if value is not None}))
    own, library = both(folder)
    for picture in pictures(6):
        assert np.array_equal(own.cropper(picture), library.cropper(picture))
    crops = np.stack([own.cropper(picture) for picture in pictures(6)])
    assert np.array_equal(own._pixels(crops).numpy(), library._pixels(crops).numpy())
    np.testing.assert_allclose(own.cropper.pixels(crops), library._pixels(crops).numpy(), rtol=4 * EPS, atol=4 * EPS)
    assert own.identity()["image"] == library.identity()["image"]


def _sharded(folder):
    (folder / "model.safetensors.index.json").write_text("{}")


def _other_processor(folder):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "size": {"shortest_edge": 40, "longest_edge": 60}}))


def _own_tokens(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}))


def test_what_is_not_known_here_goes_through_the_library(folders, tmp_path, tiny_clip_folder):
    def opened(name, change):
        folder = shutil.copytree(folders["clip"], tmp_path / name)
        change(folder)
        return open_encoder(str(folder), "cpu")

    assert type(opened("dtype", lambda folder: _edited(folder, dtype="float16"))) is TransformersCLIP
    assert type(opened("processor", _other_processor)) is TransformersCLIP
    assert type(opened("setting", lambda folder: _edited(folder, new_setting=3))) is TransformersCLIP
    # The image side is served; text goes through the library, and is what it makes of it.
    own = opened("tokens", _own_tokens)
    assert type(own) is StandaloneCLIP
    library = open_encoder(f"transformers:{own.id}", "cpu")
    assert np.array_equal(own.encode_text(PROMPTS[:2]), library.encode_text(PROMPTS[:2]))
    assert own.identity()["text"] == library.identity()["text"]


@pytest.mark.parametrize("damage", ["cut", "header", "missing", "shape"])
def test_damaged_files_are_refused_in_the_librarys_words(folders, tmp_path, damage):
    from cafe.errors import InputError

    folder = shutil.copytree(folders["clip"], tmp_path / damage)
    path = folder / "model.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "header":
        path.write_bytes(b"\xff" * 16 + path.read_bytes()[16:])
    elif damage == "missing":
        path.unlink()
    else:
        _edited(folder, vision={"intermediate_size": 80})
    with pytest.raises(InputError, match=str(folder)):
        open_encoder(str(folder), "cpu")


def test_a_hub_id_is_taken_from_the_local_cache(folders, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(folders["clip"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    encoder = open_encoder("someone/tiny", "cpu")
    assert type(encoder) is StandaloneCLIP
    assert (encoder.id, encoder.identity()["recorded"]["revision"]) == ("someone/tiny", commit)
    assert encoder.identity()["image"] == open_encoder(str(folders["clip"]), "cpu").identity()["image"]


def test_copies_share_what_is_loaded(folders):
    first = open_encoder(str(folders["clip"]), "cpu")
    second = first.with_batch_size(4)
    assert (second.batch_size, first.batch_size) == (4, 128)  # of a small tower
    assert second._towers.image is first._towers.image


@pytest.mark.parametrize("unprojected", [False, True])
def test_the_tower_as_a_module(folders, unprojected):
    import torch

    own = open_encoder(str(folders["clip"]), "cpu", "float32")
    crops = np.stack([own.cropper(picture) for picture in pictures(16)])
    with torch.inference_mode():
        features = own.image_tower(unprojected=unprojected)(torch.from_numpy(crops)).numpy()
    expected = own.encode_images_unprojected(crops)[int(unprojected)]
    np.testing.assert_allclose(features, expected, rtol=0, atol=20 * EPS * np.abs(expected).max())

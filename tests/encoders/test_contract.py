"""Every encoder found in cafe/encoders/, on the tiny model that it writes; a newcomer is found without an edit here."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from cafe.encoders import open_encoder
from cafe.encoders.base import Encoder
from cafe.encoders.opening import known_models
from cafe.errors import CafeError, InputError
from cafe.registry import entries

ENCODERS = entries("encoders", "ENCODER")


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((50, 70), (32, 32), (9, 8))
    ]


@pytest.fixture(scope="module", params=sorted(ENCODERS))
def model(request, tmp_path_factory):
    """What --model takes: the library's example."""
    try:
        model = ENCODERS[request.param].load().write_example(tmp_path_factory.mktemp(request.param))
    except CafeError as error:  # the library is not installed, or does not fit the torch that is
        pytest.skip(str(error))
    assert isinstance(model, str)
    return model


@pytest.fixture
def encoder(model):
    encoder = open_encoder(model, device="cpu")
    return encoder if len(encoder.dtypes) == 1 else open_encoder(model, device="cpu", dtype="float32")


def test_there_are_encoders():
    assert {"transformers", "open_clip", "vision"} <= set(ENCODERS)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_library(name):
    """What a library's file says without a model."""
    cls = ENCODERS[name].load()
    assert issubclass(cls, Encoder)
    assert ENCODERS[name].summary.endswith(".")
    listed = {row["name"]: row["summary"] for row in known_models()}
    assert all(listed[name] == model.summary for name, model in cls.known_models.items())


def test_the_model_opens_under_its_name(encoder, model):
    assert encoder.id == model


def test_images(encoder, images):
    crops = np.stack([encoder.cropper(image) for image in images])
    assert crops.dtype == np.uint8
    assert crops.ndim == 4
    features = encoder.encode_images(crops)
    assert features.dtype == np.float32
    assert features.shape == (3, encoder.dim)
    assert np.isfinite(features).all()
    assert np.array_equal(encoder.encode_images(crops), features)
    assert encoder.encode_images(crops[:0]).shape == (0, encoder.dim)
    np.testing.assert_array_equal(encoder.start_images(crops)(), features)
    for wrong in (crops.astype(np.float32), crops[0], crops.transpose(0, 3, 1, 2)):
        with pytest.raises(InputError, match="crops must be"):
            encoder.encode_images(wrong)


def test_croppers_travel_to_workers(encoder, images):
    packed = pickle.dumps(encoder.cropper)
    assert len(packed) < 20_000  # the model stays behind
    for image in images:
        np.testing.assert_array_equal(pickle.loads(packed)(image), encoder.cropper(image))


def test_text(encoder, monkeypatch):
    if not encoder.has_text:
        with pytest.raises(InputError, match="without a text tower"):
            encoder.encode_text(["a cat"])
        return
    prompts = ["a cat", "a much longer prompt of many, many words " * 9, "x"]
    features = encoder.encode_text(prompts)
    assert features.dtype == np.float32
    assert features.shape == (3, encoder.dim)
    # float32 sums in another order: 64 roundings of the largest entry; see test_transformers_clip.py.
    bound = 64 * np.finfo(np.float32).eps * np.abs(features).max()
    monkeypatch.setattr(encoder, "batch_size", 1)
    np.testing.assert_allclose(encoder.encode_text(prompts), features, rtol=0, atol=bound)
    with pytest.raises(InputError, match="no prompts"):
        encoder.encode_text([])


def test_identity(encoder):
    assert isinstance(encoder, Encoder)
    identity = encoder.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert set(identity) == {"image", "text", "recorded"}
    assert (identity["text"] is not None) == encoder.has_text
    parts = [("image", {"preprocessing"}), ("text", {"tokenizer_sha256"})]
    for part, also in parts if encoder.has_text else parts[:1]:
        assert {"weights_sha256", "architecture", "dtype"} | also <= set(identity[part])
        assert len(identity[part]["weights_sha256"]) == 64
    assert identity["image"]["preprocessing"]["backend"] == "pil"
    assert {"id", "revision", "library", "versions", "device"} <= set(identity["recorded"])
    assert identity["recorded"]["id"] == encoder.id
    assert encoder.logit_scale > 0
    assert encoder.batch_size > 1
    assert (encoder.device, encoder.dtype) == ("cpu", encoder.dtypes[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(encoder, images, dtype):
    if dtype not in encoder.dtypes:
        with pytest.raises(InputError, match=f"computes in {encoder.dtypes[0]}.*{dtype}"):
            open_encoder(encoder.id, device="cpu", dtype=dtype)
        return
    low = open_encoder(encoder.id, device="cpu", dtype=dtype)
    crops = np.stack([encoder.cropper(image) for image in images])
    # Twenty roundings of eight bits; see test_transformers_clip.py.
    pairs = [(encoder.encode_images(crops), low.encode_images(crops))]
    if encoder.has_text:
        pairs.append((encoder.encode_text(["a"]), low.encode_text(["a"])))
    for wide, narrow in pairs:
        assert 0 < np.abs(wide - narrow).max() / np.abs(wide).max() < 20 * 2.0**-8
    assert low.identity()["image"] != encoder.identity()["image"]

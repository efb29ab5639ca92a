"""Features before the projection, of both libraries, and in a cache."""

import numpy as np
import pytest

from cafe.cache.format.reader import load_projection, read_features
from cafe.cache.format.verify import verify_cache
from cafe.cli.app import call
from cafe.encoders import open_encoder
from cafe.errors import InputError

RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def check(encoder, crops):
    """Check that features (5, d) are what goes into the projection (5, w) times the projection (w, d)."""
    features, before = encoder.encode_images_unprojected(crops)
    projection = encoder.projection()
    assert before.shape == (5, len(projection))
    assert projection.shape[1] == encoder.dim != len(projection)
    np.testing.assert_array_equal(features, encoder.encode_images(crops))
    # float32 sums of some thirty products: 64 roundings of the largest term.
    bound = 64 * np.finfo(np.float32).eps * np.abs(before).max() * np.abs(projection).max()
    np.testing.assert_allclose(before @ projection, features, rtol=0, atol=bound)
    features, before = encoder.encode_images_unprojected(crops[:0])
    assert (features.shape, before.shape) == ((0, encoder.dim), (0, len(projection)))


def test_transformers(tiny_clip_folder, crops):
    encoder = open_encoder(str(tiny_clip_folder), device="cpu", dtype="float32")
    check(encoder, crops)
    encoder.batch_size = 2  # five crops are three batches
    assert encoder.encode_images_unprojected(crops)[1].shape[0] == 5


def test_open_clip(tiny_open_clip, crops):
    check(open_encoder(tiny_open_clip, device="cpu", dtype="float32"), crops)


def test_resnets_have_none(make_open_clip, tmp_path, crops):
    make_open_clip(tmp_path, vision=RESNET)
    encoder = open_encoder(f"open_clip:local-dir:{tmp_path}", device="cpu")
    assert encoder.projection() is None
    with pytest.raises(InputError, match="no projection"):
        encoder.encode_images_unprojected(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_cache_holds_both(tiny_clip_folder, tmp_path, capfd):
    words = ["extract", "--dataset", "digits", "--splits", "train,test", "--model", tiny_clip_folder, "--views", "1"]
    words += ["--dtype", "float32"]  # the bounds below are of float32 products, whatever this processor would take
    for name, more in (("plain", []), ("both", ["--projection-features"])):
        assert call([*map(str, words), "--out", str(tmp_path / f"{name}.h5"), *more]) == 0, capfd.readouterr().err
    plain, both = (read_features(tmp_path / f"{name}.h5") for name in ("plain", "both"))
    projection = load_projection(tmp_path / "both.h5")
    assert load_projection(tmp_path / "plain.h5") is None
    assert both.provenance["image_fingerprint"] != plain.provenance["image_fingerprint"]
    for name, split in both.splits.items():
        np.testing.assert_array_equal(split.image_features, plain.splits[name].image_features)
        before = split.projection_features.astype(np.float32)
        # Stored in float16: each of w terms is off by 2**-11 at most, and so is the stored result.
        bound = 2.0**-11 * (np.abs(before) @ np.abs(projection) + np.abs(split.image_features)) + 1e-6
        assert (np.abs(before @ projection - split.image_features) <= bound).all()
    np.testing.assert_array_equal(both.splits["train"].view_features, plain.splits["train"].view_features)
    assert verify_cache(tmp_path / "both.h5").ok
    # A new template keeps them.
    assert (
        call([*map(str, words), "--out", str(tmp_path / "both.h5"), "--projection-features", "--templates", "x {}"])
        == 0
    )
    again = read_features(tmp_path / "both.h5")
    np.testing.assert_array_equal(again.splits["test"].projection_features, both.splits["test"].projection_features)
    assert again.templates == ("x {}",)

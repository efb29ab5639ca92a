"""Features of one set of images by two encoders, joined by the images' hashes, or by what the provenance says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe.errors import InputError
from cafe.features import Features, Split, side_by_side

CLASSES = ("cat", "dog", "cow")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def split_of(numbers, width, *, hashed=True):
    """Images by number: the feature of each is made of its number and the width, so that rows can be recognised."""
    numbers = np.asarray(numbers, dtype=np.int64)
    features = numbers[:, None] * 10.0 + np.arange(width)  # (n, width)
    sha256 = np.zeros((len(numbers), 32), dtype=np.uint8)
    sha256[:, -8:] = numbers.astype(">u8").view(np.uint8).reshape(-1, 8)
    ids = np.array([f"{width}/{number}.png" for number in numbers], dtype=np.str_)
    return Split(features, numbers % 3, ids, image_sha256=sha256 if hashed else None)


def features_of(splits, width, name, *, text=False, hashed=True, classes=CLASSES, **provenance):
    made = {key: split_of(numbers, width, hashed=hashed) for key, numbers in splits.items()}
    words = np.ones((1, len(classes), width)) if text else None
    return Features(
        made, classes, words, ("a {}.",) if text else (),
        provenance={"encoder": name, "dataset": "pets", "fingerprint": name[0], "image_fingerprint": name[0].upper(),
                    **provenance},
    )  # fmt: skip


@given(st.permutations(range(12)), st.integers(1, 11))
def test_rows_stand_beside_each_other_whatever_order_and_split(order, cut):
    first = features_of({"train": range(8), "test": range(8, 12)}, 4, "clip", text=True)
    second = features_of({"train": order[:cut], "test": order[cut:]}, 6, "dino")
    joined = first.join(second)
    for name, split in joined.splits.items():
        rows = first.splits[name].image_features
        expected = np.hstack([unit(rows), unit(rows[:, :1] + np.arange(6))])
        np.testing.assert_allclose(split.image_features, expected, rtol=1e-14)
    assert joined.second_width == 6
    assert joined.text_features.shape == (1, 3, 10)
    assert not joined.text_features[..., 4:].any()


def test_text_comes_from_the_one_that_has_it():
    clip = features_of({"train": range(6)}, 4, "clip", text=True)
    dino = features_of({"train": range(6)}, 6, "dino")
    for joined in (clip.join(dino), dino.join(clip)):
        assert joined.provenance["encoder"] == "clip+dino"
        assert joined.provenance["fingerprint"] == "c+d"
        assert [part["encoder"] for part in joined.provenance["joined"]] == ["clip", "dino"]
        assert np.array_equal(joined.text_features[..., :4], clip.text_features)
        np.testing.assert_allclose(
            joined.split("train").image_features[:, 4:], unit(dino.split("train").image_features)
        )
    without = dino.join(features_of({"train": range(6)}, 4, "pixels"))
    assert without.provenance["encoder"] == "dino+pixels"
    assert without.text_features is None
    assert without.logit_scale == dino.logit_scale


def test_copies_of_an_image_and_images_that_are_too_many():
    """Equal bytes have equal features, so any row of them will do; what the other has besides is left."""
    first = features_of({"train": [1, 2, 1, 3]}, 4, "clip", text=True)
    second = features_of({"train": [3, 2, 1, 0], "test": [1, 7]}, 6, "dino")
    expected = unit(np.array([[10.0], [20], [10], [30]]) + np.arange(6))
    np.testing.assert_allclose(first.join(second).split("train").image_features[:, 4:], expected)


def test_labels_of_the_same_images_agree():
    """An image of two classes, as copies in two folders, is the same one in both; a class that was changed is not."""
    first, second = (features_of({"train": [1, 2, 1, 3]}, width, name) for width, name in ((4, "clip"), (6, "dino")))
    for part in (first, second):
        part.split("train").labels[2] = 0  # a copy of an image of class 1
    joined = first.join(second).split("train")
    assert np.array_equal(joined.image_features[0], joined.image_features[2])
    second.split("train").labels[1] = 1
    with pytest.raises(InputError, match="1 of 4 images of split 'train' have another label in the cache of dino"):
        first.join(second)


def test_parts_are_of_unit_length_whatever_they_hold():
    huge, tiny = np.full((2, 3), 1e30, np.float32), np.array([[1e-30, 0], [0, 0]], np.float32)
    joined = side_by_side(huge, tiny)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined, [[3**-0.5] * 3 + [1, 0], [3**-0.5] * 3 + [0, 0]], rtol=1e-6)
    half = side_by_side(np.eye(2, dtype=np.float16), np.ones((2, 1), np.float16))
    assert half.dtype == np.float32  # float16 for very many rows alone


def test_logits_of_text_are_those_of_the_encoder_that_has_it():
    """Zeros and sqrt(2) leave no trace of the second encoder in zero-shot."""
    from cafe import ZeroShot

    draw = np.random.default_rng(0)
    clip, dino = features_of({"train": range(9)}, 4, "clip"), features_of({"train": range(9)}, 6, "dino")
    clip = replace(clip, text_features=draw.normal(size=(2, 3, 4)), logit_scale=30.0)
    joined = clip.join(dino)
    logits = [
        ZeroShot(part.class_embeddings, logit_scale=part.logit_scale)
        .fit(part.split("train").image_features, part.split("train").labels)
        .logits(part.split("train").image_features)
        for part in (clip, joined)
    ]
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (features_of({"train": range(4)}, 6, "dino"), "2 of 6 images of split 'train' are not in the cache of dino"),
        (features_of({"train": range(6)}, 6, "dino", classes=("cat", "dog", "cows")), "'cow' and 'cows'"),
        (features_of({"train": range(6)}, 6, "dino", classes=(*CLASSES, "pig")), "3 and 4"),
        (features_of({"train": range(6)}, 6, "dino", hashed=False), "hold no hashes of their images"),
        (features_of({"train": range(6)}, 4, "clip", image={"encoder": {"weights_sha256": "a"}}), "both caches are of"),
        (features_of({"train": range(6)}, 4, "b", image={"encoder": {"weights_sha256": "a"}}), "both caches are of"),
        (
            features_of({"train": range(6)}, 4, "clip", image={"encoder": {"weights_sha256": "b"}}),
            "the name changed its meaning",
        ),
    ],
)
def test_refusals(second, words):
    first = features_of({"train": range(6)}, 4, "clip", text=True, image={"encoder": {"weights_sha256": "a"}})
    with pytest.raises(InputError) as caught:
        first.join(second)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_hashes_by_the_hash_of_ids_labels_and_sizes():
    def features(width, name, sha256, order):
        image = {"encoder": {"weights_sha256": name}, "dataset": {"splits": {"train": {"n": 6, "sha256": sha256}}}}
        made = features_of({"train": order}, width, name, hashed=False, image=image)
        split = made.split("train")
        ids = np.array([f"{number}.png" for number in order])
        return Features({"train": Split(split.image_features, split.labels, ids)}, CLASSES, provenance=made.provenance)

    joined = features(4, "clip", "x", range(6)).join(features(6, "dino", "x", [5, 4, 3, 2, 1, 0]))
    expected = unit(10.0 * np.arange(6)[:, None] + np.arange(6))
    np.testing.assert_allclose(joined.split("train").image_features[:, 4:], expected)
    with pytest.raises(InputError, match="not known to be the same in both"):
        features(4, "clip", "x", range(6)).join(features(6, "dino", "y", range(6)))


def test_what_is_joined_is_not_taken_for_one_encoder(tmp_path):
    """Neither is a third joined to it, nor a cache written."""
    from cafe.cache.format.provenance import Provenance
    from cafe.cache.format.writer import write_cache

    parts = {"train": range(6), "test": range(6, 9)}
    joined = features_of(parts, 4, "clip", text=True).join(features_of(parts, 6, "dino"))
    with pytest.raises(InputError, match="two encoders already"):
        joined.join(features_of(parts, 5, "third"))
    with pytest.raises(InputError, match="a cache is of one encoder"):
        write_cache(tmp_path / "a.h5", joined, Provenance("pets", "clip+dino", {}))


def test_two_caches_of_one_extraction(tmp_path, tiny_clip_folder):
    """Photographs through a CLIP and a model of images alone in one pass, joined in memory."""
    from PIL import Image

    from cafe.cache import extract
    from cafe.cache.format.reader import read_features
    from cafe.data import open_dataset
    from cafe.encoders import open_encoder
    from cafe.encoders.examples import save_tiny_dinov2

    generator = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    dataset = open_dataset(str(tmp_path / "photos"))
    models = [str(tiny_clip_folder), str(save_tiny_dinov2(tmp_path / "dino"))]
    summaries = [
        extract(dataset, open_encoder(model, "cpu"), tmp_path / f"{number}.h5") for number, model in enumerate(models)
    ]
    clip, dino = (read_features(summary.path) for summary in summaries)
    joined = dino.join(clip)
    assert joined.provenance["encoder"] == "+".join(models)
    assert joined.class_embeddings is not None
    for name, split in joined.splits.items():
        expected = side_by_side(clip.splits[name].image_features, dino.splits[name].image_features)
        assert np.array_equal(split.image_features, expected)

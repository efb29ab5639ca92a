"""Features of one set of images by two encoders, joined by the images' hashes, or by what the provenance says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe.errors import InputError
from cafe.features import Features, Split

CLASSES = ("cat", "dog", "cow")


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
        expected = split.image_features[:, :1] + np.arange(6)
        assert np.array_equal(split.second_features, expected)
        assert np.array_equal(split.image_features, first.splits[name].image_features)
        rows = np.array([2, 0])
        assert np.array_equal(split.take(rows).second_features, expected[rows])


def test_text_comes_from_the_one_that_has_it():
    clip = features_of({"train": range(6)}, 4, "clip", text=True)
    dino = features_of({"train": range(6)}, 6, "dino")
    for joined in (clip.join(dino), dino.join(clip)):
        assert joined.provenance["encoder"] == "clip+dino"
        assert joined.provenance["fingerprint"] == "c+d"
        assert [part["encoder"] for part in joined.provenance["joined"]] == ["clip", "dino"]
        assert joined.text_features is clip.text_features
        assert joined.split("train").second_features is dino.split("train").image_features
    without = dino.join(features_of({"train": range(6)}, 4, "pixels"))
    assert without.provenance["encoder"] == "dino+pixels"
    assert without.text_features is None


def test_copies_of_an_image_and_images_that_are_too_many():
    """Equal bytes have equal features, so any row of them will do; what the other has besides is left."""
    first = features_of({"train": [1, 2, 1, 3]}, 4, "clip", text=True)
    second = features_of({"train": [3, 2, 1, 0], "test": [1, 7]}, 6, "dino")
    assert first.join(second).split("train").second_features[:, 0].tolist() == [10, 20, 10, 30]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (features_of({"train": range(4)}, 6, "dino"), "2 of 6 images of split 'train' are not in the cache of dino"),
        (features_of({"train": range(6)}, 6, "dino", classes=("cat", "dog", "cows")), "'cow' and 'cows'"),
        (features_of({"train": range(6)}, 6, "dino", classes=(*CLASSES, "pig")), "3 and 4"),
        (features_of({"train": range(6)}, 6, "dino", hashed=False), "hold no hashes of their images"),
        (features_of({"train": range(6)}, 4, "clip", image={"encoder": {"weights_sha256": "a"}}), "both caches are of"),
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
    assert joined.split("train").second_features[:, 0].tolist() == [0, 10, 20, 30, 40, 50]
    with pytest.raises(InputError, match="not known to be the same in both"):
        features(4, "clip", "x", range(6)).join(features(6, "dino", "y", range(6)))


def test_what_is_joined_is_not_taken_for_one_encoder(tmp_path):
    """Neither a third is joined to it, nor a cache written, nor a method fitted that would learn from one alone."""
    from cafe.cache.format.provenance import Provenance
    from cafe.cache.format.writer import write_cache
    from cafe.protocol.tasks import make_task

    parts = {"train": range(6), "test": range(6, 9)}
    joined = features_of(parts, 4, "clip", text=True).join(features_of(parts, 6, "dino"))
    with pytest.raises(InputError, match="two encoders already"):
        joined.join(features_of(parts, 5, "third"))
    with pytest.raises(InputError, match="a cache is of one encoder"):
        write_cache(tmp_path / "a.h5", joined, Provenance("pets", "clip+dino", {}))
    with pytest.raises(InputError, match="no method learns from both yet"):
        make_task(joined, 1, 1)


def test_two_caches_of_one_extraction(tmp_path, tiny_clip_folder):
    """Photographs through a CLIP and a model of images alone in one pass, joined in memory."""
    from PIL import Image

    from cafe.cache import extract
    from cafe.cache.format.reader import load_features
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
    clip, dino = (load_features(summary.path) for summary in summaries)
    joined = dino.join(clip)
    assert joined.provenance["encoder"] == "+".join(models)
    assert joined.class_embeddings is not None
    for name, split in joined.splits.items():
        assert np.array_equal(split.image_features, clip.splits[name].image_features)
        assert np.array_equal(split.second_features, dino.splits[name].image_features)

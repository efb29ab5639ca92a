import numpy as np
import pytest
from PIL import Image

from cafe.data import from_arrays
from cafe.errors import InputError, UnreadableImageError


def pixels(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (8, 6, 3)])
def test_one_array(shape: tuple[int, ...]) -> None:
    images = pixels(20, *shape)
    dataset = from_arrays(images, np.arange(20) % 2, ["cat", "dog"], name="mine", templates=["art of {}."])
    assert (dataset.name, dataset.class_names, dataset.templates) == ("mine", ("cat", "dog"), ("art of {}.",))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 10, "val": 4, "test": 6}
    for name, split in dataset.splits.items():
        for index, sample in enumerate(split.sample_ids):
            row = int(sample.partition("-")[0])
            assert split.labels[index] == row % 2
            seen = np.asarray(dataset.image(name, index))
            assert seen.shape == (8, 6, 3)
            assert np.array_equal(seen, np.broadcast_to(images[row].reshape(8, 6, -1), (8, 6, 3)))


def test_pil_images_go_by_the_rules_for_files() -> None:
    turned = Image.new("RGB", (4, 2))
    turned.getexif()[0x0112] = 6
    images = [turned, Image.new("RGBA", (2, 2)), Image.new("L", (2, 2), 9), Image.new("F", (2, 2))]
    dataset = from_arrays(images, [0, 0, 1, 1], ["a", "b"], splits=["train", "test", "train", "test"])
    assert dataset.image("train", 0).size == (2, 4)
    assert dataset.image("test", 0).getpixel((0, 0)) == (255, 255, 255)
    assert dataset.image("train", 1).getpixel((0, 0)) == (9, 9, 9)
    with pytest.raises(UnreadableImageError, match="32 bits"):
        dataset.image("test", 1)
    assert images[1].mode == "RGBA"  # what was given stays as it was


def test_arrays_with_alpha_are_composited() -> None:
    image = np.zeros((2, 2, 4), dtype=np.uint8)
    dataset = from_arrays([image, image + 1], [0, 1], ["a", "b"])
    assert dataset.image("train", 0).getpixel((0, 0)) == (255, 255, 255)


def test_copies_stay_on_one_side_and_a_replaced_image_is_noticed() -> None:
    images = np.repeat(pixels(10, 4, 4), 2, axis=0)
    labels = np.repeat(np.arange(10) % 2, 2)
    dataset = from_arrays(images, labels, ["a", "b"])
    for split in dataset.splits.values():
        digests = [sample.partition("-")[2] for sample in split.sample_ids]
        assert all(digests.count(digest) == 2 for digest in digests)
    other = images.copy()
    other[3, 0, 0] ^= 1
    assert from_arrays(other, labels, ["a", "b"]).identity() != dataset.identity()
    assert from_arrays(images.copy(), labels, ["a", "b"]).identity() == dataset.identity()


def test_a_dataset_of_arrays_keeps_the_contract_of_all() -> None:
    import pickle

    dataset = from_arrays(pixels(6, 4, 4), [0, 1] * 3, ["a", "b"])
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.identity() == dataset.identity()
    assert np.array_equal(np.asarray(copy.image("train", 0)), np.asarray(dataset.image("train", 0)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": [0, 1, 0]}, r"4 images need one integer label each, got labels int64 \(3,\)"),
        ({"labels": [0.0, 1.0, 0.0, 1.0]}, "integer label"),
        ({"labels": [0, 1, 2, 0]}, "labels must be 0 to 1, rows of class_names; got 0 to 2"),
        ({"labels": [0, 1, -1, 0]}, "got -1 to 1"),
        ({"images": np.zeros((4, 2, 2, 3), dtype=np.float32)}, r"image 0 is float32 of shape \(2, 2, 3\); give uint8"),
        ({"images": np.zeros((4, 3, 9, 9), dtype=np.uint8)}, r"image 0 is uint8 of shape \(3, 9, 9\)"),
        ({"images": np.zeros((4, 0, 2), dtype=np.uint8)}, r"shape \(0, 2\)"),
        ({"splits": ["train", "test", "left", "test"]}, r"must be train, val or test .* got \['left'\]"),
        ({"splits": ["train"]}, "for each of 4 images; got 1"),
        ({"class_names": ["a", "a"]}, "two classes called 'a'"),
        ({"class_names": ["a"], "labels": [0] * 4}, "has 1 class"),
        ({"images": [], "labels": np.array([], dtype=int)}, "names no images"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(change, words: str) -> None:
    given = {"images": pixels(4, 2, 2), "labels": [0, 1, 0, 1], "class_names": ["a", "b"], "splits": None, **change}
    with pytest.raises(InputError, match=words):
        from_arrays(**given)

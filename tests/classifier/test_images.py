"""What users give as images is listed in its order, and refused with a sentence where it is no image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cafe.classifier.images import ImageInput, image_inputs
from cafe.classifier.reading import ReadImage, read_ahead
from cafe.errors import InputError

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def read(images: Iterable[ImageInput]) -> list[ReadImage]:
    """Read images whole, without an encoder's crop."""
    return list(read_ahead(images, lambda: np.asarray, "pillow"))  # type: ignore[return-value, arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("b.png", "a.png", "deep/c.png"):
        Image.fromarray(PIXELS).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_order_is_kept_and_folders_are_replaced_by_their_images(folder: Path) -> None:
    given = list(image_inputs([folder / "b.png", PIXELS, str(folder), Image.fromarray(PIXELS)]))
    names = [str(folder / name) for name in ("a.png", "b.png", "deep/c.png")]
    assert [image.name for image in given] == [str(folder / "b.png"), "image 1", *names, "image 3"]
    for image in read(given):
        np.testing.assert_array_equal(image.crop, PIXELS)


def test_one_image_is_a_list_of_one(folder: Path) -> None:
    for image in (folder / "a.png", str(folder / "a.png"), Image.fromarray(PIXELS), PIXELS, PIXELS[..., 0]):
        (only,) = read(image_inputs(image))
        assert only.crop is not None and only.crop.shape == (4, 6, 3)


def test_an_array_of_four_axes_is_several_images() -> None:
    first, second = read(image_inputs(np.stack([PIXELS, PIXELS[::-1]])))
    assert (first.input.name, second.input.name) == ("image 0", "image 1")
    np.testing.assert_array_equal(second.crop, PIXELS[::-1])


def test_grey_and_transparent_pixels_become_rgb_as_files_do() -> None:
    clear = np.zeros((4, 6, 4), dtype=np.uint8)
    grey, white = read(image_inputs([PIXELS[..., 0], clear]))
    np.testing.assert_array_equal(grey.crop, np.repeat(PIXELS[..., :1], 3, axis=2))
    assert white.crop is not None and white.crop.min() == 255


def test_a_file_of_any_name_is_taken_and_read_later(folder: Path) -> None:
    (only,) = read(image_inputs(folder / "notes.txt"))
    assert only.crop is None and str(only.unreadable).endswith(
        "notes.txt' cannot be read: it is not an image, or of a kind that is not read here"
    )


def test_patterns_stand_for_files_and_folders(folder: Path) -> None:
    names = [image.name for image in image_inputs(f"{folder}/?.png")]
    assert names == [str(folder / "a.png"), str(folder / "b.png")]
    (deep,) = image_inputs(f"{folder}/d*")
    assert (deep.name, deep.inside) == (str(folder / "deep/c.png"), "c.png")
    (folder / "[odd].png").write_bytes(b"")  # a name that looks like a pattern is a name if there is such a file
    assert [image.name for image in image_inputs(folder / "[odd].png")] == [str(folder / "[odd].png")]


def test_only_a_few_images_are_asked_for_ahead() -> None:
    asked: list[int] = []

    def endless() -> Iterator[ImageInput]:
        for number in count():
            asked.append(number)
            yield ImageInput(str(number), Image.fromarray(PIXELS))

    reading = read_ahead(endless(), lambda: np.asarray, "pillow")  # type: ignore[return-value, arg-type]
    assert [next(reading).input.name for _ in range(3)] == ["0", "1", "2"]
    reading.close()  # type: ignore[attr-defined]
    assert len(asked) < 200  # a few for each thread


def test_a_known_file_is_not_decoded(folder: Path) -> None:
    sha256 = hashlib.sha256((folder / "a.png").read_bytes()).digest()
    images = list(read_ahead(image_inputs(folder), lambda: np.asarray, "pillow", lambda digest: digest == sha256))  # type: ignore[return-value, arg-type]
    assert [image.sha256 for image in images] == [sha256] * 3  # the same pixels in the same format
    assert all(image.crop is None and image.unreadable is None for image in images)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "no image was given"),
        (["nowhere.png"], "no such image or folder: 'nowhere.png'"),
        ([PIXELS, PIXELS / 255.0], r"image 1 is an array of float64, \(4, 6, 3\); give a path"),
        ([PIXELS[..., :2]], r"image 0 is an array of uint8, \(4, 6, 2\)"),
        ([None], "image 0 is a NoneType; give a path"),
        ("https://example.org/cat.jpg", "'https://example.org/cat.jpg' is an address; cafe reads files and downloads"),
        (["s3://bucket/cat.jpg"], "'s3://bucket/cat.jpg' is an address"),
        ("nothing/*.jpg", r"no file fits the pattern 'nothing/\*.jpg'"),
    ],
)
def test_what_is_no_image_is_refused(images: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        list(image_inputs(images))  # type: ignore[arg-type]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no image in the folder"):
        list(image_inputs(tmp_path))

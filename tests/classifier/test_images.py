"""What users give as images is listed in its order, and refused with a sentence where it is no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cafe.classifier.images import given_images, image_files
from cafe.errors import InputError, UnreadableImageError

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("b.png", "a.png", "deep/c.png"):
        Image.fromarray(PIXELS).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_order_is_kept_and_folders_are_replaced_by_their_images(folder: Path) -> None:
    given = given_images([folder / "b.png", PIXELS, str(folder), Image.fromarray(PIXELS)])
    names = [str(folder / name) for name in ("a.png", "b.png", "deep/c.png")]
    assert [image.name for image in given] == [str(folder / "b.png"), "image 1", *names, "image 3"]
    for image in given:
        np.testing.assert_array_equal(np.asarray(image.read()), PIXELS)


def test_one_image_is_a_list_of_one(folder: Path) -> None:
    for image in (folder / "a.png", str(folder / "a.png"), Image.fromarray(PIXELS), PIXELS, PIXELS[..., 0]):
        (given,) = given_images(image)
        assert given.read().size == (6, 4)


def test_an_array_of_four_axes_is_several_images() -> None:
    given = given_images(np.stack([PIXELS, PIXELS[::-1]]))
    assert [image.name for image in given] == ["image 0", "image 1"]
    np.testing.assert_array_equal(np.asarray(given[1].read()), PIXELS[::-1])


def test_grey_and_transparent_pixels_become_rgb_as_files_do() -> None:
    clear = np.zeros((4, 6, 4), dtype=np.uint8)
    grey, white = given_images([PIXELS[..., 0], clear])
    np.testing.assert_array_equal(np.asarray(grey.read()), np.repeat(PIXELS[..., :1], 3, axis=2))
    assert np.asarray(white.read()).min() == 255


def test_files_are_listed_once(folder: Path) -> None:
    assert image_files([folder / "b.png", folder, folder / "b.png"]) == [
        folder / name for name in ("b.png", "a.png", "deep/c.png")
    ]


def test_a_file_of_any_name_is_taken_and_read_later(folder: Path) -> None:
    (given,) = given_images(folder / "notes.txt")
    with pytest.raises(UnreadableImageError, match="notes.txt' cannot be read: it is not an image"):
        given.read()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "no image was given"),
        (["nowhere.png"], "no such image or folder: 'nowhere.png'"),
        ([PIXELS, PIXELS / 255.0], r"image 1 is an array of float64, \(4, 6, 3\); give a path"),
        ([PIXELS[..., :2]], r"image 0 is an array of uint8, \(4, 6, 2\)"),
        ([None], "image 0 is a NoneType; give a path"),
    ],
)
def test_what_is_no_image_is_refused(images: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        given_images(images)  # type: ignore[arg-type]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no image in the folder"):
        given_images(tmp_path)

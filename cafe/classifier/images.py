"""Images as users name them: files, folders of files, patterns, open images, arrays of pixels."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe.data.images.files import list_images
from cafe.errors import CafeError, InputError

if TYPE_CHECKING:
    from PIL import Image

    from cafe.data.base import Dataset

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[np.uint8]"

_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class ImageInput:
    """One image to be read.

    Attributes
    ----------
    name : str
        The path of a file as the user wrote it; of an open image or an array its place, such as ``"image 0"``.
    source : Path or PIL.Image.Image
        Where the pixels are.
    inside : str
        The path of the file below the folder that the user named, with forward slashes; empty without a folder.
    """

    name: str
    source: Path | Image.Image
    inside: str = ""


def image_inputs(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageInput]:
    """Go through images in their order, with the files of each folder and pattern in its place.

    Parameters
    ----------
    images : image, or iterable of images
        Each the path of a file, the path of a folder (standing for every image in it, at any depth, sorted), a
        pattern such as ``"photos/*.jpg"``, an open ``PIL.Image.Image``, or pixels as uint8 of shape (height, width),
        (height, width, 3) or (height, width, 4). An array of shape (n, height, width, 3) is n images. An iterable is
        asked for one image after the other, so it may be longer than memory.

    Yields
    ------
    ImageInput

    Raises
    ------
    InputError
        If there is no image, a path leads nowhere or is an address, a folder has no image, or an array is of another
        kind.

    Examples
    --------
    >>> [image.name for image in image_inputs(np.zeros((2, 8, 8, 3), dtype=np.uint8))]
    ['image 0', 'image 1']
    """
    from PIL import Image  # a fit on features needs none

    if isinstance(images, (str, os.PathLike, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    number = -1
    for number, image in enumerate(images):
        if isinstance(image, (str, os.PathLike)):
            yield from files_of(image)
        elif isinstance(image, Image.Image):
            yield ImageInput(f"image {number}", image)
        else:
            yield ImageInput(f"image {number}", _image_of_pixels(image, number))
    if number < 0:
        raise InputError("no image was given; give paths, open images or arrays of pixels")


def files_of(path: str | os.PathLike[str], left_out: Callable[[str], None] | None = None) -> Iterator[ImageInput]:
    """Go through the files that a path stands for.

    Parameters
    ----------
    path : path
        A file, whatever it is called; a folder, of which the images at any depth are taken, sorted; or a pattern with
        ``*``, ``?``, ``[...]`` or ``**``, of files and folders.
    left_out : callable, default=None
        Called with the path of each file in a folder whose name is not that of an image, or not UTF-8.

    Yields
    ------
    ImageInput

    Raises
    ------
    InputError
        If it is an address, leads nowhere, fits no file, or is a folder without an image.
    """
    text = os.fspath(path)
    if _ADDRESS.match(text):
        raise InputError(f"{text!r} is an address; cafe reads files and downloads nothing: fetch it, and give the file")
    target = Path(text).expanduser()
    if text and os.path.isdir(target):  # noqa: PTH112 (False, where Path raises, for a name that no file can have)
        yield from _files_in(target, left_out)
    elif text and os.path.exists(target):  # noqa: PTH110
        yield ImageInput(str(target), target)
    elif glob.has_magic(text):
        fitting = sorted(glob.glob(os.fspath(target), recursive=True))  # noqa: PTH207 (an absolute pattern too)
        if not fitting:
            raise InputError(f"no file fits the pattern {text!r}")
        for match in fitting:
            yield from files_of(match, left_out)
    else:
        raise InputError(f"no such image or folder: {text!r}")


def _files_in(folder: Path, left_out: Callable[[str], None] | None) -> Iterator[ImageInput]:
    """Go through the images of a folder, at any depth; see :func:`files_of`."""
    listing = list_images(folder)
    if left_out is not None:
        for name in (*listing.others, *listing.not_utf8):
            left_out(str(folder / name))
    if not listing.files:
        raise InputError(f"there is no image in the folder {folder}")
    for name, _ in listing.files:
        yield ImageInput(str(folder / name), folder / name, name)


def _image_of_pixels(pixels: object, number: int) -> Image.Image:
    """Return uint8 pixels as an image; raise InputError for anything else, naming the image by its number."""
    from PIL import Image

    array = np.asarray(pixels)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        kind = f"an array of {array.dtype}, {array.shape}" if array.dtype != object else f"a {type(pixels).__name__}"
        raise InputError(
            f"image {number} is {kind}; give a path, an open PIL image, or uint8 pixels of shape (height, width) or "
            "(height, width, 3 or 4)"
        )
    return Image.fromarray(array)


class SampleImages:
    """Opens the images of a data set by the ids of its samples.

    Parameters
    ----------
    dataset : Dataset or None
        None for images that are not on this machine.
    """

    def __init__(self, dataset: Dataset | None) -> None:
        self._dataset = dataset
        self._places: dict[str, tuple[str, int]] = {}  # split and row of each sample
        for split, images in () if dataset is None else dataset.splits.items():
            self._places.update({str(sample): (split, row) for row, sample in enumerate(images.sample_ids)})

    def open(self, sample_id: str) -> Image.Image | None:
        """Return the image of a sample; None if there is no such sample, or its image cannot be opened any more."""
        if self._dataset is None or sample_id not in self._places:
            return None
        try:
            return self._dataset.image(*self._places[sample_id])
        except (CafeError, OSError):
            return None

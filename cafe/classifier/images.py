"""What users give as images: files, folders of files, open images, arrays of pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cafe.data.images.decoding import as_rgb, read_image
from cafe.data.images.files import list_images
from cafe.errors import InputError

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[np.uint8]"


@dataclass(frozen=True)
class GivenImage:
    """One image that was given, not read yet.

    Attributes
    ----------
    name : str
        The path of a file as it was given; of anything else its place in what was given, such as ``"image 0"``.
    source : Path or PIL.Image.Image
        Where the pixels are.
    """

    name: str
    source: Path | Image.Image

    def read(self) -> Image.Image:
        """Return it as RGB, by the rules of :mod:`cafe.data.images.decoding`.

        Raises
        ------
        UnreadableImageError
            If it cannot be decoded.
        """
        if isinstance(self.source, Path):
            return read_image(self.source, self.name)
        return as_rgb(self.source, self.name)


def given_images(images: ImageLike | Iterable[ImageLike]) -> list[GivenImage]:
    """List the images that were given, in their order, folders replaced by the images in them.

    Parameters
    ----------
    images : image, or iterable of images
        Each the path of a file, the path of a folder (standing for every image in it, at any depth, sorted), an
        open ``PIL.Image.Image``, or pixels as uint8 of shape (height, width), (height, width, 3) or
        (height, width, 4). An array of shape (n, height, width, 3) is n images.

    Returns
    -------
    list of GivenImage

    Raises
    ------
    InputError
        If nothing was given, a path leads nowhere, a folder has no image, or an array is of another kind.

    Examples
    --------
    >>> [image.name for image in given_images(np.zeros((2, 8, 8, 3), dtype=np.uint8))]
    ['image 0', 'image 1']
    """
    if isinstance(images, (str, os.PathLike, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    listed: list[GivenImage] = []
    for number, image in enumerate(images):
        if isinstance(image, (str, os.PathLike)):
            listed += [GivenImage(str(path), path) for path in image_files([Path(image)])]
        elif isinstance(image, Image.Image):
            listed.append(GivenImage(f"image {number}", image))
        else:
            listed.append(GivenImage(f"image {number}", _opened(image, number)))
    if not listed:
        raise InputError("no image was given; give paths, open images or arrays of pixels")
    return listed


def image_files(paths: Sequence[Path]) -> list[Path]:
    """List the files that were named, and the images in the folders that were named, each once.

    Parameters
    ----------
    paths : sequence of Path
        Files, whatever they are called, and folders, of which the images at any depth are taken, sorted.

    Raises
    ------
    InputError
        If something is not there, or a folder holds no image.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = [path / name for name, _ in list_images(path).files]
            if not inside:
                raise InputError(f"there is no image in the folder {path}")
            files.update(dict.fromkeys(inside))
        elif path.exists():
            files[path] = None
        else:
            raise InputError(f"no such image or folder: {str(path)!r}")
    return list(files)


def _opened(pixels: object, number: int) -> Image.Image:
    array = np.asarray(pixels)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        what = f"an array of {array.dtype}, {array.shape}" if array.dtype != object else f"a {type(pixels).__name__}"
        raise InputError(
            f"image {number} is {what}; give a path, an open PIL image, or uint8 pixels of shape (height, width) or "
            "(height, width, 3 or 4)"
        )
    return Image.fromarray(array)

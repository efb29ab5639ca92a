"""Images that are already in memory: NumPy arrays and PIL images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cafe.data.base import Dataset
from cafe.data.layouts.labelling import label_rows, split_name
from cafe.errors import InputError
from cafe.prompts import GENERIC_TEMPLATE

if TYPE_CHECKING:
    from PIL import Image


class ArrayImages(Dataset):
    """Images in memory; :func:`from_arrays` makes it."""

    def __init__(
        self, images: Sequence[Any], labels: list[int], class_names: Sequence[str], splits: list[str], name: str
    ) -> None:
        """Take images, labels and splits (``""`` for none) of equal length."""
        self.name = name
        digests = [_digest(image, row) for row, image in enumerate(images)]
        labelled = label_rows(name, labels, splits, lambda: digests, class_names)
        self.class_names, self.split_origin = labelled.class_names, labelled.split_origin
        # The id contains the content's hash, since a replaced array may have the same size.
        ids = [f"{row:07d}-{digest[:16]}" for row, digest in enumerate(digests)]
        self.splits = labelled.image_splits(ids, [_n_bytes(image) for image in images])
        self.notes = labelled.notes
        self._images = {split: [images[row] for row in rows] for split, rows in labelled.rows.items()}

    def image(self, split: str, index: int) -> Image.Image:
        """Return one image as RGB; a PIL image goes by the rules of :mod:`cafe.data.images.decoding`."""
        from PIL import Image

        from cafe.data.images.decoding import as_rgb

        image = self._images[split][index]
        sample_id = self.splits[split].sample_ids[index]
        if not isinstance(image, Image.Image):
            pixels = np.asarray(image)
            image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
        return as_rgb(image, sample_id)


def from_arrays(
    images: Sequence[Any] | NDArray[np.uint8],
    labels: ArrayLike,
    class_names: Sequence[str],
    *,
    splits: Sequence[str] | None = None,
    name: str = "arrays",
    templates: Sequence[str] = (GENERIC_TEMPLATE,),
) -> Dataset:
    """Make a data set of images in memory.

    Parameters
    ----------
    images : array of shape (n, height, width[, channels]), or sequence of n arrays or PIL images
        uint8, 0 is black and 255 white; grey, RGB, or RGBA, which is composited on white. PIL images of any mode
        that :mod:`cafe.data.images.decoding` takes. They are not copied.
    labels : array-like of shape (n,), int
        Row of ``class_names``.
    class_names : sequence of str
        In label order, as they go into prompts.
    splits : sequence of str, length n, or None
        ``"train"``, ``"val"`` or ``"test"`` of each image; None divides them by hash.
    name : str, default "arrays"
        The name in tables and file names.
    templates : sequence of str, default ("a photo of a {}.",)
        For the prompts.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If lengths differ, an image has another dtype or shape, a label is no row of ``class_names``, or a split has
        another name.

    Examples
    --------
    >>> pixels = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    >>> data = from_arrays(pixels, [0, 0, 1, 1], ["cat", "dog"], splits=["train", "test"] * 2)
    >>> {name: split.labels.tolist() for name, split in data.splits.items()}
    {'train': [0, 1], 'test': [0, 1]}
    >>> data.image("test", 0).size
    (8, 8)
    """
    row_labels = np.asarray(labels)
    if row_labels.ndim != 1 or not np.issubdtype(row_labels.dtype, np.integer) or len(row_labels) != len(images):
        raise InputError(
            f"{len(images)} images need one integer label each, got labels {row_labels.dtype} {row_labels.shape}"
        )
    if len(row_labels) and not 0 <= row_labels.min() <= row_labels.max() < len(class_names):
        raise InputError(
            f"labels must be 0 to {len(class_names) - 1}, rows of class_names; got "
            f"{row_labels.min()} to {row_labels.max()}"
        )
    row_splits = [""] * len(images) if splits is None else [split_name(str(split)) or str(split) for split in splits]
    unknown = sorted(set(row_splits) - {"", "train", "val", "test"}) if splits is not None else []
    if unknown or len(row_splits) != len(images):
        raise InputError(
            f"splits must be train, val or test for each of {len(images)} images; got {unknown or len(row_splits)}"
        )
    dataset = ArrayImages(list(images), row_labels.tolist(), list(class_names), row_splits, name)
    dataset.templates = tuple(templates)
    return dataset


def _digest(image: Any, row: int) -> str:
    """Return the SHA-256 of an image's type, shape and pixels, after checking them."""
    pixels = np.asarray(image)
    if not _is_pil(image) and (pixels.dtype != np.uint8 or not _has_image_shape(pixels.shape)):
        raise InputError(
            f"image {row} is {pixels.dtype} of shape {pixels.shape}; give uint8 (height, width) or (height, width, "
            f"1, 3 or 4) with 0 for black and 255 for white"
        )
    head = f"{getattr(image, 'mode', '')} {pixels.dtype} {pixels.shape}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _has_image_shape(shape: tuple[int, ...]) -> bool:
    """Return whether a shape is (height, width) or (height, width, 1, 3 or 4)."""
    return len(shape) in (2, 3) and min(shape) > 0 and (len(shape) == 2 or shape[2] in (1, 3, 4))


def _n_bytes(image: Any) -> int:
    """Return the number of bytes of an image's pixels."""
    return int(np.asarray(image).nbytes)


def _is_pil(image: Any) -> bool:
    from PIL import Image

    return isinstance(image, Image.Image)

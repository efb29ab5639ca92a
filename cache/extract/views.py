"""Seeded augmentations of training images: Tip-Adapter's random resized crop and flip.

Tip-Adapter's released code makes its cache keys from ``RandomResizedCrop(size, scale=(0.5, 1), bicubic)`` and
``RandomHorizontalFlip(0.5)`` (Zhang et al. 2022, https://github.com/gaopengcuhk/Tip-Adapter). The boxes are drawn here
as torchvision draws them, but from a generator of their own for each (seed, sample, view): the same whatever the batch
size, the number of workers, the other images, or where an interrupted run took up again.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SCALE = (0.5, 1.0)  # share of the image's area
RATIO = (3 / 4, 4 / 3)  # width over height
FLIP = 0.5  # probability
_TRIES = 10


@dataclass(frozen=True)
class Views:
    """How many augmentations, and of which seed; picklable, for workers.

    Attributes
    ----------
    n : int
        Views per training image, at least 1.
    seed : int
        Not negative.

    Raises
    ------
    InputError
        If one of them is out of range.
    """

    n: int
    seed: int = 1

    def __post_init__(self) -> None:
        if self.n < 1 or self.seed < 0:
            raise InputError(f"views must be at least 1 and their seed not negative, got {self.n} and {self.seed}")

    def specification(self) -> dict[str, Any]:
        """Return everything that changes a view's pixels, as JSON, for the fingerprint."""
        return {
            "n": self.n,
            "seed": self.seed,
            "splits": ["train"],
            "augmentation": "random resized crop and horizontal flip",
            "scale": list(SCALE),
            "ratio": list(RATIO),
            "resample": "bicubic",
            "flip": FLIP,
        }


def augmented(image: Image.Image, sample_id: str, view: int, seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Make one view.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB, of any size.
    sample_id : str
        Of the image; with ``view`` and ``seed`` it decides the box and the flip.
    view : int
        From 0.
    seed : int
        Of all views.
    height, width : int
        Pixels of the result.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8

    Examples
    --------
    >>> from PIL import Image
    >>> picture = Image.new("RGB", (40, 30), (1, 2, 3))
    >>> augmented(picture, "a.jpg", view=0, seed=1, height=8, width=8).shape
    (8, 8, 3)
    """
    from PIL import Image

    generator = view_generator(seed, sample_id, view)
    left, top, box_width, box_height = draw_box(generator, image.width, image.height)
    crop = image.crop((left, top, left + box_width, top + box_height)).resize((width, height), Image.Resampling.BICUBIC)
    if generator.random() < FLIP:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop, dtype=np.uint8)


def view_generator(seed: int, sample_id: str, view: int) -> random.Random:
    """Return the generator of one view; Python keeps its ``random()`` the same from version to version."""
    key = f"{seed}\0{sample_id}\0{view}".encode("utf-8", "surrogateescape")
    return random.Random(int.from_bytes(hashlib.sha256(key).digest(), "big"))


def draw_box(generator: random.Random, width: int, height: int) -> tuple[int, int, int, int]:
    """Draw the box of a random resized crop as torchvision does.

    With area share s ~ U(SCALE) and log r ~ U(log RATIO), the box is round(sqrt(s W H r)) wide and
    round(sqrt(s W H / r)) high, anywhere that it fits; after ten boxes that do not, the largest central one of a
    ratio within RATIO.

    Returns
    -------
    left, top, width, height : int
    """
    low, high = map(math.log, RATIO)
    for _ in range(_TRIES):
        area = width * height * _uniform(generator, *SCALE)
        ratio = math.exp(_uniform(generator, low, high))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(generator.random() * (height - box_height + 1))
            left = int(generator.random() * (width - box_width + 1))
            return left, top, box_width, box_height
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    box_width = min(width, max(1, round(height * ratio)))
    box_height = min(height, max(1, round(width / ratio)))
    return (width - box_width) // 2, (height - box_height) // 2, box_width, box_height


def _uniform(generator: random.Random, low: float, high: float) -> float:
    return low + (high - low) * generator.random()

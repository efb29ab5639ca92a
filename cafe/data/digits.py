"""scikit-learn's handwritten digits, the data set that needs no files."""

from __future__ import annotations

import gzip
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.data.base import Dataset, ImageSplit, NamedDataset
from cafe.errors import CafeError
from cafe.protocol.partition import SPLIT_ORIGIN, split_by_hash

if TYPE_CHECKING:
    from PIL import Image

DATASET = "digits"

_BRIGHTEST = 16  # the data set counts 0 to 16 dark dots in each 4 x 4 block


class Digits(NamedDataset):
    """1,797 real handwritten digits of 8 x 8 pixels, bundled with scikit-learn.

    The split is fixed: in each class by SHA-256 of the image, 50 % train, 20 % val, 30 % test.

    Examples
    --------
    >>> digits = Digits.open(None)
    >>> {name: len(split) for name, split in digits.splits.items()}
    {'train': 896, 'val': 355, 'test': 546}
    >>> digits.image("train", 0).size
    (8, 8)
    """

    name = DATASET
    class_names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    templates = ("a photo of the digit {}.",)
    split_origin = SPLIT_ORIGIN
    homepage = "https://scikit-learn.org/stable/datasets/toy_dataset.html#digits-dataset"

    def __init__(self, images: NDArray[Any], labels: NDArray[np.int64]) -> None:
        """Take the images (n, 8, 8) with values 0 to 16, and their labels (n,)."""
        keys = [hashlib.sha256(np.uint8(image).tobytes()).hexdigest() for image in images]
        parts = split_by_hash(labels, keys)
        pixels = np.round(images * 255 / _BRIGHTEST).astype(np.uint8)
        self.notes: list[str] = []
        self.splits = {}
        self._pixels: dict[str, NDArray[np.uint8]] = {}
        for part in ("train", "val", "test"):
            rows = np.flatnonzero(parts == part)
            ids = [f"digit-{row:04d}" for row in rows]
            sizes = np.full(len(rows), pixels[0].nbytes, dtype=np.int64)
            self.splits[part] = ImageSplit(ids, labels[rows].astype(np.int64), sizes)
            self._pixels[part] = pixels[rows]

    @classmethod
    def open(cls, root: Path | None, *, lenient: bool = False) -> Dataset:
        """Open the data set; neither argument is looked at, since scikit-learn brings the images."""
        # scikit-learn's own reader, `load_digits`, takes a second to import.
        library = find_spec("sklearn")
        if library is None or library.origin is None:
            raise CafeError("scikit-learn, which carries the digits, is not installed")
        with gzip.open(Path(library.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as stream:
            table = np.loadtxt(stream, delimiter=",")  # (n, 65): 8 x 8 pixels and the label
        return cls(table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64))

    @classmethod
    def missing(cls, root: Path | None) -> str | None:
        """Return None: the data set is never missing, since scikit-learn is a dependency."""
        return None

    def image(self, split: str, index: int) -> Image.Image:
        """Return one digit, 8 x 8, as RGB with the strokes bright."""
        from PIL import Image

        return Image.fromarray(self._pixels[split][index]).convert("RGB")

    def content(self, split: str, index: int) -> bytes:
        """Return one digit as a PGM file, whose pixels are those of :meth:`image`."""
        pixels = self._pixels[split][index]  # (8, 8)
        height, width = pixels.shape
        return f"P5 {width} {height} 255\n".encode() + bytes(pixels)

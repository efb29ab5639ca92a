"""FGVC-Aircraft with its own lists of variants."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cafe.data.base import ImageFiles, ImageSplit, NamedDataset, count_note
from cafe.data.images.examples import write_pictures
from cafe.data.images.files import find_sizes
from cafe.errors import InputError

DATASET = "fgvc-aircraft"

_FOLDER = "fgvc_aircraft"
_SPLITS = ("train", "val", "test")


class FGVCAircraft(ImageFiles, NamedDataset):
    """FGVC-Aircraft: 10,000 photographs of 100 variants of aircraft.

    Classes are in the order of ``variants.txt``. Expected below the root: ``fgvc_aircraft/variants.txt``,
    ``fgvc_aircraft/images_variant_{train,val,test}.txt`` and ``fgvc_aircraft/images/NNNNNNN.jpg``.
    """

    name = DATASET
    templates = ("a photo of a {}, a type of aircraft.",)
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
    published = {"classes": 100, "train": 3334, "val": 3333, "test": 3333}

    def __init__(self, root: Path, *, lenient: bool = False) -> None:
        """Read the lists and find the size of every image that they name."""
        folder = root / _FOLDER
        self._image_root = (folder / "images").absolute()
        self.class_names = tuple(_lines(folder / "variants.txt"))
        label_of = {name: label for label, name in enumerate(self.class_names)}
        if len(label_of) != len(self.class_names) or len(label_of) < 2:
            raise InputError(f"{folder / 'variants.txt'} must name at least two variants, each once")
        self.splits = {}
        for split in _SPLITS:
            listed = folder / f"images_variant_{split}.txt"
            ids, labels = _read_list(listed, label_of)
            sizes = find_sizes(self._image_root, ids, listed, lenient=lenient)
            row_sizes = np.array([sizes[sample_id] for sample_id in ids], dtype=np.int64)
            self.splits[split] = ImageSplit(ids, np.array(labels, dtype=np.int64), row_sizes)
        self.notes = count_note(self, self.published)

    @classmethod
    def write_example(cls, root: Path) -> None:
        """Write two variants with an image each in every split; see the base class."""
        for number, split in enumerate(_SPLITS):
            images = write_pictures(root / _FOLDER / "images", [f"{number}{n}.jpg" for n in range(2)], start=2 * number)
            lines = [
                f"{image.removesuffix('.jpg')} {name}\n"
                for image, name in zip(images, ("707-320", "F/A-18"), strict=True)
            ]
            (root / _FOLDER / f"images_variant_{split}.txt").write_text("".join(lines), encoding="utf-8")
        (root / _FOLDER / "variants.txt").write_text("707-320\nF/A-18\n", encoding="utf-8")

    @classmethod
    def expected(cls) -> tuple[str, ...]:
        """Name the lists and the image folder."""
        lists = (f"images_variant_{split}.txt" for split in _SPLITS)
        return tuple(f"{_FOLDER}/{name}" for name in ("variants.txt", *lists, "images"))

    @classmethod
    def missing(cls, root: Path | None) -> str | None:
        """Say which file is expected where; None if the lists and the image folder are there."""
        if root is None:
            return f"{cls.needs_root()}, the archive's data folder under that name; it is published at {cls.homepage}"
        for name in ("variants.txt", *(f"images_variant_{split}.txt" for split in _SPLITS)):
            if not (root / _FOLDER / name).is_file():
                return f"{cls.name}: the list {root / _FOLDER / name} is expected; it is published at {cls.homepage}"
        if not (root / _FOLDER / "images").is_dir():
            images = root / _FOLDER / "images"
            return f"{cls.name}: the images are expected in {images}; they are published at {cls.homepage}"
        return None


def _lines(path: Path) -> list[str]:
    """Read the lines of a list that are not empty."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _read_list(path: Path, label_of: dict[str, int]) -> tuple[list[str], list[int]]:
    """Read a list of images: their ids, and their labels."""
    ids, labels = [], []
    for number, line in enumerate(_lines(path), start=1):
        image, _, variant = line.partition(" ")
        if variant not in label_of:
            raise InputError(f"{path}, line {number}: {variant!r} is not a variant of variants.txt")
        ids.append(f"{image}.jpg")
        labels.append(label_of[variant])
    return ids, labels

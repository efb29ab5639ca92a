"""Data sets in CoOp's layout: an image folder and a published ``split_zhou_*.json``.

Such a data set is a few lines: a file with ``DATASET`` and a subclass of :class:`CoopLayout` that sets
``folder``, ``image_folder``, ``split_file``, ``published`` and ``homepage``; see caltech101.py.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cafe.data.base import Dataset, ImageSplit, NamedDataset
from cafe.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SPLITS_PUBLISHED_AT = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
_SPLITS = ("train", "val", "test")


class CoopLayout(NamedDataset):
    """Base of the data sets in CoOp's layout.

    Attributes
    ----------
    folder : str
        Folder of this data set below the root.
    image_folder : str
        Folder below that one to which the split's paths are relative; ``""`` if there is none.
    split_file : str
        Name of the split file in ``folder``.
    published : dict of str to int
        Published number of ``classes``, and of images in ``train``, ``val`` and ``test``.
    """

    folder: ClassVar[str]
    image_folder: ClassVar[str]
    split_file: ClassVar[str]
    published: ClassVar[dict[str, int]]

    def __init__(self, root: Path) -> None:
        """Read the split file and find the size of every image that it names."""
        self._images = (root / self.folder / self.image_folder).absolute()
        split_path = root / self.folder / self.split_file
        rows = _read_splits(split_path)
        self.class_names = _class_names(split_path, rows)
        sizes = _find_sizes(self._images, split_path, rows)
        self.splits = {}
        for split in _SPLITS:
            paths = [path for path, _, _ in rows[split]]
            labels = np.array([label for _, label, _ in rows[split]], dtype=np.int64)
            self.splits[split] = ImageSplit(paths, labels, np.array([sizes[p] for p in paths], dtype=np.int64))
        self.notes = self._count_note()

    @classmethod
    def open(cls, root: Path | None) -> Dataset:
        """Open it below ``root``.

        Raises
        ------
        InputError
            If the root is not given, or the split file, the image folder or an image is not there.
        """
        why = cls.missing(root)
        if root is None or why is not None:
            raise InputError(why or "")
        return cls(root)

    @classmethod
    def missing(cls, root: Path | None) -> str | None:
        """Say which file is expected where; None if split file and image folder are there."""
        if root is None:
            expected = Path("DIR", cls.folder, cls.split_file)
            return (
                f"{cls.name} needs the folder that holds it: give --root DIR or set CAFE_DATA, where {expected} and "
                f"{Path('DIR', cls.folder, cls.image_folder)} exist; images: {cls.homepage}, "
                f"split: {SPLITS_PUBLISHED_AT}"
            )
        split_path, images = root / cls.folder / cls.split_file, root / cls.folder / cls.image_folder
        if not split_path.is_file():
            return f"{cls.name}: the split file is expected at {split_path}; it is published at {SPLITS_PUBLISHED_AT}"
        if not images.is_dir():
            return f"{cls.name}: the images are expected in {images}; they are published at {cls.homepage}"
        return None

    def image(self, split: str, index: int) -> Image.Image:
        """Return one image as RGB; see :mod:`cafe.data.images`."""
        from cafe.data.images import read_image

        sample_id = self.splits[split].sample_ids[index]
        return read_image(self._images / sample_id, sample_id)

    def _count_note(self) -> list[str]:
        counts = {"classes": len(self.class_names), **{name: len(split) for name, split in self.splits.items()}}
        if counts == self.published:
            return []
        here, there = (", ".join(f"{c[name]} {name}" for name in counts) for c in (counts, self.published))
        return [f"this is not the full {self.name}: {here}; published are {there}"]


def _read_splits(path: Path) -> dict[str, list[tuple[str, int, str]]]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return {split: [(str(p), int(label), str(name)) for p, label, name in content[split]] for split in _SPLITS}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not a CoOp split file ({type(error).__name__}: {error}); it should hold "
            f'{{"train": [[path, label, class name], ...], "val": ..., "test": ...}}'
        ) from error


def _class_names(path: Path, rows: dict[str, list[tuple[str, int, str]]]) -> tuple[str, ...]:
    names: dict[int, str] = {}
    for split in _SPLITS:
        for _, label, name in rows[split]:
            if names.setdefault(label, name) != name:
                raise InputError(f"{path} gives label {label} two class names: {names[label]!r} and {name!r}")
    if sorted(names) != list(range(len(names))) or len(names) < 2:
        raise InputError(f"{path} must number its classes from 0 without a gap, and have at least two")
    return tuple(names[label].replace("_", " ") for label in range(len(names)))


def _find_sizes(images: Path, split_path: Path, rows: dict[str, list[tuple[str, int, str]]]) -> dict[str, int]:
    """Find the size of every file that the splits name, listing each folder once instead of asking for each file."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for split in _SPLITS:
        for path, _, _ in rows[split]:
            folder, _, name = path.rpartition("/")
            wanted[folder].add(name)
    sizes: dict[str, int] = {}
    missing: list[str] = []
    for folder, names in wanted.items():
        found: dict[str, int] = {}
        if (images / folder).is_dir():
            with os.scandir(images / folder) as entries:
                found = {entry.name: entry.stat().st_size for entry in entries if entry.name in names}
        prefix = f"{folder}/" if folder else ""
        sizes.update({prefix + name: size for name, size in found.items()})
        missing.extend(prefix + name for name in names - found.keys())
    if missing:
        raise InputError(
            f"{split_path} names {len(missing)} images that are not in {images}, the first: {min(missing)!r}"
        )
    return sizes

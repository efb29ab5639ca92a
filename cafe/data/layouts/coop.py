"""Data sets in CoOp's layout: an image folder and a published ``split_zhou_*.json``; and the reading of that file.

A split file is ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``.

Such a data set is a few lines: a file with ``DATASET`` and a subclass of :class:`CoopLayout` that sets
``folder``, ``image_folder``, ``split_file``, ``published`` and ``homepage``; see caltech101.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cafe.data.base import ImageFiles, ImageSplit, NamedDataset, count_note
from cafe.data.images.examples import write_pictures
from cafe.data.images.files import find_sizes
from cafe.errors import InputError
from cafe.foreign import read_json

SPLITS = ("train", "val", "test")
SplitRows = dict[str, list[tuple[str, int, str]]]
SPLITS_PUBLISHED_AT = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"


class CoopLayout(ImageFiles, NamedDataset):
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

    def __init__(self, root: Path, *, lenient: bool = False) -> None:
        """Read the split file and find the size of every image that it names."""
        self._image_root = (root / self.folder / self.image_folder).absolute()
        split_path = root / self.folder / self.split_file
        rows = read_split_file(split_path)
        self.class_names = class_names_of(split_path, rows)
        self.splits = image_splits(self._image_root, split_path, rows, lenient=lenient)
        self.notes = count_note(self, self.published)

    @classmethod
    def write_example(cls, root: Path) -> None:
        """Write two classes with two training images and one each of val and test; see the base class."""
        rows: dict[str, list[list[object]]] = {split: [] for split in SPLITS}
        for label, name in enumerate(("first_class", "second_class")):
            paths = write_pictures(
                root / cls.folder / cls.image_folder, [f"{name}/{n}.jpg" for n in range(4)], start=4 * label
            )
            for path, split in zip(paths, ("train", "train", "val", "test"), strict=True):
                rows[split].append([path, label, name])
        (root / cls.folder / cls.split_file).write_text(json.dumps(rows), encoding="utf-8")

    @classmethod
    def expected(cls) -> tuple[str, ...]:
        """Name the split file and the image folder."""
        return f"{cls.folder}/{cls.split_file}", f"{cls.folder}/{cls.image_folder}".rstrip("/")

    @classmethod
    def missing(cls, root: Path | None) -> str | None:
        """Say which file is expected where; None if split file and image folder are there."""
        if root is None:
            return f"{cls.needs_root()}; images: {cls.homepage}, split: {SPLITS_PUBLISHED_AT}"
        split_path, images = root / cls.folder / cls.split_file, root / cls.folder / cls.image_folder
        why = []
        if not split_path.is_file():
            why.append(f"the split file is expected at {split_path}; it is published at {SPLITS_PUBLISHED_AT}")
        if not images.is_dir():
            why.append(f"the images are expected in {images}; they are published at {cls.homepage}")
        return f"{cls.name}: {'; and '.join(why)}" if why else None


def read_split_file(path: Path) -> SplitRows:
    """Read the rows of every split, in the file's order.

    Raises
    ------
    InputError
        If the file cannot be read or has another form.
    """
    content: Any = read_json(path)
    try:
        return {split: [(str(p), int(label), str(name)) for p, label, name in content[split]] for split in SPLITS}
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(
            f"{path} is not a CoOp split file ({type(error).__name__}: {error}); it should hold "
            f'{{"train": [[path, label, class name], ...], "val": ..., "test": ...}}'
        ) from error


def class_names_of(path: Path, rows: SplitRows) -> tuple[str, ...]:
    """Return the class names in label order, with spaces for ``_``.

    Raises
    ------
    InputError
        If a label has two names, or labels do not count from 0 to at least 1 without a gap.
    """
    names: dict[int, str] = {}
    for split in SPLITS:
        for _, label, name in rows[split]:
            if names.setdefault(label, name) != name:
                raise InputError(f"{path} gives label {label} two class names: {names[label]!r} and {name!r}")
    if sorted(names) != list(range(len(names))) or len(names) < 2:
        raise InputError(f"{path} must number its classes from 0 without a gap, and have at least two")
    return tuple(names[label].replace("_", " ") for label in range(len(names)))


def image_splits(images: Path, path: Path, rows: SplitRows, *, lenient: bool) -> dict[str, ImageSplit]:
    """Find the images of every split that has rows.

    Raises
    ------
    InputError
        If an image is not there and ``lenient`` is not set, or one is named twice.
    """
    paths = [row[0] for split in SPLITS for row in rows[split]]
    if len(set(paths)) < len(paths):
        seen: set[str] = set()
        twice = next(path_seen for path_seen in paths if path_seen in seen or seen.add(path_seen))  # type: ignore[func-returns-value]
        raise InputError(f"{path} names {twice!r} twice; an image belongs to one split, once")
    sizes = find_sizes(images, paths, path, lenient=lenient)
    splits = {}
    for split in SPLITS:
        if rows[split]:
            ids, labels, _ = zip(*rows[split], strict=True)
            row_sizes = np.array([sizes[path_seen] for path_seen in ids], dtype=np.int64)
            splits[split] = ImageSplit(list(ids), np.array(labels, dtype=np.int64), row_sizes)
    return splits

"""ImageNet and its variants: a folder for each class, and ``classnames.txt``.

Such a data set is a file with ``DATASET`` and a subclass of :class:`ImageNetLayout`; see imagenet_a.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from cafe.data.base import ImageFiles, ImageSplit, NamedDataset, count_note
from cafe.data.images.examples import write_pictures
from cafe.data.images.files import list_images, subfolders
from cafe.data.layouts.coop import SPLITS_PUBLISHED_AT
from cafe.errors import InputError
from cafe.prompts.imagenet import IMAGENET_7_TEMPLATES

CLASS_FILE = "classnames.txt"


class ImageNetLayout(ImageFiles, NamedDataset):
    """Base class of ImageNet and its variants.

    Labels follow the sorted folder names, over the classes that are on the disk; images of a class are sorted by
    file name. (CoOp's code takes images in whatever order the file system lists them, so its draws of ImageNet
    differ between machines.)

    Attributes
    ----------
    folder : str
        Folder of this data set below the root.
    split_folders : dict of str to str
        Folder of each split below that one.
    published : dict of str to int
        Published number of ``classes``, and of images in each split.
    example_folders : tuple of str
        Class folders that :meth:`write_example` makes.
    """

    templates = IMAGENET_7_TEMPLATES
    folder: ClassVar[str]
    split_folders: ClassVar[dict[str, str]]
    published: ClassVar[dict[str, int]]
    example_folders: ClassVar[tuple[str, ...]] = ("n01440764", "n01443537")

    def __init__(self, root: Path, *, lenient: bool = False) -> None:
        """List the class folders of every split; ``lenient`` changes nothing, since no list names images."""
        self._image_root = (root / self.folder).absolute()
        names = read_class_names(_class_file(root, self.folder))
        classes_of = {
            split: self._classes(self._image_root / below, names) for split, below in self._present(root).items()
        }
        trained = next(iter(classes_of.values()))
        for split, classes in classes_of.items():
            for wnid in classes:
                if wnid not in trained:
                    folder = self._image_root / self.split_folders[split]
                    raise InputError(f"{folder} holds class {wnid}, which the train folder has not")
        if len(trained) < 2:
            raise InputError(f"{self._image_root} holds images of {len(trained)} class; at least two are needed")
        self.class_ids = tuple(sorted(trained))
        self.class_names = tuple(names[wnid] for wnid in self.class_ids)
        self.splits = {split: self._split(split, classes) for split, classes in classes_of.items()}
        self.notes = count_note(self, self.published)

    @classmethod
    def write_example(cls, root: Path) -> None:
        """Write two classes with two images each in every split; see the base class."""
        for number, below in enumerate(cls.split_folders.values()):
            names = [f"{below}/{name}/{n}.JPEG" for name in cls.example_folders for n in range(2)]
            write_pictures(root / cls.folder, names, start=10 * number)
        lines = "n01440764 tench\nn01443537 goldfish\nn01498041 stingray\n"
        (root / cls.folder / CLASS_FILE).write_text(lines, encoding="utf-8")

    @classmethod
    def expected(cls) -> tuple[str, ...]:
        """Name the image folders and the file of class names."""
        return *(f"{cls.folder}/{below}" for below in cls.split_folders.values()), f"{cls.folder}/{CLASS_FILE}"

    @classmethod
    def missing(cls, root: Path | None) -> str | None:
        """Return a sentence with the file or folder that is missing; None if class names and images exist."""
        if root is None:
            return f"{cls.needs_root()}; images: {cls.homepage}, class names: {SPLITS_PUBLISHED_AT}"
        if not cls._present(root):
            expected = " and ".join(str(root / path) for path in cls.expected()[:-1])
            return f"{cls.name}: the images are expected in {expected}; they are published at {cls.homepage}"
        if not _class_file(root, cls.folder).is_file():
            return cls._class_names_missing(root)
        return None

    @staticmethod
    def wnid_of(folder: str, wnids: tuple[str, ...]) -> str | None:
        """Return the class that a folder name means, None if it means none."""
        return folder if folder in wnids else None

    @classmethod
    def _class_names_missing(cls, root: Path) -> str:
        """Say where the file of class names is expected."""
        expected = root / cls.folder / CLASS_FILE
        return f"{cls.name}: the class names are expected in {expected}; it is published at {SPLITS_PUBLISHED_AT}"

    @classmethod
    def _present(cls, root: Path) -> dict[str, str]:
        """Return the split folders that exist."""
        return {split: below for split, below in cls.split_folders.items() if (root / cls.folder / below).is_dir()}

    def _classes(self, folder: Path, names: dict[str, str]) -> dict[str, str]:
        """Return the folder of each class below ``folder``, by WordNet id."""
        below = subfolders(folder)
        if not below:
            n = len(list_images(folder, recursive=False).files)
            raise InputError(f"{folder} holds {n} images but no class folders; sort them into one folder per class")
        classes = {}
        wnids = tuple(names)
        for name in below:
            wnid = self.wnid_of(name, wnids)
            if wnid is None:
                raise InputError(f"the folder {folder / name} is no class of {CLASS_FILE}, which names {len(names)}")
            classes[wnid] = name
        return classes

    def _split(self, split: str, classes: dict[str, str]) -> ImageSplit:
        """List the images of a split's class folders; ``classes`` has the folder name of each class by WordNet id."""
        ids: list[str] = []
        labels: list[int] = []
        sizes: list[int] = []
        for label, wnid in enumerate(self.class_ids):
            if wnid in classes:
                files = list_images(
                    self._image_root, f"{self.split_folders[split]}/{classes[wnid]}", recursive=False
                ).files
                ids.extend(path for path, _ in files)
                sizes.extend(size for _, size in files)
                labels.extend([label] * len(files))
        return ImageSplit(ids, np.array(labels, dtype=np.int64), np.array(sizes, dtype=np.int64))


def read_class_names(path: Path) -> dict[str, str]:
    """Read ``classnames.txt``: on each line a WordNet id, a space and the class name.

    Raises
    ------
    InputError
        If the file cannot be read, or a line has another form; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        wnid, _, name = line.strip().partition(" ")
        if not name or wnid in names:
            raise InputError(f"{path}, line {number}: {line!r} is not a new WordNet id, a space and a class name")
        names[wnid] = name.strip()
    return names


def _class_file(root: Path, folder: str) -> Path:
    """Return the file of class names of this data set, else ImageNet's own."""
    # CoOp's guide copies ImageNet's file into the folder of every variant; ImageNet's own file serves as well.
    own, shared = root / folder / CLASS_FILE, root / "imagenet" / CLASS_FILE
    return shared if shared.is_file() and not own.is_file() else own

"""A folder of images, one folder per class, with or without train, val and test folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cafe.data.base import Dataset, ImageSplit, Source
from cafe.data.images.content_keys import content_keys
from cafe.data.images.decoding import read_image
from cafe.data.images.examples import write_pictures
from cafe.data.images.files import Listing, list_images, natural_order, subfolders
from cafe.errors import InputError
from cafe.protocol.partition import SPLIT_ORIGIN, split_by_hash

if TYPE_CHECKING:
    from PIL import Image

SOURCE = "image-folder"

_SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LAYOUT = "one folder of images per class, or train and test folders that hold such folders"


class ImageFolder(Source):
    """A folder with one folder of images per class, with or without train, val and test folders.

    Classes are sorted by folder name, numbers as numbers; in class names ``_`` becomes a space. Split folders are
    ``train``, ``val`` (or ``valid``, ``validation``) and ``test``; they count as such if nothing else stands
    beside them. ``train`` alone, or no split folders, is split by hash (see :mod:`cafe.protocol.partition` and
    :mod:`cafe.data.images.content_keys`). Hidden files are not looked at.
    """

    general = True

    def __init__(self, root: Path, listings: dict[str, dict[str, Listing]], others: int) -> None:
        """Take the listings by split and class folder; the split named ``""`` is still to be divided."""
        self._root = root.absolute()
        self.name = self._root.name or "images"
        folders = _class_folders(root, listings)
        self.class_names = tuple(folder.replace("_", " ") for folder in folders)
        _refuse_equal_names(root, folders, self.class_names)
        label_of = {folder: label for label, folder in enumerate(folders)}
        self.splits = {}
        self.split_origin = "folders"
        for split, by_class in listings.items():
            rows = [(label_of[name], *file) for name in folders if name in by_class for file in by_class[name].files]
            if split:
                self.splits[split] = _image_split(rows)
            else:
                self.split_origin = SPLIT_ORIGIN
                self.splits.update(self._divide(rows))
        self.notes = _notes(listings, others, self.splits)

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether the path is a folder."""
        return path.is_dir()

    @classmethod
    def open(cls, path: Path, *, lenient: bool = False) -> Dataset:
        """List the folder; ``lenient`` changes nothing, since nothing is named that is not there.

        Raises
        ------
        InputError
            If there is no such folder, a class folder is empty, there are fewer than two classes, a class of
            val or test is not in train, or two class folders have the same class name.
        """
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise InputError(f"{path} {what}; a data set is {_LAYOUT}")
        names = subfolders(path)
        others = _others_beside(path)
        found = {name: _SPLIT_OF.get(name.lower()) for name in names}
        if not names or any(split is None for split in found.values()):
            return cls(path, {"": _list_classes(path, "", names)}, others)
        folder_of = _split_folders(path, found)
        listings = {}
        for split, name in folder_of.items():
            others += _others_beside(path / name)
            listings[split] = _list_classes(path, name, subfolders(path / name))
        if list(listings) == ["train"]:
            listings = {"": listings["train"]}
        return cls(path, listings, others)

    @classmethod
    def write_example(cls, folder: Path) -> Path:
        """Write two folders of five images; see the base class."""
        write_pictures(folder, [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(5)])
        return folder

    def image(self, split: str, index: int) -> Image.Image:
        """Return one image as RGB; see :mod:`cafe.data.images.decoding`."""
        sample_id = self.splits[split].sample_ids[index]
        return read_image(self._root / sample_id, sample_id)

    def _divide(self, rows: list[tuple[int, str, int]]) -> dict[str, ImageSplit]:
        keys = content_keys(self._root, [(path, size) for _, path, size in rows])
        parts = split_by_hash([label for label, _, _ in rows], keys).tolist()
        divided = {}
        for split in ("train", "val", "test"):
            chosen = [row for row, part in zip(rows, parts, strict=True) if part == split]
            if chosen:
                divided[split] = _image_split(chosen)
        return divided


def _split_folders(path: Path, found: dict[str, str | None]) -> dict[str, str]:
    """Return the folder of each split, in the order train, val, test."""
    folder_of: dict[str, str] = {}
    for name, split in found.items():
        if split in folder_of:
            raise InputError(f"{path} has two folders for one split: {folder_of[split]!r} and {name!r}")
        if split is not None:
            folder_of[split] = name
    if "train" not in folder_of:
        raise InputError(f"{path} has {', '.join(map(repr, found))} but no 'train' folder; give {_LAYOUT}")
    return {split: folder_of[split] for split in ("train", "val", "test") if split in folder_of}


def _list_classes(root: Path, below: str, names: list[str]) -> dict[str, Listing]:
    """List every class folder in ``root/below``."""
    if not names:
        images = len(list_images(root, below, recursive=False).files)
        holds = f"holds {images} images but no class folders" if images else "holds no class folders"
        raise InputError(f"{root / below} {holds}; a data set is {_LAYOUT}")
    listings = {}
    for name in names:
        folder = f"{below}/{name}" if below else name
        listings[name] = list_images(root, folder)
        if not listings[name].files:
            raise InputError(f"the class folder {root / folder} holds no images; fill it or remove it")
    return listings


def _class_folders(root: Path, listings: dict[str, dict[str, Listing]]) -> list[str]:
    """Return the class folders in label order, after checking that training knows them all."""
    known = next(iter(listings.values()))
    for split, by_class in listings.items():
        unknown = sorted(set(by_class) - set(known), key=natural_order)
        if unknown:
            raise InputError(
                f"the {split} folder of {root} has classes that its train folder lacks: {len(unknown)}, "
                f"the first: {unknown[0]!r}"
            )
    if len(known) < 2:
        raise InputError(f"{root} holds a single class, {next(iter(known))!r}; a classifier needs at least two")
    return sorted(known, key=natural_order)


def _refuse_equal_names(root: Path, folders: list[str], class_names: tuple[str, ...]) -> None:
    folder_of: dict[str, str] = {}
    for folder, name in zip(folders, class_names, strict=True):
        if name in folder_of:
            raise InputError(f"the class folders {folder_of[name]!r} and {folder!r} of {root} both mean {name!r}")
        folder_of[name] = folder


def _image_split(rows: list[tuple[int, str, int]]) -> ImageSplit:
    labels, paths, sizes = zip(*rows, strict=True)
    return ImageSplit(list(paths), np.array(labels, dtype=np.int64), np.array(sizes, dtype=np.int64))


def _others_beside(folder: Path) -> int:
    """Count visible files that stand beside folders and belong to no class."""
    beside = list_images(folder, recursive=False)
    return len(beside.files) + beside.others


def _notes(listings: dict[str, dict[str, Listing]], others: int, splits: dict[str, ImageSplit]) -> list[str]:
    notes = []
    others += sum(listing.others for by_class in listings.values() for listing in by_class.values())
    if others:
        noun = "1 file was" if others == 1 else f"{others} files were"
        notes.append(f"{noun} left out: not an image by extension, or in no class folder")
    if "test" not in splits:
        notes.append("there is no test split, so nothing can be scored here")
    return notes

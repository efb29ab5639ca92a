"""A folder of images, one folder per class, with or without train, val and test folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from cafe.data.base import Dataset, ImageFiles, ImageSplit, Source
from cafe.data.contents import Contents, LeftOut, Sample, groups_of_identical
from cafe.data.images.content_keys import content_keys
from cafe.data.images.examples import write_pictures
from cafe.data.images.files import Listing, list_images, natural_order, subfolders
from cafe.data.images.other_formats import NOT_UTF8, kind_by_name
from cafe.errors import InputError
from cafe.protocol.partition import chosen_origin, split_by_hash

SOURCE = "image-folder"

_SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LAYOUT = "one folder of images per class, or train and test folders that hold such folders"


class ImageFolder(ImageFiles, Source):
    """A folder with one folder of images per class, with or without train, val and test folders.

    Classes are sorted by folder name, numbers as numbers; in class names ``_`` becomes a space. Split folders are
    ``train``, ``val`` (or ``valid``, ``validation``) and ``test``; they count as such if no other folder is beside
    them. ``train`` alone, or a folder without split folders, is split by hash (see :mod:`cafe.protocol.partition` and
    :mod:`cafe.data.images.content_keys`). Folders within a class folder count to that class. If a folder holds a single
    folder and nothing else, that folder is read instead. Hidden files are ignored.
    """

    general = True

    def __init__(self, root: Path, listings: dict[str, dict[str, Listing]], files_outside: list[LeftOut]) -> None:
        """Take the listings by split and class folder (split ``""`` is still to be divided), and files in no class."""
        self._image_root = root.absolute()
        self.name = self._image_root.name or "images"
        folders = _class_folders(root, listings)
        self.class_names = tuple(folder.replace("_", " ") for folder in folders)
        _refuse_equal_names(root, folders, self.class_names)
        label_of = {folder: label for label, folder in enumerate(folders)}
        self.splits = {}
        identical = None
        self.split_origin = "folders"
        for split, by_class in listings.items():
            rows = [(label_of[name], *file) for name in folders if name in by_class for file in by_class[name].files]
            if split:
                self.splits[split] = _image_split(rows)
            else:
                self.split_origin = chosen_origin()
                keys = content_keys(self._image_root, [(path, size) for _, path, size in rows])
                self.splits.update(_split_by_hash(rows, keys))
                identical = self._identical(dict(zip((path for _, path, _ in rows), keys, strict=True)))
        self.contents = Contents(
            images=sum(map(len, self.splits.values())),
            left_out=(*files_outside, *_other_files(listings)),
            nested=_nested_folders(listings),
            identical=identical,
            divided=identical is not None,
        )
        self.notes = [*self.contents.sentences(), *_notes(self.splits, self.contents)]

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether the path is a folder."""
        return path.is_dir()

    @classmethod
    def open(cls, path: Path, *, lenient: bool = False) -> Dataset:
        """List the folder; ``lenient`` changes nothing, since no list names images.

        Raises
        ------
        InputError
            If there is no such folder, a class folder is empty, there are fewer than two classes, a class of
            val or test is not in train, or two class folders have the same class name.
        """
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise InputError(f"{path} {what}; a data set is {_LAYOUT}")
        inner = _inner_folder(path)
        if inner is not None:
            dataset = cls.open(inner, lenient=lenient)
            assert isinstance(dataset, ImageFolder)
            dataset._take_outer_folder(path, inner)
            return dataset
        names = subfolders(path)
        files_outside = _files_outside_classes(path)
        split_of = {name: _SPLIT_OF.get(name.lower()) for name in names}
        if not names or any(split is None for split in split_of.values()):
            return cls(path, {"": _list_classes(path, "", names)}, files_outside)
        listings = {}
        for split, name in _split_folders(path, split_of).items():
            files_outside += _files_outside_classes(path, name)
            listings[split] = _list_classes(path, name, subfolders(path / name))
        if list(listings) == ["train"]:
            listings = {"": listings["train"]}
        return cls(path, listings, files_outside)

    @classmethod
    def write_example(cls, folder: Path) -> Path:
        """Write two folders of five images; see the base class."""
        write_pictures(folder, [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(5)])
        return folder

    def _identical(self, key_of: dict[str, str]) -> tuple[tuple[Sample, ...], ...]:
        """Group images by key; each file that cannot be read has a key of its own."""
        samples = (
            (key_of[sample_id], Sample(sample_id, self.class_names[label], name))
            for name, split in self.splits.items()
            for sample_id, label in zip(split.sample_ids, split.labels.tolist(), strict=True)
        )
        return groups_of_identical(samples)

    def _take_outer_folder(self, outer: Path, inner: Path) -> None:
        """Take the name of the outer folder, and note that the inner one holds the classes."""
        assert self.contents is not None
        inside = inner.relative_to(outer).as_posix()
        n_sentences = len(self.contents.sentences())
        self.contents = replace(self.contents, inside=inside)
        self.name = outer.absolute().name or self.name
        self.notes = [*self.contents.sentences(), *self.notes[n_sentences:]]


def _split_by_hash(rows: list[tuple[int, str, int]], keys: list[str]) -> dict[str, ImageSplit]:
    """Divide rows of (label, path, size) into splits by the hash of their keys."""
    parts = split_by_hash([label for label, _, _ in rows], keys).tolist()
    divided = {}
    for split in ("train", "val", "test"):
        chosen = [row for row, part in zip(rows, parts, strict=True) if part == split]
        if chosen:
            divided[split] = _image_split(chosen)
    return divided


def _inner_folder(path: Path) -> Path | None:
    """Follow folders that hold a single folder and nothing else to the folder that holds class or split folders.

    None if the given folder holds them itself, or if no such folder exists. A folder called ``train`` is a split, and a
    folder with images is a class.
    """
    inner = path
    while not list_images(inner, recursive=False).files:
        names = subfolders(inner)
        is_wrapper = len(names) == 1 and names[0].lower() not in _SPLIT_OF and not (inner / names[0]).is_symlink()
        if not is_wrapper:
            return inner if names and inner != path else None
        inner = inner / names[0]
    return None


def _split_folders(path: Path, split_of: dict[str, str | None]) -> dict[str, str]:
    """Return folder names by split (train, val, test) from splits by folder name (None: not a split)."""
    folder_of: dict[str, str] = {}
    for name, split in split_of.items():
        if split in folder_of:
            raise InputError(f"{path} has two folders for one split: {folder_of[split]!r} and {name!r}")
        if split is not None:
            folder_of[split] = name
    if "train" not in folder_of:
        raise InputError(f"{path} has {', '.join(map(repr, split_of))} but no 'train' folder; give {_LAYOUT}")
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
            other_files = _left_out(listings[name])
            found_instead = f" ({'; '.join(Contents(0, tuple(other_files)).sentences())})" if other_files else ""
            raise InputError(f"the class folder {root / folder} holds no images{found_instead}; fill it or remove it")
    return listings


def _class_folders(root: Path, listings: dict[str, dict[str, Listing]]) -> list[str]:
    """Return the class folders in label order, after checking that the train folder has all of them."""
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
    """Raise an error if two class folders have the same class name."""
    folder_of: dict[str, str] = {}
    for folder, name in zip(folders, class_names, strict=True):
        if name in folder_of:
            raise InputError(f"the class folders {folder_of[name]!r} and {folder!r} of {root} both mean {name!r}")
        folder_of[name] = folder


def _image_split(rows: list[tuple[int, str, int]]) -> ImageSplit:
    """Make a split of rows of (label, path, size)."""
    labels, paths, sizes = zip(*rows, strict=True)
    return ImageSplit(list(paths), np.array(labels, dtype=np.int64), np.array(sizes, dtype=np.int64))


def _files_outside_classes(root: Path, below: str = "") -> list[LeftOut]:
    """List the visible files that lie in no class folder."""
    listing = list_images(root, below, recursive=False)
    images = [LeftOut(path, "images in no class folder") for path, _ in listing.files]
    return [*images, *_left_out(listing)]


def _other_files(listings: dict[str, dict[str, Listing]]) -> list[LeftOut]:
    """List the files in class folders that are not taken for images."""
    return [file for by_class in listings.values() for listing in by_class.values() for file in _left_out(listing)]


def _left_out(listing: Listing) -> list[LeftOut]:
    """List the files of a listing that are not taken for images, with the reason of each."""
    others = [LeftOut(path, kind_by_name(path)) for path in listing.others]
    return [*others, *(LeftOut(path, NOT_UTF8) for path in listing.not_utf8)]


def _nested_folders(listings: dict[str, dict[str, Listing]]) -> dict[str, str]:
    """Return the class of each folder that holds images within a class folder."""
    nested = {}
    for by_class in listings.values():
        for name, listing in by_class.items():
            for path, _ in listing.files:
                folder = path.rpartition("/")[0]
                if folder != listing.below:
                    nested[folder] = name.replace("_", " ")
    return nested


def _notes(splits: dict[str, ImageSplit], contents: Contents) -> list[str]:
    """Say why there is no test split."""
    if "test" in splits:
        return []
    # One image of a class, its copies not counted, leaves nothing for a test.
    n_copies = sum(len(group) - 1 for group in contents.identical or ())
    n_classes = len(set(splits["train"].labels.tolist()))
    if n_copies and contents.images - n_copies <= n_classes:
        return ["no test is possible: the images of each class are copies of one another"]
    if contents.divided:
        return ["there are too few images for a test split"]
    return ["there is no test split, so nothing can be scored here"]

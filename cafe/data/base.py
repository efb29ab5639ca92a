"""Base classes of data sets: named splits of samples, class names, templates, and the images.

A named data set is one file in this folder with ``DATASET = "name"``. A reader for something that users bring is one
file with ``SOURCE = "name"``, whose class says which paths it ``accepts``.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError, unknown_name
from cafe.prompts import GENERIC_TEMPLATE

if TYPE_CHECKING:
    from PIL import Image

    from cafe.data.contents import Contents


@dataclass(frozen=True)
class ImageSplit:
    """The samples of one split, in the order that every array of the cache keeps.

    Attributes
    ----------
    sample_ids : sequence of str, length n
        Path relative to the data set's root (with forward slashes), or a key; unique within the data set.
    labels : ndarray of shape (n,), int64
        Row of ``class_names``.
    sizes : ndarray of shape (n,), int64
        Bytes of each encoded image. They are part of the data set's identity, so that a replaced file is noticed.
    """

    sample_ids: Sequence[str]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sample_ids)


class Dataset(ABC):
    """Images with labels. Instances are picklable, for workers.

    Attributes
    ----------
    name : str
        Name of the data set in tables and file names.
    class_names : tuple of str
        In label order, as they go into prompts.
    class_ids : tuple of str
        For each class an id that other data sets share, such as ImageNet's ``n01440764``; empty if there is none.
        Names are no keys: ImageNet has two classes called "crane".
    templates : tuple of str
        The templates published for this data set, or the generic one.
    splits : mapping of str to ImageSplit
        In the order train, val, test.
    split_origin : str
        ``"published"``, ``"folders"``, or what made the split, such as ``"hash, stratified, 50/20/30"``.
    notes : list of str
        Warnings for the user, such as counts that differ from the published ones.
    contents : Contents or None
        All files of the source, those left out included; None where the reader does not collect them.
    """

    templates: tuple[str, ...] = (GENERIC_TEMPLATE,)
    class_ids: tuple[str, ...] = ()
    split_origin: str = "published"
    contents: Contents | None = None
    homepage: ClassVar[str] = ""

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, ImageSplit]
    notes: list[str]

    @abstractmethod
    def image(self, split: str, index: int) -> Image.Image:
        """Return one image as RGB.

        It is called by several threads and processes at once, in any order.

        Raises
        ------
        UnreadableImageError
            If the image cannot be decoded.
        """

    def content(self, split: str, index: int) -> bytes | None:
        """Return the bytes of one encoded image, unchanged, from its file, archive or table.

        Extraction recognises an image by its bytes, and decodes them with :mod:`cafe.data.images.decoding`. Where they
        are None, which is the default, extraction calls :meth:`image` instead. Calls come as those of :meth:`image`.

        Returns
        -------
        bytes or None

        Raises
        ------
        UnreadableImageError
            If the bytes cannot be read.
        """
        return None

    def identity(self) -> dict[str, Any]:
        """Return what identifies the data set: its name, classes and a hash of every split's samples.

        Two copies of a data set on two machines have the same identity; a renamed, replaced or relabelled
        image gives another. Times and absolute paths are left out on purpose.
        """
        ids = {"class_ids": list(self.class_ids)} if self.class_ids else {}
        return {
            "name": self.name,
            "class_names": list(self.class_names),
            **ids,
            "split_origin": self.split_origin,
            "splits": {
                name: sample_identity(split.sample_ids, split.labels, split.sizes)
                for name, split in self.splits.items()
            },
        }


def sample_identity(ids: Sequence[str], labels: NDArray[np.int64], sizes: NDArray[np.int64]) -> dict[str, Any]:
    """Return the number of samples of a split, and a hash of their ids, labels and sizes in bytes."""
    digest = hashlib.sha256()
    for sample_id, label, size in zip(ids, labels, sizes, strict=True):
        digest.update(f"{sample_id}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
    return {"n": len(ids), "sha256": digest.hexdigest()}


class EncodedImages(Dataset):
    """A data set that has the encoded bytes of every image, from which it makes the pixels."""

    def image(self, split: str, index: int) -> Image.Image:
        """Return one image as RGB; see :mod:`cafe.data.images.decoding`."""
        from cafe.data.images.decoding import read_image  # imports Pillow, which a list of data sets does not need

        return read_image(self.content(split, index), self.splits[split].sample_ids[index])

    @abstractmethod
    def content(self, split: str, index: int) -> bytes:
        """Return the bytes of one encoded image; see :meth:`Dataset.content`."""


class ImageFiles(EncodedImages):
    """A data set whose images are files: each sample id is a path relative to the folder ``_image_root``."""

    _image_root: Path

    def content(self, split: str, index: int) -> bytes:
        """Return the bytes of one image's file."""
        from cafe.data.images.decoding import read_content  # imports Pillow

        sample_id = self.splits[split].sample_ids[index]
        return read_content(self._image_root / sample_id, sample_id)


class NamedDataset(Dataset):
    """A data set that people ask for by name; the file that defines one sets ``DATASET``."""

    def __init__(self, root: Path, *, lenient: bool = False) -> None:
        """Read the data set below ``root``, after :meth:`missing` has found it complete."""

    @classmethod
    def open(cls, root: Path | None, *, lenient: bool = False) -> Dataset:
        """Open the data set below a root folder.

        Parameters
        ----------
        root : Path or None
            Folder that holds the data set (``--root``, else ``$CAFE_DATA``); None for one that a package brings.
        lenient : bool, default False
            What a file means that a published list names and the disk lacks: True keeps the image with size 0, and
            reading its pixels raises UnreadableImageError; False raises InputError here.

        Raises
        ------
        InputError
            If the root is not given, or a file, a folder or (unless ``lenient``) an image is missing; the message says
            which file is expected where.
        """
        why = cls.missing(root)
        if root is None or why is not None:
            raise InputError(why or "")
        return cls(root, lenient=lenient)

    @classmethod
    def write_example(cls, root: Path) -> None:
        """Write a tiny example below an empty root, in the layout of the published files; nothing if none are needed.

        The contract tests open the example in place of the published files. It holds all that :meth:`expected` names,
        at least two classes, and an image of each in every split; see :mod:`cafe.data.images.examples`.
        """

    @classmethod
    def expected(cls) -> tuple[str, ...]:
        """Name the files and folders that the data set needs below the root, with forward slashes."""
        return ()

    @classmethod
    def needs_root(cls) -> str:
        """Say that a root is needed, and what is expected below it."""
        expected = " and ".join(f"DIR/{path}" for path in cls.expected())
        return f"{cls.name} needs the folder that holds it: give --root DIR or set CAFE_DATA, where {expected} exist"

    @classmethod
    @abstractmethod
    def missing(cls, root: Path | None) -> str | None:
        """Say in one sentence why the data set cannot be opened from this root; None if it can."""


class Source(Dataset):
    """A reader for what users bring; the file that defines one sets ``SOURCE``.

    Attributes
    ----------
    general : bool, default False
        Whether it accepts a whole kind of path, such as any folder; such readers are asked after all others.
    """

    general: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether this reader opens that path.

        This is asked for every path and reader, so the method lists no large folder. A reader of what is not on the
        disk, such as ``hf:NAME``, looks at the name alone.
        """

    @classmethod
    @abstractmethod
    def open(cls, path: Path, *, lenient: bool = False) -> Dataset:
        """Open the data set that a path names.

        Parameters
        ----------
        path : Path
            What the user gave.
        lenient : bool, default False
            As in :meth:`NamedDataset.open`.

        Raises
        ------
        InputError
            With what is wrong and where.
        """

    @classmethod
    @abstractmethod
    def write_example(cls, folder: Path) -> Path:
        """Write a tiny example into an empty folder, and return what a user would give to open it.

        The contract tests open it: two classes, and at least one image of each in the training split; see
        :mod:`cafe.data.images.examples`.
        """


def without_options(path: Path) -> Path:
    """Return the path before ``?``; the whole path if a file of that name exists.

    Examples
    --------
    >>> str(without_options(Path("labels.csv?label=kind")))
    'labels.csv'
    """
    before, mark, _ = os.fspath(path).partition("?")
    return Path(before) if mark and not path.exists() else path


def read_options(path: Path, known: Iterable[str]) -> dict[str, str]:
    """Return the options after ``?`` in a path, by name.

    Raises
    ------
    InputError
        If an option is not among the known ones, or has no value.

    Examples
    --------
    >>> read_options(Path("labels.csv?path=photo&label=kind"), ["path", "label"])
    {'path': 'photo', 'label': 'kind'}
    """
    _, mark, after = os.fspath(path).partition("?")
    if not mark or path.exists():
        return {}
    options = dict(parse_qsl(after, keep_blank_values=True))
    if not options:
        raise InputError(f"{os.fspath(path)!r}: after ? come options such as {next(iter(known))}=...")
    for name, value in options.items():
        if name not in known:
            raise unknown_name(f"option of {os.fspath(path)!r}", name, known)
        if not value:
            raise InputError(f"{os.fspath(path)!r}: option {name!r} has no value; write {name}=...")
    return options


def count_note(dataset: Dataset, published: Mapping[str, int]) -> list[str]:
    """Return one note if a count differs from the published one, else none.

    Parameters
    ----------
    dataset : Dataset
        With its class names and splits.
    published : mapping of str to int
        Published number of ``classes``, and of images in each split that there is.

    Returns
    -------
    list of str
        Empty, or one sentence with all counts.
    """
    counts = {"classes": len(dataset.class_names), **{name: len(split) for name, split in dataset.splits.items()}}
    if counts == dict(published):
        return []
    present, expected = (", ".join(f"{n} {name}" for name, n in numbers.items()) for numbers in (counts, published))
    return [f"this is not the full {dataset.name}: {present}; published are {expected}"]

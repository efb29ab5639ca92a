"""Data sets in CoOp's layout: an image folder and a published ``split_zhou_*.json``.

Such a data set is a few lines: a file with ``DATASET`` and a subclass of :class:`CoopLayout` that sets
``folder``, ``image_folder``, ``split_file``, ``published`` and ``homepage``; see caltech101.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cafe.data.base import Dataset, NamedDataset
from cafe.data.coop_split import class_names_of, image_splits, read_split_file
from cafe.data.counts import count_note
from cafe.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SPLITS_PUBLISHED_AT = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"


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

    def __init__(self, root: Path, *, lenient: bool = False) -> None:
        """Read the split file and find the size of every image that it names."""
        self._images = (root / self.folder / self.image_folder).absolute()
        split_path = root / self.folder / self.split_file
        rows = read_split_file(split_path)
        self.class_names = class_names_of(split_path, rows)
        self.splits = image_splits(self._images, split_path, rows, lenient=lenient)
        self.notes = count_note(self, self.published)

    @classmethod
    def open(cls, root: Path | None, *, lenient: bool = False) -> Dataset:
        """Open it below ``root``.

        Raises
        ------
        InputError
            If the root is not given, or the split file, the image folder or (unless ``lenient``) an image is not
            there.
        """
        why = cls.missing(root)
        if root is None or why is not None:
            raise InputError(why or "")
        return cls(root, lenient=lenient)

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

    def image(self, split: str, index: int) -> Image.Image:
        """Return one image as RGB; see :mod:`cafe.data.images`."""
        from cafe.data.images import read_image

        sample_id = self.splits[split].sample_ids[index]
        return read_image(self._images / sample_id, sample_id)

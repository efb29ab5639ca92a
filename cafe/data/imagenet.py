"""ImageNet (ILSVRC 2012) as folders or in its Hugging Face form."""

from __future__ import annotations

from pathlib import Path

from cafe.data.base import Dataset
from cafe.data.layouts.imagenet import CLASS_FILE, ImageNetLayout, read_class_names

DATASET = "imagenet"


class ImageNet(ImageNetLayout):
    """ImageNet (ILSVRC 2012): 1.28 million photographs of 1,000 classes; its val images are the test split.

    Expected below the root: ``imagenet/images/{train,val}/<n01440764, ...>/*.JPEG`` or, as on the Hugging Face hub,
    ``imagenet/data/{train,validation}-*.parquet``; and ``imagenet/classnames.txt``. There is no val split.
    """

    name = DATASET
    homepage = "https://image-net.org/download.php"
    folder = "imagenet"
    split_folders = {"train": "images/train", "test": "images/val"}
    published = {"classes": 1000, "train": 1281167, "test": 50000}

    @classmethod
    def open(cls, root: Path | None, *, lenient: bool = False) -> Dataset:
        """Open the data set below ``root``: the folders if they are there, else the parquet files.

        Raises
        ------
        InputError
            As :meth:`ImageNetLayout.open`; or the parquet files cannot be read.
        MissingDependencyError
            If there are parquet files and `datasets` is not installed.
        """
        if root is None or cls._present(root) or cls.missing(root) is not None:
            return super().open(root, lenient=lenient)
        from cafe.data.layouts.imagenet_parquet import ImageNetParquet

        folder = root / cls.folder
        dataset = ImageNetParquet(cls.name, folder, read_class_names(folder / CLASS_FILE), cls.published)
        dataset.templates = cls.templates
        return dataset

    @classmethod
    def missing(cls, root: Path | None) -> str | None:
        """Say which file is missing; None if the images, as released or from the Hugging Face Hub, have class names."""
        why = super().missing(root)
        if root is None or why is None or cls._present(root):
            return why
        folder = root / cls.folder
        parquet = any(any(place.glob("*.parquet")) for place in (folder / "data", folder))
        if not parquet:
            return f"{why}; the Hugging Face form is expected in {folder / 'data'} as train-*.parquet"
        if (folder / CLASS_FILE).is_file():
            return None
        return cls._class_names_missing(root)

"""ImageNet as the Hugging Face hub has it: parquet files with the encoded images, in shuffled order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from cafe.data.base import EncodedImages, ImageSplit, count_note
from cafe.data.layouts.arrow import ArrowImages, load_local
from cafe.errors import InputError, UnreadableImageError

_SPLITS = {"train": ("train", "images/train"), "validation": ("test", "images/val")}


class ImageNetParquet(EncodedImages):
    """ImageNet from ``train-*.parquet`` and ``validation-*.parquet``.

    The hub appends the class to each file's name (``n01440764_10026_n01440764.JPEG``). Without it, rows sorted by
    class and name have the ids and the order of the folders, so that every few-shot draw is the same in both forms.
    """

    def __init__(self, name: str, folder: Path, names: dict[str, str], published: dict[str, int]) -> None:
        """Take the folder of the parquet files, and the class names by WordNet id."""
        self.name = name
        self._parts: dict[str, ArrowImages] = {}
        self._rows: dict[str, list[int]] = {}
        self.splits = {}
        self.notes = []
        wnids = sorted(names)
        for word, rows in load_local(folder, only=_SPLITS).items():
            split, below = _SPLITS[word]
            part = ArrowImages(folder, word, rows, {})
            self._parts[split] = part
            self.splits[split], self._rows[split] = _sorted_split(folder, part, below, wnids)
        self.splits = {split: self.splits[split] for split in ("train", "test") if split in self.splits}
        if not self.splits:
            raise InputError(f"{folder} holds neither train-*.parquet nor validation-*.parquet")
        self._drop_absent_classes(wnids)
        self.class_names = tuple(names[wnid] for wnid in self.class_ids)
        self.notes += count_note(self, published)

    def content(self, split: str, index: int) -> bytes:
        """Return the bytes of one image, from its row."""
        sample_id = self.splits[split].sample_ids[index]
        content = self._parts[split].read(self._rows[split][index])
        if content is None:
            raise UnreadableImageError(sample_id, "its row holds no image")
        return content

    def _drop_absent_classes(self, wnids: list[str]) -> None:
        """Drop classes without images, as the data set of folders does."""
        present = np.unique(np.concatenate([split.labels for split in self.splits.values()]))
        self.class_ids = tuple(wnids[label] for label in present)
        self.splits = {
            name: ImageSplit(split.sample_ids, np.searchsorted(present, split.labels).astype(np.int64), split.sizes)
            for name, split in self.splits.items()
        }


def _sorted_split(folder: Path, part: ArrowImages, below: str, wnids: list[str]) -> tuple[ImageSplit, list[int]]:
    """Return a split sorted by class and file name, and the row in the table of each of its images."""
    labels = part.labels()
    if labels is None or not all(0 <= int(label) < len(wnids) for label in labels):
        raise InputError(
            f"{folder}: labels of the {part.split} split must be 0 to {len(wnids) - 1}, lines of classnames.txt"
        )
    ids = []
    for row, (path, label) in enumerate(zip(part.paths(), labels, strict=True)):
        if not path:
            raise InputError(
                f"{folder}: row {row} of the {part.split} split has no file name, so its order is not known"
            )
        wnid = wnids[int(label)]
        ids.append(f"{below}/{wnid}/{re.sub(rf'_{wnid}(?=[.][^.]*$)', '', Path(path).name)}")
    sizes = part.sizes()
    order = sorted(range(len(ids)), key=lambda row: (int(labels[row]), ids[row]))
    split = ImageSplit(
        [ids[row] for row in order],
        np.array([int(labels[row]) for row in order], dtype=np.int64),
        sizes[np.array(order, dtype=np.int64)],
    )
    return split, order

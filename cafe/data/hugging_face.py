"""Data sets of the Hugging Face `datasets` library: from the hub, saved to disk, or parquet files."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cafe.data.arrow_images import ArrowImages
from cafe.data.base import Dataset, Source
from cafe.data.content_keys import content_keys
from cafe.data.images import read_image
from cafe.data.labelling import label_rows, read_class_list, split_name
from cafe.data.references import read_options, without_options
from cafe.errors import InputError, MissingDependencyError, UnreadableImageError

if TYPE_CHECKING:
    from PIL import Image

SOURCE = "hugging-face"

_HUB = "hf:"
_COLUMNS = ("image", "label")
_HUB_OPTIONS = (*_COLUMNS, "config", "revision")


class HuggingFace(Source):
    """A Hugging Face data set: 'hf:NAME' of the hub, a folder of save_to_disk, or parquet files.

    Columns are found by their type (an image, a class label) or usual name; ``?image=COLUMN&label=COLUMN`` names
    others, ``?config=NAME&revision=SHA`` a configuration and revision of the hub. ``validation`` is val; a split
    without labels is left out. Needs the extra ``datasets``.
    """

    def __init__(self, origin: object, name: str, parts: list[ArrowImages], class_list: list[str] | None) -> None:
        """Take the splits as they are called in the source."""
        self.name = name
        self.notes = []
        kept = []
        for part in parts:
            split = split_name(part.split)
            labels = part.labels()
            if split is None:
                self.notes.append(f"split {part.split!r} was left out: it is none of train, validation, test")
            elif labels is None:
                self.notes.append(f"split {part.split!r} was left out: it has rows without a label")
            else:
                kept.append((split, part, labels))
        if not kept:
            raise InputError(f"{origin} has no split with labels: {'; '.join(self.notes)}")
        self._parts = [part for _, part, _ in kept]
        where = [(number, row) for number, (_, part, _) in enumerate(kept) for row in range(len(part))]
        ids = [f"{self._parts[number].split}/{row:07d}" for number, row in where]
        sizes = np.concatenate([part.sizes() for part in self._parts])
        self._where = dict(zip(ids, where, strict=True))
        labelled = label_rows(
            origin,
            [label for _, _, labels in kept for label in labels],
            [split for split, part, _ in kept for _ in range(len(part))],
            lambda: content_keys(Path(), list(zip(ids, sizes.tolist(), strict=True)), self._read),
            kept[0][1].class_list() or class_list,
        )
        self.class_names = tuple(name.replace("_", " ") for name in labelled.class_names)
        self.splits, self.split_origin = labelled.image_splits(ids, sizes), labelled.split_origin
        self.notes += labelled.notes

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is ``hf:NAME``, a folder of ``save_to_disk``, or parquet."""
        if path.as_posix().startswith(_HUB) and not path.exists():
            return True
        path = without_options(path)
        return _is_saved(path) or bool(parquet_files(path))

    @classmethod
    def open(cls, path: Path, *, lenient: bool = False) -> Dataset:
        """Open it; ``lenient`` changes nothing, since images that are not there are unreadable only later.

        Raises
        ------
        MissingDependencyError
            If ``datasets`` is not installed.
        InputError
            If it is not there, cannot be read, or has no image or label column.
        """
        text = path.as_posix()
        if text.startswith(_HUB) and not path.exists():
            options = read_options(path, _HUB_OPTIONS)
            name = text.removeprefix(_HUB).partition("?")[0]
            found = _from_hub(name, options)
            plain, class_list, origin = name.rpartition("/")[2], None, f"{_HUB}{name}"
        else:
            options = read_options(path, _COLUMNS)
            path = without_options(path)
            found = load_local(path)
            folder = path if path.is_dir() else path.parent
            plain, class_list, origin = path.absolute().with_suffix("").name, read_class_list(folder), str(path)
        parts = [ArrowImages(origin, split, rows, options) for split, rows in found.items()]
        return cls(origin, plain, parts, class_list)

    def image(self, split: str, index: int) -> Image.Image:
        """Return one image as RGB; see :mod:`cafe.data.images`."""
        sample_id = self.splits[split].sample_ids[index]
        content = self._read(sample_id)
        if content is None:
            raise UnreadableImageError(sample_id, "its row holds no image, and no file where its path points")
        return read_image(content, sample_id)

    def _read(self, sample_id: str) -> bytes | None:
        number, row = self._where[sample_id]
        return self._parts[number].read(row)


def load_local(path: Path, only: Collection[str] | None = None) -> dict[str, Any]:
    """Load a folder of ``save_to_disk`` or parquet files, by split; ``only`` names the splits of parquet to load.

    Raises
    ------
    MissingDependencyError
        If ``datasets`` is not installed.
    InputError
        If it is neither, or cannot be read.
    """
    library = _library()
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder of save_to_disk, parquet files, or hf:NAME")
    files = {split: some for split, some in parquet_files(path).items() if only is None or split in only}
    try:
        if _is_saved(path):
            loaded = library.load_from_disk(os.fspath(path))
        elif files:
            loaded = library.load_dataset(
                "parquet", data_files={split: [os.fspath(one) for one in some] for split, some in files.items()}
            )
        else:
            raise InputError(f"{path} is neither a folder of save_to_disk nor parquet")
    except InputError:
        raise
    except Exception as error:  # pyarrow's and datasets' errors share no base
        raise InputError(f"{path} cannot be read as a Hugging Face data set: {_first_line(error)}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def parquet_files(path: Path) -> dict[str, list[Path]]:
    """Find parquet files by split: the word that a file's name begins with, as on the hub, else train."""
    if path.is_file():
        files = [path] if path.suffix.lower() == ".parquet" else []
    else:
        files = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    found: dict[str, list[Path]] = {}
    for file in files:
        word = re.split(r"[-_.\d]", file.name)[0]
        found.setdefault(word if split_name(word) else "train", []).append(file)
    return found


def _is_saved(path: Path) -> bool:
    names = ("dataset_dict.json", "state.json")
    return path.is_dir() and any((path / name).is_file() for name in names)


def _from_hub(name: str, options: dict[str, str]) -> dict[str, Any]:
    library = _library()
    try:
        loaded = library.load_dataset(name, options.get("config"), revision=options.get("revision"))
    except Exception as error:  # connection, authentication, configuration, scripts: no common base
        raise InputError(
            f"{_HUB}{name} cannot be loaded: {_first_line(error)}. Give the hub's id (owner/name), with "
            f"?config=NAME if it has several; a local copy works offline: a folder of parquet files or of save_to_disk"
        ) from error
    return dict(loaded)


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError("datasets", "datasets", "reading a Hugging Face data set") from None
    datasets.disable_progress_bars()
    return datasets


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

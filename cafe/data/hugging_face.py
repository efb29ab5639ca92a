"""Data sets of the Hugging Face `datasets` library: from the hub, saved to disk, or parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cafe.data.base import Dataset, EncodedImages, Source, read_options, without_options
from cafe.data.images.content_keys import content_keys
from cafe.data.images.examples import example_picture
from cafe.data.layouts.arrow import ArrowImages, first_line, is_saved, load_library, load_local, parquet_files
from cafe.data.layouts.labelling import label_rows, read_class_list, split_name
from cafe.errors import InputError, UnreadableImageError

SOURCE = "hugging-face"

_HUB = "hf:"
_COLUMNS = ("image", "label")
_HUB_OPTIONS = (*_COLUMNS, "config", "revision")


class HuggingFace(EncodedImages, Source):
    """A Hugging Face data set: 'hf:NAME' of the hub, a folder of save_to_disk, or parquet files.

    Columns are found by their type (an image, a class label) or usual name; ``?image=COLUMN&label=COLUMN`` names
    others, ``?config=NAME&revision=SHA`` a configuration and revision of the hub. ``validation`` is val; a split
    without labels is left out. Needs the extra ``datasets``.
    """

    def __init__(self, origin: object, name: str, parts: list[ArrowImages], class_list: list[str] | None) -> None:
        """Take the splits under their names in the source."""
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
        places = [(number, row) for number, (_, part, _) in enumerate(kept) for row in range(len(part))]
        ids = [f"{self._parts[number].split}/{row:07d}" for number, row in places]
        sizes = np.concatenate([part.sizes() for part in self._parts])
        self._where = dict(zip(ids, places, strict=True))
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
        """Return whether the path is ``hf:NAME``, a folder of ``save_to_disk``, or parquet."""
        if path.as_posix().startswith(_HUB) and not path.exists():
            return True
        path = without_options(path)
        return is_saved(path) or bool(parquet_files(path))

    @classmethod
    def open(cls, path: Path, *, lenient: bool = False) -> Dataset:
        """Open the source; ``lenient`` changes nothing, since missing images are only noticed when they are read.

        Raises
        ------
        MissingDependencyError
            If ``datasets`` is not installed.
        InputError
            If the source is not there, cannot be read, or has no image or label column.
        """
        text = path.as_posix()
        if text.startswith(_HUB) and not path.exists():
            options = read_options(path, _HUB_OPTIONS)
            name = text.removeprefix(_HUB).partition("?")[0]
            rows_of_split = _from_hub(name, options)
            short_name, class_list, origin = name.rpartition("/")[2], None, f"{_HUB}{name}"
        else:
            options = read_options(path, _COLUMNS)
            path = without_options(path)
            rows_of_split = load_local(path)
            folder = path if path.is_dir() else path.parent
            short_name, class_list, origin = path.absolute().with_suffix("").name, read_class_list(folder), str(path)
        parts = [ArrowImages(origin, split, rows, options) for split, rows in rows_of_split.items()]
        return cls(origin, short_name, parts, class_list)

    @classmethod
    def write_example(cls, folder: Path) -> Path:
        """Write parquet files of three splits with four images each, as the hub has them; see the base class."""
        library = load_library()
        features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat", "hot_dog"])})
        for number, split in enumerate(("train", "validation", "test")):
            images = [{"bytes": example_picture(10 * number + n), "path": f"{n}.png"} for n in range(4)]
            rows = library.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)
            rows.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
        return folder

    def content(self, split: str, index: int) -> bytes:
        """Return the bytes of one image, from its row or from the file that the row names."""
        sample_id = self.splits[split].sample_ids[index]
        content = self._read(sample_id)
        if content is None:
            raise UnreadableImageError(sample_id, "its row holds no image, and no file where its path points")
        return content

    def _read(self, sample_id: str) -> bytes | None:
        """Return the bytes of an image by its sample id, None if they cannot be found."""
        number, row = self._where[sample_id]
        return self._parts[number].read(row)


def _from_hub(name: str, options: dict[str, str]) -> dict[str, Any]:
    """Load a data set of the hub, by split."""
    library = load_library()
    try:
        # Version 3 of the library would ask whether a data set's script may run; version 4 knows no scripts.
        loaded = library.load_dataset(
            name, options.get("config"), revision=options.get("revision"), trust_remote_code=False
        )
    except Exception as error:  # connection, authentication, configuration, scripts: no common base
        raise InputError(
            f"{_HUB}{name} cannot be loaded: {first_line(error)}. Give the hub's id (owner/name), with "
            f"?config=NAME if it has several; a local copy works offline: a folder of parquet files or of save_to_disk"
        ) from error
    return dict(loaded)

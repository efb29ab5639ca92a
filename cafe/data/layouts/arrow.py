"""Arrow tables of the Hugging Face `datasets` library: loaded from the disk, and read without decoding."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.data.layouts.labelling import split_name
from cafe.errors import InputError, MissingDependencyError

IMAGE_COLUMNS = ("image", "img", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")


class ArrowImages:
    """The rows of one split of a table with an image column, whose bytes are returned as they are stored.

    Parameters
    ----------
    origin : object
        Names the source in messages.
    split : str
        Its name in the source.
    rows : datasets.Dataset
        Memory-mapped, so that any row is read without the others.
    chosen : mapping of str to str
        Columns to use as ``image`` and ``label`` instead of those found.
    """

    def __init__(self, origin: object, split: str, rows: Any, chosen: Mapping[str, str]) -> None:
        """Find the image and label columns, or take the chosen ones."""
        import datasets

        self._origin, self.split = origin, split
        # A download of the hub's library has the bytes in its rows, so that no folder is needed.
        source = Path(str(origin)).absolute()
        self._root = (source if source.is_dir() else source.parent) if source.exists() else None
        # Rows of the table must be rows of the data set.
        rows = rows if rows._indices is None else rows.flatten_indices()
        self._image = _column(origin, rows, chosen, "image", _is_image, IMAGE_COLUMNS)
        self._label = _column(origin, rows, chosen, "label", _is_label, LABEL_COLUMNS)
        # Other columns are dropped, since a row is read as a whole and they may hold images too.
        rows = rows.select_columns(list(dict.fromkeys((self._image, self._label))))
        self._rows = rows.cast_column(self._image, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    def labels(self) -> list[str | int] | None:
        """Return the label of every row, a name or its place in the class list; None if a row has none.

        Raises
        ------
        InputError
            If a label is neither text nor integer.
        """
        values = self._rows.data.column(self._label).to_pylist()
        if any(value is None or value == -1 for value in values):  # -1 is the library's mark of an unlabelled row
            return None
        odd = next((value for value in values if not isinstance(value, (str, int))), None)
        if odd is not None:
            raise InputError(f"{self._origin}: column {self._label!r} holds {odd!r}, not one text or number")
        return values if self.class_list() is not None else [str(value) for value in values]

    def class_list(self) -> list[str] | None:
        """Return the class names that the label column carries, None if it carries none."""
        feature = self._rows.features[self._label]
        return [str(name) for name in feature.names] if hasattr(feature, "names") else None

    def sizes(self) -> NDArray[np.int64]:
        """Return the size of every image in bytes, read from offsets where the table stores the bytes."""
        import pyarrow.compute as pc

        column = self._rows.data.column(self._image)
        sizes = np.zeros(len(self), dtype=np.int64)
        lengths = pc.binary_length(pc.struct_field(column, "bytes"))
        for row, length in enumerate(lengths.to_pylist()):
            sizes[row] = self._size_on_disk(row) if length is None else length
        return sizes

    def paths(self) -> list[str | None]:
        """Return the file name stored with every image, None for an image without one."""
        import pyarrow.compute as pc

        paths: list[str | None] = pc.struct_field(self._rows.data.column(self._image), "path").to_pylist()
        return paths

    def read(self, row: int) -> bytes | None:
        """Return the encoded image of a row, None if neither the row nor a file has it."""
        cell = self._rows[row][self._image]
        if cell is None:
            return None
        if cell["bytes"] is not None:
            content: bytes = cell["bytes"]
            return content
        path = self._inside(cell["path"])
        try:
            return None if path is None else path.read_bytes()
        except OSError:
            return None

    def _size_on_disk(self, row: int) -> int:
        """Return the size of the file that a row names, 0 if there is no such file."""
        cell = self._rows[row][self._image]
        path = None if cell is None else self._inside(cell["path"])
        try:
            return 0 if path is None else path.stat().st_size
        except OSError:
            return 0

    def _inside(self, path: str | None) -> Path | None:
        """Return the file that a row names, if it lies in the data set's folder; None for any other path."""
        if not path or "\0" in path or self._root is None:
            return None
        place = self._root / path
        inside = ".." not in place.parts and place.is_relative_to(self._root)
        return place if inside and place.is_file() else None


def load_local(path: Path, only: Collection[str] | None = None) -> dict[str, Any]:
    """Load a folder of ``save_to_disk``, or of parquet files, as a table for each split.

    Parameters
    ----------
    path : Path
        The folder, or one parquet file.
    only : collection of str, default=None
        Splits to load of parquet files, since preparing each takes time; None loads all. A folder of ``save_to_disk``
        is mapped into memory at no cost, so all its splits are returned.

    Returns
    -------
    dict of str to datasets.Dataset
        The table of each split; a table without splits is ``train``.

    Raises
    ------
    MissingDependencyError
        If ``datasets`` is not installed.
    InputError
        If the path is neither such a folder nor parquet, or cannot be read.
    """
    library = load_library()
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder of save_to_disk, parquet files, or hf:NAME")
    files = {split: paths for split, paths in parquet_files(path).items() if only is None or split in only}
    try:
        if is_saved(path):
            loaded = library.load_from_disk(os.fspath(path))
        elif files:
            loaded = library.load_dataset(
                "parquet",
                data_files={split: [os.fspath(file) for file in paths] for split, paths in files.items()},
                trust_remote_code=False,
            )
        else:
            raise InputError(f"{path} is neither a folder of save_to_disk nor parquet")
    except InputError:
        raise
    except Exception as error:  # pyarrow's and datasets' errors share no base
        raise InputError(f"{path} cannot be read as a Hugging Face data set: {first_line(error)}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def parquet_files(path: Path) -> dict[str, list[Path]]:
    """Find parquet files by split: the first word of the file name, as on the hub, or else train."""
    if path.is_file():
        files = [path] if path.suffix.lower() == ".parquet" else []
    else:
        files = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    by_split: dict[str, list[Path]] = {}
    for file in files:
        word = re.split(r"[-_.\d]", file.name)[0]
        by_split.setdefault(word if split_name(word) else "train", []).append(file)
    return by_split


def is_saved(path: Path) -> bool:
    """Return whether a path is a folder of ``save_to_disk``."""
    names = ("dataset_dict.json", "state.json")
    return path.is_dir() and any((path / name).is_file() for name in names)


def load_library() -> Any:
    """Import ``datasets``, quiet; MissingDependencyError says how to get it."""
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError("datasets", "datasets", "reading a Hugging Face data set") from None
    datasets.disable_progress_bars()
    return datasets


def first_line(error: Exception) -> str:
    """Return the first line of an error of the library, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _column(origin: object, rows: Any, chosen: Mapping[str, str], role: str, fits: Any, usual: tuple[str, ...]) -> str:
    """Return the column for a role: the user's choice, else the one of the right type, else the one of a usual name."""
    columns = list(rows.features)
    if role in chosen:
        if chosen[role] not in columns:
            raise InputError(f"{origin} has no column {chosen[role]!r}; it has: {', '.join(columns)}")
        return str(chosen[role])
    of_type = [name for name in columns if fits(rows.features[name])]
    of_name = [name for name in columns if name.lower() in usual]
    candidates = of_type or of_name
    if len(candidates) > 1:
        candidates = [name for name in usual if name in candidates][:1] or candidates
    if len(candidates) != 1:
        problem = f"has {', '.join(candidates)}" if candidates else f"has none of the usual ones ({', '.join(columns)})"
        raise InputError(
            f"{origin} {problem} for the {role} column; say which it is with --dataset '{origin}?{role}=COLUMN'"
        )
    return str(candidates[0])


def _is_image(feature: Any) -> bool:
    """Return whether a column has the type of images."""
    return type(feature).__name__ == "Image"


def _is_label(feature: Any) -> bool:
    """Return whether a column has the type of class labels."""
    return type(feature).__name__ == "ClassLabel"

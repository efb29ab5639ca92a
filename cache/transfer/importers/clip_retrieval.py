"""clip-retrieval's output: ``img_emb/img_emb_N.npy`` beside ``metadata/metadata_N.parquet``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.transfer.importers.base import Found, FoundSplit, Importer, Wishes
from cafe.cache.transfer.importers.files import arrays_of_file
from cafe.errors import InputError, MissingDependencyError, unknown_name

IMPORTER = "clip-retrieval"

_LABEL_COLUMNS = ("label", "class_name", "class", "cls", "target")
_PATH_COLUMNS = ("image_path", "sample_id", "key", "url")


class CLIPRetrieval(Importer):
    """A folder of clip-retrieval: img_emb/*.npy and metadata/*.parquet; or one such folder per split."""

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Say whether there are embeddings here, or in folders named after splits."""
        return bool(_folders(path, "train"))

    @classmethod
    def read(cls, path: Path, wishes: Wishes) -> Found:
        """Read it.

        Labels are a column of the metadata (``label``, ``class_name``, ``class``, ``cls`` or ``target``, or the one
        that was named); without any, the name of each image's folder.
        """
        folders = _folders(path, wishes.split)
        if not folders:
            raise InputError(f"{path} is no output of clip-retrieval: img_emb/img_emb_0.npy and metadata/ are expected")
        splits, files, notes = {}, [], []
        for split, folder in folders.items():
            splits[split], read, note = _split(folder, wishes.label_column)
            files += read
            notes += note
        return Found(splits, tuple(files), notes=tuple(dict.fromkeys(notes)))


def _folders(path: Path, alone: str) -> dict[str, Path]:
    if any(path.glob("img_emb/img_emb_*.npy")):
        return {alone: path}
    return {
        split: path / split for split in ("train", "val", "test") if any((path / split).glob("img_emb/img_emb_*.npy"))
    }


def _split(folder: Path, label_column: str | None) -> tuple[FoundSplit, list[Path], list[str]]:
    features, labels, ids = [], [], []
    files, notes = [], []
    # By number, since img_emb_10 sorts before img_emb_2.
    for array in sorted(folder.glob("img_emb/img_emb_*.npy"), key=_number):
        table = folder / "metadata" / f"{array.stem.replace('img_emb', 'metadata')}.parquet"
        if not table.is_file():
            raise InputError(f"{array} needs its metadata beside it, for the labels: {table} is not there")
        columns = _columns(table)
        rows = arrays_of_file(array)[array.stem]()
        if any(len(column) != len(rows) for column in columns.values()):
            raise InputError(f"{array} has {len(rows)} rows, but {table} {len(next(iter(columns.values())))}")
        found, note = _labels(columns, label_column, table)
        features.append(rows)
        labels += found
        ids += next((columns[name] for name in _PATH_COLUMNS if name in columns), [])
        files += [array, table]
        notes += note
    given = np.array(ids, dtype=np.str_) if len(ids) == len(labels) else None
    joined: NDArray[Any] = np.concatenate(features)
    return FoundSplit(joined, np.array(labels), given, f"{folder.name}/img_emb"), files, notes


def _columns(table: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet", "reading parquet") from error
    try:
        columns: dict[str, list[Any]] = pyarrow.parquet.read_table(table).to_pydict()
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise InputError(f"{table} is not a parquet file, or is damaged: {str(error).splitlines()[0]}") from error
    return columns


def _labels(columns: dict[str, list[Any]], wished: str | None, table: Path) -> tuple[list[Any], list[str]]:
    if wished is not None and wished not in columns:
        raise unknown_name(f"column of {table}", wished, columns)
    name = wished or next((name for name in _LABEL_COLUMNS if name in columns), None)
    if name is not None:
        if any(value is None for value in columns[name]):
            raise InputError(f"column {name!r} of {table} has rows without a label")
        return columns[name], []
    if "image_path" not in columns:
        raise InputError(f"{table} has no labels; name their column with --label-column: {', '.join(columns)}")
    folders = [Path(str(path)).parent.name for path in columns["image_path"]]
    if not all(folders):
        raise InputError(f"{table} has no column of labels, and its images lie in no folder that could name a class")
    return folders, ["labels are the names of the images' folders; name a column with --label-column"]


def _number(path: Path) -> int:
    digits = re.search(r"(\d+)$", path.stem)
    return int(digits[1]) if digits else -1

"""clip-retrieval's output: ``img_emb/img_emb_N.npy`` beside ``metadata/metadata_N.parquet``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.transfer.array_files import arrays_of_file
from cafe.cache.transfer.importers.base import ExampleSplits, ForeignFeatures, ForeignSplit, Importer, ImportOptions
from cafe.errors import InputError, MissingDependencyError, unknown_name
from cafe.foreign import SMALL_BYTES, check_regular, reading

IMPORTER = "clip-retrieval"

_LABEL_COLUMNS = ("label", "class_name", "class", "cls", "target")
_PATH_COLUMNS = ("image_path", "sample_id", "key", "url")


class CLIPRetrieval(Importer):
    """A folder of clip-retrieval: img_emb/*.npy and metadata/*.parquet; or one such folder per split."""

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether there are embeddings here, or in folders named after splits."""
        return bool(_folders(path, "train"))

    @classmethod
    def read(cls, path: Path, options: ImportOptions) -> ForeignFeatures:
        """Read the embeddings and labels of every split.

        Labels come from the column of the metadata that the user named, else from one called ``label``,
        ``class_name``, ``class``, ``cls`` or ``target``, else from the name of each image's folder.
        """
        folders = _folders(path, options.split)
        if not folders:
            raise InputError(f"{path} is no output of clip-retrieval: img_emb/img_emb_0.npy and metadata/ are expected")
        splits, files, notes = {}, [], []
        for split, folder in folders.items():
            splits[split], read, note = _split(folder, options.label_column)
            files += read
            notes += note
        return ForeignFeatures(splits, tuple(files), notes=tuple(dict.fromkeys(notes)))

    @classmethod
    def write_example(cls, folder: Path, splits: ExampleSplits) -> Path:
        """Write each split as one folder of two parts, in float16 as clip-retrieval does, with paths that name classes.

        Raises
        ------
        MissingDependencyError
            If pyarrow is not installed.
        """
        pa, parquet = _pyarrow("writing parquet")
        for split, (features, labels) in splits.items():
            arrays, tables = folder / split / "img_emb", folder / split / "metadata"
            arrays.mkdir(parents=True)
            tables.mkdir()
            for part, rows in enumerate(np.array_split(np.arange(len(labels)), 2)):
                np.save(arrays / f"img_emb_{part}.npy", features[rows].astype(np.float16))
                paths = [f"/photos/class {labels[row]}/{split}{row}.jpg" for row in rows]
                parquet.write_table(pa.table({"image_path": paths}), tables / f"metadata_{part}.parquet")
        return folder


def _pyarrow(what: str) -> tuple[Any, Any]:
    """Import pyarrow; MissingDependencyError says how to install it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet", what) from error
    return pyarrow, pyarrow.parquet


def _folders(path: Path, alone: str) -> dict[str, Path]:
    """Return clip-retrieval's folder of each split; ``alone`` names the split if ``path`` itself is such a folder."""
    if any(path.glob("img_emb/img_emb_*.npy")):
        return {alone: path}
    return {
        split: path / split for split in ("train", "val", "test") if any((path / split).glob("img_emb/img_emb_*.npy"))
    }


def _split(folder: Path, label_column: str | None) -> tuple[ForeignSplit, list[Path], list[str]]:
    """Read all parts of one split: the split, its files, and notes."""
    features: list[NDArray[Any]] = []
    labels: list[Any] = []
    ids: list[Any] = []
    files, notes = [], []
    # By number, since img_emb_10 sorts before img_emb_2.
    for array in sorted(folder.glob("img_emb/img_emb_*.npy"), key=_number):
        table = folder / "metadata" / f"{array.stem.replace('img_emb', 'metadata')}.parquet"
        if not table.is_file():
            raise InputError(f"{array} needs its metadata beside it, for the labels: {table} is not there")
        columns = _columns(table, label_column)
        rows = arrays_of_file(array)[array.stem]()
        if rows.ndim != 2 or (features and rows.shape[1] != features[0].shape[1]):
            raise InputError(f"{array} must be (n, d), as wide as the other parts; got {rows.shape}")
        if any(len(column) != len(rows) for column in columns.values()):
            raise InputError(f"{array} has {len(rows)} rows, but {table} {len(next(iter(columns.values())))}")
        values, note = _labels(columns, label_column, table)
        features.append(rows)
        labels += values
        ids += next((columns[name] for name in _PATH_COLUMNS if name in columns), [])
        files += [array, table]
        notes += note
    sample_ids = np.array(ids, dtype=np.str_) if len(ids) == len(labels) else None
    joined: NDArray[Any] = np.concatenate(features)
    return ForeignSplit(joined, np.array(labels), sample_ids, f"{folder.name}/img_emb"), files, notes


def _columns(table: Path, label_column: str | None) -> dict[str, list[Any]]:
    """Read the columns of labels and paths. Other columns stay unread, since they may have any type and size."""
    _, parquet = _pyarrow("reading parquet")
    check_regular(table)
    with reading(table, "a parquet file"):
        file = parquet.ParquetFile(table)
        names = list(file.schema_arrow.names)
        needed = [name for name in names if name == label_column or name in (*_LABEL_COLUMNS, *_PATH_COLUMNS)]
        # The file states its unpacked size. Repeated texts pack well, but not to less than a ten thousandth.
        groups = range(file.metadata.num_row_groups)
        unpacked = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        if unpacked > SMALL_BYTES and unpacked > 10_000 * table.stat().st_size:
            raise InputError(f"{table} states that it would grow to {unpacked:,} bytes, so it is not unpacked")
        columns: dict[str, list[Any]] = file.read(columns=needed).to_pydict()
    if label_column is not None and label_column not in names:
        raise unknown_name(f"column of {table}", label_column, names)
    if not needed:
        raise InputError(f"{table} has no labels; name their column with --label-column: {', '.join(names)}")
    return columns


def _labels(columns: dict[str, list[Any]], label_column: str | None, table: Path) -> tuple[list[Any], list[str]]:
    """Return the label of each row, from a column or from the folders of the images, and a note about the latter."""
    if label_column is not None and label_column not in columns:
        raise unknown_name(f"column of {table}", label_column, columns)
    name = label_column or next((name for name in _LABEL_COLUMNS if name in columns), None)
    if name is not None:
        if any(value is None for value in columns[name]):
            raise InputError(f"column {name!r} of {table} has rows without a label")
        odd = next((value for value in columns[name] if not isinstance(value, (str, int, float))), None)
        if odd is not None:
            raise InputError(
                f"column {name!r} of {table} holds {type(odd).__name__} values, such as {str(odd)[:40]!r}; texts or "
                f"whole numbers are needed"
            )
        return columns[name], []
    if "image_path" not in columns:
        raise InputError(f"{table} has no labels; name their column with --label-column: {', '.join(columns)}")
    folders = [Path(str(path)).parent.name for path in columns["image_path"]]
    if not all(folders):
        raise InputError(f"{table} has no column of labels, and its images lie in no folder that could name a class")
    return folders, ["labels are the names of the images' folders; name a column with --label-column"]


def _number(path: Path) -> int:
    """Return the number at the end of a file's name."""
    digits = re.search(r"(\d+)$", path.stem)
    return int(digits[1]) if digits else -1

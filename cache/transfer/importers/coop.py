"""CoOp's linear-probe features: ``{train,val,test}.npz`` with ``feature_list`` and ``label_list``."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from cafe.cache.transfer.importers.arrays import read_arrays
from cafe.cache.transfer.importers.base import ExampleSplits, ForeignFeatures, Importer, ImportOptions
from cafe.errors import InputError

IMPORTER = "coop"

_SPLITS = ("train", "val", "test")
_NEEDED = {"feature_list.npy", "label_list.npy"}


class CoOpFeatures(Importer):
    """A folder of CoOp's lpclip: train.npz, val.npz, test.npz with feature_list and label_list."""

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether a file of a split holds the two lists."""
        return bool(_files(path))

    @classmethod
    def read(cls, path: Path, options: ImportOptions) -> ForeignFeatures:
        """Read the folder."""
        files = _files(path)
        if not files:
            raise InputError(f"{path} is no feature folder of CoOp: train.npz with feature_list and label_list")
        return read_arrays(path, files, options)

    @classmethod
    def write_example(cls, folder: Path, splits: ExampleSplits) -> Path:
        """Write one archive for each split; CoOp makes its arrays of lists."""
        for name, (features, labels) in splits.items():
            np.savez(folder / f"{name}.npz", feature_list=list(features), label_list=labels.tolist())
        return folder


def _files(path: Path) -> list[Path]:
    """Return the archive of each split that is there."""
    files = [path / f"{split}.npz" for split in _SPLITS]
    return [file for file in files if _members(file) >= _NEEDED]


def _members(file: Path) -> set[str]:
    """Return the names of the arrays in an archive."""
    try:
        return set(zipfile.ZipFile(file).namelist()) if file.is_file() else set()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return set()  # the reader will say what is wrong with the file

"""Tip-Adapter's caches: ``keys_{K}shots.pt``, ``values_{K}shots.pt``, ``{val,test}_f.pt`` and ``_l.pt``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from cafe.cache.transfer.array_files import as_array, load_tensor_file
from cafe.cache.transfer.importers.base import ExampleSplits, ForeignFeatures, ForeignSplit, Importer, ImportOptions
from cafe.errors import InputError

IMPORTER = "tip-adapter"

_KEYS = re.compile(r"keys_(\d+)shots\.pt$")


class TipAdapterCache(Importer):
    """A cache folder of Tip-Adapter (and APE): keys_16shots.pt, values_16shots.pt, test_f.pt, test_l.pt."""

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether the folder holds a file of keys and the file of their values."""
        return bool(_shots(path))

    @classmethod
    def read(cls, path: Path, options: ImportOptions) -> ForeignFeatures:
        """Read the folder; the keys, means over each training image's views at unit length, become the train split."""
        known = _shots(path)
        if not known:
            raise InputError(f"{path} is no cache of Tip-Adapter: keys_16shots.pt and values_16shots.pt are expected")
        shots, notes = max(known), []
        if named := options.arrays.get("train"):
            shots = _named_shots(named, known)
        elif len(known) > 1:
            other_keys = ", ".join(f"keys_{k}shots" for k in known if k != shots)
            notes.append(f"train is keys_{shots}shots; also there: {other_keys} (choose with --train)")
        files = [path / f"keys_{shots}shots.pt", path / f"values_{shots}shots.pt"]
        splits = {"train": _train(*files)}
        for split in ("val", "test"):
            pair = [path / f"{split}_f.pt", path / f"{split}_l.pt"]
            if all(file.is_file() for file in pair):
                features, labels = (as_array(load_tensor_file(file), file) for file in pair)
                splits[split] = ForeignSplit(features, labels, None, pair[0].name)
                files += pair
        return ForeignFeatures(splits, tuple(files), notes=tuple(notes))

    @classmethod
    def write_example(cls, folder: Path, splits: ExampleSplits) -> Path:
        """Write keys, values and the features of the other splits, all in float16 as Tip-Adapter does."""
        import torch

        for name, (features, labels) in splits.items():
            rows, targets = torch.from_numpy(features).half(), torch.from_numpy(labels)
            if name == "train":
                shots = int(np.bincount(labels).max())
                torch.save(rows.T, folder / f"keys_{shots}shots.pt")  # (d, n)
                torch.save(torch.nn.functional.one_hot(targets).half(), folder / f"values_{shots}shots.pt")  # (n, c)
            else:
                torch.save(rows, folder / f"{name}_f.pt")
                torch.save(targets, folder / f"{name}_l.pt")
        return folder


def _train(keys_file: Path, values_file: Path) -> ForeignSplit:
    """Read keys and values as features and labels."""
    keys, values = (as_array(load_tensor_file(file), file) for file in (keys_file, values_file))
    # Keys (d, n) are in columns; values (n, c) are one-hot.
    if keys.ndim != 2 or values.ndim != 2 or keys.shape[1] != len(values):
        raise InputError(
            f"{keys_file} must be (width, n) and {values_file.name} (n, classes); got {keys.shape}, {values.shape}"
        )
    if not np.array_equal(values.sum(axis=1), np.ones(len(values))) or not np.isin(values, (0, 1)).all():
        raise InputError(f"{values_file} must be one-hot; APE and others save soft values, which are no labels")
    return ForeignSplit(keys.T, values.argmax(axis=1), None, keys_file.name)


def _shots(path: Path) -> list[int]:
    """Return the numbers of shots for which keys and values exist."""
    if not path.is_dir():
        return []
    numbers = [int(match[1]) for file in path.iterdir() if (match := _KEYS.search(file.name))]
    return sorted(k for k in numbers if (path / f"values_{k}shots.pt").is_file())


def _named_shots(named: tuple[str, ...], known: list[int]) -> int:
    """Return the number of shots that the user named."""
    number = re.search(r"(\d+)", named[0])
    if len(named) != 1 or number is None or int(number[1]) not in known:
        raise InputError(f"--train: there are keys of {', '.join(map(str, known))} shots here; got {', '.join(named)}")
    return int(number[1])

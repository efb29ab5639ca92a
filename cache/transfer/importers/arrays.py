"""Plain arrays: an .npz, .npy, .pt or .safetensors file with labels, or a folder of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.transfer.importers.base import Found, FoundSplit, Importer, Wishes
from cafe.cache.transfer.importers.files import SUFFIXES, Arrays, arrays_of_file
from cafe.cache.transfer.importers.pairing import Pair, Roles, choose_pairs, roles_of
from cafe.errors import InputError

IMPORTER = "arrays"


class PlainArrays(Importer):
    """Arrays whose names say what they are: train_features and train_labels, X_test and y_test, ..."""

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Say whether there is any file of arrays."""
        return bool(array_files(path))

    @classmethod
    def read(cls, path: Path, wishes: Wishes) -> Found:
        """Read a file of several arrays, or a folder of files."""
        files = array_files(path)
        if not files:
            raise InputError(f"{path} holds no file of arrays; possible: {', '.join(SUFFIXES)}")
        return found_in(path, files, wishes)


def array_files(path: Path) -> list[Path]:
    """List the files of arrays: the path itself, or those that a folder holds directly."""
    candidates = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    return [file for file in candidates if file.is_file() and file.suffix.lower() in SUFFIXES]


def found_in(path: Path, files: list[Path], wishes: Wishes) -> Found:
    """Put the arrays of some files together by their names."""
    arrays: Arrays = {}
    owner: dict[str, Path] = {}
    for file in files:
        for name, read in arrays_of_file(file).items():
            # Files of a folder that use the same names (train.npz, test.npz) are told apart by their own.
            full = name if len(files) == 1 or name == file.stem else f"{file.stem}_{name}"
            arrays[full], owner[full] = read, file
    roles = roles_of(arrays)
    chosen, notes = choose_pairs(roles, wishes.keys, path)
    splits = {split: _joined(pairs, arrays) for split, pairs in chosen.items()}
    used = [name for pairs in chosen.values() for p in pairs for name in (p.features, p.labels, p.ids) if name]
    used += [name for name in (roles.text, roles.class_names) if name]
    return Found(
        splits=splits,
        files=tuple(dict.fromkeys(owner[name] for name in used)),
        class_names=_class_names(roles, arrays),
        text_features=None if roles.text is None else np.asarray(arrays[roles.text]()),
        notes=tuple(notes),
    )


def _joined(pairs: list[Pair], arrays: Arrays) -> FoundSplit:
    ids = [arrays[pair.ids]() for pair in pairs if pair.ids is not None]
    return FoundSplit(
        image_features=_stacked([arrays[pair.features]() for pair in pairs]),
        labels=np.concatenate([np.asarray(arrays[pair.labels]()).reshape(-1) for pair in pairs]),
        sample_ids=np.concatenate(ids).astype(np.str_) if len(ids) == len(pairs) else None,
        source=", ".join(pair.features for pair in pairs),
    )


def _stacked(features: list[NDArray[Any]]) -> NDArray[Any]:
    shapes = {array.shape[1:] for array in features}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise InputError(f"features must be (n, d) of one width, got {', '.join(str(a.shape) for a in features)}")
    return features[0] if len(features) == 1 else np.concatenate(features)


def _class_names(roles: Roles, arrays: Arrays) -> tuple[str, ...] | None:
    if roles.class_names is None:
        return None
    names = np.asarray(arrays[roles.class_names]())
    # Some tools call the labels themselves "classes".
    return tuple(str(name) for name in names.astype(np.str_)) if names.dtype.kind in "US" else None

"""Plain arrays: an .npz, .npy, .pt or .safetensors file with labels, or a folder of them.

Which arrays are features, labels, ids, text and class names, and of which split, is read from their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.transfer.array_files import SUFFIXES, Arrays, arrays_of_file
from cafe.cache.transfer.importers.base import ExampleSplits, ForeignFeatures, ForeignSplit, Importer, ImportOptions
from cafe.errors import InputError, unknown_name

IMPORTER = "arrays"

_FEATURES = {
    "features", "feature", "feats", "feat", "x", "f",
    "embeddings", "embedding", "embeds", "embed", "embs", "emb",
}  # fmt: skip
_LABELS = {"labels", "label", "targets", "target", "y", "l"}
_IDS = {"ids", "id", "paths", "path", "filenames", "filename", "files"}
_IGNORED = {"list", "image", "images", "img", "sample", "array", "data", "all"}
_SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
_SHOTS = re.compile(r"(\d+)_?shots?")
_ALL_SHOTS = 1 << 30


class PlainArrays(Importer):
    """Arrays whose names say what they are: train_features and train_labels, X_test and y_test, ..."""

    accepts_anything = True

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Return whether there is any file of arrays."""
        return bool(array_files(path))

    @classmethod
    def read(cls, path: Path, options: ImportOptions) -> ForeignFeatures:
        """Read a file of several arrays, or a folder of files."""
        files = array_files(path)
        if not files:
            raise InputError(f"{path} holds no file of arrays; possible: {', '.join(SUFFIXES)}")
        return read_arrays(path, files, options)

    @classmethod
    def write_example(cls, folder: Path, splits: ExampleSplits) -> Path:
        """Write one .npz with the features and labels of every split."""
        arrays: dict[str, Any] = {}
        for name, (features, labels) in splits.items():
            arrays[f"{name}_features"], arrays[f"{name}_labels"] = features, labels
        np.savez(folder / "example.npz", **arrays)
        return folder / "example.npz"


def array_files(path: Path) -> list[Path]:
    """List the files of arrays: the path itself, or those that a folder holds directly."""
    candidates = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    return [file for file in candidates if file.is_file() and file.suffix.lower() in SUFFIXES]


def read_arrays(path: Path, files: list[Path], options: ImportOptions) -> ForeignFeatures:
    """Read the arrays of some files, and join them to splits by their names."""
    arrays: Arrays = {}
    owner: dict[str, Path] = {}
    for file in files:
        for name, read in arrays_of_file(file).items():
            # Files of a folder that use the same names of arrays (train.npz, test.npz) are distinguished by file name.
            full = name if len(files) == 1 or name == file.stem else f"{file.stem}_{name}"
            arrays[full], owner[full] = read, file
    roles = roles_of(arrays)
    chosen, notes = choose_pairs(roles, options.arrays, path)
    splits = {split: _joined_split(pairs, arrays) for split, pairs in chosen.items()}
    used = [name for pairs in chosen.values() for p in pairs for name in (p.features, p.labels, p.ids) if name]
    used += [name for name in (roles.text, roles.class_names) if name]
    return ForeignFeatures(
        splits=splits,
        files=tuple(dict.fromkeys(owner[name] for name in used)),
        class_names=_class_names(roles, arrays),
        text_features=None if roles.text is None else np.asarray(arrays[roles.text]()),
        notes=tuple(notes),
    )


def _joined_split(pairs: list[Pair], arrays: Arrays) -> ForeignSplit:
    """Join the arrays of several pairs to one split."""
    ids = [arrays[pair.ids]() for pair in pairs if pair.ids is not None]
    return ForeignSplit(
        image_features=_stacked([(pair.features, arrays[pair.features]()) for pair in pairs]),
        labels=_joined_labels([(pair.labels, np.asarray(arrays[pair.labels]())) for pair in pairs]),
        sample_ids=np.concatenate([_texts_of(i) for i in ids]) if len(ids) == len(pairs) else None,
        source=", ".join(pair.features for pair in pairs),
    )


def _joined_labels(parts: list[tuple[str, NDArray[Any]]]) -> NDArray[Any]:
    """Join arrays of labels, after checking their shapes."""
    for name, labels in parts:
        if labels.ndim != 1 and labels.shape[1:] != (1,):
            one_hot = "; one-hot rows are no labels, argmax(axis=1) makes them" if labels.ndim == 2 else ""
            raise InputError(f"labels {name!r} must be (n,), one for each row; got {labels.shape}{one_hot}")
    if len({labels.dtype.kind in "US" for _, labels in parts}) > 1:
        raise InputError(f"{', '.join(name for name, _ in parts)}: some are texts and some are numbers")
    return np.concatenate([labels.reshape(-1) for _, labels in parts])


def _texts_of(ids: NDArray[Any]) -> NDArray[np.str_]:
    """Return ids as a flat array of texts."""
    return (
        ids.reshape(-1).astype(np.str_)
        if ids.dtype.kind != "S"
        else np.char.decode(ids.reshape(-1), "utf-8", "replace")
    )


def _stacked(parts: list[tuple[str, NDArray[Any]]]) -> NDArray[Any]:
    """Join arrays of features, after checking their types and widths."""
    for name, array in parts:
        if array.dtype.kind not in "fiu":
            raise InputError(f"features {name!r} must be numbers, got an array of {array.dtype}")
    widths = {array.shape[1:] for _, array in parts}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        given = ", ".join(f"{name!r} {array.shape}" for name, array in parts)
        raise InputError(f"features must be (n, d) of one width, got {given}")
    return parts[0][1] if len(parts) == 1 else np.concatenate([array for _, array in parts])


def _class_names(roles: Roles, arrays: Arrays) -> tuple[str, ...] | None:
    """Read the class names; None without an array of them."""
    if roles.class_names is None:
        return None
    names = np.atleast_1d(np.asarray(arrays[roles.class_names]())).reshape(-1)
    # Some tools call the labels themselves "classes".
    return tuple(str(name) for name in _texts_of(names)) if names.dtype.kind in "US" else None


@dataclass(frozen=True)
class Pair:
    """The names of an array of features and of the arrays that belong to it.

    Attributes
    ----------
    features, labels : str
        Names of arrays.
    ids : str or None
        Name of the array of sample ids.
    split : str or None
        Split that the names contain; None if they contain none.
    shots : int or None
        Number of shots that the names contain.
    """

    features: str
    labels: str
    ids: str | None
    split: str | None
    shots: int | None


@dataclass(frozen=True)
class Roles:
    """The role of each array: pairs of features and labels, and the names of text features and class names."""

    pairs: tuple[Pair, ...]
    text: str | None
    class_names: str | None


def roles_of(names: Iterable[str]) -> Roles:
    """Tell the role of each array from its name.

    Examples
    --------
    >>> roles = roles_of(["train_16shot_features", "train_16shot_labels", "text_features", "class_names"])
    >>> roles.pairs[0].split, roles.pairs[0].shots, roles.text, roles.class_names
    ('train', 16, 'text_features', 'class_names')
    """
    text = class_names = None
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        parts = _name_parts(name)
        if {"class", "names"} <= set(parts) or {"classnames", "classes"} & set(parts):
            class_names = class_names or name
        elif "text" in parts:
            text = text or name
        else:
            role, remaining = _role_of_name(parts)
            if role:
                groups.setdefault(remaining, {}).setdefault(role, name)
    pairs = []
    for remaining, group in groups.items():
        if "features" in group and "labels" in group:
            shots = _SHOTS.search("_".join(remaining))
            split = next((_SPLITS[word] for word in remaining if word in _SPLITS), None)
            pairs.append(
                Pair(group["features"], group["labels"], group.get("ids"), split, int(shots[1]) if shots else None)
            )
    return Roles(tuple(pairs), text, class_names)


def choose_pairs(
    roles: Roles, requested: Mapping[str, tuple[str, ...]], source: object
) -> tuple[dict[str, list[Pair]], list[str]]:
    """Decide which pairs of features and labels make up each split.

    What the user chose comes first. Any other split takes the pair with its name; of several, the one with the most
    shots. A pair that names no split becomes the train split if no pair names that.

    Parameters
    ----------
    roles : Roles
        The arrays that there are.
    requested : mapping of str to tuple of str
        The user's choice: names of arrays by split.
    source : object
        The file or folder, for messages.

    Returns
    -------
    dict of str to list of Pair, list of str
        Pairs by split; and notes on what was decided without the user.

    Raises
    ------
    InputError
        If there is no pair at all, or a name that the user gave belongs to none.
    """
    if not roles.pairs:
        raise InputError(
            f"no features with labels were found in {source}; names such as train_features and train_labels, X_test "
            f"and y_test, or feature_list and label_list are understood"
        )
    chosen = {split: [_pair_of(key, split, roles, source) for key in keys] for split, keys in requested.items() if keys}
    used = {pair for pairs in chosen.values() for pair in pairs}
    notes = []
    for split in ("train", "val", "test"):
        if split in chosen:
            continue
        fitting = [pair for pair in roles.pairs if pair.split == split and pair not in used]
        if split == "train" and not fitting:
            fitting = [pair for pair in roles.pairs if pair.split is None and pair not in used]
        if fitting:
            best = max(fitting, key=lambda pair: _ALL_SHOTS if pair.shots is None else pair.shots)
            chosen[split] = [best]
            if len(fitting) > 1:
                other_names = ", ".join(pair.features for pair in fitting if pair != best)
                notes.append(f"{split} is {best.features}; also there: {other_names} (choose with --{split})")
    if "test" not in chosen:
        names = ", ".join(pair.features for pair in roles.pairs)
        notes.append(f"there is no test split, which every method needs; name one with --test; there are: {names}")
    order = {"train": 0, "val": 1, "test": 2}
    return dict(sorted(chosen.items(), key=lambda item: order.get(item[0], 3))), notes


def _pair_of(key: str, split: str, roles: Roles, source: object) -> Pair:
    """Return the pair of features and labels that ``key``, the value of the option ``--split``, names."""
    for pair in roles.pairs:
        if key == pair.features or _name_parts(key) == list(_role_of_name(_name_parts(pair.features))[1]):
            return pair
    names = [pair.features for pair in roles.pairs]
    raise InputError(f"--{split}: {unknown_name(f'features of {source}', key, names)}")


def _role_of_name(parts: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the role that a name's parts say (features, labels, ids or None), and the other parts of meaning."""
    role, remaining = None, []
    for part in parts:
        for name, meanings in (("features", _FEATURES), ("labels", _LABELS), ("ids", _IDS)):
            if part in meanings and role is None:
                role = name
                break
        else:
            if part not in _IGNORED:
                remaining.append(part)
    return role, tuple(remaining)


def _name_parts(name: str) -> list[str]:
    """Split a name at characters that are no letter or digit, and before capitals, as in ``trainFeatures``."""
    parts = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])", name)
    return [part.lower() for part in parts]

"""CoOp's split files: ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cafe.data.base import ImageSplit
from cafe.data.file_sizes import find_sizes
from cafe.errors import InputError

SPLITS = ("train", "val", "test")
Rows = dict[str, list[tuple[str, int, str]]]


def read_split_file(path: Path) -> Rows:
    """Read the rows of every split, in the file's order.

    Raises
    ------
    InputError
        If the file cannot be read or has another form.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return {split: [(str(p), int(label), str(name)) for p, label, name in content[split]] for split in SPLITS}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not a CoOp split file ({type(error).__name__}: {error}); it should hold "
            f'{{"train": [[path, label, class name], ...], "val": ..., "test": ...}}'
        ) from error


def class_names_of(path: Path, rows: Rows) -> tuple[str, ...]:
    """Return the class names in label order, with spaces for ``_``.

    Raises
    ------
    InputError
        If a label has two names, or labels do not count from 0 to at least 1 without a gap.
    """
    names: dict[int, str] = {}
    for split in SPLITS:
        for _, label, name in rows[split]:
            if names.setdefault(label, name) != name:
                raise InputError(f"{path} gives label {label} two class names: {names[label]!r} and {name!r}")
    if sorted(names) != list(range(len(names))) or len(names) < 2:
        raise InputError(f"{path} must number its classes from 0 without a gap, and have at least two")
    return tuple(names[label].replace("_", " ") for label in range(len(names)))


def image_splits(images: Path, path: Path, rows: Rows, *, lenient: bool) -> dict[str, ImageSplit]:
    """Find the images of every split that has rows.

    Raises
    ------
    InputError
        If an image is not there and ``lenient`` is not set, or one is named twice.
    """
    paths = [row[0] for split in SPLITS for row in rows[split]]
    if len(set(paths)) < len(paths):
        seen: set[str] = set()
        twice = next(one for one in paths if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise InputError(f"{path} names {twice!r} twice; an image belongs to one split, once")
    sizes = find_sizes(images, paths, path, lenient=lenient)
    splits = {}
    for split in SPLITS:
        if rows[split]:
            ids, labels, _ = zip(*rows[split], strict=True)
            size_row = np.array([sizes[one] for one in ids], dtype=np.int64)
            splits[split] = ImageSplit(list(ids), np.array(labels, dtype=np.int64), size_row)
    return splits

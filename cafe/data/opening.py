"""Opens a data set by name or path."""

from __future__ import annotations

import os
from pathlib import Path

from cafe.data.base import Dataset
from cafe.errors import InputError, unknown_name
from cafe.rooms import entries

ROOT_VARIABLE = "CAFE_DATA"


def open_dataset(name_or_path: str, root: Path | None = None) -> Dataset:
    """Open a data set.

    A registered name wins; anything else that exists on disk is a path, read by the first source that
    accepts it. ``./digits`` is always a path.

    Parameters
    ----------
    name_or_path : str
        Such as ``"digits"`` or ``"./my_photos"``.
    root : Path or None
        Folder that holds the named data sets; None takes ``$CAFE_DATA``.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If it is neither a known name nor a path that a source accepts, or cannot be opened.

    Examples
    --------
    >>> open_dataset("digits").class_names[:3]
    ('zero', 'one', 'two')
    """
    name_or_path = os.fspath(name_or_path)
    named = entries("data", "DATASET")
    if name_or_path in named:
        dataset: Dataset = named[name_or_path].load().open(data_root(root))
        return dataset
    path = Path(name_or_path).expanduser()
    # An empty string would be the current folder.
    if name_or_path and path.exists():
        return _open_path(path)
    if _looks_like_path(name_or_path):
        raise InputError(f"no such folder: {name_or_path!r}; give {_path_help()}, or one of: {', '.join(named)}")
    message = f"{unknown_name('data set', name_or_path, named)}; or a path: {_path_help()}"
    raise InputError(message)


def data_root(root: Path | None) -> Path | None:
    """Return the folder that holds the named data sets: ``root``, else ``$CAFE_DATA``, else None."""
    if root is not None:
        return Path(root).expanduser()
    from_environment = os.environ.get(ROOT_VARIABLE)
    return Path(from_environment).expanduser() if from_environment else None


def _open_path(path: Path) -> Dataset:
    for entry in entries("data", "SOURCE").values():
        source = entry.load()
        if source.accepts(path):
            dataset: Dataset = source.open(path)
            return dataset
    raise InputError(f"{path} cannot be read as a data set; give {_path_help()}")


def _path_help() -> str:
    summaries = [entry.summary.rstrip(".") for entry in entries("data", "SOURCE").values()]
    return " or ".join(summary[:1].lower() + summary[1:] for summary in summaries)


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "~")) or "/" in text or os.sep in text

"""Opens a data set by name or path, and lists known data sets and sources."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from cafe.data.base import Dataset, NamedDataset
from cafe.errors import InputError, unknown_name
from cafe.protocol.partition import chosen_origin, dividing_into, read_shares
from cafe.registry import entries

ROOT_VARIABLE = "CAFE_DATA"


def open_dataset(
    name_or_path: str | Path, root: Path | None = None, *, lenient: bool = False, split: str | None = None
) -> Dataset:
    """Open a data set.

    A known name wins; anything else is opened by the first source that accepts it, and sources that accept any
    folder are asked last. ``./digits`` is always a path.

    Parameters
    ----------
    name_or_path : str
        Such as ``"digits"`` or ``"./my_photos"``.
    root : Path or None
        Folder that holds the named data sets; None takes ``$CAFE_DATA``.
    lenient : bool, default False
        What an image means that a list names and the disk lacks: True keeps it, to be unreadable later; False is an
        error.
    split : str, default=None
        How to divide what has no splits: per cent of train, val and test, such as ``"70/10/20"``; None is 50/20/30.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If ``split`` is given and the data set has splits of its own; if ``name_or_path`` is neither a known name nor a
        path that a source accepts; or if the data set cannot be opened.

    Examples
    --------
    >>> open_dataset("digits").class_names[:3]
    ('zero', 'one', 'two')
    """
    if split is not None:
        with dividing_into(read_shares(split)):
            dataset = open_dataset(name_or_path, root, lenient=lenient)
            if dataset.split_origin != chosen_origin() or isinstance(dataset, NamedDataset):
                raise InputError(f"{dataset.name} has splits of its own, so it is not divided into {split}")
            return dataset
    name_or_path = os.fspath(name_or_path)
    named = entries("data", "DATASET")
    if name_or_path in named:
        published: Dataset = named[name_or_path].load().open(data_root(root), lenient=lenient)
        return published
    if "://" in name_or_path:
        raise InputError(f"{name_or_path!r} is an address; cafe reads files and downloads nothing: fetch it first")
    path = Path(name_or_path).expanduser()
    # An empty string would be the current folder.
    source, exists = _source_for(path) if name_or_path else (None, False)
    if source is not None:
        opened: Dataset = source.open(path, lenient=lenient)
        return opened
    if exists:
        raise InputError(f"{path} cannot be read as a data set; give {_path_help()}")
    if _looks_like_path(name_or_path):
        raise InputError(
            f"no such file or folder: {name_or_path!r}; give {_path_help()}, or one of: {', '.join(named)}"
        )
    message = f"{unknown_name('data set', name_or_path, named)}; or a path: {_path_help()}"
    raise InputError(message)


def data_root(root: Path | None) -> Path | None:
    """Return the folder that holds the named data sets: ``root``, else ``$CAFE_DATA``, else None."""
    if root is not None:
        return Path(root).expanduser()
    from_environment = os.environ.get(ROOT_VARIABLE)
    return Path(from_environment).expanduser() if from_environment else None


def known_sources() -> list[dict[str, str]]:
    """List the readers for what users bring, without importing what they read with.

    Returns
    -------
    list of dict
        Each with ``name`` and ``summary``.

    Examples
    --------
    >>> "image-folder" in [row["name"] for row in known_sources()]
    True
    """
    return [{"name": entry.name, "summary": entry.summary} for entry in entries("data", "SOURCE").values()]


def known_datasets(root: Path | None = None) -> list[dict[str, Any]]:
    """List the data sets known by name, without importing torch.

    Parameters
    ----------
    root : Path or None
        Folder that holds them; None takes ``$CAFE_DATA``.

    Returns
    -------
    list of dict
        Each with ``name``, ``summary``, ``available`` (bool), ``why`` (one sentence if it is not available,
        else empty), ``expected`` (list of paths below the root) and ``homepage``.

    Examples
    --------
    >>> [row["available"] for row in known_datasets() if row["name"] == "digits"]
    [True]
    """
    rows = []
    for entry in entries("data", "DATASET").values():
        cls = entry.load()
        why = cls.missing(data_root(root))
        rows.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "available": why is None,
                "why": why or "",
                "expected": list(cls.expected()),
                "homepage": cls.homepage,
            }
        )
    return rows


def _source_for(path: Path) -> tuple[Any, bool]:
    """Return the first source that accepts the path (None if none does), and whether the path exists."""
    sources = [entry.load() for entry in entries("data", "SOURCE").values()]
    try:
        for source in sorted(sources, key=lambda source: source.general):  # stable: by name otherwise
            if source.accepts(path):
                return source, True
        return None, path.exists()
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise InputError(f"{str(path)[:200]!r} cannot be read: {error.strerror}") from error


def _path_help() -> str:
    """Say which kinds of paths can be opened."""
    sources = entries("data", "SOURCE")
    general = [entry.summary.rstrip(".") for entry in sources.values() if entry.load().general]
    specific = [name for name, entry in sources.items() if not entry.load().general]
    folders = "; or ".join(re.sub("^An? ", lambda article: article[0].lower(), summary) for summary in general)
    return f"{folders}; or one of the other sources of docs/sources.md ({', '.join(specific)})"


def _looks_like_path(text: str) -> bool:
    """Return whether a text was meant as a path rather than a name."""
    return text.startswith((".", "~")) or "/" in text or os.sep in text

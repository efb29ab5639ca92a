"""Lists folders of images: names and sizes in one pass, nothing opened."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from cafe.data.extensions import EXTENSIONS
from cafe.errors import InputError

_NOT_OURS = frozenset({"__MACOSX", "@eaDir"})  # left behind by archives and network disks


@dataclass
class Listing:
    """The images below one folder.

    Attributes
    ----------
    files : list of (str, int)
        Path relative to the data set's root, with forward slashes, and size in bytes; sorted by path.
    others : int
        Visible files that are not images by their extension.
    """

    files: list[tuple[str, int]] = field(default_factory=list)
    others: int = 0


def subfolders(folder: Path) -> list[str]:
    """Name the visible folders in a folder, in natural order (``class2`` before ``class10``)."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not _hidden(entry.name) and entry.is_dir()]
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be listed: {error.strerror}") from error
    return sorted(names, key=natural_order)


def list_images(root: Path, below: str = "", recursive: bool = True) -> Listing:
    """List the images below ``root/below``, including those in folders within it.

    Parameters
    ----------
    root : Path
        The data set's root.
    below : str, default ""
        Folder to list, relative to the root, with forward slashes.
    recursive : bool, default True
        Whether to go into folders; linked ones are not followed, since they may lead in a circle.

    Returns
    -------
    Listing

    Raises
    ------
    InputError
        If a folder cannot be listed.
    """
    listing = Listing()
    waiting = [below]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if _hidden(entry.name):
                        continue
                    relative = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir():
                        if recursive and not entry.is_symlink():
                            waiting.append(relative)
                    elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:  # noqa: PTH122 (100,000 Paths are slow)
                        listing.files.append((relative, _size(entry)))
                    else:
                        listing.others += 1
        except OSError as error:
            raise InputError(f"the folder {root / folder} cannot be listed: {error.strerror}") from error
    listing.files.sort()
    return listing


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that compares numbers within names as numbers.

    Examples
    --------
    >>> sorted(["class10", "class2", "Class2"], key=natural_order)
    ['Class2', 'class2', 'class10']
    """
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(piece), "") if piece[0] in "0123456789" else (1, 0, piece) for piece in pieces], name


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _NOT_OURS


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        # A link that leads nowhere stays in the list, so that it is reported as unreadable rather than lost.
        return 0

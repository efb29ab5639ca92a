"""Finds the names and sizes of image files by listing folders, without opening a file."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cafe.data.images.other_formats import HEIC_EXTENSIONS, reads_heic
from cafe.errors import InputError

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2"}
)
# Files and folders that archives, network disks and file managers leave behind.
_SYSTEM_FILES = frozenset({"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"})


@dataclass
class Listing:
    r"""The images below one folder.

    Attributes
    ----------
    files : list of (str, int)
        Path relative to the data set's root, with forward slashes, and size in bytes; sorted by path.
    others : list of str
        Paths of visible files that are not images by their extension, sorted; HEIC files are images where the extra
        ``heic`` is installed.
    not_utf8 : list of str
        Paths of visible files with a name that is not UTF-8, which no table, page or terminal could show; such bytes
        are written as ``\xff``. Sorted.
    below : str
        The folder, relative to the root.
    """

    files: list[tuple[str, int]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    not_utf8: list[str] = field(default_factory=list)
    below: str = ""


def subfolders(folder: Path) -> list[str]:
    """Name the visible folders in a folder, in natural order (``class2`` before ``class10``)."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not _is_hidden(entry.name) and entry.is_dir()]
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be listed: {error.strerror}") from error
    for name in names:
        check_name(name, folder)
    return sorted(names, key=natural_order)


def check_name(name: str, folder: Path | str) -> None:
    """Raise an error for the name of a folder that is not UTF-8, which no table, page or prompt could show.

    Raises
    ------
    InputError
        Naming the folder that holds it.
    """
    if not _is_utf8(name):
        raise InputError(f"the folder {folder} holds a folder with a name that is not UTF-8, {name!a}; rename it")


def check_inside(named: Iterable[str], folder: Path, named_by: Path | str) -> None:
    """Raise an error for paths in a list that lead out of the folder of its images.

    A list from a stranger could otherwise put any picture of this machine into a report. Links within the folder are
    followed: the owner of the folder made them, not the author of the list, and large data sets need them.

    Parameters
    ----------
    named : iterable of str
        Relative to ``folder``.
    folder, named_by : path
        The folder of images and the list, for the message.

    Raises
    ------
    InputError
        If a path is absolute, contains ``..``, or a NUL.

    Examples
    --------
    >>> check_inside(["cat/1.jpg", "dog/2..jpg"], Path("photos"), "split.json")
    """
    for path in named:
        parts = path.replace("\\", "/").split("/")
        if path.startswith(("/", "\\")) or ".." in parts or "\0" in path or re.match(r"[A-Za-z]:[\\/]", path):
            raise InputError(
                f"{named_by} names {path!r}, which is not inside the folder of its images, {folder}; give "
                f"paths relative to that folder"
            )


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
        If a folder cannot be listed, or one within it has a name that is not UTF-8.
    """
    listing = Listing(below=below)
    extensions = IMAGE_EXTENSIONS | HEIC_EXTENSIONS if reads_heic() else IMAGE_EXTENSIONS
    folders_to_list = [below]
    while folders_to_list:
        folder = folders_to_list.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if _is_hidden(entry.name):
                        continue
                    relative = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir():
                        check_name(entry.name, root / folder)
                        if recursive and not entry.is_symlink():
                            folders_to_list.append(relative)
                    elif not _is_utf8(entry.name):
                        listing.not_utf8.append(os.fsencode(relative).decode("utf-8", "backslashreplace"))
                    elif os.path.splitext(entry.name)[1].lower() in extensions:  # noqa: PTH122 (100,000 Paths are slow)
                        listing.files.append((relative, _size(entry)))
                    else:
                        listing.others.append(relative)
        except OSError as error:
            raise InputError(f"the folder {root / folder} cannot be listed: {error.strerror}") from error
    listing.files.sort()
    listing.others.sort()
    listing.not_utf8.sort()
    return listing


def find_sizes(folder: Path, paths: Iterable[str], named_by: Path, *, lenient: bool = False) -> dict[str, int]:
    """Find the size of every file that a list names, by listing each folder once.

    Parameters
    ----------
    folder : Path
        To which the paths are relative.
    paths : iterable of str
        With forward slashes.
    named_by : Path
        The list, for the message.
    lenient : bool, default False
        Whether a missing file has size 0 instead of being an error.

    Returns
    -------
    dict of str to int
        Bytes of each file.

    Raises
    ------
    InputError
        If a file is missing; the message counts them and names the first.
    """
    names_in: dict[str, set[str]] = defaultdict(set)
    paths = list(paths)
    check_inside(paths, folder, named_by)
    for path in paths:
        parent, _, name = path.rpartition("/")
        names_in[parent].add(name)
    sizes: dict[str, int] = {}
    missing: list[str] = []
    for parent, names in names_in.items():
        prefix = f"{parent}/" if parent else ""
        present = _sizes_in(folder / parent, names)
        sizes.update({prefix + name: size for name, size in present.items()})
        missing.extend(prefix + name for name in names - present.keys())
    if missing and not lenient:
        what = "1 image that is" if len(missing) == 1 else f"{len(missing)} images that are"
        raise InputError(
            f"{named_by} names {what} not in {folder}, the first: {min(missing)!r}; add it, or leave such images out "
            f"with --on-error skip, which records them"
        )
    sizes.update(dict.fromkeys(missing, 0))
    return sizes


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that compares numbers within names as numbers.

    Examples
    --------
    >>> sorted(["class10", "class2", "Class2"], key=natural_order)
    ['Class2', 'class2', 'class10']
    """
    parts = [(part, part.lstrip("0")) for part in re.findall(r"[0-9]+|[^0-9]+", name)]
    # A number with more digits is larger; numbers of equal length are compared as text, so none is too long.
    return [(0, len(digits), digits) if part[0] in "0123456789" else (1, 0, part) for part, digits in parts], name


def _is_utf8(name: str) -> bool:
    """Return whether a name was UTF-8 on the disk; other bytes are lone surrogates in Python."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_hidden(name: str) -> bool:
    """Return whether a file or folder is ignored for its name."""
    return name.startswith(".") or name in _SYSTEM_FILES


def _size(entry: os.DirEntry[str]) -> int:
    """Return the size of a file, 0 for a broken link."""
    try:
        return entry.stat().st_size
    except OSError:
        # A broken link stays in the list, so that it is reported as unreadable.
        return 0


def _sizes_in(folder: Path, names: set[str]) -> dict[str, int]:
    """Return the sizes of those files of a folder that have one of the names."""
    sizes: dict[str, int] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in names and entry.is_file():  # false for a broken link
                    sizes[entry.name] = entry.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be listed: {error.strerror}") from error
    return sizes

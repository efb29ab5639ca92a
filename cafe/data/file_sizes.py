"""Finds the sizes of files that a list names, and which of them are not there."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from cafe.errors import InputError


def find_sizes(folder: Path, paths: Iterable[str], named_by: Path, *, lenient: bool = False) -> dict[str, int]:
    """Find the size of every file that a list names; each folder is listed once instead of asking for each file.

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
    wanted: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        parent, _, name = path.rpartition("/")
        wanted[parent].add(name)
    sizes: dict[str, int] = {}
    missing: list[str] = []
    for parent, names in wanted.items():
        prefix = f"{parent}/" if parent else ""
        found = _sizes_in(folder / parent, names)
        sizes.update({prefix + name: size for name, size in found.items()})
        missing.extend(prefix + name for name in names - found.keys())
    if missing and not lenient:
        what = "1 image that is" if len(missing) == 1 else f"{len(missing)} images that are"
        raise InputError(
            f"{named_by} names {what} not in {folder}, the first: {min(missing)!r}; add it, or leave such images out "
            f"with --on-error skip, which records them"
        )
    sizes.update(dict.fromkeys(missing, 0))
    return sizes


def _sizes_in(folder: Path, names: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in names and entry.is_file():  # not a link that leads nowhere
                    found[entry.name] = entry.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be listed: {error.strerror}") from error
    return found

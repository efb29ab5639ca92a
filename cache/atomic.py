"""Files that are there completely or not at all: temporary name, sync, rename, sync of the folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cafe.errors import CafeError, InputError
from cafe.temporary import remove_leftovers, temporary_beside
from cafe.temporary import sync as _sync


@contextmanager
def replacing(path: Path, *, prepare: bool = True) -> Iterator[Path]:
    """Give a temporary path in the same folder; on leaving, it takes the place of ``path`` in one step.

    If the block fails or is interrupted, the temporary file is removed and ``path`` is as it was. If the
    process is killed, ``path`` is as it was and the leftover is removed by a later call in this folder.

    Parameters
    ----------
    path : Path
        The file to make or replace. Its folder is made if needed.
    prepare : bool, default True
        Whether to call :func:`prepare_folder` first; False where many files are written to one folder.

    Yields
    ------
    Path
        Where to write; unique to this call.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    if prepare:
        prepare_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        if os.name == "posix":  # elsewhere a folder cannot be opened, and a rename is synced by itself
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def prepare_folder(folder: Path) -> None:
    """Make a folder if needed, and remove leftovers of dead processes from it.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"folder {folder} cannot be written to; name another, or change its permissions")
    remove_leftovers(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all its files, in one step as others see it; a kill leaves what a later call removes."""
    doomed = temporary_beside(folder)
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def check_free_space(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Parameters
    ----------
    folder : Path
        Where the file will stand; it need not exist yet.
    needed : int
        Bytes.

    Raises
    ------
    CafeError
        If fewer are free; the message has both numbers.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise CafeError(
            f"the cache needs {needed / 1e6:,.1f} MB in {folder}, but only {free / 1e6:,.1f} MB are free; "
            f"make room, or name another folder with --cache-dir"
        )

"""Writes files that exist completely or not at all: temporary name, sync, rename, sync of the folder.

All caches, runs and reports are written by this module, which never writes through a link. It also tells which folder
holds the caches.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cafe.errors import CafeError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cache_dir(given: Path | str | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder of all caches.

    Parameters
    ----------
    given : path or None
        What the user named (``--cache-dir``); it wins.
    environment : mapping or None
        None is the process's own.

    Returns
    -------
    Path
        ``given``, else ``$CAFE_CACHE``, else ``$XDG_CACHE_HOME/cafe``, else ``~/.cache/cafe``. It need not exist.

    Examples
    --------
    >>> cache_dir(None, {"XDG_CACHE_HOME": "/scratch"}).as_posix()
    '/scratch/cafe'
    """
    environment = os.environ if environment is None else environment
    if given:
        return Path(given).expanduser()
    if environment.get("CAFE_CACHE"):
        return Path(environment["CAFE_CACHE"]).expanduser()
    if environment.get("XDG_CACHE_HOME"):
        return Path(environment["XDG_CACHE_HOME"]) / "cafe"
    return Path.home() / ".cache" / "cafe"


# On systems with these flags, a name that is a link is refused, and opening a pipe does not wait for a reader.
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def create_file(path: Path, size: int = 0) -> FileIO:
    """Make a new file and open it for writing and reading, without a buffer.

    Parameters
    ----------
    path : Path
        No file, folder or link may have this name.
    size : int, default 0
        Bytes to reserve on the disk, so that a full disk is an error now. On a file system that cannot reserve, the
        error comes when bytes are written.

    Returns
    -------
    FileIO
        To be closed by the caller.

    Raises
    ------
    OSError
        If the name is taken, or the disk has too little space or allows no file of this size. No file is left.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o666)
    try:
        _reserve(descriptor, size)
        return FileIO(descriptor, "r+")
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise


def open_lock_file(path: Path) -> int:
    """Open a small file that stands for a claim, made if needed, and return its descriptor.

    Raises
    ------
    CafeError
        If a link or anything else than a file has that name: whoever put it there might have another file overwritten.
    OSError
        If it cannot be opened.
    """
    refused = CafeError(f"{path} is a link, or no file, so nothing is written there; remove it")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
            raise refused from error
        raise
    status = os.fstat(descriptor)
    # A second hard link is another file's name as well.
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise refused
    return descriptor


def _reserve(descriptor: int, size: int) -> None:
    """Reserve bytes on the disk, if the system and the file system can."""
    if size <= 0 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


@contextmanager
def writing(path: Path, size: int = 0, *, prepare: bool = True) -> Iterator[FileIO]:
    """Yield a new file to write to, which replaces ``path`` in one step when the block ends; see :func:`replacing`.

    Parameters
    ----------
    path : Path
        The file to make or replace. Its folder is made if needed.
    size : int, default 0
        Bytes to reserve first, as in :func:`create_file`; the file is cut to what was written.
    prepare : bool, default True
        As in :func:`replacing`.

    Yields
    ------
    FileIO
        Where to write.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    OSError
        If the disk has too little space or fails.
    """
    if prepare:
        prepare_folder(path.parent)
    temporary = temporary_beside(path)
    with create_file(temporary, size) as stream:
        try:
            yield stream
            stream.truncate(stream.tell())
            _put_in_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_all(stream: FileIO, data: bytes | memoryview) -> None:
    """Write all bytes to an unbuffered file, which may take only some of them at a time."""
    view = memoryview(data).cast("B")
    while view:
        view = view[stream.write(view) :]


@contextmanager
def replacing(path: Path, *, prepare: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder, whose file replaces ``path`` in one step when the block ends.

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
        Where to write: an empty file of a name unique to this call, so that no link can take its place. It is for
        libraries that need a name; :func:`writing` yields an open file.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    if prepare:
        prepare_folder(path.parent)
    temporary = temporary_beside(path)
    create_file(temporary).close()
    try:
        yield temporary
        _put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename a finished file, once its bytes are on the disk."""
    sync(temporary)
    temporary.replace(path)
    _sync_folder(path.parent)


def write_safetensors(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays as safetensors to a temporary path of :func:`replacing` or :func:`replacing_together`.

    Raises
    ------
    CafeError
        If the disk has too little space or fails.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(arrays), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        raise CafeError(f"the arrays could not be written to {path.parent}: {error}") from error


@contextmanager
def replacing_together(folder: Path, names: Iterable[str], *, mark: str) -> Iterator[dict[str, Path]]:
    """Yield temporary paths for files that belong together, which replace the old ones when the block ends.

    One file is the mark of the folder: the old mark is removed first, and the new one comes last. So a folder with its
    mark is complete, and a kill at any instant never leaves a mark beside files of two writings.

    If the block fails or is interrupted, the folder is as it was. If the process is killed, the folder is as it was,
    or has no mark; a leftover whose name begins with a dot and the mark's name tells what it was to be.

    Parameters
    ----------
    folder : Path
        Made if needed.
    names : iterable of str
        Names of files; every one must be written within the block.
    mark : str
        One of the names.

    Yields
    ------
    dict of str to Path
        Where to write each; unique to this call.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing_together(folder, ["model.json", "model.bin"], mark="model.json") as paths:
    ...     for name, path in paths.items():
    ...         _ = path.write_text(f"this is {name}")
    >>> sorted(path.name for path in folder.iterdir())
    ['model.bin', 'model.json']
    """
    temporaries = {name: temporary_beside(folder / name) for name in names}
    _make_folder(folder)
    try:
        # The new mark comes before older leftovers go, so that some file always tells what the folder holds.
        create_file(temporaries[mark]).close()
        remove_leftovers(folder)
        yield temporaries
        for temporary in temporaries.values():
            sync(temporary)
        # Each step is on the disk before the next: a power cut must not bring the old mark back beside new files.
        (folder / mark).unlink(missing_ok=True)
        _sync_folder(folder)
        for name, temporary in temporaries.items():
            if name != mark:
                temporary.replace(folder / name)
        _sync_folder(folder)
        temporaries[mark].replace(folder / mark)
        _sync_folder(folder)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def prepare_folder(folder: Path) -> None:
    """Make a folder if needed, and remove leftovers of dead processes from it.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    _make_folder(folder)
    remove_leftovers(folder)


def _make_folder(folder: Path) -> None:
    """Make a folder if needed; raise InputError if it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"folder {folder} cannot be written to; name another, or change its permissions")


def remove_folder(folder: Path) -> None:
    """Remove a folder and its files, in one step for other processes; a later call finishes after a kill."""
    removed = temporary_beside(folder)
    try:
        folder.rename(removed)
    except FileNotFoundError:
        return
    shutil.rmtree(removed, ignore_errors=True)


def check_free_space(folder: Path, needed: int) -> None:
    """Raise an error if the disk has too little space for a file.

    Parameters
    ----------
    folder : Path
        Where the file will be; it need not exist yet.
    needed : int
        Bytes.

    Raises
    ------
    CafeError
        If fewer are free; the message has both numbers.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise CafeError(
            f"the cache needs {needed / 1e6:,.1f} MB in {folder}, but only {free / 1e6:,.1f} MB are free; "
            f"make room, or name another folder with --cache-dir"
        )


def check_output_folder(folder: Path, mark: str, what: str) -> None:
    """Raise an error, before any work, if a folder that the user named cannot take a run or report.

    Parameters
    ----------
    folder : Path
        It need not exist.
    mark : str
        The file that marks an older run or report, which may be replaced: ``"run.json"``, ``"results.jsonl"``.
    what : str
        What will be written, for the message.

    Raises
    ------
    InputError
        If it is a file, lies below a file, or holds files that cafe did not write.
    """
    existing = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    if not existing.is_dir():
        raise InputError(f"{str(folder)!r} cannot be used as a folder for {what}: {str(existing)!r} is a file")
    if not folder.exists() or (folder / mark).exists():
        return
    # What was being written when a run was killed begins with a dot and names the mark.
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if not name.startswith(".")]
    if foreign and not any(name.startswith(f".{mark}.") for name in names):
        raise InputError(
            f"{str(folder)!r} holds {foreign[0]!r}, but no {mark} of an older run of cafe, so nothing is written "
            f"there; name a new or empty folder for {what}"
        )


# Names of temporary files hold the machine and process, so that the files of a dead process can be removed.
_TEMPORARY = re.compile(r"^\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.tmp$")


def temporary_beside(path: Path) -> Path:
    """Return a new hidden name in the folder of ``path``, with this machine and process in it.

    Examples
    --------
    >>> temporary_beside(Path("run.json")).name.startswith(f".run.json.{host_name()}-{os.getpid()}-")
    True
    """
    return path.with_name(f".{path.name}.{host_name()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of dead processes of this machine; those of other machines stay."""
    for path in folder.glob(".*.tmp"):
        match = _TEMPORARY.match(path.name)
        if match and match["host"] == host_name() and not process_is_alive(int(match["pid"])):
            with suppress(OSError):  # somebody else may be removing the same one
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def host_name() -> str:
    """Return a short hash of this machine's name."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def process_is_alive(pid: int) -> bool:
    """Return whether a process of this machine is alive; True if the system cannot tell."""
    if os.name != "posix":
        return True  # os.kill would end the process there; a leftover that stays harms nobody
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def sync(path: Path) -> None:
    """Write a file or folder through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder through to the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened, and a rename is synced by itself
        sync(folder)

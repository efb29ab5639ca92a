"""Names of temporary files that tell whose they are, so that what a dead process left can be removed."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

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
    """Remove temporary files whose process on this machine is dead; those of other machines are left alone."""
    for path in folder.glob(".*.tmp"):
        match = _TEMPORARY.match(path.name)
        if match and match["host"] == host_name() and not process_is_alive(int(match["pid"])):
            with suppress(OSError):  # somebody else may be removing the same one
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def host_name() -> str:
    """Return a short hash of this machine's name."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def process_is_alive(pid: int) -> bool:
    """Whether a process of this machine lives; True where that cannot be asked."""
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

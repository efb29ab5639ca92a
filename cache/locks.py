"""Claims: who is at work on what, so that a dead process holds nothing and the living never do the same twice.

On one machine a claim is a lock of the kernel on a small file, which ends with the process, however that ends. Between
machines, where such locks may not reach, it is a lease as well: the holder stamps its file every few seconds, and a
file that was not stamped for a minute counts as abandoned. Stamps are compared by the clock of the file system alone.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from cafe.files import create_file, host_name, open_lock_file, process_is_alive

LEASE = 60.0  # seconds after which a claim of another machine counts as abandoned if it was not stamped
_STAMP_EVERY = 10.0  # seconds
_PAUSE = 0.05  # seconds between two tries


class Claim:
    """A claim that is held; a context manager, or :meth:`release` it.

    It is got by :func:`try_claim` or :func:`wait_for_claim`. It may be released by another thread.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        _HEART.add(self)

    def stamp(self) -> None:
        """Say that the holder lives."""
        descriptor = self._descriptor
        if descriptor is not None:
            with suppress(OSError):
                os.utime(descriptor if os.utime in os.supports_fd else self.path)

    def release(self) -> None:
        """Give it up; the file goes."""
        _HEART.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # While the lock is still held: whoever opened this file meanwhile finds it gone, and opens another.
            with suppress(OSError):
                self.path.unlink()
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def try_claim(path: Path) -> Claim | None:
    """Claim what this file stands for, if nobody living does.

    Parameters
    ----------
    path : Path
        A small file made for this; its folder must exist.

    Returns
    -------
    Claim or None
        None if somebody else holds it, in this process, on this machine or on another.

    Raises
    ------
    FileNotFoundError
        If the folder is not there (any more).
    CafeError
        If a link, or no file, has that name.
    """
    while True:
        descriptor = open_lock_file(path)
        try:
            lock = _lock(descriptor)
            if lock == "held":
                os.close(descriptor)
                return None
            if not _is_still(path, descriptor):  # its last holder has removed it since it was opened
                os.close(descriptor)
                continue
            if _leased(path, descriptor, lock):
                os.close(descriptor)
                return None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{host_name()} {os.getpid()} {secrets.token_hex(4)}\n".encode(), 0)
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise
        return Claim(path, descriptor)


def wait_for_claim(path: Path) -> Claim:
    """Claim, waiting for the present holder. Raises FileNotFoundError like :func:`try_claim`."""
    while (claim := try_claim(path)) is None:
        time.sleep(_PAUSE)
    return claim


def _lock(descriptor: int) -> Literal["taken", "held", "none"]:
    """Take the kernel's lock; ``"none"`` where the system has none, and the lease alone must do."""
    if os.name != "posix":
        return "none"
    import errno
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            return "held"
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return "none"
    return "taken"


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        named, opened = path.lstat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_ino, named.st_dev) == (opened.st_ino, opened.st_dev)


def _leased(path: Path, descriptor: int, lock: str) -> bool:
    """Whether a holder that no kernel's lock shows is still alive, as far as its file tells."""
    words = os.pread(descriptor, 200, 0).decode("ascii", "replace").split()
    if len(words) < 2 or not words[1].isdecimal():
        return False
    # Where the kernel has given the lock, a holder on this machine is gone.
    if words[0] == host_name() and (lock == "taken" or not process_is_alive(int(words[1]))):
        return False
    return _seconds_since(path, os.fstat(descriptor).st_mtime) < LEASE


def _seconds_since(path: Path, stamp: float) -> float:
    """Age of a stamp by the clock that made it, the file system's, which may be another machine's."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.probe")
    try:
        create_file(probe).close()
        return probe.stat().st_mtime - stamp
    finally:
        probe.unlink(missing_ok=True)


class _Heart:
    """One thread that stamps all claims of this process, while there are any."""

    def __init__(self) -> None:
        self._claims: set[Claim] = set()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()

    def add(self, claim: Claim) -> None:
        with self._guard:
            self._claims.add(claim)
            if self._thread is None:
                self._wake.clear()
                self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)
                self._thread.start()

    def discard(self, claim: Claim) -> None:
        with self._guard:
            self._claims.discard(claim)

    def _beat(self) -> None:
        while True:
            self._wake.wait(_STAMP_EVERY)
            with self._guard:
                claims = list(self._claims)
                if not claims:
                    self._thread = None
                    return
            for claim in claims:
                claim.stamp()


_HEART = _Heart()

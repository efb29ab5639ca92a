"""Claims: at most one process holds a claim at a time, and a dead process holds none.

On one machine a claim is a kernel lock on a small file, which ends with the process. Between machines, where kernel
locks may not work, it is a lease as well: the holder updates the time of its file every few seconds (a stamp), and a
file without a stamp for a minute counts as abandoned. Stamps are compared only with the clock of the file system.
"""

from __future__ import annotations

import functools
import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from cafe.files import create_file, host_name, open_lock_file, process_is_alive

LEASE = 60.0  # seconds without a stamp after which a claim of another machine counts as abandoned
STAMP_INTERVAL = 10.0  # seconds between two stamps
_SECONDS_BETWEEN_TRIES = 0.05


class Claim:
    """A claim that this process holds: a context manager, or :meth:`release` it.

    :func:`try_claim` and :func:`wait_for_claim` make claims. Any thread may release one.
    """

    def __init__(self, path: Path, descriptor: int, stamper: _Stamper) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._stamper = stamper
        stamper.add(self)

    def stamp(self) -> None:
        """Update the time of the file, which shows that the holder is alive."""
        descriptor = self._descriptor
        if descriptor is not None:
            with suppress(OSError):
                os.utime(descriptor if os.utime in os.supports_fd else self.path)

    def release(self) -> None:
        """Release the claim and remove its file."""
        self._stamper.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # Before the lock ends: a process that has opened this file then sees that it is gone, and opens a new one.
            with suppress(OSError):
                self.path.unlink()
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def try_claim(path: Path, *, stamp_interval: float = STAMP_INTERVAL) -> Claim | None:
    """Claim a file unless a living process holds it.

    Parameters
    ----------
    path : Path
        A small file made for this purpose; its folder must exist.
    stamp_interval : float, default=STAMP_INTERVAL
        Seconds between two stamps.

    Returns
    -------
    Claim or None
        None if the claim is held already, in this process, on this machine or on another.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    CafeError
        If the name is a link, or not a file.
    """
    while True:
        descriptor = open_lock_file(path)
        try:
            lock = _lock(descriptor)
            if lock == "held":
                os.close(descriptor)
                return None
            if not _is_same_file(path, descriptor):  # its last holder has removed it since it was opened
                os.close(descriptor)
                continue
            if _is_leased(path, descriptor, lock):
                os.close(descriptor)
                return None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{host_name()} {os.getpid()} {secrets.token_hex(4)}\n".encode(), 0)
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise
        return Claim(path, descriptor, _stamper(stamp_interval))


def wait_for_claim(path: Path) -> Claim:
    """Wait until a file can be claimed, and claim it. Raises FileNotFoundError like :func:`try_claim`."""
    while (claim := try_claim(path)) is None:
        time.sleep(_SECONDS_BETWEEN_TRIES)
    return claim


def _lock(descriptor: int) -> Literal["taken", "held", "none"]:
    """Take the kernel lock, or return ``"none"`` where the system has no such locks and only the lease protects."""
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


def _is_same_file(path: Path, descriptor: int) -> bool:
    """Return whether the path still names the open file."""
    try:
        named, opened = path.lstat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_ino, named.st_dev) == (opened.st_ino, opened.st_dev)


def _is_leased(path: Path, descriptor: int, lock: str) -> bool:
    """Return whether the file names a holder that may be alive without holding the kernel lock."""
    fields = os.pread(descriptor, 200, 0).decode("ascii", "replace").split()
    if len(fields) < 2 or not fields[1].isdecimal():
        return False
    # If the kernel gave the lock, no process of this machine holds the claim any more.
    if fields[0] == host_name() and (lock == "taken" or not process_is_alive(int(fields[1]))):
        return False
    return _seconds_since(path, os.fstat(descriptor).st_mtime) < LEASE


def _seconds_since(path: Path, stamp: float) -> float:
    """Return the age of a stamp by the clock of the file system, which may run on another machine."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.probe")
    try:
        create_file(probe).close()
        return probe.stat().st_mtime - stamp
    finally:
        probe.unlink(missing_ok=True)


class _Stamper:
    """One thread that stamps all claims of this process, as long as it holds any."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._claims: set[Claim] = set()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()

    def add(self, claim: Claim) -> None:
        """Stamp a claim from now on, in a thread that is started if needed."""
        with self._guard:
            self._claims.add(claim)
            if self._thread is None:
                self._wake.clear()
                self._thread = threading.Thread(target=self._run, name="claims", daemon=True)
                self._thread.start()

    def discard(self, claim: Claim) -> None:
        """Stop stamping a claim."""
        with self._guard:
            self._claims.discard(claim)

    def _run(self) -> None:
        """Stamp all claims at every interval, until none is left."""
        while True:
            self._wake.wait(self._interval)
            with self._guard:
                claims = list(self._claims)
                if not claims:
                    self._thread = None
                    return
            for claim in claims:
                claim.stamp()


@functools.cache
def _stamper(interval: float) -> _Stamper:
    """Return the one stamper of this process for an interval."""
    return _Stamper(interval)

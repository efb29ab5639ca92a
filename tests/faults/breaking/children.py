"""Runs a command in a child that is forked with everything imported: to kill it, starve it, or take its rights away."""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from breaking.command import Answer

_NOBODY = 65534  # the user and group without rights, by convention of Linux and BSD


@dataclass
class Child:
    """A command that runs.

    Attributes
    ----------
    pid : int
        Of its process.
    out, err : Path
        What it has written.
    """

    pid: int
    out: Path
    err: Path
    status: int | None = field(default=None)

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        if self.status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def kill_after(self, seconds: float) -> bool:
        """Kill it (SIGKILL) after so long; return whether it was killed, and had not ended before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.is_running():
            time.sleep(0.0005)
        if self.is_running():
            os.kill(self.pid, signal.SIGKILL)
        return self.answer().code == -signal.SIGKILL

    def answer(self) -> Answer:
        """Wait for its end; the code is negative if a signal ended it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        texts = [path.read_bytes().decode("utf-8", "backslashreplace") for path in (self.out, self.err)]
        return Answer(self.status, *texts)


def start(work: Callable[[], int], folder: Path, *, before: Callable[[], None] = lambda: None) -> Child:
    """Fork a child that does some work and leaves as a program does: with what C libraries do at the exit.

    Parameters
    ----------
    work : callable
        Its result is the exit code.
    folder : Path
        For what it writes.
    before : callable
        Called in the child, before the work: limits, rights, descriptors.
    """
    number = len(list(folder.glob("child-*.out")))
    out, err = folder / f"child-{number}.out", folder / f"child-{number}.err"
    files = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666) for path in (out, err)]
    pid = os.fork()
    if pid:
        for file in files:
            os.close(file)
        return Child(pid, out, err)
    code = 70
    try:
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        before()
        code = work()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        atexit._clear()  # what the parent has registered is the parent's
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        ctypes.CDLL(None).exit(code)
    raise AssertionError  # not reached


def cafe(words: Sequence[object], folder: Path, *, before: Callable[[], None] = lambda: None) -> Child:
    """Start ``cafe`` with these words; its cache folder is ``folder / "caches"``."""

    def work() -> int:
        from cafe.cli.app import call

        os.environ["CAFE_CACHE"] = str(folder / "caches")
        os.environ.pop("CAFE_DEBUG", None)
        return call([str(word) for word in words])

    return start(work, folder.parent, before=before)


def limit_files(size: int) -> Callable[[], None]:
    """Return what lets a process write no file beyond so many bytes: a disk that is full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def without_rights() -> None:
    """Give up the rights of root, for whom no folder is read-only."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def without_stdin() -> None:
    """Close standard input, as some schedulers do."""
    os.close(0)
    sys.stdin = None  # type: ignore[assignment]

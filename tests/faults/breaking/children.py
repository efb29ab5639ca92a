"""Runs a command in a child that is forked with everything imported: to kill it, starve it, or take its rights away."""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from breaking.command import Answer

_PIPE_BYTES = 1 << 20  # what a pipe holds at most without rights, by default on Linux; a command here writes some KB
_LONGEST = 300.0  # seconds for a command that takes two or three
_NOBODY = 65534  # the user and group without rights, by convention of Linux and BSD


@dataclass
class Child:
    """A command that runs.

    Attributes
    ----------
    pid : int
        Of its process.
    out, err : int
        The ends of pipes from which what it writes is read, once it has ended. Pipes and no files, because a limit on
        the size of files would cut the messages as well.
    """

    pid: int
    out: int
    err: int
    status: int | None = field(default=None)
    _texts: tuple[str, str] | None = field(default=None, repr=False)

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
        """Wait for its end; the code is negative if a signal ended it.

        Raises
        ------
        TimeoutError
            If it has not ended after five minutes; it is killed then.
        """
        end = time.monotonic() + _LONGEST
        while self.is_running():
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"a command did not end within {_LONGEST:.0f} s")
            time.sleep(0.002)
        assert self.status is not None
        if self._texts is None:
            self._texts = _content(self.out), _content(self.err)
        return Answer(self.status, *self._texts)


def _content(pipe: int) -> str:
    """Return what lies in a pipe, without waiting for its other end, and close it."""
    os.set_blocking(pipe, False)
    content = b""
    with suppress(BlockingIOError):
        while block := os.read(pipe, _PIPE_BYTES):
            content += block
    os.close(pipe)
    return content.decode("utf-8", "backslashreplace")


def start(work: Callable[[], int], *, before: Callable[[], None] = lambda: None) -> Child:
    """Fork a child that does some work and leaves as a program does: with what C libraries do at the exit.

    Parameters
    ----------
    work : callable
        Its result is the exit code.
    before : callable
        Called in the child, before the work: limits, rights, descriptors.
    """
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    for end in (out_end, err_end):
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    pid = os.fork()
    if pid:
        os.close(out_end)
        os.close(err_end)
        return Child(pid, out, err)
    code = 70
    try:
        os.dup2(out_end, 1)
        os.dup2(err_end, 2)
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

    return start(work, before=before)


def limit_files(size: int) -> Callable[[], None]:
    """Return what lets a process write no file beyond so many bytes: a disk that is full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def without_rights() -> None:
    """Give up the rights of root, for whom no folder is read-only."""
    if os.geteuid() == 0:
        # The interpreter may lie where root alone may read, so what is imported late must be imported before.
        metadata.version("torch")
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def without_stdin() -> None:
    """Close standard input, as some schedulers do."""
    os.close(0)
    sys.stdin = None  # type: ignore[assignment]

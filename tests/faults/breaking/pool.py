"""Runs the tries of a campaign in processes that live long, and ends a process whose try takes too long.

A process is forked after everything is imported and prepared, and handles many tries. It answers over a pipe; when it
does not within the limit of a try, it is killed, that try is a hang, and another process takes its place. A process
that dies by itself has crashed. Its memory is measured, and bounded.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from breaking.campaign import Campaign, Outcome, Row

MEMORY = 2 << 30  # bytes that a process may take beyond what it starts with
_FORK = multiprocessing.get_context("fork")


def run_tries(campaign: Campaign, numbers: Iterable[int], *, seed: int, workers: int, folder: Path) -> Iterator[Row]:
    """Run tries of a prepared campaign and yield their rows as they come.

    Parameters
    ----------
    campaign : Campaign
        Its ``prepare`` has been called.
    numbers : iterable of int
        The tries to run.
    seed : int
        Of the campaign.
    workers : int
        Processes at a time.
    folder : Path
        Where the processes make their files.

    Yields
    ------
    Row
        One for each number, in the order in which they are done.
    """
    waiting = iter(numbers)
    busy: dict[Connection, _Worker] = {}
    try:
        for _ in range(workers):
            worker = _Worker(campaign, seed, folder)
            if worker.give(next(waiting, None)):
                busy[worker.pipe] = worker
            else:
                worker.end()
        while busy:
            soonest = min(worker.deadline for worker in busy.values())
            ready = wait(list(busy), timeout=max(0.0, soonest - time.monotonic()))
            answered = [busy.pop(pipe) for pipe in ready if isinstance(pipe, Connection)]
            late = [worker for worker in busy.values() if time.monotonic() > worker.deadline]
            for worker in late:
                del busy[worker.pipe]
            for worker in answered + late:
                outcome, seconds = worker.answer(late=worker in late)
                yield worker.row(outcome, seconds)
                if not worker.is_alive:
                    worker.end()
                    worker = _Worker(campaign, seed, folder)
                if worker.give(next(waiting, None)):
                    busy[worker.pipe] = worker
                else:
                    worker.end()
    finally:
        for worker in busy.values():
            worker.kill()


class _Worker:
    """One process, seen from its parent."""

    def __init__(self, campaign: Campaign, seed: int, folder: Path) -> None:
        self._campaign, self._seed = campaign, seed
        self.pipe, theirs = _FORK.Pipe()
        self._folder = Path(tempfile.mkdtemp(prefix="worker-", dir=folder))
        self._process = _FORK.Process(target=_work, args=(campaign, seed, self._folder, theirs), daemon=False)
        self._process.start()
        theirs.close()
        self._number, self._began = -1, 0.0
        self.is_alive = True

    @property
    def deadline(self) -> float:
        return self._began + self._campaign.limit

    def give(self, number: int | None) -> bool:
        """Give it a try; False if there is none to give."""
        if number is None:
            return False
        self._number, self._began = number, time.monotonic()
        self.pipe.send(number)
        return True

    def answer(self, *, late: bool) -> tuple[Outcome, float]:
        """Return what it says, or what became of it."""
        seconds = time.monotonic() - self._began
        if late:
            kind = _note(self._folder)
            self.kill()
            return Outcome("hang", kind, f"no answer within {self._campaign.limit:g} s"), seconds
        try:
            outcome: Outcome = self.pipe.recv()
            return outcome, seconds
        except EOFError:
            self._process.join()
            self.is_alive = False
            code = self._process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Outcome("crash", _note(self._folder), f"the process ended with {how}"), seconds

    def row(self, outcome: Outcome, seconds: float) -> Row:
        return Row(
            self._campaign.name, self._seed, self._number,
            outcome.verdict, outcome.kind, outcome.detail, round(seconds, 4),
        )  # fmt: skip

    def kill(self) -> None:
        self._process.kill()
        self.is_alive = False
        self.end()

    def end(self) -> None:
        """Let it leave, and remove its files."""
        if self.is_alive:
            with suppress(BrokenPipeError):
                self.pipe.send(None)
        self._process.join()
        self.pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def note(folder: Path, kind: str) -> None:
    """Write down what is being broken, so that a try which never answers can be told."""
    (folder.parent / "kind").write_text(kind, encoding="utf-8")


def _note(folder: Path) -> str:
    try:
        return (folder / "kind").read_text(encoding="utf-8")
    except OSError:
        return "not known"


def _work(campaign: Campaign, seed: int, folder: Path, pipe: Connection) -> None:
    faulthandler.disable()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    limit_memory(MEMORY)
    while (number := pipe.recv()) is not None:
        own = folder / "try"
        own.mkdir()
        rng = random.Random(f"{campaign.name} {seed} {number}")
        _forget_peak()
        try:
            outcome = campaign.attempt(number, rng, own)
        except MemoryError:
            outcome = Outcome("memory", _note(folder), "MemoryError")
        except BaseException as error:
            where = "".join(traceback.format_exception(error)[-3:])
            outcome = Outcome("traceback", _note(folder), f"{type(error).__name__}: {error}\n{where}"[:2000])
        peak = _peak()
        if peak > MEMORY:
            outcome = Outcome("memory", outcome.kind, f"{peak / 2**30:.1f} GiB at the peak; {outcome.detail}")
        _remove(own)
        pipe.send(outcome)
    os._exit(0)


def limit_memory(more: int) -> None:
    """Let this process take so many bytes of address space beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))


def _forget_peak() -> None:
    with suppress(OSError):  # not allowed everywhere; then the peak is that of all tries so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _remove(folder: Path) -> None:
    for root, names, _ in os.walk(folder):
        for name in names:  # what a try has made read-only
            with suppress(OSError):
                path = Path(root) / name
                if not path.is_symlink():
                    path.chmod(0o700)
    shutil.rmtree(folder)

"""Decoding workers: processes that leave uint8 crops in shared memory, and nothing else.

Each worker is a fresh interpreter: no fork, which torch's threads do not survive, and no need of a guard in the user's
main module. It gets data set and croppers once, pickled, and then the rows of one piece after another; its answer names
the images that could not be read, and the crops lie in the slot of memory that belongs to the piece. The memory has no
name, so that nothing is left behind however a run ends, and a worker whose parent is gone sees its pipe end and leaves.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import numpy as np

from cafe.cache.extract.decoding import IMAGES_PER_PIECE, Decoded, Decoding, Piece, Source
from cafe.cache.extract.worker_process import Layout
from cafe.errors import CafeError, UnreadableImageError

_PREFETCH = 2  # pieces that a worker has at a time, so that it never waits for the next one
_TRIES = 2  # workers that may die over one piece
_NICE = 10  # where the encoder runs on the same processors, it goes first
_COMMAND = "import sys; from cafe.cache.extract.worker_process import work; work(*map(int, sys.argv[1:]))"


@dataclass
class _Job:
    piece: Piece
    slot: int
    tries: int = 0
    answer: list[str | None] | None = None  # for each image why it could not be read, or None


class _Worker:
    """One process, and the jobs it has."""

    def __init__(self, memory: int, size: int, nice: int) -> None:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with theirs:
            # In a group of its own, so that Ctrl-C reaches the parent alone, which then closes the pipe.
            self.process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(theirs.fileno()), str(memory), str(size)],
                pass_fds=(theirs.fileno(), memory),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CAFE_WORKER_NICE": str(nice)},
                process_group=0,
            )
        self.pipe = Connection(ours.detach())
        self.jobs: deque[_Job] = deque()

    def set_up(self, setup: bytes) -> None:
        """Hand over what it needs. Raises CafeError if it cannot load that."""
        try:
            self.pipe.send_bytes(setup)
            answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise CafeError(f"a decoding process ended at once (exit code {self.process.wait()})") from error
        if isinstance(answer, CafeError):
            raise answer

    def close(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.wait()


class ProcessSource(Source):
    """Decodes in processes of their own.

    Parameters
    ----------
    decoding : Decoding
        What to do.
    shapes : tuple of (height, width)
        Of the crops of every cropper.
    views : int
        Views of one image at most.
    ahead : int
        Pieces under way at most.
    workers : int
        Processes.
    beside_encoder : bool
        Whether the encoder runs on the same processors, and should go first there.

    Raises
    ------
    CafeError
        If data set or croppers cannot be pickled.
    """

    def __init__(
        self,
        decoding: Decoding,
        shapes: tuple[tuple[int, int], ...],
        *,
        views: int,
        ahead: int,
        workers: int,
        beside_encoder: bool,
    ) -> None:
        self._shapes = shapes
        layout = Layout(shapes, views, IMAGES_PER_PIECE)
        try:
            self._setup = pickle.dumps((decoding, layout))
        except Exception as error:  # pickle raises nearly anything
            raise CafeError(f"decoding cannot be handed to other processes: {error}; use --workers 0") from error
        self._layout = layout
        self._size = layout.slot_bytes * ahead
        self._file = _memory(self._size)
        self._bytes = np.frombuffer(mmap.mmap(self._file, self._size), dtype=np.uint8)
        self._free = list(range(ahead))
        self._taken: int | None = None
        self._order: deque[_Job] = deque()
        self._waiting: deque[_Job] = deque()
        self._nice = _NICE if beside_encoder else 0
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):  # all begin to load at the same time
                self._workers.append(_Worker(self._file, self._size, self._nice))
            for worker in self._workers:
                worker.set_up(self._setup)
        except BaseException:
            self.close()
            raise

    @property
    def under_way(self) -> int:
        """Pieces handed in and not taken yet."""
        return len(self._order)

    @property
    def has_room(self) -> bool:
        """Whether another piece can be handed in now."""
        return bool(self._free)

    def hand_in(self, piece: Piece) -> None:
        """Begin to decode a piece."""
        job = _Job(piece, self._free.pop())
        self._order.append(job)
        self._waiting.append(job)
        self._distribute()

    def take(self) -> Decoded:
        """Wait for the oldest piece."""
        if self._taken is not None:
            self._free.append(self._taken)
            self._taken = None
        job = self._order[0]
        while job.answer is None:
            self._receive(timeout=None)
        self._receive(timeout=0)  # whoever else is done gets something new to do
        self._order.popleft()
        self._taken = job.slot
        return self._decoded(job)

    def close(self) -> None:
        """End the workers, and give the memory back."""
        for worker in self._workers:
            worker.close()
        self._workers = []
        os.close(self._file)

    def _distribute(self) -> None:
        for worker in sorted(self._workers, key=lambda one: len(one.jobs)):
            while self._waiting and len(worker.jobs) < _PREFETCH:
                job = self._waiting.popleft()
                worker.jobs.append(job)
                try:
                    worker.pipe.send((job.piece, job.slot))
                except OSError:
                    self._replace(worker)
                    return

    def _receive(self, timeout: float | None) -> None:
        ready = wait([worker.pipe for worker in self._workers], timeout)
        for worker in [one for one in self._workers if one.pipe in ready]:
            try:
                answer = worker.pipe.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            if isinstance(answer, CafeError):
                raise answer
            worker.jobs.popleft().answer = answer
        self._distribute()

    def _replace(self, worker: _Worker) -> None:
        """Start another worker for one that has died, and give its jobs out again."""
        jobs, index = list(worker.jobs), self._workers.index(worker)
        worker.close()
        if jobs:
            jobs[0].tries += 1
            if jobs[0].tries >= _TRIES:
                first, last = jobs[0].piece.rows[0], jobs[0].piece.rows[-1]
                raise CafeError(
                    f"a decoding process died twice (exit code {worker.process.returncode}) at images {first} to "
                    f"{last} of split {jobs[0].piece.split!r}; with --workers 0 they are decoded in this process"
                )
        self._waiting.extendleft(reversed(jobs))
        self._workers[index] = _Worker(self._file, self._size, self._nice)
        self._workers[index].set_up(self._setup)
        self._distribute()

    def _decoded(self, job: _Job) -> Decoded:
        found: Decoded = []
        for place, reason in enumerate(job.answer or ()):
            if reason is None:
                views = 1 + job.piece.views
                arrays = [self._layout.array(self._bytes, job.slot, place, n)[:views] for n in job.piece.croppers]
                found.append(arrays)
            else:
                sample_id, _, text = reason.partition("\0")
                found.append(UnreadableImageError(sample_id, text))
        return found


def _memory(size: int) -> int:
    """Return the descriptor of nameless shared memory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("cafe-crops")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor

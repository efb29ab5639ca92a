"""Decoding in processes that leave uint8 crops in shared memory, and nothing else.

Each worker is a fresh interpreter: no fork, which torch's threads do not survive, and no need of a guard in the user's
main module. It gets the decoder once, pickled, and then one chunk after another; its answer names the images that could
not be read, and the crops lie in the slot of memory that belongs to the chunk. The memory has no name, so that nothing
is left behind however a run ends, and a worker whose parent is gone sees its pipe end and leaves.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.decode import IMAGES_PER_CHUNK, Chunk, DecodedImage, DecoderPool, ImageDecoder
from cafe.errors import CafeError, UnreadableImageError

_PREFETCH = 2  # chunks that a worker has at a time, so that it never waits for the next one
_TRIES = 2  # workers that may die over one chunk
_NICE = 10  # niceness of workers on the processors on which the encoder runs, which goes first
_COMMAND = "import sys; from cafe.cache.extract.decode_processes import run_worker; run_worker(*map(int, sys.argv[1:]))"


class _SlotLayout:
    """Where the crops of an image lie in a slot: image after image, cropper after cropper, view after view."""

    def __init__(self, shapes: tuple[tuple[int, int], ...], views: int, images: int) -> None:
        self.views, self.shapes = views, shapes
        self.sizes = [(1 + views) * height * width * 3 for height, width in shapes]
        self.image_bytes = sum(self.sizes)
        self.slot_bytes = images * self.image_bytes

    def array(self, memory: NDArray[np.uint8], slot: int, image: int, cropper: int) -> NDArray[np.uint8]:
        """Return the crops of one image for one cropper, (1 + views, height, width, 3), in place."""
        start = slot * self.slot_bytes + image * self.image_bytes + sum(self.sizes[:cropper])
        height, width = self.shapes[cropper]
        return memory[start : start + self.sizes[cropper]].reshape(1 + self.views, height, width, 3)


@dataclass(frozen=True)
class _Answer:
    """What a worker says of one image: its crops, where there are any, lie in the slot."""

    sha256: bytes | None
    has_crops: tuple[bool, ...] = ()  # for each cropper of the chunk
    unreadable: tuple[str, str] | None = None  # id and reason


@dataclass
class _Job:
    """A chunk, its slot of the memory, how many workers have died over it, and the answer once there is one."""

    chunk: Chunk
    slot: int
    tries: int = 0
    answer: list[_Answer] | None = None  # for each image


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
        """Send the pickled decoder to the process. Raises CafeError if the process cannot load it."""
        try:
            self.pipe.send_bytes(setup)
            answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise CafeError(f"a decoding process ended at once (exit code {self.process.wait()})") from error
        if isinstance(answer, CafeError):
            raise answer

    def close(self) -> None:
        """Terminate the process, and wait until it has ended."""
        self.pipe.close()
        self.process.terminate()
        self.process.wait()


class DecoderProcesses(DecoderPool):
    """Decodes in processes of their own.

    Parameters
    ----------
    decoder : ImageDecoder
        The decoder that every process runs.
    shapes : tuple of (height, width)
        Pixels of a crop of every cropper.
    views : int
        Views of one image at most.
    ahead : int
        Chunks pending at most.
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
        decoder: ImageDecoder,
        shapes: tuple[tuple[int, int], ...],
        *,
        views: int,
        ahead: int,
        workers: int,
        beside_encoder: bool,
    ) -> None:
        self._shapes = shapes
        layout = _SlotLayout(shapes, views, IMAGES_PER_CHUNK)
        try:
            self._setup = pickle.dumps((decoder, layout))
        except Exception as error:  # pickle raises nearly anything
            raise CafeError(f"decoding cannot be handed to other processes: {error}; use --workers 0") from error
        self._layout = layout
        self._size = layout.slot_bytes * ahead
        self._file = _memory(self._size)
        self._bytes = np.frombuffer(mmap.mmap(self._file, self._size), dtype=np.uint8)
        self._free = list(range(ahead))
        self._taken: int | None = None  # slot of the last result, which the caller may still read
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
    def n_pending(self) -> int:
        """Chunks submitted whose result has not been taken."""
        return len(self._order)

    @property
    def is_full(self) -> bool:
        """Whether no other chunk can be submitted now."""
        return not self._free

    def submit(self, chunk: Chunk) -> None:
        """Give a chunk a free slot of the memory, and a worker once one has room; not to be called when full."""
        job = _Job(chunk, self._free.pop())
        self._order.append(job)
        self._waiting.append(job)
        self._distribute()

    def next_result(self) -> list[DecodedImage]:
        """Wait for the oldest chunk, and return what became of each image; arrays are good until the next call."""
        if self._taken is not None:
            self._free.append(self._taken)
            self._taken = None
        job = self._order[0]
        while job.answer is None:
            self._receive(timeout=None)
        self._receive(timeout=0)  # workers that are done by now get new chunks
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
        """Send waiting chunks to the workers, those with the fewest jobs first."""
        for worker in sorted(self._workers, key=lambda worker: len(worker.jobs)):
            while self._waiting and len(worker.jobs) < _PREFETCH:
                job = self._waiting.popleft()
                worker.jobs.append(job)
                try:
                    worker.pipe.send((job.chunk, job.slot))
                except OSError:
                    self._replace(worker)
                    return

    def _receive(self, timeout: float | None) -> None:
        """Take the answers of workers, waiting for the first one as long as ``timeout`` says, and send new chunks."""
        ready = wait([worker.pipe for worker in self._workers], timeout)
        for worker in [worker for worker in self._workers if worker.pipe in ready]:
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
                first, last = jobs[0].chunk.rows[0], jobs[0].chunk.rows[-1]
                raise CafeError(
                    f"a decoding process died twice (exit code {worker.process.returncode}) at images {first} to "
                    f"{last} of split {jobs[0].chunk.split!r}; with --workers 0 they are decoded in this process"
                )
        self._waiting.extendleft(reversed(jobs))
        self._workers[index] = _Worker(self._file, self._size, self._nice)
        self._workers[index].set_up(self._setup)
        self._distribute()

    def _decoded(self, job: _Job) -> list[DecodedImage]:
        """Return what became of each image of an answered job; crops are views of the memory."""
        decoded: list[DecodedImage] = []
        views = 1 + job.chunk.views
        for place, answer in enumerate(job.answer or ()):
            if answer.unreadable is not None:
                decoded.append(DecodedImage(answer.sha256, unreadable=UnreadableImageError(*answer.unreadable)))
                continue
            crops = tuple(
                self._layout.array(self._bytes, job.slot, place, number)[:views] if has_crops else None
                for number, has_crops in zip(job.chunk.croppers, answer.has_crops, strict=True)
            )
            decoded.append(DecodedImage(answer.sha256, crops))
        return decoded


def _memory(size: int) -> int:
    """Return the descriptor of nameless shared memory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("cafe-crops")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def run_worker(pipe_descriptor: int, memory_descriptor: int, size: int) -> None:
    """Decode chunks until the pipe ends, in a worker process.

    Parameters
    ----------
    pipe_descriptor, memory_descriptor : int
        Inherited from the parent: the pipe, by which the decoder and chunks come and answers go, and shared memory.
    size : int
        Bytes of the shared memory.
    """
    os.nice(int(os.environ.get("CAFE_WORKER_NICE", "0")))
    pipe = Connection(pipe_descriptor)
    memory = np.frombuffer(mmap.mmap(memory_descriptor, size), dtype=np.uint8)
    try:
        try:
            decoder, layout = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        except Exception as error:  # what cannot be imported here raises nearly anything
            pipe.send(CafeError(f"a decoding process cannot load the data set: {error}; use --workers 0"))
            return
        pipe.send(None)
        while True:
            chunk, slot = pipe.recv()
            pipe.send(_answer(decoder, layout, memory, chunk, slot))
    except (EOFError, OSError):
        return


def _answer(decoder: ImageDecoder, layout: _SlotLayout, memory: NDArray[np.uint8], chunk: Chunk, slot: int) -> Any:
    """Decode a chunk into its slot; return an answer for each image, or a CafeError if the decoder fails."""
    answers: list[_Answer] = []
    for place, row in enumerate(chunk.rows):
        try:
            image = decoder.decode(chunk, row)
        except Exception as error:
            return CafeError(f"image {row} of split {chunk.split!r}: {type(error).__name__}: {error}")
        if image.unreadable is not None:
            answers.append(_Answer(image.sha256, unreadable=(image.unreadable.sample_id, image.unreadable.reason)))
            continue
        for number, crops in zip(chunk.croppers, image.crops, strict=True):
            if crops is None:
                continue
            target = layout.array(memory, slot, place, number)
            if crops.shape[1:] != target.shape[1:]:
                return CafeError(f"image {row} of split {chunk.split!r} gave a crop of {crops.shape[1:3]} pixels")
            target[: len(crops)] = crops
        answers.append(_Answer(image.sha256, tuple(crops is not None for crops in image.crops)))
    return answers

"""Images of many requests are decoded and classified together: a bounded queue, and batches that grow with it.

Few images at once are one batch on all cores, which answers soonest. Of many, several batches run side by side, each on
its share of the cores: threads that share a batch meet at a barrier after every layer, and where requests are read and
images decoded on the same cores, each of them spins until the others are scheduled. Batches that share nothing do not
wait for each other. Seen on two cores (Intel with AMX, a ViT-B/32 in bfloat16, beside other work): an image of a batch
of 16 takes 18 ms of processor time on one thread, and 70 to 85 ms on two.

A batch has one of a few sizes (:func:`batch_sizes`), since libraries of matrix products keep compiled code and memory
for every shape that they meet, on every thread: of 13 images that wait, 12 are a batch, and the last begins the next.
No batch is filled up: an empty place would cost as much as an image.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cafe.compute import processors
from cafe.errors import CafeError
from cafe.serving.memory import SECONDS_BETWEEN, give_back_free_memory
from cafe.serving.predictor import ImageAnswer, Predictor

# Images from which a batch on one core is about as fast for each image as a larger one. A ViT-B/32 in bfloat16, ms of a
# core for an image: 21 at 8, 19 at 16 and at 32, 54 alone (Intel with AMX); 56 at 8, 58 at 16, 59 at 32, 92 alone (AMD
# EPYC without; both beside other work).
LEAST_SIDE_BY_SIDE = 8
# Whoever was just answered often asks again at once, so a batch waits until it is as large as the one before, for this
# share of that batch's seconds at most.
WAITED_SHARE = 0.25
# It stops waiting once nothing has arrived for so many seconds, and no image is being decoded.
QUIET_SECONDS = 0.02


def batch_sizes(most: int) -> list[int]:
    """Return the sizes that a batch may have: powers of two, and what is halfway between two of them.

    Of the images that wait, the largest size that they fill leaves a third at most.

    Parameters
    ----------
    most : int
        Images of a batch at most; a size itself.

    Examples
    --------
    >>> batch_sizes(32)
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    """
    powers = [1 << i for i in range(most.bit_length())]
    return sorted(size for size in {most, *powers, *(3 * power for power in powers)} if size <= most)


class QueueFullError(CafeError):
    """The queue is full: no more images are taken."""


class _Waiting(NamedTuple):
    """A decoded image that waits for its batch, and the future of its answer."""

    crop: NDArray[np.uint8]
    answer: asyncio.Future[ImageAnswer]


@dataclass(frozen=True)
class BatchPlan:
    """How images are divided.

    Attributes
    ----------
    side_by_side : int
        Batches at once.
    size : int
        Images of a batch at most, one of :func:`batch_sizes`.
    cores : int
        Of each batch.
    """

    side_by_side: int
    size: int
    cores: int


def plan_batches(n_images: int, cores: int, batch_size: int) -> BatchPlan:
    """Divide images among batches that run side by side, each on its share of the cores.

    Where there are enough, a batch takes half of its share: while it runs, the other half is decoded and waits, so that
    no core is without work when it ends.

    Parameters
    ----------
    n_images : int
        That are being decoded, wait, or are being classified.
    cores : int
        That there are; 1 where batches run one after the other.
    batch_size : int
        Images of a batch at most.

    Examples
    --------
    >>> plan_batches(1, cores=2, batch_size=32)
    BatchPlan(side_by_side=1, size=32, cores=2)
    >>> plan_batches(32, cores=2, batch_size=32)
    BatchPlan(side_by_side=2, size=8, cores=1)
    """
    side_by_side = max(1, min(cores, n_images // LEAST_SIDE_BY_SIDE))
    if side_by_side == 1:
        return BatchPlan(1, batch_size, cores)
    half = max(LEAST_SIDE_BY_SIDE, n_images // side_by_side // 2)
    return BatchPlan(side_by_side, _largest_size(half, batch_size), cores // side_by_side)


def _largest_size(n_images: int, batch_size: int) -> int:
    """Return the largest size of a batch that ``n_images`` images fill."""
    return max(size for size in batch_sizes(batch_size) if size <= max(1, n_images))


class Batcher:
    """Decodes images, and classifies them in batches, one after the other or side by side, in threads of its own.

    While a batch is computed, what arrives gathers to the next, so batches grow with the load. A batch that is smaller
    than the one before waits a little for images that are on their way; a single client is never waited for.

    Parameters
    ----------
    predictor : Predictor
        Asked in batches of its own size at most, and in as many at once as it has cores to divide.
    queue_size : int
        Images that are held at once, from the moment their request is read to their answer.
    on_batch : callable, default: nothing
        Called with the size of each batch.
    waited_share : float, default=0.25
        How long a batch waits to be as large as the one before, as a share of that batch's seconds.

    Attributes
    ----------
    held : int
        Images of requests that are being answered.
    """

    def __init__(
        self,
        predictor: Predictor,
        queue_size: int,
        on_batch: Callable[[int], None] = lambda size: None,
        waited_share: float = WAITED_SHARE,
    ) -> None:
        self._predictor, self._on_batch, self._waited_share = predictor, on_batch, waited_share
        self.queue_size, self.held = queue_size, 0
        self._decoded_now = 0  # images that are being decoded
        self._unanswered = 0  # images that are decoded, and wait or are being classified
        self._queue: deque[_Waiting] = deque()
        self._changed = asyncio.Event()  # an image has come, or a batch is done
        self._decoding = ThreadPoolExecutor(processors(), "cafe-decode")
        # A batch on all cores is always computed in the first thread. OpenMP keeps helpers for each thread that asks
        # for them, and once these are more than the cores it lets all of them sleep between any two layers: an image
        # alone then took 50 ms in place of 27.
        self._threads = [ThreadPoolExecutor(1, f"cafe-classify-{i}") for i in range(predictor.cores)]
        self._free_threads = list(self._threads)
        self._tasks: list[asyncio.Task[None]] = []
        self._gathering_lock = asyncio.Lock()  # held while a batch is gathered
        self._n_running = 0  # batches that are being computed
        self._last_arrival = 0.0  # when a request came, by the event loop's clock
        self._last_seconds, self._last_size = 0.0, 1  # of the batch that was computed last

    async def start(self) -> None:
        """Start the workers, in a running event loop. A blank image is classified first, which loads libraries."""
        blank = self._predictor.crop(Image.new("RGB", (64, 64)))[None]
        await self._computed(blank, self._predictor.cores)
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._predictor.cores)]
        self._tasks.append(asyncio.create_task(self._give_back_memory()))

    async def stop(self) -> None:
        """Stop the workers; batches that are being classified end first."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        for thread in (*self._threads, self._decoding):
            thread.shutdown(wait=True)

    @contextmanager
    def held_images(self, number: int) -> Iterator[None]:
        """Hold ``number`` places of the queue while the block runs.

        Raises
        ------
        QueueFullError
            If fewer places are free.
        """
        if self.held + number > self.queue_size:
            raise QueueFullError(f"{self.held} images are waiting already; try again in a moment")
        self.held += number
        self._last_arrival = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self.held -= number

    async def classify(self, decode: Callable[[], NDArray[np.uint8]]) -> ImageAnswer:
        """Decode one image, and return its answer once its batch is classified.

        Parameters
        ----------
        decode : callable
            Returns the crop, (height, width, 3); called in a thread. What it raises is raised here.
        """
        loop = asyncio.get_running_loop()
        self._decoded_now += 1
        try:
            crop = await loop.run_in_executor(self._decoding, decode)
        finally:
            self._decoded_now -= 1
            self._changed.set()
        answer: asyncio.Future[ImageAnswer] = loop.create_future()
        self._unanswered += 1
        try:
            self._queue.append(_Waiting(crop, answer))
            return await answer
        finally:
            self._unanswered -= 1

    def _plan(self) -> BatchPlan:
        """Return how to divide the images that wait, are being decoded or being classified, into batches."""
        # Images that are being decoded count: their batch is about to begin.
        n_images = self._decoded_now + self._unanswered
        return plan_batches(n_images, self._predictor.cores, self._predictor.batch_size)

    async def _work(self) -> None:
        """Gather a batch, classify its images, and begin again, until the task is cancelled."""
        while True:
            async with self._gathering_lock:  # one batch gathers, while others are computed
                await self._wait_for_images()
                plan, batch = self._plan(), self._next_batch()
                self._n_running += 1
            try:
                if batch:
                    await self._answer(batch, plan.cores)
            finally:
                self._n_running -= 1
                self._changed.set()

    async def _give_back_memory(self) -> None:
        """Return free memory to the operating system at intervals, while images arrive."""
        given_back_at = self._last_arrival
        while True:
            await asyncio.sleep(SECONDS_BETWEEN)
            if self._last_arrival > given_back_at:
                given_back_at = self._last_arrival
                await asyncio.get_running_loop().run_in_executor(self._decoding, give_back_free_memory)

    def _next_batch(self) -> list[_Waiting]:
        """Take a batch out of the queue; an empty list if no client waits any more."""
        self._queue = deque(each for each in self._queue if not each.answer.done())  # whose client is still there
        if not self._queue:
            return []
        size = _largest_size(min(self._plan().size, len(self._queue)), self._predictor.batch_size)
        return [self._queue.popleft() for _ in range(size)]

    async def _wait_for_images(self) -> None:
        """Wait until the next batch should begin."""
        while not self._queue or self._n_running >= self._plan().side_by_side:
            await self._change(None)
        now = asyncio.get_running_loop().time
        deadline = now() + self._waited_share * self._last_seconds
        while len(self._queue) < self._plan().size:
            on_their_way = self._decoded_now > 0
            if len(self._queue) >= self._last_size and not on_their_way:
                return
            until = deadline if on_their_way else min(deadline, self._last_arrival + QUIET_SECONDS)
            if until <= now():
                return
            await self._change(until - now())

    async def _change(self, seconds: float | None) -> None:
        """Wait until an image arrives or a batch is done, for ``seconds`` at most; None waits without limit."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _answer(self, batch: list[_Waiting], cores: int) -> None:
        """Classify a batch, and set the answer, or the error, of each of its images."""
        loop = asyncio.get_running_loop()
        self._on_batch(len(batch))
        crops = np.stack([each.crop for each in batch])
        start = loop.time()
        try:
            answers = await self._computed(crops, cores)
        except Exception as error:
            for each in batch:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        self._last_size, self._last_seconds = len(batch), loop.time() - start
        for each, answer in zip(batch, answers, strict=True):
            if not each.answer.done():
                each.answer.set_result(answer)

    async def _computed(self, crops: NDArray[np.uint8], cores: int) -> list[ImageAnswer]:
        """Classify crops in the first free thread, on so many cores."""
        thread = min(self._free_threads, key=self._threads.index)
        self._free_threads.remove(thread)
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, self._predictor.classify, crops, cores)
        finally:
            self._free_threads.append(thread)

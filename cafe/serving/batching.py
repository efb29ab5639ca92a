"""Images of many requests are classified together: a bounded queue, and batches as large as what is waiting.

Few images at once are one batch on all cores, which answers soonest. Of many, several batches run side by side, each on
its share of the cores: threads that share a batch meet at a barrier after every layer, and where requests are read and
images decoded on the same cores, each of them spins until the others are scheduled. Batches that share nothing do not
wait for each other. Seen on two cores (Intel with AMX, a ViT-B/32 in bfloat16, beside other work): an image of a batch
of 16 takes 18 ms of processor time on one thread, and 70 to 85 ms on two.
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

from cafe.errors import CafeError
from cafe.serving.predictor import ImageAnswer, Predictor

# Images from which a batch on one core is about as fast for each image as a larger one (a ViT-B/32 in bfloat16: 21 ms
# at 8, 19 ms at 16 and at 32, 54 ms alone).
LEAST_SIDE_BY_SIDE = 8
# Whoever was just answered often asks again at once, so a batch waits until it is as large as the one before, for this
# share of that batch's seconds at most.
WAITED_SHARE = 0.25
# It stops waiting once nothing has arrived for so many seconds, and no image is being decoded.
QUIET_SECONDS = 0.02


class QueueFullError(CafeError):
    """So many images are waiting that no more are taken."""


class _Waiting(NamedTuple):
    crop: NDArray[np.uint8]
    answer: asyncio.Future[ImageAnswer]


@dataclass(frozen=True)
class BatchPlan:
    """How images that are waiting are divided.

    Attributes
    ----------
    side_by_side : int
        Batches at once.
    size : int
        Images of a batch at most.
    cores : int
        Of each batch.
    """

    side_by_side: int
    size: int
    cores: int


def plan_batches(n_images: int, cores: int, batch_size: int) -> BatchPlan:
    """Divide images among batches that run side by side, each on its share of the cores.

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
    BatchPlan(side_by_side=2, size=16, cores=1)
    """
    side_by_side = max(1, min(cores, n_images // LEAST_SIDE_BY_SIDE))
    size = batch_size if side_by_side == 1 else min(batch_size, -(-n_images // side_by_side))
    return BatchPlan(side_by_side, size, cores // side_by_side)


class Batcher:
    """Classifies images in batches, one after the other or side by side, in threads of its own.

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
    """

    def __init__(
        self, predictor: Predictor, queue_size: int, on_batch: Callable[[int], None] = lambda size: None
    ) -> None:
        self._predictor, self._on_batch = predictor, on_batch
        self.queue_size, self.held, self.waiting = queue_size, 0, 0
        self._queue: deque[_Waiting] = deque()
        self._changed = asyncio.Event()  # an image has come, or a batch is done
        # A batch on all cores is always computed in the first thread. OpenMP keeps helpers for each thread that asks
        # for them, and once these are more than the cores it lets all of them sleep between any two layers: an image
        # alone then took 50 ms in place of 27.
        self._threads = [ThreadPoolExecutor(1, f"cafe-classify-{i}") for i in range(predictor.cores)]
        self._free = list(self._threads)
        self._tasks: list[asyncio.Task[None]] = []
        self._gathering = asyncio.Lock()
        self._running = 0
        self._last_arrival = self._last_seconds = 0.0
        self._last_size = 1

    async def start(self) -> None:
        """Begin to work; in a running event loop. One image is classified first, since that loads libraries."""
        blank = self._predictor.crop(Image.new("RGB", (64, 64)))[None]
        await self._computed(blank, self._predictor.cores)
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._predictor.cores)]

    async def stop(self) -> None:
        """End, once the batches at hand are done."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        for thread in self._threads:
            thread.shutdown(wait=True)

    @contextmanager
    def held_images(self, number: int) -> Iterator[None]:
        """Hold so many places of the queue.

        Raises
        ------
        QueueFullError
            If there are not so many.
        """
        if self.held + number > self.queue_size:
            raise QueueFullError(f"{self.held} images are waiting already; try again in a moment")
        self.held += number
        self._last_arrival = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self.held -= number

    async def classify(self, crop: NDArray[np.uint8]) -> ImageAnswer:
        """Return what is said of one crop, once its batch is done."""
        answer: asyncio.Future[ImageAnswer] = asyncio.get_running_loop().create_future()
        self.waiting += 1
        try:
            self._queue.append(_Waiting(crop, answer))
            self._changed.set()
            return await answer
        finally:
            self.waiting -= 1

    def _plan(self) -> BatchPlan:
        # Images that are being decoded count: their batch is about to begin.
        return plan_batches(max(self.held, self.waiting), self._predictor.cores, self._predictor.batch_size)

    async def _work(self) -> None:
        while True:
            async with self._gathering:  # one batch gathers, while others are computed
                await self._wait_for_images()
                plan = self._plan()
                batch = [self._queue.popleft() for _ in range(min(plan.size, len(self._queue)))]
                batch = [each for each in batch if not each.answer.done()]  # whose client is gone
                self._running += 1
            try:
                if batch:
                    await self._answer(batch, plan.cores)
            finally:
                self._running -= 1
                self._changed.set()

    async def _wait_for_images(self) -> None:
        """Return once a batch should begin."""
        while not self._queue or self._running >= self._plan().side_by_side:
            await self._change(None)
        now = asyncio.get_running_loop().time
        deadline = now() + WAITED_SHARE * self._last_seconds
        while len(self._queue) < self._plan().size:
            on_their_way = self.held > self.waiting  # images that are being read or decoded
            if len(self._queue) >= self._last_size and not on_their_way:
                return
            until = deadline if on_their_way else min(deadline, self._last_arrival + QUIET_SECONDS)
            if until <= now():
                return
            await self._change(until - now())

    async def _change(self, seconds: float | None) -> None:
        """Wait until an image has come or a batch is done, so many seconds at most."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _answer(self, batch: list[_Waiting], cores: int) -> None:
        """Classify a batch, and answer all who wait for it."""
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
        thread = min(self._free, key=self._threads.index)
        self._free.remove(thread)
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, self._predictor.classify, crops, cores)
        finally:
            self._free.append(thread)

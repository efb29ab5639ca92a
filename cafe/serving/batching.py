"""Images of many requests are classified together: a bounded queue, and batches as large as what is waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe.errors import CafeError
from cafe.serving.predictor import ImageAnswer, Predictor

LONGEST_WAIT = 0.005  # seconds that a batch waits for images that are being decoded


class QueueFullError(CafeError):
    """So many images are waiting that no more are taken."""


class _Waiting(NamedTuple):
    crop: NDArray[np.uint8]
    answer: asyncio.Future[ImageAnswer]


class Batcher:
    """Classifies images one batch after the other, in a thread of its own.

    While a batch is computed, what arrives gathers to the next, so batches grow with the load and nothing waits for a
    clock: only where images are being decoded at that moment does a batch wait for them, 5 ms at most.

    Parameters
    ----------
    predictor : Predictor
        Asked in batches of its own size at most.
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
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "cafe-classify")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to work; in a running event loop."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End, once the batch at hand is done."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=True)

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
        try:
            yield
        finally:
            self.held -= number

    async def classify(self, crop: NDArray[np.uint8]) -> ImageAnswer:
        """Return what is said of one crop, once its batch is done."""
        answer: asyncio.Future[ImageAnswer] = asyncio.get_running_loop().create_future()
        self.waiting += 1
        try:
            await self._queue.put(_Waiting(crop, answer))
            return await answer
        finally:
            self.waiting -= 1

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            deadline = loop.time() + LONGEST_WAIT
            while len(batch) < self._predictor.batch_size:
                if self._queue.empty():
                    left = deadline - loop.time()
                    if self.held <= self.waiting or left <= 0:  # nothing else is on its way
                        break
                    await asyncio.sleep(min(left, 0.001))
                    continue
                batch.append(self._queue.get_nowait())
            batch = [each for each in batch if not each.answer.done()]  # whose client is gone
            if not batch:
                continue
            self._on_batch(len(batch))
            crops = np.stack([each.crop for each in batch])
            try:
                answers = await loop.run_in_executor(self._thread, self._predictor.classify, crops)
            except Exception as error:
                for each in batch:
                    if not each.answer.done():
                        each.answer.set_exception(error)
                continue
            for each, answer in zip(batch, answers, strict=True):
                if not each.answer.done():
                    each.answer.set_result(answer)

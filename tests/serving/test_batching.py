"""Images become batches: one on all cores for few, several side by side for many; nobody waits for nothing."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from PIL import Image

from cafe.serving.batching import QUIET_SECONDS, Batcher, QueueFullError, batch_sizes, plan_batches
from cafe.serving.predictor import ImageAnswer


class Counting:
    """A predictor that answers each crop with its first byte and counts batches, slowly enough for images to gather."""

    batch_size, cores = 32, 2

    def __init__(self, seconds=0.05):
        self.seconds, self.batches, self.at_once, self.most_at_once = seconds, [], 0, 0
        self.lock = threading.Lock()

    def crop(self, image: Image.Image):
        return np.asarray(image)

    def classify(self, crops, cores):
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.batches.append((len(crops), cores))
        time.sleep(self.seconds)
        with self.lock:
            self.at_once -= 1
        if (crops == 255).all():
            raise RuntimeError("an image that breaks the classifier")
        return [ImageAnswer(crop[0, 0, :1], None, None, None) for crop in crops]


def crop_of(value):
    """Return a decoder of an image of one grey."""
    return lambda: np.full((64, 64, 3), value, dtype=np.uint8)


def run(predictor, clients, queue_size=256, **options):
    """Start a batcher, and return the result of ``clients(batcher)``."""

    async def serve():
        batcher = Batcher(predictor, queue_size, **options)
        await batcher.start()
        predictor.batches.clear()  # of the first image, which is the batcher's own
        try:
            return await clients(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(serve())


@pytest.mark.parametrize(
    ("n_images", "cores", "expected"),
    [(0, 2, (1, 32, 2)), (1, 1, (1, 32, 1)), (15, 2, (1, 32, 2)), (17, 2, (2, 8, 1)), (32, 2, (2, 8, 1)),
     (64, 2, (2, 16, 1)), (90, 2, (2, 16, 1)), (256, 2, (2, 32, 1)), (32, 16, (4, 8, 4)), (500, 4, (4, 32, 1))],
)  # fmt: skip
def test_images_are_divided_among_cores(n_images, cores, expected):
    plan = plan_batches(n_images, cores, batch_size=32)
    assert (plan.side_by_side, plan.size, plan.cores) == expected


def test_many_images_are_classified_side_by_side_and_each_gets_its_own_answer():
    predictor = Counting()

    async def clients(batcher):
        async def client(value):
            with batcher.held_images(1):
                return [int((await batcher.classify(crop_of(value))).probabilities[0]) for _ in range(3)]

        return await asyncio.gather(*map(client, range(32)))

    assert run(predictor, clients) == [[value] * 3 for value in range(32)]
    assert predictor.most_at_once == 2
    assert sum(size for size, _ in predictor.batches) == 96
    # The last few, after which nobody asks again, are one batch on all cores.
    assert {(size <= 8, cores) for size, cores in predictor.batches[:8]} == {(True, 1)}


@pytest.mark.parametrize("n_images", [1, 5, 7, 13, 31, 63])
def test_batches_have_few_sizes_and_are_not_filled_up(n_images):
    """Each size is compiled for, and kept, by the libraries that multiply matrices."""
    predictor = Counting(seconds=0.01)

    async def clients(batcher):
        with batcher.held_images(n_images):
            answers = await asyncio.gather(*(batcher.classify(crop_of(value)) for value in range(n_images)))
        return [int(answer.probabilities[0]) for answer in answers]

    assert run(predictor, clients) == list(range(n_images))
    assert {size for size, _ in predictor.batches} <= {1, 2, 3, 4, 6, 8, 12, 16, 24, 32} == set(batch_sizes(32))
    assert sum(size for size, _ in predictor.batches) == n_images


def test_the_rest_of_a_request_begins_at_once():
    """Of 5 images, 4 are a batch; the last does not wait for those that are answered already."""
    predictor = Counting(seconds=0.02)

    async def clients(batcher):
        await batcher.classify(crop_of(0))
        started = time.perf_counter()
        with batcher.held_images(5):
            await asyncio.gather(*(batcher.classify(crop_of(value)) for value in range(5)))
        return time.perf_counter() - started

    assert run(predictor, clients, waited_share=1000.0) < 10
    assert predictor.batches == [(1, 2), (4, 2), (1, 2)]


def test_images_whose_clients_are_gone_are_not_classified():
    predictor = Counting(seconds=0.2)

    async def clients(batcher):
        first = asyncio.create_task(batcher.classify(crop_of(1)))
        await asyncio.sleep(0.1)
        gone = [asyncio.create_task(batcher.classify(crop_of(value))) for value in (2, 3)]
        stays = asyncio.create_task(batcher.classify(crop_of(4)))
        await asyncio.sleep(0.05)
        for task in gone:
            task.cancel()
        return [int((await task).probabilities[0]) for task in (first, stays)]

    assert run(predictor, clients) == [1, 4]
    assert [size for size, _ in predictor.batches] == [1, 1]


def test_a_single_client_is_not_waited_for_and_has_all_cores():
    predictor = Counting(seconds=0.0)

    async def clients(batcher):
        started = time.perf_counter()
        for value in range(20):
            with batcher.held_images(1):
                await batcher.classify(crop_of(value))
        return time.perf_counter() - started

    assert run(predictor, clients) < 20 * QUIET_SECONDS
    assert predictor.batches == [(1, 2)] * 20


def test_an_error_reaches_those_of_its_batch_and_the_next_batch_is_answered():
    async def clients(batcher):
        with pytest.raises(RuntimeError, match="breaks the classifier"):
            await batcher.classify(crop_of(255))
        return int((await batcher.classify(crop_of(3))).probabilities[0])

    assert run(Counting(), clients) == 3


def test_places_are_counted_and_given_back():
    async def clients(batcher):
        with batcher.held_images(3), pytest.raises(QueueFullError, match="3 images are waiting already"):
            batcher.held_images(2).__enter__()
        with batcher.held_images(4):
            return batcher.held

    assert run(Counting(), clients, queue_size=4) == 4

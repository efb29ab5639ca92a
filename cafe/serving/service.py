"""The object that all routes share: the predictor, its limits, the queue of images, the counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cafe.errors import UnreadableImageError
from cafe.serving.batching import Batcher
from cafe.serving.predictor import ImageAnswer, Predictor, TooManyPixelsError, decode
from cafe.serving.watching import Metrics


@dataclass(frozen=True)
class Limits:
    """What a request may be.

    Attributes
    ----------
    megabytes : float
        Of a whole request.
    pixels : int
        Of an image, before it is decoded; 50 million are 150 MB.
    images : int
        Of a request.
    waiting : int
        Images that are held at once; above, requests are answered with 429.
    seconds : float
        In which a request must have arrived.
    """

    megabytes: float = 32.0
    pixels: int = 50_000_000
    images: int = 32
    waiting: int = 256
    seconds: float = 30.0


class Service:
    """Classifies the images of requests.

    Parameters
    ----------
    predictor : Predictor
        What is served.
    limits : Limits
        What a request may be.

    Attributes
    ----------
    batcher : Batcher
        The queue of images.
    metrics : Metrics
        Counters.
    ready : bool
        Whether requests are answered.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor, self.limits, self.ready = predictor, limits, False
        self.metrics = Metrics(lambda: float(self.batcher.held))
        self.batcher = Batcher(predictor, limits.waiting, self.metrics.count_batch)

    async def start(self) -> None:
        """Start the batcher; requests are answered from then on."""
        await self.batcher.start()
        self.ready = True

    async def stop(self) -> None:
        """Stop after the requests that have begun are answered."""
        self.ready = False
        await self.batcher.stop()

    async def classify_files(self, contents: Sequence[bytes], names: Sequence[str]) -> list[ImageAnswer | Exception]:
        """Decode and classify files; return for each file its answer, or the error that made the file unreadable."""

        def decoder(content: bytes, name: str) -> Callable[[], NDArray[np.uint8]]:
            return lambda: decode(self.predictor, content, name, self.limits.pixels)

        return await self._classify(list(map(decoder, contents, names)))

    async def classify_pixels(self, images: NDArray[np.uint8]) -> list[ImageAnswer | Exception]:
        """Resize and classify images (n, height, width, 3); return for each image its answer, or its error."""

        def cropper(pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
            return lambda: self.predictor.crop(Image.fromarray(np.ascontiguousarray(pixels)))

        return await self._classify(list(map(cropper, images)))

    async def _classify(self, decoders: Sequence[Callable[[], NDArray[np.uint8]]]) -> list[ImageAnswer | Exception]:
        """Classify the crop that each decoder returns; an error of an image takes the place of its answer."""

        async def answer_or_error(decoder: Callable[[], NDArray[np.uint8]]) -> ImageAnswer | Exception:
            try:
                return await self.batcher.classify(decoder)
            except (UnreadableImageError, TooManyPixelsError) as error:
                return error

        return list(await asyncio.gather(*map(answer_or_error, decoders)))

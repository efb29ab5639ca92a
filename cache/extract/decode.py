"""Decodes images ahead of the encoders, a few at a time, and returns the crops in their order."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.views import Views, augmented
from cafe.data.base import Dataset
from cafe.data.images.decoding import PILLOW, decoding_with
from cafe.encoders.base import Cropper
from cafe.errors import UnreadableImageError

IMAGES_PER_CHUNK = 4


@dataclass(frozen=True)
class Chunk:
    """A few neighbouring images of one shard: what a worker decodes at a time.

    Attributes
    ----------
    split : str
        Name of the split.
    rows : tuple of int
        Rows of the data set's split.
    views : int
        Augmentations of each image, beside the image itself.
    croppers : tuple of int
        For which of the croppers, by number.
    """

    split: str
    rows: tuple[int, ...]
    views: int
    croppers: tuple[int, ...]


def chunks_of(split: str, rows: Sequence[int], views: int, croppers: tuple[int, ...]) -> list[Chunk]:
    """Cut the rows of a shard into chunks.

    Examples
    --------
    >>> [chunk.rows for chunk in chunks_of("train", range(6), 0, (0,))]
    [(0, 1, 2, 3), (4, 5)]
    """
    size = IMAGES_PER_CHUNK
    return [Chunk(split, tuple(rows[i : i + size]), views, croppers) for i in range(0, len(rows), size)]


# Of one image: for each cropper of the chunk the crops (1 + views, height, width, 3), or why there are none.
Decoded = list[NDArray[np.uint8]] | UnreadableImageError


@dataclass(frozen=True)
class ImageDecoder:
    """Turns images into crops; picklable if data set and croppers are.

    Attributes
    ----------
    dataset : Dataset
        Its ``image`` may be called from several threads at once.
    croppers : tuple of Cropper
        One for each encoder.
    views : Views or None
        Needed if a chunk has views.
    decoder : str, default "pillow"
        Of JPEG files, one of :data:`cafe.data.images.decoding.DECODERS`.
    """

    dataset: Dataset
    croppers: tuple[Cropper, ...]
    views: Views | None = None
    decoder: str = PILLOW

    def crops(self, chunk: Chunk, row: int) -> Decoded:
        """Decode one image once, and crop it for every cropper of the chunk, views included."""
        try:
            with decoding_with(self.decoder):
                image = self.dataset.image(chunk.split, row)
        except UnreadableImageError as error:
            return error
        sample_id = self.dataset.splits[chunk.split].sample_ids[row]
        of_croppers = []
        for number in chunk.croppers:
            whole = self.croppers[number](image)  # (height, width, 3)
            crops = [whole]
            if self.views is not None:
                height, width = whole.shape[:2]
                crops += [augmented(image, sample_id, v, self.views.seed, height, width) for v in range(chunk.views)]
            of_croppers.append(np.stack(crops))  # (1 + views, height, width, 3)
        return of_croppers


class DecoderPool(ABC):
    """Chunks in, crops out, in the same order; a few chunks are pending at a time."""

    @property
    @abstractmethod
    def n_pending(self) -> int:
        """Chunks submitted whose result has not been taken."""

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """Whether no other chunk can be submitted now; bounds memory where encoding is slower than decoding."""

    @abstractmethod
    def submit(self, chunk: Chunk) -> None:
        """Begin to decode a chunk."""

    @abstractmethod
    def next_result(self) -> list[Decoded]:
        """Wait for the oldest chunk, and return what became of each image; arrays are good until the next call."""

    @abstractmethod
    def close(self) -> None:
        """Drop what is pending, and end the workers."""


class DecoderThreads(DecoderPool):
    """Decodes in threads of this process: started at once, and enough where decoding is little work.

    Parameters
    ----------
    decoder : ImageDecoder
        What they run.
    ahead : int
        Chunks pending at most.
    threads : int or None
        None is one per processor that this process may use.
    """

    def __init__(self, decoder: ImageDecoder, ahead: int, threads: int | None = None) -> None:
        self._decoder = decoder
        self._ahead = ahead
        self._pending: deque[list[Future[Decoded]]] = deque()
        self._pool = ThreadPoolExecutor(threads or processors(), thread_name_prefix="decode")

    @property
    def n_pending(self) -> int:
        """Chunks submitted whose result has not been taken."""
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """Whether no other chunk can be submitted now."""
        return len(self._pending) >= self._ahead

    def submit(self, chunk: Chunk) -> None:
        """Begin to decode a chunk."""
        self._pending.append([self._pool.submit(self._decoder.crops, chunk, row) for row in chunk.rows])

    def next_result(self) -> list[Decoded]:
        """Wait for the oldest chunk."""
        return [future.result() for future in self._pending.popleft()]

    def close(self) -> None:
        """Drop what is pending, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def processors() -> int:
    """Return how many processors this process may use; a container may be given fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

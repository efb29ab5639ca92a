"""Reads and decodes images ahead of the encoders, a few at a time, and returns the crops in their order."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.known import KnownKeys
from cafe.cache.extract.views import Views, augmented
from cafe.compute import processors
from cafe.data.base import Dataset
from cafe.data.images.decoders import PILLOW
from cafe.data.images.decoding import decoding_with, read_image
from cafe.encoders.base import Cropper
from cafe.errors import UnreadableImageError

if TYPE_CHECKING:
    from PIL import Image

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


@dataclass(frozen=True)
class DecodedImage:
    """What became of one image.

    Attributes
    ----------
    sha256 : bytes or None
        Of its encoded bytes; None where it has none.
    crops : tuple of ndarray or None
        For each cropper of the chunk the crops (1 + views, height, width, 3), uint8; None where the features of these
        bytes are known, and nothing was decoded.
    unreadable : UnreadableImageError or None
        Why there are no crops.
    """

    sha256: bytes | None = None
    crops: tuple[NDArray[np.uint8] | None, ...] = ()
    unreadable: UnreadableImageError | None = None


@dataclass(frozen=True)
class ImageDecoder:
    """Reads images once, recognises them by their bytes, and turns the others into crops.

    It is picklable if data set and croppers are.

    Attributes
    ----------
    dataset : Dataset
        Its ``image`` may be called from several threads at once.
    croppers : tuple of Cropper
        One for each encoder.
    views : Views or None
        Needed if a chunk has views.
    decoder : str, default "pillow"
        Of JPEG files, one of :data:`cafe.data.images.decoders.DECODERS`.
    known : tuple of KnownKeys, default ()
        For each cropper the images whose features are at hand; empty where all are decoded.
    """

    dataset: Dataset
    croppers: tuple[Cropper, ...]
    views: Views | None = None
    decoder: str = PILLOW
    known: tuple[KnownKeys, ...] = ()

    def decode_chunk(self, chunk: Chunk) -> list[DecodedImage]:
        """Decode all images of a chunk, in their order; one task for a thread costs less than one for each image."""
        return [self.decode(chunk, row) for row in chunk.rows]

    def decode(self, chunk: Chunk, row: int) -> DecodedImage:
        """Read one image, and decode it once for every cropper of the chunk that needs it, views included."""
        sample_id = self.dataset.splits[chunk.split].sample_ids[row]
        sha256 = None
        try:
            content = self.dataset.content(chunk.split, row)
            sha256 = None if content is None else hashlib.sha256(content).digest()
            needed = [not self._is_known(number, sha256, sample_id, chunk.views) for number in chunk.croppers]
            if not any(needed):
                return DecodedImage(sha256, tuple(None for _ in needed))
            with decoding_with(self.decoder):
                image = self.dataset.image(chunk.split, row) if content is None else read_image(content, sample_id)
        except UnreadableImageError as error:
            return DecodedImage(sha256, unreadable=error)
        return DecodedImage(
            sha256,
            tuple(
                self._crops(image, number, sample_id, chunk.views) if is_needed else None
                for number, is_needed in zip(chunk.croppers, needed, strict=True)
            ),
        )

    def _is_known(self, cropper: int, sha256: bytes | None, sample_id: str, views: int) -> bool:
        return bool(self.known) and sha256 is not None and self.known[cropper].has(sha256, sample_id, views)

    def _crops(self, image: Image.Image, cropper: int, sample_id: str, views: int) -> NDArray[np.uint8]:
        whole = self.croppers[cropper](image)  # (height, width, 3)
        crops = [whole]
        if self.views is not None:
            height, width = whole.shape[:2]
            crops += [augmented(image, sample_id, view, self.views.seed, height, width) for view in range(views)]
        return np.stack(crops) if views else whole[None]  # (1 + views, height, width, 3)


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
    def next_result(self) -> list[DecodedImage]:
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
        self._pending: deque[Future[list[DecodedImage]]] = deque()
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
        self._pending.append(self._pool.submit(self._decoder.decode_chunk, chunk))

    def next_result(self) -> list[DecodedImage]:
        """Wait for the oldest chunk."""
        return self._pending.popleft().result()

    def close(self) -> None:
        """Drop what is pending, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
